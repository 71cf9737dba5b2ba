// SPDX-License-Identifier: Apache-2.0
// What a step of the optimizers costs: row optimizers over the number of table rows (8,192 touched rows of 10 numbers, other ones in every step) beside
// LibTorch's dense Adam on the same table; the dense optimizer, the clipping and the averages at the size of HTLNet's towers.
#include <htl/optim/clip.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/optim/weight_average.hpp>

#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include <vector>

namespace {

constexpr int64_t kTouched = 8192, kDim = 10;

/// A table and the row gradients of 64 steps, so that rows come from memory as in training and not from the nearest cache.
struct Table {
  explicit Table(int64_t rows) : table(htl::detail::zeros_on_touch({rows, kDim}, at::kFloat, at::kCPU)) {
    table.weight().fill_(.1);
    torch::manual_seed(1);
    for (int step = 0; step < 64; ++step) {
      const at::Tensor stride = at::arange(kTouched) * (rows / kTouched);  // distinct
      gradients.push_back(
          {(stride + at::randint(0, std::max<int64_t>(rows / kTouched, 1), {kTouched})).index_select(0, at::randperm(kTouched)), at::randn({kTouched, kDim})});
    }
  }
  void backward() { table.gradient() = gradients[next++ % gradients.size()]; }
  htl::RowTable table;
  std::vector<htl::RowGradient> gradients;
  size_t next = 0;
};

template <class Optimizer, class Options>
void rows(benchmark::State& state, Options options) {
  Table table(state.range(0));
  Optimizer optimizer(table.table, options);
  for (size_t i = 0; i < table.gradients.size(); ++i) {
    table.backward();
    optimizer.step();
  }
  for (auto _ : state) {
    table.backward();
    optimizer.step();
  }
}
void row_adagrad(benchmark::State& state) { rows<htl::RowAdagrad>(state, htl::RowAdagradOptions{}); }
void elementwise_adagrad(benchmark::State& state) { rows<htl::RowAdagrad>(state, htl::RowAdagradOptions{.elementwise = true}); }
void lazy_adam(benchmark::State& state) { rows<htl::LazyAdam>(state, htl::LazyAdamOptions{}); }
void lazy_adam_per_row(benchmark::State& state) { rows<htl::LazyAdam>(state, htl::LazyAdamOptions{.bias_correction = htl::BiasCorrection::per_row}); }

void average_of_rows(benchmark::State& state) {
  Table table(state.range(0));
  htl::WeightAverage average(table.table);
  for (size_t i = 0; i < table.gradients.size(); ++i) {
    table.backward();
    average.update();
  }
  for (auto _ : state) {
    table.backward();
    average.update();
  }
}

void torch_dense_adam_on_the_table(benchmark::State& state) {
  at::Tensor weight = at::zeros({state.range(0), kDim}).requires_grad_();
  weight.mutable_grad() = at::randn(weight.sizes());
  torch::optim::Adam adam({weight}, 1e-3);
  adam.step();
  for (auto _ : state) adam.step();
}

/// 333,867 parameters of three towers, label embeddings and fusions.
std::vector<at::Tensor> dense() {
  torch::manual_seed(2);
  std::vector<at::Tensor> parameters;
  const auto add = [&](at::IntArrayRef sizes) {
    parameters.push_back(at::randn(sizes).requires_grad_());
    parameters.back().mutable_grad() = at::randn(sizes) * .01;
  };
  for (int task = 0; task < 3; ++task) {
    for (const auto& [in, out] :
         std::vector<std::pair<int64_t, int64_t>>{{430, 160}, {160, 128}, {128, 64}, {64, 32}, {32, 1}, {32, 32}, {32, 32}, {32, 32}, {1, 256}}) {
      add({out, in});
      add({out});
    }
  }
  add({19});
  return parameters;
}

void fused_adam(benchmark::State& state) {
  htl::FusedAdam adam(dense());
  for (auto _ : state) adam.step();
  int64_t count = 0;
  for (const at::Tensor& parameter : adam.parameters()) count += parameter.numel();
  state.counters["parameters"] = static_cast<double>(count);
}
void torch_adam(benchmark::State& state) {
  torch::optim::Adam adam(dense(), 1e-3);
  for (auto _ : state) adam.step();
}
void norm(benchmark::State& state) {
  Table table(100000);
  table.backward();
  const auto parameters = dense();
  for (auto _ : state) benchmark::DoNotOptimize(htl::clip_grad_norm(table.table, parameters, 1e9));
}
void clip(benchmark::State& state) {
  Table table(100000);
  table.backward();
  const auto parameters = dense();
  for (auto _ : state) benchmark::DoNotOptimize(htl::clip_grad_norm(table.table, parameters, 1e-3));
}
void torch_clip(benchmark::State& state) {
  const auto parameters = dense();
  for (auto _ : state) benchmark::DoNotOptimize(torch::nn::utils::clip_grad_norm_(parameters, 1e-3));
}
void average_of_dense(benchmark::State& state) {
  htl::WeightAverage average({}, dense());
  for (auto _ : state) average.update();
}

void table_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(40000)->Arg(1000000)->Arg(10000000)->Unit(benchmark::kMicrosecond)->UseRealTime();
}
BENCHMARK(row_adagrad)->Apply(table_sizes);
BENCHMARK(elementwise_adagrad)->Apply(table_sizes);
BENCHMARK(lazy_adam)->Apply(table_sizes);
BENCHMARK(lazy_adam_per_row)->Apply(table_sizes);
BENCHMARK(average_of_rows)->Apply(table_sizes);
BENCHMARK(torch_dense_adam_on_the_table)->Apply(table_sizes);
BENCHMARK(fused_adam)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(torch_adam)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(norm)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(clip)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(torch_clip)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(average_of_dense)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
