// SPDX-License-Identifier: Apache-2.0
// A shared bottom under three towers: the gradients of its parameters and of the table below it, exact, instead of those at its output.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/nn/mlp.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/weighting/upgrad.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <vector>

struct SharedBottomImpl : torch::nn::Module {
  explicit SharedBottomImpl(const htl::TaskSet& tasks)
      : embedding(register_module("embedding", htl::FieldEmbedding(htl::FieldEmbeddingOptions({1000, 50}, /*dim=*/8).initial_sd(0.3)))),
        bottom(register_module("bottom", htl::Mlp(htl::MlpOptions(embedding->width(), {32, 16})))),
        fork(register_module("fork", htl::GradientFork<htl::UPGrad>(tasks))) {
    for (int64_t t = 0; t < tasks.size(); ++t) heads.push_back(register_module("head" + std::to_string(t), torch::nn::Linear(16, 1)));
  }
  std::vector<at::Tensor> forward(const htl::FieldBatch& batch) {
    const std::vector<at::Tensor> views = fork->split(bottom->forward(embedding->lookup(batch).values()));
    std::vector<at::Tensor> outputs;
    for (size_t t = 0; t < heads.size(); ++t) outputs.push_back(heads[t]->forward(views[t]).squeeze(1));
    return outputs;
  }
  htl::FieldEmbedding embedding{nullptr};
  htl::Mlp bottom{nullptr};
  htl::GradientFork<htl::UPGrad> fork{nullptr};
  std::vector<torch::nn::Linear> heads;
};
TORCH_MODULE(SharedBottom);

int main() {
  torch::manual_seed(1);
  const htl::TaskSet tasks{htl::regression("a"), htl::regression("b"), htl::regression("c")};
  SharedBottom net(tasks);
  htl::RowAdagrad rows(net->embedding, {.lr = 0.1});
  torch::optim::Adam dense(htl::dense_parameters(*net), 3e-3);
  const at::Tensor wanted = torch::randn({1000, 3});  // what an item is worth to each task
  double first = 0.0, last = 0.0;
  int64_t harmed = 0;
  for (int step = 0; step < 400; ++step) {
    const at::Tensor ids = torch::stack({torch::randint(1000, {256}), torch::randint(50, {256})}, 1).to(torch::kLong);
    dense.zero_grad();
    const std::vector<at::Tensor> outputs = net->forward(htl::FieldBatch::of(ids));
    htl::TaskLosses losses;
    for (int64_t t = 0; t < 3; ++t) {
      const at::Tensor target = wanted.select(1, t).index_select(0, ids.select(1, 0));
      losses.set(tasks[t].name(), torch::mse_loss(outputs[static_cast<size_t>(t)], target));
    }
    // [backward]
    const htl::GradientReport report = htl::backward(losses, net->fork, htl::shared(net->bottom, net->embedding));
    // [backward]
    harmed += report.gramian.mv(report.weights).lt(-1e-9).any().item<bool>();
    rows.step();
    dense.step();
    (step == 0 ? first : last) = losses.sum().item<double>();
  }
  std::printf("the summed loss fell below half: %s\n", last < 0.5 * first ? "yes" : "no");
  std::printf("steps whose direction opposes a task's gradient: %d of 400\n", static_cast<int>(harmed));
  return 0;
}
