// SPDX-License-Identifier: Apache-2.0
// What a balancer adds to a step: the balanced losses of T scalars and their backward, beside the plain sum's.
#include <htl/balance/balancer.hpp>
#include <htl/balance/built_in_balancers.hpp>

#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include <string>
#include <vector>

namespace {

/// T losses as leaves, as a model's losses would come.
struct Step {
  explicit Step(int64_t count) : tasks(specs(count)) {
    for (const htl::TaskSpec& task : tasks) losses.set(task.name(), torch::rand({}).add_(.1).requires_grad_());
    losses.active = torch::ones({count}, torch::kBool);
  }
  static htl::TaskSet specs(int64_t count) {
    std::vector<htl::TaskSpec> result;
    for (int64_t t = 0; t < count; ++t) result.push_back(htl::regression("t" + std::to_string(t)));
    return htl::TaskSet(result);
  }
  void clear() {
    for (auto& [name, loss] : losses.values) loss.mutable_grad().reset();
  }
  htl::TaskSet tasks;
  htl::TaskLosses losses;
};

void plain_sum(benchmark::State& state) {
  Step step(state.range(0));
  for (auto _ : state) {
    step.losses.sum().backward();
    step.clear();
  }
}

void balancer(benchmark::State& state, const std::string& name) {
  Step step(state.range(0));
  htl::Balancer<htl::AnyBalance> balancer(step.tasks, htl::built_in_balancers().make(htl::parse_spec(name)));
  for (auto _ : state) {
    balancer(step.losses).sum().backward();
    step.clear();
    balancer->zero_grad();
  }
}

void sizes(benchmark::internal::Benchmark* b) { b->ArgName("tasks")->Arg(3)->Arg(8)->Arg(32)->Unit(benchmark::kMicrosecond)->UseRealTime(); }

BENCHMARK(plain_sum)->Apply(sizes);
BENCHMARK_CAPTURE(balancer, constant, "constant:weights=0.5")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, schedule, "schedule:from=0,length=10")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, random, "random")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, uncertainty, "uncertainty")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, uncertainty_in_bounds, "uncertainty:low=-5,high=5")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, imtl_l, "imtl_l")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, dwa, "dwa")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, dwa_window, "dwa:window=25")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, famo, "famo")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, geometric_mean, "geometric_mean")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, scale_invariant, "scale_invariant")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, stch, "stch")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, cosmos, "cosmos")->Apply(sizes);
BENCHMARK_CAPTURE(balancer, pbi, "pbi")->Apply(sizes);

}  // namespace
