// SPDX-License-Identifier: Apache-2.0
// Inference from files alone: the second process has no training data. Raw texts go in; probabilities and seconds come out, the same as in the first.
// run: train
// run: serve
#include <htl/data/text_batch.hpp>
#include <htl/embedding/field_embedding.hpp>
#include <htl/io/feature_map_json.hpp>
#include <htl/io/module_state.hpp>
#include <htl/io/task_set_json.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/transfer/task_graph.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>
#include <vector>

struct NetImpl : torch::nn::Module {
  NetImpl(const htl::FeatureMap& features, const htl::TaskSet& tasks)
      : embedding(register_module("embedding", htl::FieldEmbedding(features, 8))),
        graph(register_module("graph", htl::TaskGraph<>(tasks, htl::TaskGraphOptions(embedding->width()).tower({32, 16})))) {}
  htl::TaskOutputs forward(const htl::Batch& batch) { return graph->forward(embedding->forward(batch)); }
  htl::FieldEmbedding embedding{nullptr};
  htl::TaskGraph<> graph{nullptr};
};
TORCH_MODULE(Net);

htl::Predictions predict(const htl::FeatureMap& features, const htl::TaskSet& tasks, Net& net) {
  net->eval();
  const torch::NoGradGuard no_grad;
  htl::Predictions predictions = tasks.predict(net(htl::batch_of_texts(features, {{"Oslo", "9"}, {"Paris", "20"}, {"Quito", "20"}})));
  for (int i = 0; i < 3; ++i)
    std::printf("request %d: %s to click, %.0f s\n", i, predictions["click"][i].item<double>() > 0.55 ? "likely" : "unlikely",
                predictions["watch_time"][i].item<double>());
  return predictions;
}

void train() {
  const std::vector<std::string> cities = {"Oslo", "Paris", "Quito"};
  const htl::FeatureMap features({{.name = "city", .vocabulary = cities}, {.name = "hour", .kind = htl::FieldKind::bucketised, .edges = {6, 12, 18}}});
  const at::Tensor city = torch::randint(3, {4'000}), hour = torch::randint(24, {4'000});
  std::vector<std::vector<std::string>> log;
  for (int64_t i = 0; i < city.size(0); ++i) log.push_back({cities[static_cast<size_t>(city[i].item<int>())], std::to_string(hour[i].item<int>())});
  htl::Batch batch = htl::batch_of_texts(features, log);
  batch.labels.set("click", {torch::rand({4'000}).lt(0.3 + 0.5 * hour.ge(18)).to(torch::kFloat)}).set("watch_time", {(10 + 30 * city).to(torch::kFloat)});
  const auto tasks = htl::TaskSet{htl::binary("click"), htl::regression("watch_time").transform(htl::z_score())}.fitted(batch.labels);
  Net net(features, tasks);
  const htl::HybridLoss loss(tasks);
  htl::RowAdagrad rows(net->embedding, {.lr = 0.1});
  torch::optim::Adam dense(htl::dense_parameters(net), 1e-2);
  for (int step = 0; step < 150; ++step) {
    dense.zero_grad();
    loss(net(batch), batch.labels).sum().backward();
    rows.step();
    dense.step();
  }
  htl::write_json("features.json", htl::to_json(features));
  htl::write_json("tasks.json", htl::to_json(tasks));  // with the mean and the deviation that turn outputs into seconds
  htl::save_module("net.safetensors", net);
  htl::save_safetensors("predictions.safetensors", {predict(features, tasks, net), {}});
}

void serve() {
  const htl::FeatureMap features = htl::feature_map_from_json(htl::read_json("features.json"));
  const htl::TaskSet tasks = htl::task_set_from_json(htl::read_json("tasks.json"));
  Net net(features, tasks);
  htl::load_module("net.safetensors", net);
  const htl::Predictions predictions = predict(features, tasks, net);
  bool same = true;
  for (const auto& [name, value] : htl::load_safetensors("predictions.safetensors").tensors) same = same && torch::equal(value, predictions[name]);
  std::printf("all predictions are %s\n", same ? "the same" : "others");
}

int main(int argc, char** argv) {
  torch::manual_seed(1);
  argc > 1 && std::string(argv[1]) == "serve" ? serve() : train();
}
