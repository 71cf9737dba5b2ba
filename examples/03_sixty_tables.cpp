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

constexpr int64_t kTables = 60, kIds = 100;

struct Jagged {  // one feature: the ids of row b are ids[offsets[b] … offsets[b + 1])
  at::Tensor ids, offsets;
};

struct NetImpl : torch::nn::Module {
  explicit NetImpl(const htl::TaskSet& tasks) : fork(register_module("fork", htl::GradientFork<htl::CoreTask>(tasks))) {
    int64_t width = 0;
    for (int64_t i = 0; i < kTables; ++i) {
      const std::string name = "bag" + std::to_string(i);
      const torch::nn::EmbeddingBag bag = register_module(name, torch::nn::EmbeddingBag(kIds, int64_t{8} << i % 3));
      torch::nn::init::normal_(bag->weight, 0.0, 0.01);
      tables.emplace_back(bag->weight, name);
      tables.back().coo_gradient() = true;  // backward also hands a sparse .grad to the weight
      width += bag->options.embedding_dim();
    }
    click = register_module("click", torch::nn::Linear(width, 1));
    watch_time = register_module("watch_time", torch::nn::Linear(width, 1));
  }
  htl::TaskOutputs forward(const std::vector<Jagged>& features) {
    // [lookups]
    std::vector<htl::Lookup> lookups;
    for (size_t i = 0; i < tables.size(); ++i) {
      const htl::FieldBatch bags = htl::FieldBatch::bags(features[i].ids, features[i].offsets, /*fields=*/1);
      lookups.push_back(htl::lookup(tables[i], bags, htl::Pooling::mean));
    }
    const std::vector<std::vector<at::Tensor>> views = fork->split(lookups);  // [task][table]
    // [lookups]
    return htl::TaskOutputs().set("click", click->forward(torch::cat(views[0], 1))).set("watch_time", watch_time->forward(torch::cat(views[1], 1)));
  }
  htl::GradientFork<htl::CoreTask> fork{nullptr};
  std::vector<htl::RowTable> tables;
  torch::nn::Linear click{nullptr}, watch_time{nullptr};
};
TORCH_MODULE(Net);

/// One to four ids a row in each feature; even ids of the first six features make clicks likely and watch times long.
htl::Labels draw(int64_t rows, std::vector<Jagged>& features) {
  at::Tensor score = torch::zeros({rows});
  features.clear();
  for (int64_t i = 0; i < kTables; ++i) {
    const at::Tensor lengths = torch::randint(1, 5, {rows}), offsets = torch::cat({torch::zeros({1}, torch::kLong), lengths.cumsum(0)});
    const at::Tensor ids = torch::randint(kIds, {offsets[rows].item<int64_t>()}), row = torch::arange(rows).repeat_interleave(lengths);
    if (i < 6) score += torch::zeros({rows}).index_add_(0, row, 1 - 2 * (ids % 2).to(torch::kFloat)) / lengths;
    features.push_back({ids, offsets});
  }
  return htl::Labels().set("click", {torch::rand({rows}).lt((2 * score).sigmoid()).to(torch::kFloat)}).set("watch_time", {30 + 10 * score});
}

int main() {
  torch::manual_seed(1);
  std::vector<Jagged> features;
  const auto tasks = htl::TaskSet{htl::binary("click"), htl::regression("watch_time").core().transform(htl::z_score())}.fitted(draw(10'000, features));
  Net net(tasks);
  htl::HybridLoss loss(tasks);
  std::vector<at::Tensor> weights;
  for (const htl::RowTable& table : net->tables) weights.push_back(table.weight());
  torch::optim::Adagrad rows(weights, torch::optim::AdagradOptions(0.1));  // any optimizer that takes sparse gradients
  torch::optim::AdamW dense(htl::dense_parameters(net, net->tables), 1e-2);
  for (int step = 0; step < 60; ++step) {
    const htl::Labels labels = draw(256, features);
    rows.zero_grad();  // clears both forms of the row gradient
    dense.zero_grad();
    htl::backward(loss(net(features), labels), net->fork);
    if (step == 0) {
      int sparse = 0;
      for (size_t i = 0; i < features.size(); ++i)
        sparse += weights[i].grad().is_sparse() && weights[i].grad()._nnz() == features[i].ids.bincount().count_nonzero().item<int64_t>();
      std::printf("%d gradients are sparse, with one entry for each id of the batch\n", sparse);
    }
    rows.step();
    dense.step();
  }
  const torch::NoGradGuard no_grad;
  const htl::Labels labels = draw(5'000, features);
  htl::Auc click;
  click.add(net(features)["click"].squeeze(1), labels["click"]);
  std::printf("click AUC %s 0.85\n", click.value() > 0.85 ? "above" : "below");
  return 0;
}
