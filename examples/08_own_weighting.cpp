// SPDX-License-Identifier: Apache-2.0
// A gradient method of your own with memory: a function from the tasks' Gramian to weights, and a State that names its tensors once.
#include <htl/gradient/backward.hpp>
#include <htl/io/training_state.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>
#include <vector>

// [method]
/// Every task pulls the shared layers equally hard: w_t = mean(n) / n_t, with n_t a moving average of ‖G_t‖.
struct EqualPull {
  double decay = 0.9;

  struct State {
    at::Tensor norms;  // [T] float64
    template <class Visit>
    void fields(Visit&& visit) {
      visit("norms", norms);
    }
  };

  at::Tensor weights(const htl::TaskGramian& gramian, State& state) const {
    const at::Tensor now = gramian.matrix.diagonal().clamp_min(0.0).sqrt();
    if (!state.norms.defined()) state.norms = now.clone();
    at::Tensor next = state.norms.lerp(now, 1.0 - decay);
    if (gramian.active.defined()) next = next.where(gramian.active, state.norms);  // a task without a label in this batch keeps its average
    state.norms = next;
    return next.mean() / next.clamp_min(1e-12);
  }
};
static_assert(htl::StatefulWeighting<EqualPull>);
// [method]

int main() {
  torch::manual_seed(1);
  const htl::TaskSet tasks{htl::regression("watch_time"), htl::regression("revenue")};
  torch::nn::Linear bottom(8, 4), watch_time(4, 1), revenue(4, 1);
  htl::GradientFork<EqualPull> fork(tasks, {.decay = 0.8});
  std::vector<at::Tensor> parameters = bottom->parameters();
  for (const torch::nn::Linear& head : {watch_time, revenue})
    for (const at::Tensor& parameter : head->parameters()) parameters.push_back(parameter);
  torch::optim::Adam optimizer(parameters, 1e-2);

  const auto backward = [&](const at::Tensor& x, htl::GradientFork<EqualPull> by) {
    const std::vector<at::Tensor> views = by->split(bottom->forward(x));
    htl::TaskLosses losses;
    losses.values.set("watch_time", torch::mse_loss(watch_time->forward(views[0]), 100 * x.narrow(1, 0, 1)));  // seconds
    losses.values.set("revenue", torch::mse_loss(revenue->forward(views[1]), 0.1 * x.narrow(1, 1, 1)));        // euros
    return htl::backward(losses, by);
  };
  htl::GradientReport report;
  for (int step = 0; step < 100; ++step) {
    optimizer.zero_grad();
    report = backward(torch::randn({256, 8}), fork);
    optimizer.step();
  }
  const at::Tensor norms = report.norms(), pulls = norms * report.weights;
  std::printf("watch_time's gradient is %s 100 times revenue's; weighted, the two differ by %s a factor of 10\n",
              norms[0].item<double>() > 100 * norms[1].item<double>() ? "over" : "under",
              (pulls.max() / pulls.min()).item<double>() < 10 ? "less than" : "more than");

  // [state]
  htl::GradientFork<EqualPull> resumed(tasks, {.decay = 0.8}), fresh(tasks, {.decay = 0.8});
  htl::TrainingState training, later;  // of a whole training also the model, the optimizers, the loader; htl::Checkpoints writes it to files
  training.add("fork", fork);
  later.add("fork", resumed);
  const htl::Named<at::Tensor> saved = training.tensors();
  later.load(saved);  // a fork that goes on from there decides as this one would
  // [state]
  const at::Tensor x = torch::randn({256, 8}), expected = backward(x, fork).weights;
  for (const std::string& name : saved.names()) std::printf("the state has \"%s\"\n", name.c_str());
  std::printf("with it, the weights of the next step are %s; without, %s\n", torch::equal(backward(x, resumed).weights, expected) ? "the same" : "others",
              torch::equal(backward(x, fresh).weights, expected) ? "the same" : "others");
  return 0;
}
