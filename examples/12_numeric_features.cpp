// SPDX-License-Identifier: Apache-2.0
// Numeric features beside ids: the feature map reads them, the batch carries them, every tower gets them beside its view.
#include <htl/data/text_batch.hpp>
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/metrics/task_metrics.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/transfer/task_graph.hpp>
#include <htl/weighting/core_task.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>
#include <vector>

struct NetImpl : torch::nn::Module {
  NetImpl(const htl::FeatureMap& features, const htl::TaskSet& tasks)
      : embedding(register_module("embedding", htl::FieldEmbedding(features, 8))),
        fork(register_module("fork", htl::GradientFork<htl::CoreTask>(tasks))),
        scale(register_module("scale", torch::nn::BatchNorm1d(features.numeric().size()))),  // prices and ages have different units
        graph(register_module(
            "graph", htl::TaskGraph<>(tasks, htl::TaskGraphOptions(embedding->width()).numeric_width(scale->options.num_features()).tower({32, 16})))) {}
  htl::TaskOutputs forward(const htl::Batch& batch) { return graph->forward(fork->split(embedding->lookup(batch)), scale->forward(batch.numeric)); }
  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::CoreTask> fork{nullptr};
  torch::nn::BatchNorm1d scale{nullptr};
  htl::TaskGraph<> graph{nullptr};
};
TORCH_MODULE(Net);

/// Clicks come from city and price, the watch time from the age; a price in ten is missing.
htl::Batch draw(const htl::FeatureMap& features, int64_t rows) {
  const std::string cities[] = {"Oslo", "Paris", "Quito"};
  const at::Tensor city = torch::randint(3, {rows}), price = 50 + 20 * torch::randn({rows}), age = 18 + 40 * torch::rand({rows});
  std::vector<std::vector<std::string>> texts;  // as a log has them
  for (int64_t r = 0; r < rows; ++r)
    texts.push_back({cities[city[r].item<int64_t>()], r % 10 == 0 ? "" : std::to_string(price[r].item<float>()), std::to_string(age[r].item<float>())});
  htl::Batch batch = htl::batch_of_texts(features, texts);
  const at::Tensor click = torch::rand({rows}).lt((city - 1 - (price - 50) / 5).sigmoid()).to(torch::kFloat);
  batch.labels.set("click", {click}).set("watch_time", {age + 5 * torch::randn({rows})});
  return batch;
}

int main() {
  torch::manual_seed(1);
  const htl::FeatureMap features({{.name = "city", .vocabulary = {"Oslo", "Paris", "Quito"}}},
                                 {{.name = "price", .missing = 50}, {.name = "age", .missing = 38}});
  const htl::Batch train = draw(features, 4'000), test = draw(features, 2'000);
  const auto tasks = htl::TaskSet{htl::binary("click"), htl::regression("watch_time").core().transform(htl::z_score())}.fitted(train.labels);
  Net net(features, tasks);
  const htl::HybridLoss loss(tasks);
  htl::RowAdagrad rows(net->embedding, {.lr = 0.05});
  torch::optim::Adam dense(htl::dense_parameters(net), 1e-2);
  for (int step = 0; step < 150; ++step) {
    dense.zero_grad();
    htl::backward(loss(net(train), train.labels), net->fork);
    rows.step();
    dense.step();
  }

  net->eval();
  const torch::NoGradGuard no_grad;
  const auto report = [&](const char* what, const htl::Batch& batch) {
    htl::TaskMetrics metrics(tasks);
    metrics.add(tasks.predict(net(batch)), batch.labels);
    const auto values = metrics.values();
    std::printf("%s: click AUC %s 0.85, watch time NRMSE %s 0.6\n", what, values["click"]["auc"] > 0.85 ? "above" : "below",
                values["watch_time"]["nrmse"] < 0.6 ? "below" : "above");
  };
  report("with the numbers", test);
  htl::Batch missing = test;
  missing.numeric = torch::tensor({features.number(0, ""), features.number(1, "NA")}).expand({test.rows(), 2});
  report("all of them missing", missing);
  return 0;
}
