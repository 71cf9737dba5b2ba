// SPDX-License-Identifier: Apache-2.0
// Whole steps of HTLNet (lookup, fork, task graph, losses, optimizers): against dense tables, over repetitions, through casts, clones and files.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/clip.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/transfer/task_graph.hpp>
#include <htl/weighting/core_task.hpp>

#include <support/dense_rows.hpp>
#include <support/seeded.hpp>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/serialize.h>

#include <sstream>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

/// The full chain of a binary, a multiclass and a core regression task.
TaskSet tasks() { return TaskSet{binary("click"), multiclass("rating", 3), regression("watch_time").observed_when("click").core()}; }

constexpr int64_t dim = 4;

struct NetImpl : torch::nn::Cloneable<NetImpl> {
  NetImpl(std::vector<int64_t> field_sizes, TaskGraphOptions of_graph, CoreTask adjustment)
      : sizes(std::move(field_sizes)), options(std::move(of_graph)), method(adjustment) {
    reset();
  }
  void reset() override {
    embedding = register_module("embedding", FieldEmbedding(FieldEmbeddingOptions(sizes, dim).frozen_zero(true).initial_sd(1.0)));
    graph = register_module("graph", TaskGraph<>(tasks(), options));
    fork = register_module("fork", GradientFork<CoreTask>(tasks(), method));
  }
  TaskLosses losses(const Batch& batch) { return loss(graph->forward(fork->split(embedding->lookup(batch))), batch.labels); }

  std::vector<int64_t> sizes;
  TaskGraphOptions options;
  CoreTask method;
  FieldEmbedding embedding{nullptr};
  TaskGraph<> graph{nullptr};
  GradientFork<CoreTask> fork{nullptr};
  HybridLoss loss{tasks()};
};
TORCH_MODULE(Net);

TaskGraphOptions graph_options(size_t fields) {
  return TaskGraphOptions(static_cast<int64_t>(fields) * dim).tower({9, 6}).label(LabelEmbeddingOptions().dim(3));
}

Labels random_labels(Random& random, int64_t rows, at::ScalarType type) {
  return Labels()
      .set("click", {random.events({rows}, 0.5, type), random.mask({rows}, 0.9)})
      .set("rating", {random.ids({rows}, 3), random.mask({rows}, 0.6), random.uniform({rows}, 0.0, 2.0, type)})
      .set("watch_time", {random.uniform({rows}, 0.0, 5.0, type)});
}

class Step : public Seeded {};

TEST_F(Step, EqualsSeparateDenseBackwardsForEveryStopGradient) {
  const Threads one(1);
  Random random(61);
  int64_t bags = 0, inactive = 0;
  for (const StopGradient stop : {StopGradient::inputs, StopGradient::label_output, StopGradient::fusion_output, StopGradient::none})
    for (int repetition = 0; repetition < 16; ++repetition) {
      SCOPED_TRACE(to_string(stop) + " " + std::to_string(repetition));
      const int64_t rows = random.pick<int64_t>({0, 1, 2, 40});
      Net net(std::vector<int64_t>{5, 7, 3}, graph_options(3).stop_gradient(stop), CoreTask{.clip_ratio = random.pick<double>({1.2, 100.0})});
      net->to(at::kDouble);
      Batch batch;
      batch.fields = random_field_batch(random, rows, net->embedding->fields());
      batch.labels = random_labels(random, rows, at::kDouble);
      bags += !batch.fields.is_short();

      at::manual_seed(static_cast<uint64_t>(repetition));  // the same label noise in both
      const GradientReport report = backward(net->losses(batch), net->fork);
      EXPECT_EQ(report.passes, stop == StopGradient::none ? 3 : 1);
      inactive += report.active.logical_not().any().item<bool>();

      at::manual_seed(static_cast<uint64_t>(repetition));
      const Tensor weight = net->embedding->weight.detach().clone().requires_grad_();
      const DenseLookup dense = dense_lookup(batch.fields, net->embedding->fields(), weight.size(0));
      const TaskLosses naive = net->loss(net->graph->forward(dense.values(weight, rows)), batch.labels);
      std::vector<Tensor> g;
      for (const auto& [name, loss] : naive.values) g.push_back(torch::autograd::grad({loss}, {weight}, {}, /*retain_graph=*/true)[0].flatten());
      const Tensor gradients = at::stack(g), k = gradients.mm(gradients.t()), expected = report.weights.matmul(gradients);
      const auto size = [](const Tensor& t) { return std::max(1.0, t.abs().max().item<double>()); };
      ASSERT_TRUE(close(report.gramian, k, 0.0, 1e-12 * size(k)));
      ASSERT_TRUE(close(dense_gradient(net->embedding->table()).flatten(), expected, 0.0, 1e-12 * size(expected)));
      const std::vector<Tensor> parameters = dense_parameters(*net);
      const auto plain = torch::autograd::grad({naive.sum()}, parameters, {}, false, false, /*allow_unused=*/true);
      for (size_t i = 0; i < parameters.size(); ++i) {
        const auto or_zero = [&](const Tensor& t) { return t.defined() ? t : at::zeros_like(parameters[i]); };
        ASSERT_TRUE(close(or_zero(parameters[i].grad()), or_zero(plain[i]), 1e-11, 1e-12)) << i;
      }
    }
  EXPECT_GT(bags, 10);
  EXPECT_GT(inactive, 10);
}

TEST_F(Step, DoesNotDependOnTheOrderOfTheRows) {
  const Threads one(1);
  Random random(62);
  for (int repetition = 0; repetition < 10; ++repetition) {
    Net net(std::vector<int64_t>{5, 7, 3}, graph_options(3).label(LabelEmbeddingOptions().dim(3).noise(LabelNoise::none)), CoreTask{});
    net->to(at::kDouble);
    const Tensor ids = at::stack({random.ids({60}, 5), random.ids({60}, 7), random.ids({60}, 3)}, 1), order = random.permutation(60);
    const Labels labels = random_labels(random, 60, at::kDouble);
    const auto step = [&](const Tensor& rows) {
      net->embedding->table().gradient().clear();
      net->zero_grad();
      Batch batch;
      batch.fields = FieldBatch::of(ids.index_select(0, rows));
      batch.labels = labels.index_select(rows);
      const GradientReport report = backward(net->losses(batch), net->fork);
      std::vector<Tensor> all{report.gramian, report.weights, dense_gradient(net->embedding->table())};
      for (const Tensor& parameter : dense_parameters(*net)) all.push_back(parameter.grad().clone());
      return all;
    };
    const auto straight = step(at::arange(60)), shuffled = step(order);
    for (size_t i = 0; i < straight.size(); ++i) EXPECT_TRUE(close(straight[i], shuffled[i], 1e-10, 1e-12)) << i;
  }
}

/// A net in training with everything that draws or remembers, and its optimizers.
struct Training {
  std::vector<int64_t> sizes = {3000, 40, 12};
  Random random{63};
  Net net{sizes, graph_options(3).dropout(0.1).label(LabelEmbeddingOptions().dim(3).temperature(Temperature::exponential(10, 0.9, 2, 0.5))),
          CoreTask{.norm = NormReference::moving_average}};
  LazyAdam rows{net->embedding, {.lr = 0.05, .bias_correction = BiasCorrection::per_row}};
  FusedAdam dense{dense_parameters(*net), {.lr = 0.01}};

  void steps(int count) {
    for (int step = 0; step < count; ++step) {
      Batch batch;
      batch.fields = random_field_batch(random, 1500, net->embedding->fields(), at::kFloat);
      batch.labels = random_labels(random, 1500, at::kFloat);
      backward(net->losses(batch), net->fork);
      clip_grad_norm(net->embedding, dense_parameters(*net), 1.0);
      rows.step();
      dense.step();
      dense.zero_grad();
    }
  }
  /// Copies of what is no parameter: buffers, the method's memory, the optimizers' state.
  std::vector<std::pair<std::string, Tensor>> state() {
    std::vector<std::pair<std::string, Tensor>> all = state_of(*net);
    const auto keep = [&](const std::string& name, const Tensor& tensor) { all.emplace_back(name, tensor.clone()); };
    rows.fields(keep);
    dense.fields(keep);
    return all;
  }
  static std::vector<std::pair<std::string, Tensor>> state_of(NetImpl& module) {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const auto& buffer : module.named_buffers()) all.emplace_back(buffer.key(), buffer.value().clone());
    module.fork->fields([&](const char* name, const Tensor& tensor) { all.emplace_back(name, tensor.clone()); });
    return all;
  }
};

TEST_F(Step, OfTheSameSeedIsBitIdenticalInTwentyRunsWithTwoThreads) {
  const Threads two(2);
  std::vector<Tensor> first;
  for (int repetition = 0; repetition < 20; ++repetition) {
    at::manual_seed(7);
    Training training;
    training.steps(4);
    std::vector<Tensor> now;
    for (const Tensor& parameter : training.net->parameters()) now.push_back(parameter.detach().clone());
    for (const auto& [name, tensor] : training.state()) now.push_back(tensor);
    if (first.empty()) first = now;
    ASSERT_EQ(first.size(), now.size());
    for (size_t i = 0; i < now.size(); ++i) ASSERT_TRUE(same_bits(first[i], now[i])) << "run " << repetition << ", tensor " << i;
  }
}

TEST_F(Step, StateKeepsTypeAndBitsThroughCastsClonesAndFiles) {
  Training training;
  training.steps(3);
  const auto before = training.state();
  const auto expect_same = [](const std::vector<std::pair<std::string, Tensor>>& have, const std::vector<std::pair<std::string, Tensor>>& want) {
    ASSERT_EQ(have.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(have[i].first, want[i].first);
      EXPECT_TRUE(same_bits(have[i].second, want[i].second)) << want[i].first;
    }
  };
  int64_t counters = 0, averages = 0;
  for (const auto& [name, tensor] : before) {
    counters += tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt;
    averages += tensor.scalar_type() == at::kDouble;
  }
  EXPECT_EQ(counters, 4) << "two label embeddings' steps, the table's and its rows'";
  EXPECT_EQ(averages, 2) << "the method's";
  std::vector<Tensor> rounded;
  for (const Tensor& parameter : training.net->parameters()) rounded.push_back(parameter.detach().to(at::kBFloat16));
  training.net->to(at::kBFloat16);
  expect_same(training.state(), before);
  training.net->to(at::kFloat);
  expect_same(training.state(), before);
  for (size_t i = 0; i < rounded.size(); ++i) EXPECT_TRUE(same_bits(training.net->parameters()[i], rounded[i].to(at::kFloat)));

  const auto copy = std::dynamic_pointer_cast<NetImpl>(training.net->clone());
  expect_same(Training::state_of(*copy), Training::state_of(*training.net));
  EXPECT_EQ(copy->fork->step(), 3);
  Training other;
  std::stringstream stream;
  torch::save(training.net, stream);
  torch::load(other.net, stream);
  const auto saved = training.net->named_buffers(), loaded = other.net->named_buffers();
  for (const auto& buffer : saved) EXPECT_TRUE(same_bits(loaded[buffer.key()], buffer.value())) << buffer.key();
  training.steps(1);
  expect_same(Training::state_of(*copy), {before.begin(), before.begin() + static_cast<std::ptrdiff_t>(Training::state_of(*copy).size())});
  EXPECT_EQ(training.net->fork->step(), 4);
}

}  // namespace
