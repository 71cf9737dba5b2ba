// SPDX-License-Identifier: Apache-2.0
// What the shared blocks cost, forward and backward, each beside an equal model by hand of LibTorch's modules: B rows of 430 columns, three tasks.
// Interleave for fair ratios: --benchmark_enable_random_interleaving=true --benchmark_repetitions=9.
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

using at::Tensor;
using torch::nn::Linear;
using Tensors = std::vector<Tensor>;

constexpr int64_t width = 430, tasks = 3, numbers = 20, entry = 32, history = 50;

/// Linear layers with ReLU, as a user writes them.
struct PlainMlp {
  std::vector<Linear> layers;
  PlainMlp(torch::nn::Module& owner, const std::string& name, int64_t input, const std::vector<int64_t>& hidden) {
    for (const int64_t outputs : hidden) {
      layers.push_back(owner.register_module(name + "_" + std::to_string(layers.size()), Linear(input, outputs)));
      input = outputs;
    }
  }
  Tensor operator()(Tensor x) {
    for (Linear& layer : layers) x = torch::relu(layer(x));
    return x;
  }
};
Linear gate_of(torch::nn::Module& owner, const std::string& name, int64_t input, int64_t experts) {
  return owner.register_module(name, Linear(torch::nn::LinearOptions(input, experts).bias(false)));
}

struct PlainMmoe : torch::nn::Module {
  std::vector<PlainMlp> experts;
  std::vector<Linear> gates;
  PlainMmoe() {
    for (int e = 0; e < 8; ++e) experts.emplace_back(*this, "expert" + std::to_string(e), width, std::vector<int64_t>{128, 64});
    for (int t = 0; t < tasks; ++t) gates.push_back(gate_of(*this, "gate" + std::to_string(t), width, 8));
  }
  Tensors forward(const Tensor& x) {
    Tensors outputs, weights;
    for (PlainMlp& expert : experts) outputs.push_back(expert(x));
    for (Linear& gate : gates) weights.push_back(gate(x).softmax(1));
    return torch::bmm(torch::stack(weights, 1), torch::stack(outputs, 1)).unbind(1);
  }
};

/// PLE of two levels with two experts each, or AdaTT of the same experts without shared ones.
struct PlainLevels : torch::nn::Module {
  bool is_adatt;
  std::vector<std::vector<std::vector<PlainMlp>>> experts;  // [level][stream][expert]
  std::vector<std::vector<Linear>> gates;
  std::vector<Tensors> residuals;
  explicit PlainLevels(bool adatt) : is_adatt(adatt) {
    int64_t input = width;
    for (const int64_t output : {128, 64}) {
      const std::string level = std::to_string(experts.size());
      experts.emplace_back();
      gates.emplace_back();
      residuals.emplace_back();
      for (int s = 0; s < tasks + (is_adatt ? 0 : 1); ++s) {
        const std::string name = level + "_" + std::to_string(s);
        experts.back().emplace_back();
        for (int e = 0; e < 2; ++e) experts.back().back().emplace_back(*this, "expert" + name + std::to_string(e), input, std::vector<int64_t>{output});
        if (is_adatt) residuals.back().push_back(register_parameter("residual" + name, torch::rand({2, 1})));
        if (is_adatt || s < tasks || output == 128) gates.back().push_back(gate_of(*this, "gate" + name, input, is_adatt ? 6 : s < tasks ? 4 : 8));
      }
      input = output;
    }
  }
  Tensors forward(const Tensor& x) {
    Tensors streams(tasks + 1, x);
    for (size_t l = 0; l < experts.size(); ++l) {
      std::vector<Tensors> out;
      Tensors all, next;
      for (size_t s = 0; s < experts[l].size(); ++s) {
        out.emplace_back();
        for (PlainMlp& expert : experts[l][s]) out[s].push_back(expert(streams[s]));
        all.insert(all.end(), out[s].begin(), out[s].end());
      }
      for (size_t s = 0; s < gates[l].size(); ++s) {
        Tensors read = all;
        if (!is_adatt && s < tasks) {
          read = out[s];
          read.insert(read.end(), out[tasks].begin(), out[tasks].end());
        }
        const Tensor weights = gates[l][s](streams[s]).softmax(1).unsqueeze(1);
        next.push_back(torch::bmm(weights, torch::stack(read, 1)).squeeze(1));
        if (is_adatt) next[s] = next[s] + (torch::stack(out[s], 1) * residuals[l][s]).sum(1);
      }
      next.resize(tasks + 1);
      streams = next;
    }
    streams.pop_back();
    return streams;
  }
};

struct PlainStitch : torch::nn::Module {
  std::vector<std::vector<PlainMlp>> layers;
  Tensors stitches;
  PlainStitch() {
    int64_t input = width;
    for (const int64_t output : {128, 64}) {
      const std::string level = std::to_string(layers.size());
      layers.emplace_back();
      for (int t = 0; t < tasks; ++t) layers.back().emplace_back(*this, "layer" + level + std::to_string(t), input, std::vector<int64_t>{output});
      stitches.push_back(register_parameter("stitch" + level, torch::rand({tasks, tasks})));
      input = output;
    }
  }
  Tensors forward(const Tensor& x) {
    Tensors streams(tasks, x);
    for (size_t l = 0; l < layers.size(); ++l) {
      Tensors hidden;
      for (size_t t = 0; t < tasks; ++t) hidden.push_back(layers[l][t](streams[t]));
      streams = torch::matmul(stitches[l], torch::stack(hidden, 1)).unbind(1);
    }
    return streams;
  }
};

struct PlainAitm : torch::nn::Module {
  std::vector<PlainMlp> towers, transfers;
  std::vector<std::array<Linear, 3>> maps;
  std::vector<Linear> outputs;
  PlainAitm() {
    for (int t = 0; t < tasks; ++t) {
      const std::string name = std::to_string(t);
      towers.emplace_back(*this, "tower" + name, width, std::vector<int64_t>{128, 64, 32});
      outputs.push_back(register_module("output" + name, Linear(32, 1)));
      if (t == 0) continue;
      transfers.emplace_back(*this, "transfer" + name, 32, std::vector<int64_t>{32});
      maps.push_back({gate_of(*this, "query" + name, 32, 32), gate_of(*this, "key" + name, 32, 32), gate_of(*this, "value" + name, 32, 32)});
    }
  }
  Tensors forward(const Tensor& x) {
    Tensors out;
    Tensor before;
    for (size_t t = 0; t < tasks; ++t) {
      Tensor z = towers[t](x);
      if (t > 0) {
        auto& [query, key, value] = maps[t - 1];
        const Tensor items = torch::stack({z, transfers[t - 1](before)}, 1);
        const Tensor weights = ((query(items) * key(items)).sum(2) / std::sqrt(32.0)).softmax(1);
        z = (weights.unsqueeze(2) * value(items)).sum(1);
      }
      out.push_back(outputs[t](z));
      before = z;
    }
    return out;
  }
};

struct PlainRelations : torch::nn::Module {
  std::vector<PlainMlp> networks, relations;
  std::vector<Linear> outputs;
  PlainRelations() {
    for (int t = 0; t < tasks; ++t) {
      networks.emplace_back(*this, "task" + std::to_string(t), width, std::vector<int64_t>{64});
      relations.emplace_back(*this, "relation" + std::to_string(t), t > 0 ? 96 : 64, std::vector<int64_t>{32});
      outputs.push_back(register_module("output" + std::to_string(t), Linear(32, 1)));
    }
  }
  Tensors forward(const Tensor& x) {
    Tensors out;
    Tensor before;
    for (size_t t = 0; t < tasks; ++t) {
      const Tensor own = networks[t](x);
      before = relations[t](t > 0 ? torch::cat({own, before}, 1) : own);
      out.push_back(outputs[t](before));
    }
    return out;
  }
};

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
  PlainMlp layers{*this, "layer", 4 * entry, {80, 40}};
  Linear output = register_module("output", Linear(40, 1));
  Tensor forward(const Tensor& h, const Tensor& target, const Tensor& mask) {
    const Tensor t = target.unsqueeze(1).expand_as(h);
    const Tensor weights = output(layers(torch::cat({h, t, h - t, h * t}, 2))) * mask.unsqueeze(2);
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
void by_hand(benchmark::State& state, int64_t columns, Net net) {
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
#define PAIR(name, columns, our, plain)                                            \
  void name##_ours(benchmark::State& state) { ours(state, columns, our); }         \
  void name##_by_hand(benchmark::State& state) { by_hand(state, columns, plain); } \
  BENCHMARK(name##_ours)->Apply(sizes);                                            \
  BENCHMARK(name##_by_hand)->Apply(sizes)

const std::vector<std::vector<double>> edges(numbers, {-2.0, -1.8, -1.6, -1.4, -1.2, -1.0, -0.8, -0.6, -0.4, -0.2, 0.0,
                                                       0.2,  0.4,  0.6,  0.8,  1.0,  1.2,  1.4,  1.6,  1.8,  2.0});

PAIR(mmoe, width, htl::MixtureOfExperts(htl::MixtureOfExpertsOptions(width, tasks)), PlainMmoe());
PAIR(ple, width, htl::ProgressiveLayeredExtraction(htl::ProgressiveLayeredExtractionOptions(width, tasks).levels({{{128}, 2, 2}, {{64}, 2, 2}})),
     PlainLevels(false));
PAIR(adatt, width, htl::AdaTT(htl::AdaTTOptions(width, tasks)), PlainLevels(true));
PAIR(cross_stitch, width, htl::CrossStitch(htl::CrossStitchOptions(width, tasks)), PlainStitch());
PAIR(aitm, width, htl::AdaptiveInformationTransfer(chain(), htl::AdaptiveInformationTransferOptions(width)), PlainAitm());
PAIR(dbmtl, width, htl::RelationGraph(chain(), htl::RelationGraphOptions(width)), PlainRelations());
PAIR(periodic, numbers, htl::PeriodicEmbedding(htl::PeriodicEmbeddingOptions(numbers, 16).dim(10)), PlainPeriodic());
PAIR(piecewise, numbers, htl::PiecewiseLinearEmbedding(htl::PiecewiseLinearEmbeddingOptions(edges).dim(10)), PlainPiecewise());
BENCHMARK(din_ours)->Apply(two_sizes);
BENCHMARK(din_by_hand)->Apply(two_sizes);

}  // namespace
