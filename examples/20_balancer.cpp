// SPDX-License-Identifier: Apache-2.0
// Weights of the losses themselves, before any gradient method: learned, by a rule, by a schedule, or your own. One task is in metres, the other in feet.
#include <htl/balance/balancer.hpp>
#include <htl/balance/built_in_balancers.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/weighting/pcgrad.hpp>

#include <torch/torch.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

// [own]
/// The task with the largest loss is the only one that counts.
struct Worst {
  at::Tensor weights(const htl::BalanceInput& input) const { return input.losses_or(-1.0).eq(input.losses_or(-1.0).max()).to(at::kDouble) * scale; }
  double scale = 1.0;
};
// [own]

struct Net : torch::nn::Module {
  explicit Net(const htl::TaskSet& tasks) : fork(register_module("fork", htl::GradientFork<htl::PCGrad>(tasks))) {
    bottom = register_module("bottom", torch::nn::Linear(4, 8));
    for (const htl::TaskSpec& task : tasks) heads.push_back(register_module(task.name(), torch::nn::Linear(8, 1)));
  }
  htl::TaskOutputs forward(const at::Tensor& x, const htl::TaskSet& tasks) {
    const std::vector<at::Tensor> views = fork->split(bottom->forward(x));
    htl::TaskOutputs outputs;
    for (size_t t = 0; t < heads.size(); ++t) outputs.set(tasks[static_cast<int64_t>(t)].name(), heads[t]->forward(views[t]));
    return outputs;
  }
  torch::nn::Linear bottom{nullptr};
  std::vector<torch::nn::Linear> heads;
  htl::GradientFork<htl::PCGrad> fork;
};

int main() {
  const htl::TaskSet tasks{htl::regression("metres"), htl::regression("feet")};
  // [registry]
  htl::BalancerRegistry balancers = htl::built_in_balancers();  // a value: nothing global
  balancers.add("worst", [](htl::OptionReader& options) { return htl::AnyBalance(Worst{options.number("scale", 1.0)}); });
  // [registry]
  for (const std::string text : {"constant", "constant:weights=1;0.0929", "uncertainty:initial=-0.5", "geometric_mean", "schedule:from=1;0,length=1000",
                                 "dwa:window=25", "stch:warmup_epochs=1", "worst:scale=0.1"}) {
    torch::manual_seed(1);
    const at::Tensor x = torch::randn({256, 4}), metres = x.sum(1) + torch::randn({256});
    htl::Labels labels;
    labels.set("metres", {metres}).set("feet", {metres * 3.28});
    const htl::HybridLoss loss(tasks);
    Net net(tasks);
    // [balancer]
    htl::Balancer<htl::AnyBalance> balancer(tasks, balancers.make(htl::parse_spec(text)));  // "uncertainty:initial=-0.5", or htl::Balancer<htl::DWABalance> …
    std::vector<at::Tensor> parameters = net.parameters();
    for (const at::Tensor& learned : balancer->parameters()) parameters.push_back(learned);
    // [balancer]
    torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(.05));
    htl::TaskLosses losses;
    for (int epoch = 0; epoch < 4; ++epoch) {
      for (int batch = 0; batch < 100; ++batch) {
        optimizer.zero_grad();
        // [step]
        losses = loss(net.forward(x, tasks), labels);    // as they are: for the log, and for you to judge by
        htl::backward(balancer(losses), net.fork);       // the method sees them weighted
        optimizer.step();                                // of the net and of what the balancer learns
        const at::Tensor weights = balancer->weights();  // [T]: how much each counts, for the log
        // [step]
      }
      balancer->end_epoch();
    }
    const at::Tensor parts = balancer->weights() * torch::stack({losses["metres"].detach(), losses["feet"].detach()});
    std::printf("%-30s metres count for %5.1f %%\n", text.c_str(), 100.0 * (parts[0] / parts.sum()).item<double>());
  }
  try {
    balancers.make(htl::parse_spec("uncertainty:form=kendal"));
  } catch (const c10::Error& error) {
    std::printf("%s\n", std::string(error.what_without_backtrace()).substr(0, 100).c_str());
  }
  return 0;
}
