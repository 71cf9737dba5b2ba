// SPDX-License-Identifier: Apache-2.0
// Five tasks, two of them regressions, two of them cores, with the edges as a list: the same types as for three.
#include <htl/htl.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

struct NetImpl : torch::nn::Module {
  explicit NetImpl(const htl::TaskSet& tasks)
      : embedding(register_module("embedding", htl::FieldEmbedding(std::vector<int64_t>{20, 20, 20, 20}, 8))),
        fork(register_module("fork", htl::GradientFork<htl::CoreTask>(tasks, {.several_cores = htl::SeveralCores::own}))),  // each task yields to its own cores
        graph(register_module("graph", htl::TaskGraph<>(tasks, htl::TaskGraphOptions(embedding->width()).tower({32, 16})))) {}
  htl::TaskOutputs forward(const htl::Batch& batch) { return graph->forward(fork->split(embedding->lookup(batch))); }
  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::CoreTask> fork{nullptr};
  htl::TaskGraph<> graph{nullptr};
};
TORCH_MODULE(Net);

htl::TableData draw(int64_t rows) {
  const at::Tensor ids = torch::randint(20, {rows, 4}), x = ids.to(torch::kFloat) / 5 - 2;
  const auto happens = [&](const at::Tensor& logit) { return torch::rand({rows}).lt(logit.sigmoid()).to(torch::kFloat); };
  const at::Tensor click = happens(2 * x.select(1, 0)), like = click * happens(2 * x.select(1, 1)), cart = click * happens(2 * x.select(1, 2));
  const at::Tensor watch_time = click * (30 + 10 * x.select(1, 1) + torch::randn({rows})), revenue = (3 + x.select(1, 3)).exp();
  htl::Labels labels;
  labels.set("click", {click}).set("like", {like}).set("cart", {cart}).set("watch_time", {watch_time}).set("revenue", {revenue});
  return htl::TableData(htl::Batch{htl::FieldBatch::of(ids), {}, labels});
}

int main() {
  torch::manual_seed(1);
  std::vector<htl::TaskSpec> list = {htl::regression("revenue").core().observed_when("cart").transform(htl::log1p()),  // any order: the edges decide
                                     htl::regression("watch_time").core().transform(htl::z_score()), htl::binary("click"), htl::binary("like"),
                                     htl::binary("cart")};
  // as a configuration may hold them: what is known of the first flows into the second
  // [edges]
  const std::vector<std::pair<std::string, std::string>> edges = {
      {"click", "like"}, {"click", "cart"}, {"click", "watch_time"}, {"like", "watch_time"}, {"cart", "revenue"}};
  std::map<std::string, std::vector<std::string>> parents;
  for (const auto& [from, to] : edges) parents[to].push_back(from);
  for (htl::TaskSpec& task : list) task = task.after(parents[task.name()]);
  // [edges]

  const htl::TableData train = draw(20'000), test = draw(5'000);
  const auto tasks = htl::TaskSet(list).fitted(train.labels());
  for (const int64_t t : tasks.order()) {
    std::printf("%s%s", tasks[t].name().c_str(), tasks[t].is_core() ? " (core)" : "");
    for (const int64_t parent : tasks.parents(t)) std::printf(" <- %s", tasks[parent].name().c_str());
    std::printf("\n");
  }

  Net net(tasks);
  const htl::HybridLoss loss(tasks);
  htl::RowAdagrad rows(net->embedding, {.lr = 0.05});
  torch::optim::Adam dense(htl::dense_parameters(net), 5e-3);
  htl::BatchLoader batches(train, {.batch_size = 256});
  for (int epoch = 0; epoch < 3; ++epoch)
    for (const htl::Batch& batch : batches) {
      dense.zero_grad();
      htl::backward(loss(net(batch), batch.labels), net->fork);
      rows.step();
      dense.step();
    }

  net->eval();
  const torch::NoGradGuard no_grad;
  htl::TaskMetrics metrics(tasks);
  metrics.add(tasks.predict(net(test.all())), test.labels());
  for (const auto& [task, values] : metrics.values()) {
    const bool is_binary = values.contains("auc");
    const bool learned = is_binary ? values["auc"] > 0.8 : values["nrmse"] < 0.8;
    std::printf("%s: %s %s\n", task.c_str(), is_binary ? "AUC above 0.8" : "NRMSE below 0.8", learned ? "yes" : "no");
  }
  return 0;
}
