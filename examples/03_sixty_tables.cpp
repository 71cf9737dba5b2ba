// SPDX-License-Identifier: Apache-2.0
// The fork over sixty sparse tables of three widths that the user owns, with jagged ids, trained by LibTorch's own Adagrad.
#include <htl/embedding/lookup.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/metrics/auc.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/weighting/core_task.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>
#include <vector>

constexpr int64_t kTables = 60, kIds = 100, kWidth = kTables / 3 * (8 + 16 + 32);

struct NetImpl : torch::nn::Module {
  explicit NetImpl(const htl::TaskSet& tasks) : fork(register_module("fork", htl::GradientFork<htl::CoreTask>(tasks))) {
    for (int64_t i = 0; i < kTables; ++i) {
      const torch::nn::EmbeddingBag bag = register_module("bag" + std::to_string(i), torch::nn::EmbeddingBag(kIds, int64_t{8} << i % 3));
      torch::nn::init::normal_(bag->weight, 0.0, 0.01);
      tables.emplace_back(bag->weight, "bag" + std::to_string(i),
                          htl::RowTableOptions{.coo_gradient = true});  // backward also hands a sparse .grad to the weight
    }
    click = register_module("click", torch::nn::Linear(kWidth, 1));
    watch_time = register_module("watch_time", torch::nn::Linear(kWidth, 1));
  }
  htl::TaskOutputs forward(const std::vector<htl::FieldBatch>& features) {
    // [lookups]
    const std::vector<std::vector<at::Tensor>> views = fork->split(htl::lookup(tables, features, htl::Pooling::mean));  // [task][table]
    // [lookups]
    return htl::TaskOutputs().set("click", click->forward(torch::cat(views[0], 1))).set("watch_time", watch_time->forward(torch::cat(views[1], 1)));
  }
  htl::GradientFork<htl::CoreTask> fork{nullptr};
  std::vector<htl::RowTable> tables;
  torch::nn::Linear click{nullptr}, watch_time{nullptr};
};
TORCH_MODULE(Net);

struct Batch {
  std::vector<htl::FieldBatch> features;  // one to four ids a row in each
  htl::Labels labels;                     // even ids of the first six features make clicks likely and watch times long
};
Batch draw(int64_t rows) {
  Batch batch;
  at::Tensor score = torch::zeros({rows});
  for (int64_t i = 0; i < kTables; ++i) {
    const at::Tensor lengths = torch::randint(1, 5, {rows}), offsets = torch::cat({torch::zeros({1}, torch::kLong), lengths.cumsum(0)});
    const at::Tensor ids = torch::randint(kIds, {offsets[rows].item<int64_t>()}), row = torch::arange(rows).repeat_interleave(lengths);
    if (i < 6) score += torch::zeros({rows}).index_add_(0, row, 1 - 2 * (ids % 2).to(torch::kFloat)) / lengths;
    batch.features.push_back(htl::FieldBatch::bags(ids, offsets, /*fields=*/1));
  }
  batch.labels.set("click", {torch::rand({rows}).lt((2 * score).sigmoid()).to(torch::kFloat)}).set("watch_time", {30 + 10 * score});
  return batch;
}

int main() {
  torch::manual_seed(1);
  const auto tasks = htl::TaskSet{htl::binary("click"), htl::regression("watch_time").core().transform(htl::z_score())}.fitted(draw(10'000).labels);
  Net net(tasks);
  const htl::HybridLoss loss(tasks);
  torch::optim::Adagrad rows(htl::RowTables(net->tables).weights(), torch::optim::AdagradOptions(0.1));  // any optimizer that takes sparse gradients
  torch::optim::AdamW dense(htl::dense_parameters(net, net->tables), 1e-2);
  for (int step = 0; step < 60; ++step) {
    const Batch batch = draw(256);
    rows.zero_grad();  // clears both forms of the row gradient
    dense.zero_grad();
    htl::backward(loss(net(batch.features), batch.labels), net->fork);
    rows.step();
    dense.step();
  }
  int64_t sparse = 0;
  for (const htl::RowTable& table : net->tables) sparse += table.weight().grad().is_sparse() && table.weight().grad()._nnz() <= kIds;
  const Batch test = draw(5'000);
  htl::Auc click;
  click.add(net(test.features)["click"].squeeze(1).detach(), test.labels["click"]);
  std::printf("%d gradients are sparse\nclick AUC %s 0.85\n", static_cast<int>(sparse), click.value() > 0.85 ? "above" : "below");
}
