// SPDX-License-Identifier: Apache-2.0
// What HTLNet above its embeddings costs, forward and backward: our task graph, the same network op by op with LibTorch's modules, and the bare matrix
// products that both must do. Interleave for fair ratios: --benchmark_enable_random_interleaving=true --benchmark_repetitions=9.
#include "by_hand.hpp"

#include <htl/transfer/task_graph.hpp>

#include <ATen/Context.h>
#include <benchmark/benchmark.h>
#include <torch/torch.h>

namespace {

constexpr int64_t input_width = 430, rep = 128, dim = 10;  // 43 fields of 10

/// Which matrix library fp32 products use: "medium" means oneDNN, which a program may choose and a header may not.
void choose_backend(bool one_dnn) { at::globalContext().setFloat32MatmulPrecision(one_dnn ? "medium" : "highest"); }

std::vector<at::Tensor> views_of(int64_t rows, int64_t tasks = 3) {
  torch::manual_seed(1);
  const at::Tensor shared = torch::randn({rows, input_width});
  std::vector<at::Tensor> views;
  for (int64_t t = 0; t < tasks; ++t) views.push_back(shared.detach().requires_grad_());
  return views;
}

/// Forward and backward with given cotangents; gradients start undefined in every step, as after zero_grad().
template <class Forward>
void steps(benchmark::State& state, torch::nn::Module& module, const Forward& forward, int64_t tasks = 3) {
  choose_backend(state.range(1) == 1);
  std::vector<at::Tensor> views = views_of(state.range(0), tasks);
  const std::vector<at::Tensor> cotangents(static_cast<size_t>(tasks), torch::randn({state.range(0), 1}));
  for (auto _ : state) {
    torch::autograd::backward(forward(views), cotangents);
    module.zero_grad();
    for (at::Tensor& view : views) view.mutable_grad().reset();
  }
  choose_backend(false);
}

htl::TaskGraph<> graph_of(const htl::TaskGraphOptions& options) {
  return {htl::TaskSet{htl::binary("click"), htl::binary("long_view"), htl::regression("watch_time").core()}, options};
}

std::vector<at::Tensor> outputs_of(htl::TaskGraph<>& graph, const std::vector<at::Tensor>& views) {
  std::vector<at::Tensor> outputs;
  for (const auto& [name, output] : graph->forward(views)) outputs.push_back(output);
  return outputs;
}

void task_graph(benchmark::State& state, const htl::TaskGraphOptions& options) {
  htl::TaskGraph<> graph = graph_of(options);
  steps(state, *graph, [&](const std::vector<at::Tensor>& views) { return outputs_of(graph, views); });
}

/// Four tasks: as a chain (six edges), the same edges with the tasks named in another order, and a diamond (five edges).
htl::TaskSet four_tasks(const std::string& form) {
  const htl::TaskSpec click = htl::binary("click"), like = htl::binary("like"), buy = htl::binary("buy"), spend = htl::regression("spend").core();
  if (form == "chain") return {click, like, buy, spend};
  if (form == "reordered")
    return {htl::TaskSpec(spend).after("click", "like", "buy"), htl::TaskSpec(buy).after("click", "like"), htl::TaskSpec(like).after("click"),
            htl::TaskSpec(click).after()};
  return {click, htl::TaskSpec(like).after("click"), htl::TaskSpec(buy).after("click"), htl::TaskSpec(spend).after("click", "like", "buy")};
}
void four_task_graph(benchmark::State& state, const std::string& form) {
  htl::TaskGraph<> graph(four_tasks(form), htl::TaskGraphOptions(input_width));
  steps(
      state, *graph, [&](const std::vector<at::Tensor>& views) { return outputs_of(graph, views); }, 4);
}

void op_by_op(benchmark::State& state) {
  by_hand::Transfer net(input_width, {128, 64, 32});
  steps(state, net, [&](const std::vector<at::Tensor>& views) { return net.forward(views); });
}

void task_graph_forward(benchmark::State& state) {
  choose_backend(state.range(1) == 1);
  htl::TaskGraph<> graph = graph_of(htl::TaskGraphOptions(input_width));
  graph->eval();
  const torch::NoGradGuard no_grad;
  const std::vector<at::Tensor> views = views_of(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(graph->forward(views));
  choose_backend(false);
}

/// The matrix products of one step, each into memory that is there: x Wᵀ, gᵀ x and g W for every layer, attention with its folded bilinear form.
struct Product {
  at::Tensor a, b, out;
};
std::vector<Product> products_of(int64_t rows) {
  std::vector<Product> products;
  const auto add = [&](int64_t n, int64_t k, int64_t m) { products.push_back({torch::randn({n, k}), torch::randn({k, m}), torch::empty({n, m})}); };
  const auto layer = [&](int64_t in, int64_t out, bool with_input_gradient) {
    products.push_back({torch::randn({rows, in}), torch::randn({out, in}).t(), torch::empty({rows, out})});
    products.push_back({torch::randn({rows, out}).t(), torch::randn({rows, in}), torch::empty({out, in})});
    if (with_input_gradient) add(rows, out, in);
  };
  for (int t = 0; t < 3; ++t) {
    layer(input_width, 128, true);
    if (t > 0) {
      layer(rep, 128, true);   // the fused representation's part of the first layer
      layer(dim, 128, true);   // the fused label's part
      layer(rep, rep, t > 1);  // h1: its input needs a gradient only behind attention
      layer(dim, dim, true);   // label embeddings learn
    }
    if (t > 1)
      for (int j = 0; j < 2; ++j) {  // scores: u S forward, uᵀ u backward
        layer(rep, rep, false);
        layer(dim, dim, false);
      }
    layer(128, 64, true);
    layer(64, 32, true);
    layer(32, 1, true);
  }
  return products;
}

void matrix_products(benchmark::State& state) {
  choose_backend(state.range(1) == 1);
  const torch::NoGradGuard no_grad;
  std::vector<Product> products = products_of(state.range(0));
  for (auto _ : state)
    for (Product& product : products) torch::mm_out(product.out, product.a, product.b);
  choose_backend(false);
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "one_dnn"})->ArgsProduct({{1024, 8192}, {0, 1}})->Unit(benchmark::kMicrosecond)->UseRealTime();
}

BENCHMARK(matrix_products)->Apply(sizes);
BENCHMARK_CAPTURE(task_graph, htlnet, htl::TaskGraphOptions(input_width))->Apply(sizes);
BENCHMARK(op_by_op)->Apply(sizes);
BENCHMARK_CAPTURE(task_graph, dropout, htl::TaskGraphOptions(input_width).dropout(0.1))->Apply(sizes);
BENCHMARK_CAPTURE(task_graph, no_transfer, htl::TaskGraphOptions(input_width).transfer(htl::Transfer::none))->Apply(sizes);
BENCHMARK_CAPTURE(task_graph, stop_none, htl::TaskGraphOptions(input_width).stop_gradient(htl::StopGradient::none))->Apply(sizes);
BENCHMARK(task_graph_forward)->Apply(sizes);
BENCHMARK_CAPTURE(four_task_graph, chain, std::string("chain"))->Apply(sizes);
BENCHMARK_CAPTURE(four_task_graph, reordered, std::string("reordered"))->Apply(sizes);
BENCHMARK_CAPTURE(four_task_graph, diamond, std::string("diamond"))->Apply(sizes);

}  // namespace
