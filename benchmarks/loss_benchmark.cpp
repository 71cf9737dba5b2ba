// SPDX-License-Identifier: Apache-2.0
// What the hybrid loss costs, forward and backward, beside LibTorch's bare losses for the same outputs.
#include <htl/loss/hybrid_loss.hpp>

#include <benchmark/benchmark.h>
#include <torch/torch.h>

namespace {

/// click → long_view → watch_time, as a model would hand them over.
struct Step {
  explicit Step(int64_t rows, bool masked)
      : tasks{htl::binary("click"), htl::binary("long_view"), htl::regression("watch_time").transform(htl::ZScoreTransform{20, 30})} {
    torch::manual_seed(1);
    const auto mask = [&](double p) { return masked ? torch::rand({rows}) < p : at::Tensor(); };
    labels.set("click", {(torch::rand({rows}) < .4).to(at::kFloat), mask(.9)});
    labels.set("long_view", {(torch::rand({rows}) < .3).to(at::kFloat), mask(.5)});
    labels.set("watch_time", {torch::rand({rows}) * 100, mask(.5), masked ? torch::rand({rows}) : at::Tensor()});
    target = (labels["watch_time"].value - 20) / 30;
    for (const htl::TaskSpec& task : tasks) outputs.set(task.name(), torch::randn({rows, 1}).requires_grad_());
  }
  void clear() {
    for (auto& [name, output] : outputs) output.mutable_grad().reset();
  }
  htl::TaskSet tasks;
  htl::Labels labels;
  at::Tensor target;
  htl::TaskOutputs outputs;
};

void hybrid_loss(benchmark::State& state, bool masked) {
  Step step(state.range(0), masked);
  const htl::HybridLoss loss(step.tasks);
  for (auto _ : state) {
    loss(step.outputs, step.labels).sum().backward();
    step.clear();
  }
}

void hybrid_loss_forward(benchmark::State& state) {
  Step step(state.range(0), true);
  const htl::HybridLoss loss(step.tasks);
  const torch::NoGradGuard no_grad;
  for (auto _ : state) benchmark::DoNotOptimize(loss(step.outputs, step.labels));
}

void bare_libtorch(benchmark::State& state) {
  Step step(state.range(0), false);
  for (auto _ : state) {
    const at::Tensor click = torch::binary_cross_entropy_with_logits(step.outputs["click"].squeeze(1), step.labels["click"].value);
    const at::Tensor view = torch::binary_cross_entropy_with_logits(step.outputs["long_view"].squeeze(1), step.labels["long_view"].value);
    const at::Tensor watch = torch::mse_loss(step.outputs["watch_time"].squeeze(1), step.target);
    (click + view + watch).backward();
    step.clear();
  }
}

void masked_libtorch(benchmark::State& state) {
  Step step(state.range(0), true);
  const auto mean = [](const at::Tensor& rows, const at::Tensor& weight) {
    const at::Tensor sum = weight.sum();
    return torch::where(sum > 0, (rows * weight).sum() / sum.clamp_min(1e-12), 0.0);
  };
  for (auto _ : state) {
    at::Tensor total;
    for (const char* name : {"click", "long_view"}) {
      const htl::Label& label = step.labels[name];
      const at::Tensor rows =
          torch::binary_cross_entropy_with_logits(step.outputs[name].squeeze(1), torch::where(label.mask, label.value, 0.0), {}, {}, at::Reduction::None);
      const at::Tensor one = mean(rows, label.mask.to(at::kFloat));
      total = total.defined() ? total + one : one;
    }
    const htl::Label& label = step.labels["watch_time"];
    const at::Tensor target = (torch::where(label.mask, label.value, 0.0) - 20) / 30;
    (total + mean((step.outputs["watch_time"].squeeze(1) - target).square(), label.mask.to(at::kFloat) * label.weight)).backward();
    step.clear();
  }
}

void sizes(benchmark::internal::Benchmark* b) { b->ArgName("rows")->Arg(1024)->Arg(8192)->Arg(65536)->Unit(benchmark::kMicrosecond)->UseRealTime(); }

BENCHMARK(bare_libtorch)->Apply(sizes);
BENCHMARK(masked_libtorch)->Apply(sizes);
BENCHMARK_CAPTURE(hybrid_loss, all_rows, false)->Apply(sizes);
BENCHMARK_CAPTURE(hybrid_loss, masks_and_weights, true)->Apply(sizes);
BENCHMARK(hybrid_loss_forward)->Apply(sizes);

}  // namespace
