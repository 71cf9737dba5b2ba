// SPDX-License-Identifier: Apache-2.0
// What the shared blocks cost, forward and backward, each beside an equal model by hand of LibTorch's modules: B rows of 430 columns, three tasks.
// Interleave for fair ratios: --benchmark_enable_random_interleaving=true --benchmark_repetitions=9.
#include "by_hand.hpp"

#include <htl/nn/adatt.hpp>
#include <htl/nn/cross_stitch.hpp>
#include <htl/nn/mixture_of_experts.hpp>
#include <htl/nn/periodic_embedding.hpp>
#include <htl/nn/piecewise_linear_embedding.hpp>
#include <htl/nn/progressive_layered_extraction.hpp>
#include <htl/nn/target_attention.hpp>
#include <htl/transfer/adaptive_information_transfer.hpp>
#include <htl/transfer/relation_graph.hpp>

#include <benchmark/benchmark.h>
#include <torch/torch.h>

namespace {

using by_hand::Tensor;
using by_hand::Tensors;
using torch::nn::Linear;

constexpr int64_t width = 430, tasks = 3, numbers = 20, entry = 32, history = 50;

struct PlainPeriodic : torch::nn::Module {
  Tensor frequencies = register_parameter("frequencies", torch::randn({numbers, 16}) * 0.1);
  Tensor weight = register_parameter("weight", torch::randn({numbers, 32, 10}) * 0.1), bias = register_parameter("bias", torch::zeros({numbers, 10}));
  Tensors forward(const Tensor& x) {
    const Tensor angles = 2 * M_PI * frequencies * x.unsqueeze(2), waves = torch::cat({angles.sin(), angles.cos()}, 2);
    return {torch::relu(torch::einsum("bni,nio->bno", {waves, weight}) + bias).flatten(1)};
  }
};

struct PlainPiecewise : torch::nn::Module {
  Tensor lower = torch::linspace(-2, 1.8, 20).repeat({numbers, 1}), width_of = torch::full({numbers, 20}, 0.2), least = torch::zeros({numbers, 20}),
         most = torch::ones({numbers, 20});
  Tensor weight = register_parameter("weight", torch::randn({numbers, 20, 10}) * 0.1), bias = register_parameter("bias", torch::zeros({numbers, 10}));
  PlainPiecewise() {
    least.select(1, 0).fill_(-1e30);
    most.select(1, 19).fill_(1e30);
  }
  Tensors forward(const Tensor& x) {
    const Tensor come = torch::max(torch::min((x.unsqueeze(2) - lower) / width_of, most), least);
    return {torch::relu(torch::einsum("bni,nio->bno", {come, weight}) + bias).flatten(1)};
  }
};

struct PlainDin : torch::nn::Module {
  std::shared_ptr<by_hand::Layers> layers = register_module("layers", std::make_shared<by_hand::Layers>(4 * entry, by_hand::Widths{80, 40}));
  Linear output = register_module("output", Linear(40, 1));
  Tensor forward(const Tensor& h, const Tensor& target, const Tensor& mask) {
    const Tensor t = target.unsqueeze(1).expand_as(h);
    const Tensor weights = output((*layers)(torch::cat({h, t, h - t, h * t}, 2))) * mask.unsqueeze(2);
    return (weights * h).sum(1);
  }
};

/// Forward and backward with given cotangents; gradients start undefined in every step, as after zero_grad().
template <class Module, class Forward>
void steps(benchmark::State& state, Module& module, int64_t columns, const Forward& forward) {
  torch::manual_seed(1);
  Tensor x = torch::randn({state.range(0), columns});
  if (columns == width) x.requires_grad_();  // embeddings stand below
  Tensors cotangents;
  for (const Tensor& out : forward(x)) cotangents.push_back(torch::randn_like(out));
  for (auto _ : state) {
    torch::autograd::backward(forward(x), cotangents);
    module.zero_grad();
    x.mutable_grad().reset();
  }
}
Tensors values_of(const htl::TaskOutputs& outputs) {
  Tensors values;
  for (const auto& [name, value] : outputs) values.push_back(value);
  return values;
}
htl::TaskSet chain() { return {htl::binary("click"), htl::binary("view").after("click"), htl::regression("time").after("view")}; }

template <class Net>
void plain(benchmark::State& state, int64_t columns, Net net) {
  steps(state, net, columns, [&](const Tensor& x) { return net.forward(x); });
}
template <class Net>
void ours(benchmark::State& state, int64_t columns, Net net) {
  steps(state, *net, columns, [&](const Tensor& x) {
    if constexpr (requires { values_of(net->forward(x)); }) {
      return values_of(net->forward(x));
    } else if constexpr (std::is_same_v<decltype(net->forward(x)), Tensor>) {
      return Tensors{net->forward(x)};
    } else {
      return net->forward(x);
    }
  });
}

/// Histories of 1 … 50 entries, half of the cells on average padding; with `padded` = 0 all are full.
template <class Module, class Forward>
void histories(benchmark::State& state, Module& module, const Forward& forward) {
  torch::manual_seed(1);
  const int64_t rows = state.range(0);
  const Tensor h = torch::randn({rows, history, entry}).requires_grad_(), t = torch::randn({rows, entry}).requires_grad_();
  const Tensor lengths = state.range(1) == 1 ? torch::randint(1, history + 1, {rows}, torch::kLong) : torch::full({rows}, history, torch::kLong);
  const Tensor mask = torch::arange(history).unsqueeze(0) < lengths.unsqueeze(1), cotangent = torch::randn({rows, entry});
  for (auto _ : state) {
    forward(h, t, mask).backward(cotangent);
    module.zero_grad();
    h.mutable_grad().reset();
    t.mutable_grad().reset();
  }
}
void din_ours(benchmark::State& state) {
  htl::TargetAttention net{htl::TargetAttentionOptions(entry)};
  histories(state, *net, [&](const Tensor& h, const Tensor& t, const Tensor& mask) { return net->forward(h, t, mask); });
}
void din_by_hand(benchmark::State& state) {
  PlainDin net;
  histories(state, net, [&](const Tensor& h, const Tensor& t, const Tensor& mask) { return net.forward(h, t, mask.to(torch::kFloat)); });
}

void sizes(benchmark::internal::Benchmark* benchmark) { benchmark->ArgName("rows")->Arg(1024)->Unit(benchmark::kMicrosecond)->UseRealTime(); }
void two_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "padded"})->Args({1024, 0})->Args({1024, 1})->Unit(benchmark::kMicrosecond)->UseRealTime();
}

// What cannot be copied is made in the call
#define PAIR(name, columns, our, net)                                          \
  void name##_ours(benchmark::State& state) { ours(state, columns, our); }     \
  void name##_by_hand(benchmark::State& state) { plain(state, columns, net); } \
  BENCHMARK(name##_ours)->Apply(sizes);                                        \
  BENCHMARK(name##_by_hand)->Apply(sizes)

const std::vector<std::vector<double>> edges(numbers, {-2.0, -1.8, -1.6, -1.4, -1.2, -1.0, -0.8, -0.6, -0.4, -0.2, 0.0,
                                                       0.2,  0.4,  0.6,  0.8,  1.0,  1.2,  1.4,  1.6,  1.8,  2.0});

PAIR(mmoe, width, htl::MixtureOfExperts(htl::MixtureOfExpertsOptions(width, tasks)), by_hand::Mixture(width, 8));
PAIR(ple, width, htl::ProgressiveLayeredExtraction(htl::ProgressiveLayeredExtractionOptions(width, tasks).levels({{{128}, 2, 2}, {{64}, 2, 2}})),
     by_hand::Levels(width, false, 2));
PAIR(adatt, width, htl::AdaTT(htl::AdaTTOptions(width, tasks)), by_hand::Levels(width, true, 2));
PAIR(cross_stitch, width, htl::CrossStitch(htl::CrossStitchOptions(width, tasks)), by_hand::Stitch(width));
PAIR(aitm, width, htl::AdaptiveInformationTransfer(chain(), htl::AdaptiveInformationTransferOptions(width)), by_hand::Attending(width, /*chain=*/true));
PAIR(dbmtl, width, htl::RelationGraph(chain(), htl::RelationGraphOptions(width)), by_hand::Relations(width, /*chain=*/true));
PAIR(periodic, numbers, htl::PeriodicEmbedding(htl::PeriodicEmbeddingOptions(numbers, 16).dim(10)), PlainPeriodic());
PAIR(piecewise, numbers, htl::PiecewiseLinearEmbedding(htl::PiecewiseLinearEmbeddingOptions(edges).dim(10)), PlainPiecewise());
BENCHMARK(din_ours)->Apply(two_sizes);
BENCHMARK(din_by_hand)->Apply(two_sizes);

}  // namespace
