// SPDX-License-Identifier: Apache-2.0
// What the gradient adjustment costs: lookup, grouping, row sums with one and three tasks, combination, and the whole split and backward.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/sum.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <benchmark/benchmark.h>

#include <algorithm>

namespace {

/// Shapes as in KuaiRand: two large fields, 41 small ones, d = 10, ids with a heavy head.
struct Setting {
  static constexpr int64_t fields = 43, dim = 10;
  int64_t rows;
  at::Generator generator = at::detail::createCPUGenerator(1);
  htl::FieldEmbedding embedding{nullptr};
  htl::FieldBatch batch;
  std::vector<at::Tensor> gradients;
  htl::detail::Bags bags;

  explicit Setting(int64_t batch_rows) : rows(batch_rows) {
    at::set_num_threads(std::min(2, at::get_num_threads()));
    std::vector<int64_t> sizes = {27286, 7584};
    for (int64_t f = 2; f < fields; ++f) sizes.push_back(3 + (f * f) % 60);
    embedding = htl::FieldEmbedding(sizes, dim);
    std::vector<at::Tensor> columns;
    for (const int64_t size : sizes) columns.push_back((at::rand({rows}, generator).square() * static_cast<double>(size)).to(at::kInt).clamp_max(size - 1));
    batch = htl::FieldBatch::of(at::stack(columns, 1));
    for (int t = 0; t < 3; ++t) gradients.push_back(at::randn({rows, fields * dim}, generator));
    bags.count = rows * fields;
  }
  static Setting& of(int64_t rows) {
    static Setting small(1024), large(8192);
    return rows == 1024 ? small : large;
  }
};

void lookup(benchmark::State& state) {
  Setting& s = Setting::of(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(s.embedding->lookup(s.batch));
}

void resolve(benchmark::State& state) {
  Setting& s = Setting::of(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(htl::detail::resolve_loops(s.embedding->table(), s.batch, s.embedding->fields(), htl::UnknownIds::error));
}

void group_rows(benchmark::State& state) {
  Setting& s = Setting::of(state.range(0));
  const htl::Lookup look = s.embedding->lookup(s.batch);
  for (auto _ : state) benchmark::DoNotOptimize(htl::group_rows(s.embedding->table(), look.data()->entry_rows));
}

void sum_rows(benchmark::State& state) {
  Setting& s = Setting::of(state.range(0));
  const bool adjusted = state.range(1) > 1;
  const htl::Lookup look = s.embedding->lookup(s.batch);
  const htl::RowGroups& groups = look.groups();
  const std::vector<at::Tensor> gradients(s.gradients.begin(), s.gradients.begin() + state.range(1));
  for (auto _ : state) benchmark::DoNotOptimize(htl::detail::sum_rows(groups, gradients, s.bags, Setting::dim, s.embedding->weight.options(), adjusted));
}

void combine_rows(benchmark::State& state) {
  Setting& s = Setting::of(state.range(0));
  const auto sums = htl::detail::sum_rows(s.embedding->lookup(s.batch).groups(), s.gradients, s.bags, Setting::dim, s.embedding->weight.options(), false);
  const at::Tensor weights = at::ones({3}, at::kDouble);
  for (auto _ : state) benchmark::DoNotOptimize(htl::detail::combine_rows(sums.sums, weights, at::kFloat));
}

void weights_of_core_task(benchmark::State& state) {
  const at::Tensor g = at::randn({3, 50}, at::kDouble);
  const htl::TaskGramian gramian{.matrix = g.mm(g.t()), .cores = {2}};
  const htl::CoreTask method;
  htl::CoreTask::State memory;
  for (auto _ : state) benchmark::DoNotOptimize(method.weights(gramian, memory));
}

/// Losses whose own cost is small: Σ view · c_t.
htl::TaskLosses losses(const std::vector<at::Tensor>& views, const std::vector<at::Tensor>& cotangents) {
  htl::TaskLosses result;
  for (size_t t = 0; t < 3; ++t) result.values.set(std::string(1, static_cast<char>('a' + t)), (views[t] * cotangents[t]).sum());
  return result;
}

void step_adjusted(benchmark::State& state) {
  Setting& s = Setting::of(state.range(0));
  const htl::TaskSet tasks{htl::binary("a"), htl::binary("b"), htl::regression("c").core()};
  htl::GradientFork<htl::CoreTask> fork(tasks);
  for (auto _ : state) {
    s.embedding->table().gradient().clear();
    htl::backward(losses(fork->split(s.embedding->lookup(s.batch)), s.gradients), fork);
  }
}

void step_plain(benchmark::State& state) {
  Setting& s = Setting::of(state.range(0));
  for (auto _ : state) {
    s.embedding->table().gradient().clear();
    const at::Tensor values = s.embedding->lookup(s.batch).values();
    losses({values, values, values}, s.gradients).sum().backward();
  }
}

BENCHMARK(lookup)->Arg(1024)->Arg(8192)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(resolve)->Arg(1024)->Arg(8192)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(group_rows)->Arg(1024)->Arg(8192)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(sum_rows)->ArgsProduct({{1024, 8192}, {1, 3}})->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(combine_rows)->Arg(1024)->Arg(8192)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(weights_of_core_task)->Unit(benchmark::kMicrosecond);
BENCHMARK(step_plain)->Arg(1024)->Arg(8192)->Unit(benchmark::kMicrosecond)->UseRealTime();
BENCHMARK(step_adjusted)->Arg(1024)->Arg(8192)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
