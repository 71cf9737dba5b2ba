// SPDX-License-Identifier: Apache-2.0
// Only the fork, in a shared-bottom model that exists already: the model stays as it is, two lines of the training loop change.
#include <htl/gradient/backward.hpp>
#include <htl/metrics/auc.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/sum.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <vector>

struct SharedBottomImpl : torch::nn::Module {                                      // nothing in it knows of htl
  torch::nn::Linear bottom = register_module("bottom", torch::nn::Linear(16, 1));  // narrow: the tasks compete for it
  torch::nn::Linear click = register_module("click", torch::nn::Linear(1, 1));
  torch::nn::Linear revenue = register_module("revenue", torch::nn::Linear(1, 1));
};
TORCH_MODULE(SharedBottom);

struct Rows {
  at::Tensor x, click, revenue;
};

Rows draw(int64_t rows) {
  const at::Tensor x = torch::randn({rows, 16});
  const at::Tensor clicks = 3 * x.slice(1, 0, 8).sum(1, /*keepdim=*/true), worth = x.slice(1, 4, 12).sum(1, true);  // half of what they need is common
  return {x, torch::rand({rows, 1}).lt(clicks.sigmoid()).to(torch::kFloat), 0.1 * worth};
}

struct Quality {
  double click_auc, revenue_error;  // the error as a part of revenue's variance
};

template <htl::GramianWeighting Method>
Quality train(const htl::TaskSet& tasks) {
  torch::manual_seed(1);
  SharedBottom net;
  htl::GradientFork<Method> fork(tasks);
  torch::optim::Adam optimizer(net->parameters(), 0.02);
  for (int step = 0; step < 500; ++step) {
    const Rows rows = draw(256);
    optimizer.zero_grad();
    // [split]
    const std::vector<at::Tensor> views = fork->split(net->bottom->forward(rows.x));  // was: shared = net->bottom->forward(rows.x)
    htl::TaskLosses losses;
    losses.values.set("click", torch::binary_cross_entropy_with_logits(net->click->forward(views[0]), rows.click));
    losses.values.set("revenue", torch::mse_loss(net->revenue->forward(views[1]), rows.revenue));
    const htl::GradientReport report = htl::backward(losses, fork);  // was: (click_loss + revenue_loss).backward()
    // [split]
    if (report.passes != 1) std::printf("more than one backward pass\n");
    optimizer.step();
  }
  const torch::NoGradGuard no_grad;
  const Rows test = draw(10'000);
  const at::Tensor shared = net->bottom->forward(test.x);
  htl::Auc auc;
  auc.add(net->click->forward(shared).squeeze(1), {test.click.squeeze(1)});
  return {auc.value(), (torch::mse_loss(net->revenue->forward(shared), test.revenue) / test.revenue.var()).item<double>()};
}

int main() {
  const htl::TaskSet tasks{htl::binary("click"), htl::regression("revenue").core()};
  const Quality sum = train<htl::Sum>(tasks);        // the same gradient as before the change
  const Quality core = train<htl::CoreTask>(tasks);  // revenue is small in number, but it is what the platform lives on
  const auto print = [](const char* method, const Quality& quality) {
    std::printf("%s: click AUC %s 0.85, revenue's error %s a third of its variance\n", method, quality.click_auc > 0.85 ? "above" : "below",
                quality.revenue_error > 1.0 / 3 ? "above" : "below");
  };
  print("plain sum", sum);
  print("core task", core);
  return 0;
}
