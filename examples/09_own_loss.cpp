// SPDX-License-Identifier: Apache-2.0
// A loss of your own on a task: one value a row, and what the output means. Here a quantile, for a watch time that 9 of 10 users don't exceed.
#include <htl/loss/built_in_losses.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/loss/squared_error.hpp>
#include <htl/task/spec_text.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>

// [loss]
/// l = q·(y − x) where the label y is above the output x, else (1 − q)·(x − y). Its minimiser is the q-quantile.
struct Pinball {
  double q = 0.5;

  std::string name() const { return "pinball"; }
  int64_t output_width() const { return 1; }
  at::Tensor per_row(const htl::LossInput& input) const {
    const at::Tensor error = input.target - input.output.squeeze(1);
    return torch::maximum(q * error, (q - 1) * error);
  }
  at::Tensor predict(const at::Tensor& output, const htl::Named<at::Tensor>& /*context*/) const { return output.squeeze(1); }
  // optional:
  bool fits(htl::TaskKind kind) const { return kind == htl::TaskKind::regression; }
  htl::Options parameters() const { return {{"q", q}}; }  // so that a file can hold it
};
static_assert(htl::TaskLoss<Pinball>);
// [loss]

at::Tensor watch_times(const at::Tensor& x) { return (3 + x.select(1, 0) + torch::randn({x.size(0)})).exp(); }  // skewed

/// The part of the users who watch no longer than predicted, after a training.
double covered(const htl::TaskSet& unfitted) {
  torch::manual_seed(1);
  const htl::TaskSet tasks = unfitted.fitted(htl::Labels().set("watch_time", {watch_times(torch::randn({10'000, 4}))}));
  const htl::HybridLoss loss(tasks);
  torch::nn::Sequential model(torch::nn::Linear(4, 32), torch::nn::ReLU(), torch::nn::Linear(32, 1));
  torch::optim::Adam optimizer(model->parameters(), 5e-3);
  for (int step = 0; step < 500; ++step) {
    const at::Tensor x = torch::randn({512, 4});
    optimizer.zero_grad();
    loss(htl::TaskOutputs().set("watch_time", model->forward(x)), htl::Labels().set("watch_time", {watch_times(x)})).sum().backward();
    optimizer.step();
  }
  const torch::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({10'000, 4});
  const at::Tensor seconds = tasks.predict(htl::TaskOutputs().set("watch_time", model->forward(x)))["watch_time"];  // back through the transform
  return watch_times(x).le(seconds).to(torch::kFloat).mean().item<double>();
}

int main() {
  // [use]
  const auto watch_time = htl::regression("watch_time").transform(htl::log1p());
  const double top = covered({watch_time.loss(Pinball{.q = 0.9})});
  const double mixed = covered({watch_time.loss(Pinball{.q = 0.9}).loss(htl::SquaredError{}, /*weight=*/0.5)});  // several losses are summed
  // [use]
  // [registry]
  htl::LossRegistry losses = htl::built_in_losses();
  losses.add("pinball", [](htl::OptionReader& options) { return htl::AnyLoss(Pinball{options.number("q", 0.5)}); });
  const htl::TaskSpec named = watch_time.loss(losses.make(htl::parse_spec("pinball:q=0.9")));
  // [registry]
  std::printf("by name its q is %s\n", named.losses().front().loss.parameters()["q"].text().c_str());
  std::printf("the 0.9 quantile covers %s\n", top > 0.85 && top < 0.95 ? "85 to 95 % of the users" : "another part of the users");
  std::printf("mixed with a squared error it covers %s\n", mixed < 0.80 ? "fewer" : "as many");
  try {
    htl::binary("click").loss(Pinball{});
  } catch (const c10::ValueError& error) {
    std::printf("%s\n", error.what_without_backtrace());
  }
  return 0;
}
