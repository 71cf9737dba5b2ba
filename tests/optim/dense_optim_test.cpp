// SPDX-License-Identifier: Apache-2.0
#include <htl/embedding/lookup.hpp>
#include <htl/optim/clip.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/optim/schedule.hpp>
#include <htl/optim/weight_average.hpp>
#include <optim/random_rows.hpp>

#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace {

using htl::FusedAdam;
using htl::RowTable;
using htl::WeightAverage;
using htl::test::difference;
using htl::test::Draws;
using htl::test::load_state;
using htl::test::same_bits;
using htl::test::sentence_of;
using htl::test::state_of;

void expect_says(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << '"' << part << "\" is missing in: " << message;
}

// A scalar, biases, small and large layers (one larger than a piece of the parallel loop), an empty one.
std::vector<at::Tensor> parameters(Draws& draws, at::ScalarType type) {
  std::vector<at::Tensor> all;
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{}, {7}, {64, 33}, {1}, {190, 211}, {0, 4}, {3, 5, 2}, {170, 100}}) {
    all.push_back(draws.normal(sizes, type).requires_grad_());
  }
  return all;
}
std::vector<at::Tensor> copies(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& tensor : tensors) all.push_back(tensor.detach().clone().requires_grad_());
  return all;
}
void draw_gradients(Draws& draws, std::vector<at::Tensor>& tensors, double missing = 0) {
  for (at::Tensor& tensor : tensors) {
    tensor.mutable_grad() = draws.chance(missing) ? at::Tensor() : draws.normal(tensor.sizes(), tensor.scalar_type()).mul_(std::pow(10., draws.real(-3, 1)));
  }
}
void copy_gradients(const std::vector<at::Tensor>& from, std::vector<at::Tensor>& to) {
  for (size_t i = 0; i < from.size(); ++i) to[i].mutable_grad() = from[i].grad();
}

TEST(FusedAdam, EqualsTorchAdamAndAdamWOverHundredsOfSteps) {
  const htl::test::Threads one(1);  // thousands of tiny operators: threads would only wait for each other
  for (const auto type : {at::kDouble, at::kFloat}) {
    for (const bool decoupled : {false, true}) {
      for (const double decay : {0., .1}) {
        Draws draws(1);
        std::vector<at::Tensor> ours = parameters(draws, type), theirs = copies(ours);
        FusedAdam fused(ours, {.lr = .01, .beta1 = .8, .beta2 = .99, .eps = 1e-7, .weight_decay = decay, .decoupled_weight_decay = decoupled});
        torch::optim::Adam adam(theirs, torch::optim::AdamOptions(.01).betas({.8, .99}).eps(1e-7).weight_decay(decay));
        torch::optim::AdamW adamw(theirs, torch::optim::AdamWOptions(.01).betas({.8, .99}).eps(1e-7).weight_decay(decay));
        for (int step = 0; step < 200; ++step) {
          draw_gradients(draws, ours, step % 3 == 0 ? .3 : 0);  // some without a gradient: skipped, their t stays
          copy_gradients(ours, theirs);
          const double lr = step < 100 ? .01 : .003;
          htl::set_lr(fused, lr);
          fused.step();
          if (decoupled) {
            htl::set_lr(adamw, lr);
            adamw.step();
          } else {
            htl::set_lr(adam, lr);
            adam.step();
          }
        }
        for (size_t i = 0; i < ours.size(); ++i) EXPECT_LT(difference(ours[i], theirs[i]), type == at::kDouble ? 1e-12 : 2e-5) << i;
      }
    }
  }
}

TEST(FusedAdam, DoesNotDependOnTheNumberOfThreads) {
  const auto run = [](int threads) {
    const htl::test::Threads scope(threads);
    Draws draws(2);
    std::vector<at::Tensor> own = parameters(draws, at::kFloat);
    FusedAdam fused(own);
    for (int step = 0; step < 5; ++step) {
      draw_gradients(draws, own);
      fused.step();
    }
    return own;
  };
  const auto one = run(1);
  for (int repetition = 0; repetition < 20; ++repetition) {
    const auto two = run(2);
    for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(same_bits(one[i], two[i])) << i;
  }
}

TEST(FusedAdam, ContinuesBitForBitFromSavedState) {
  const auto run = [](std::optional<int> restart) {
    Draws draws(3);
    std::vector<at::Tensor> own = parameters(draws, at::kFloat);
    auto fused = std::make_unique<FusedAdam>(own);
    for (int step = 0; step < 20; ++step) {
      if (restart && *restart == step) {
        const auto saved = state_of(*fused);
        own = copies(own);
        fused = std::make_unique<FusedAdam>(own);
        load_state(*fused, saved);
      }
      draw_gradients(draws, own, .2);
      fused->step();
      fused->zero_grad();
    }
    return own;
  };
  const auto whole = run(std::nullopt), resumed = run(11);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(same_bits(whole[i], resumed[i])) << i;
}

TEST(FusedAdam, UpdatesReducedTypesInFloat32AndTensorsOfAnyLayout) {
  Draws draws(4);
  at::Tensor half = draws.normal({20, 30}, at::kBFloat16), wide = draws.normal({20, 30}, at::kFloat).t();
  at::Tensor half_twin = half.to(at::kFloat), wide_twin = wide.contiguous();
  FusedAdam fused({half, wide}, {.lr = .1}), plain({half_twin, wide_twin}, {.lr = .1});
  for (int step = 0; step < 10; ++step) {
    half.mutable_grad() = draws.normal({20, 30}, at::kBFloat16);
    wide.mutable_grad() = draws.normal({20, 30}, at::kFloat).t();
    half_twin.mutable_grad() = half.grad().to(at::kFloat);
    wide_twin.mutable_grad() = wide.grad().contiguous();
    half_twin.copy_(half);
    fused.step();
    plain.step();
    EXPECT_TRUE(same_bits(half, half_twin.to(at::kBFloat16)));
    EXPECT_TRUE(same_bits(wide, wide_twin));
    EXPECT_FALSE(wide.is_contiguous());
  }
  for (const auto& [name, tensor] : state_of(fused)) EXPECT_EQ(tensor.scalar_type(), at::kFloat) << name;
}

TEST(FusedAdam, ZerosOrForgetsGradients) {
  at::Tensor weight = at::ones({3}).requires_grad_();
  FusedAdam fused({weight});
  weight.square().sum().backward();
  const void* memory = weight.grad().const_data_ptr();
  fused.zero_grad(false);
  EXPECT_EQ(weight.grad().const_data_ptr(), memory);
  EXPECT_EQ(weight.grad().abs().sum().item<double>(), 0);
  fused.zero_grad();
  EXPECT_FALSE(weight.grad().defined());
  fused.step();
  EXPECT_TRUE(at::equal(weight, at::ones({3})));
}

TEST(FusedAdam, ChangesNothingWhereItIsNotActive) {
  at::Tensor weight = at::ones({3}).requires_grad_();
  FusedAdam fused({weight});
  weight.mutable_grad() = at::ones({3});
  fused.step(at::ones({}, at::kBool));
  const at::Tensor before = weight.detach().clone();
  const auto state = state_of(fused);
  weight.mutable_grad().fill_(std::nan(""));
  fused.step(at::zeros({}, at::kBool));
  EXPECT_TRUE(at::equal(weight, before));
  for (const auto& [name, tensor] : state_of(fused)) EXPECT_TRUE(at::equal(tensor, state.at(name))) << name;
  expect_says(sentence_of([&] { fused.step(at::ones({2}, at::kBool)); }), {"htl::FusedAdam", "one bool", "[2]"});
}

// What the docstring says of overflow, and that clipping prevents it.
TEST(FusedAdam, StandsStillAfterASquareThatIsNoFloatAsTorchAdamUnlessItWasClipped) {
  for (const bool clipped : {false, true}) {
    Draws draws(14);
    at::Tensor ours = draws.normal({40}, at::kFloat).requires_grad_(), theirs = ours.detach().clone().requires_grad_();
    const at::Tensor start = ours.detach().clone();
    FusedAdam fused({ours}, {.lr = .01});
    torch::optim::Adam adam({theirs}, torch::optim::AdamOptions(.01));
    for (int step = 0; step < 20; ++step) {
      at::Tensor gradient = draws.normal({40}, at::kFloat);
      if (step == 0) gradient.narrow(0, 0, 10).mul_(1e25);
      ours.mutable_grad() = gradient.clone();
      theirs.mutable_grad() = gradient.clone();
      if (clipped) {
        htl::clip_grad_norm({}, {ours}, 1);
        theirs.mutable_grad() = ours.grad().clone();
      }
      fused.step();
      adam.step();
    }
    EXPECT_LT(difference(ours, theirs), 1e-5);
    const at::Tensor moved = (ours.detach() - start).abs();
    EXPECT_GT(moved.narrow(0, 10, 30).min().item<double>(), 0);
    if (clipped) {
      EXPECT_GT(moved.narrow(0, 0, 10).min().item<double>(), 1e-3);
    } else {
      EXPECT_EQ(moved.narrow(0, 0, 10).max().item<double>(), 0);
    }
  }
}

TEST(FusedAdam, NamesWhatIsWrong) {
  at::Tensor weight = at::ones({3, 2}).requires_grad_();
  EXPECT_THROW(FusedAdam({weight}, {.lr = -1}), c10::ValueError);
  EXPECT_THROW(FusedAdam({weight}, {.lr = std::nan("")}), c10::ValueError);
  EXPECT_THROW(FusedAdam({weight}, {.beta1 = 1}), c10::ValueError);
  EXPECT_THROW(FusedAdam({weight}, {.beta2 = -.1}), c10::ValueError);
  EXPECT_THROW(FusedAdam({weight}, {.eps = 0}), c10::ValueError);
  EXPECT_THROW(FusedAdam({weight, weight}), c10::ValueError);
  EXPECT_THROW(FusedAdam({at::Tensor()}), c10::ValueError);
  EXPECT_THROW(FusedAdam({at::ones({3}, at::kLong)}), c10::TypeError);
  FusedAdam fused({weight});
  EXPECT_THROW(fused.set_lr(-1), c10::ValueError);
  weight.mutable_grad() = at::ones({3, 2}).to_sparse();
  expect_says(sentence_of([&] { fused.step(); }), {"parameter 0", "sparse", "dense_parameters"});
  weight.mutable_grad() = at::ones({3, 2});
  fused.fields([](const std::string& name, at::Tensor& tensor) {
    if (name == "0.exp_avg") tensor = at::zeros({3, 3});
  });
  expect_says(sentence_of([&] { fused.step(); }), {"parameter 0", "[3, 2]", "[3, 3]"});
}

TEST(ClipGradNorm, EqualsTorchOnTheDenseGradients) {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const double limit : {1e-3, 5., 1e6, HUGE_VAL}) {
      Draws draws(5);
      std::vector<at::Tensor> own = parameters(draws, type), theirs = copies(own);
      const RowTable first(draws.normal({50, 10}, type)), second(draws.normal({9, 3}, type), "second"), idle(draws.normal({9, 3}, type), "idle");
      for (const auto& [table, count] : {std::pair(first, 30), std::pair(second, 4)}) {
        const at::Tensor dense = draws.touch(table, count);
        theirs.push_back(at::zeros_like(dense).to(type).requires_grad_());
        theirs.back().mutable_grad() = dense.to(type);
      }
      draw_gradients(draws, own, .2);
      for (size_t i = 0; i < own.size(); ++i) theirs[i].mutable_grad() = own[i].grad().defined() ? own[i].grad().clone() : at::Tensor();
      double square = 0;
      for (const at::Tensor& tensor : theirs) {
        if (tensor.grad().defined()) square += tensor.grad().to(at::kDouble).square().sum().item<double>();
      }
      EXPECT_NEAR(htl::grad_norm({first, second, idle}, own).item<double>() / std::sqrt(square), 1, 1e-12);
      const at::Tensor norm = htl::clip_grad_norm({first, second, idle}, own, limit);
      EXPECT_EQ(norm.scalar_type(), at::kDouble);
      EXPECT_NEAR(norm.item<double>() / std::sqrt(square), 1, 1e-12);
      if (limit < HUGE_VAL) torch::nn::utils::clip_grad_norm_(theirs, limit);
      const double tolerance = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 2e-2;
      for (size_t i = 0; i < own.size(); ++i) {
        if (!own[i].grad().defined()) continue;
        EXPECT_LT(difference(own[i].grad(), theirs[i].grad()), tolerance);
      }
      EXPECT_LT(difference(Draws::dense(first), theirs[own.size()].grad()), tolerance);
      EXPECT_LT(difference(Draws::dense(second), theirs[own.size() + 1].grad()), tolerance);
    }
  }
}

TEST(ClipGradNorm, ClipsWhatATableHandsToForeignOptimizersToo) {
  Draws draws(13);
  for (const bool own_dense_gradient : {false, true}) {  // the weight also has a gradient beside its rows, from a regulariser
    const RowTable table(draws.normal({9, 3}, at::kDouble).requires_grad_(), "items", {.coo_gradient = true});
    at::Tensor head = draws.normal({3}, at::kDouble).requires_grad_();
    at::Tensor weight = table.weight().detach().clone().requires_grad_(), twin = head.detach().clone().requires_grad_();
    torch::optim::SGD ours({table.weight(), head}, torch::optim::SGDOptions(.1)), theirs({weight, twin}, torch::optim::SGDOptions(.1));
    for (int step = 0; step < 6; ++step) {
      const bool keep_memory = step % 2 == 1;
      ours.zero_grad(!keep_memory);
      theirs.zero_grad(!keep_memory);
      if (own_dense_gradient) {
        (table.weight().square().sum() * .1).backward();
        (weight.square().sum() * .1).backward();
      }
      for (int part = 0; part < 2; ++part) {  // two backwards, so that the rows in .grad come twice
        const at::Tensor ids = draws.ids({8, 1}, 9);
        htl::Lookup look = htl::lookup(table, htl::FieldBatch::of(ids));
        (look.values().mv(head) - 1).square().sum().backward();
        (at::embedding(weight, ids).view({8, 3}).mv(twin) - 1).square().sum().backward();
      }
      const double limit = step == 2 ? 1e9 : .5;  // once nothing to clip
      const double norm = htl::clip_grad_norm(table, {head}, limit).item<double>();
      EXPECT_NEAR(norm, torch::nn::utils::clip_grad_norm_({weight, twin}, limit), 1e-9 * norm);
      EXPECT_EQ(table.weight().grad().is_sparse(), !own_dense_gradient);
      EXPECT_LT(difference(table.weight().grad().to_dense(), weight.grad()), 1e-12);
      if (!own_dense_gradient) {
        EXPECT_LT(difference(Draws::dense(table), weight.grad()), 1e-12) << "the table's own row gradient";
      }
      ours.step();
      theirs.step();
      EXPECT_LT(difference(table.weight(), weight), 1e-12) << step;
    }
    ours.zero_grad();
    EXPECT_EQ(htl::grad_norm(table, {}).item<double>(), 0) << "zero_grad() of the foreign optimizer dropped the rows too";
  }
}

TEST(ClipGradNorm, IsExactForHugeAndTinyGradients) {
  for (const double scale : {1e20, 1e-20}) {
    Draws draws(6);
    const RowTable table(draws.normal({50, 10}, at::kFloat));
    at::Tensor weight = draws.normal({1000}, at::kFloat);
    const at::Tensor dense = draws.touch(table, 20).mul_(scale);
    table.gradient().values.mul_(scale);
    weight.mutable_grad() = draws.normal({1000}, at::kFloat).mul_(scale);
    const double norm = std::sqrt(dense.square().sum().item<double>() + weight.grad().to(at::kDouble).square().sum().item<double>());
    EXPECT_NEAR(htl::clip_grad_norm(table, {weight}, 1).item<double>() / norm, 1, 1e-6);
    EXPECT_NEAR(htl::grad_norm(table, {weight}).item<double>() / std::fmin(norm, 1), 1, 1e-6);
  }
}

TEST(ClipGradNorm, DoesNotDependOnTheNumberOfThreadsAndNamesWhatIsWrong) {
  const auto run = [](int threads) {
    const htl::test::Threads scope(threads);
    Draws draws(7);
    at::Tensor weight = draws.normal({300001}, at::kFloat);
    weight.mutable_grad() = draws.normal({300001}, at::kFloat);
    const at::Tensor norm = htl::clip_grad_norm({}, {weight}, 2);
    return std::vector<at::Tensor>{norm, weight.grad()};
  };
  EXPECT_TRUE(same_bits(run(1)[0], run(2)[0]));
  EXPECT_TRUE(same_bits(run(1)[1], run(2)[1]));
  EXPECT_EQ(htl::clip_grad_norm({}, {}, 1).item<double>(), 0);
  at::Tensor weight = at::ones({3});
  for (const double wrong : {0., -1., std::nan("")}) EXPECT_THROW(htl::clip_grad_norm({}, {weight}, wrong), c10::ValueError);
  EXPECT_THROW(htl::clip_grad_norm({}, {at::Tensor()}, 1), c10::ValueError);
  weight.mutable_grad() = at::ones({3}).to_sparse();
  EXPECT_THROW(htl::clip_grad_norm({}, {weight}, 1), c10::ValueError);
}

TEST(Schedule, HasTheseRatesAtTheseSteps) {
  const auto expect = [](const htl::AnySchedule& schedule, const std::vector<std::pair<int64_t, double>>& rates) {
    for (const auto& [step, rate] : rates) EXPECT_NEAR(schedule(step), rate, 1e-15) << "step " << step;
  };
  expect(htl::ConstantRate{.lr = .5}, {{0, .5}, {1, .5}, {1000000, .5}});
  expect(htl::LinearDecay{.lr = 1, .steps = 4}, {{0, 1}, {1, .75}, {3, .25}, {4, 0}, {5, 0}});
  expect(htl::LinearDecay{.lr = 1, .steps = 4, .final_lr = .2}, {{0, 1}, {1, .8}, {4, .2}, {99, .2}});
  expect(htl::CosineDecay{.lr = 1, .steps = 4}, {{0, 1}, {1, (1 + std::sqrt(.5)) / 2}, {2, .5}, {3, (1 - std::sqrt(.5)) / 2}, {4, 0}, {9, 0}});
  expect(htl::CosineDecay{.lr = 1, .steps = 2, .final_lr = .5}, {{0, 1}, {1, .75}, {2, .5}});
  expect(htl::ExponentialDecay{.lr = 1, .factor = .25, .steps = 2, .final_lr = .1}, {{0, 1}, {1, .5}, {2, .25}, {3, .125}, {4, .1}, {5, .1}});
  expect(htl::StepDecay{.lr = 1, .factor = .5, .steps = 3, .final_lr = .2}, {{0, 1}, {2, 1}, {3, .5}, {5, .5}, {6, .25}, {9, .2}});
  expect(htl::WarmUp{4, htl::ConstantRate{1}}, {{0, .2}, {1, .4}, {3, .8}, {4, 1}, {5, 1}});
  expect(htl::WarmUp{0, htl::LinearDecay{.lr = 1, .steps = 4}}, {{0, 1}, {1, .75}, {4, 0}});
  expect(htl::WarmUp{3, htl::LinearDecay{.lr = 1, .steps = 4}}, {{0, .25}, {1, .5}, {2, .75}, {3, 1}, {4, .75}, {7, 0}, {8, 0}});
  expect(htl::WarmUp{1, htl::CosineDecay{.lr = 2, .steps = 2}}, {{0, 1}, {1, 2}, {2, 1}, {3, 0}});
  expect(htl::WarmUp{2, htl::AnySchedule(htl::StepDecay{.lr = 3, .factor = .5, .steps = 1})}, {{0, 1}, {1, 2}, {2, 3}, {3, 1.5}});
  static_assert(htl::LearningRateSchedule<htl::WarmUp<htl::CosineDecay>> && !htl::LearningRateSchedule<double>);
}

TEST(Schedule, IsAppliedToOurOptimizersAndToLibTorchs) {
  at::Tensor weight = at::zeros({2, 1}, at::kDouble);
  const RowTable table(at::zeros({2, 1}, at::kDouble));
  at::Tensor dense = at::zeros({1}, at::kDouble).requires_grad_();
  torch::optim::SGD sgd({dense}, torch::optim::SGDOptions(1));
  htl::RowAdagrad rows(table, {.eps = 1e-12, .elementwise = true});
  const htl::WarmUp schedule{2, htl::LinearDecay{.lr = 3, .steps = 3}};
  double sum = 0;
  for (int64_t step = 0; step < 6; ++step) {
    htl::set_lr(sgd, schedule(step));
    htl::set_lr(rows, schedule(step));
    dense.mutable_grad() = at::ones({1}, at::kDouble);
    table.gradient() = {at::zeros({1}, at::kLong), at::ones({1, 1}, at::kDouble)};
    const double before = table.weight()[0][0].item<double>();
    sgd.step();
    rows.step();
    sum += schedule(step);
    EXPECT_NEAR(before - table.weight()[0][0].item<double>(), schedule(step) / std::sqrt(static_cast<double>(step + 1)), 1e-11);
  }
  EXPECT_NEAR(-dense.item<double>(), sum, 1e-12);
  EXPECT_EQ(sum, 1 + 2 + 3 + 2 + 1 + 0);
  EXPECT_THROW(htl::set_lr(sgd, -1), c10::ValueError);
}

TEST(Schedule, RefusesWrongNumbers) {
  EXPECT_THROW(htl::ConstantRate{.lr = -1}(0), c10::ValueError);
  EXPECT_THROW(htl::ConstantRate{}(-1), c10::ValueError);
  EXPECT_THROW((htl::LinearDecay{.lr = 1, .steps = 0}(0)), c10::ValueError);
  EXPECT_THROW((htl::CosineDecay{.lr = std::nan(""), .steps = 1}(0)), c10::ValueError);
  EXPECT_THROW((htl::ExponentialDecay{.factor = 0}(0)), c10::ValueError);
  EXPECT_THROW((htl::StepDecay{.factor = 1.5}(0)), c10::ValueError);
  EXPECT_THROW((htl::WarmUp<>{.steps = -1}(0)), c10::ValueError);
}

// The dense definition: every sample averages every weight.
struct DenseAverage {
  htl::WeightAverageOptions options;
  int64_t samples = 0;
  std::vector<at::Tensor> average = {};
  void after(int64_t step, const std::vector<at::Tensor>& weights) {
    if (step < options.start || (step - options.start) % options.every != 0) return;
    ++samples;
    if (samples == 1) average.resize(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      const at::Tensor weight = weights[i].detach().to(at::kDouble);
      const double old = samples == 1 ? 0 : options.decay > 0 ? options.decay : 1 - 1 / static_cast<double>(samples);
      average[i] = samples == 1 ? weight.clone() : old * average[i] + (1 - old) * weight;
    }
  }
};

TEST(WeightAverage, EqualsTheDenseDefinitionAlthoughOnlyTouchedRowsCost) {
  const htl::test::Threads one(1);  // thousands of tiny operators: threads would only wait for each other
  for (const bool masked : {false, true}) {
    for (const auto type : {at::kDouble, at::kFloat}) {
      for (const htl::WeightAverageOptions options :
           {htl::WeightAverageOptions{.decay = .9}, htl::WeightAverageOptions{.decay = 0}, htl::WeightAverageOptions{.decay = .99, .start = 7},
            htl::WeightAverageOptions{.decay = 0, .start = 20, .every = 6}}) {
        Draws draws(8);
        const RowTable table(draws.normal({31, 5}, type)), other(draws.normal({6, 2}, type), "other");
        std::vector<at::Tensor> dense = parameters(draws, type);
        htl::LazyAdam rows({table, other}, {.lr = .05});
        FusedAdam fused(dense, {.lr = .05});
        WeightAverage average({table, other}, dense, options);
        DenseAverage reference{options};
        const auto all = [&] {
          std::vector<at::Tensor> weights = dense;
          weights.push_back(table.weight());
          weights.push_back(other.weight());
          return weights;
        };
        reference.after(0, all());
        for (int64_t step = 1; step <= 120; ++step) {
          draws.touch(table, draws.integer(0, draws.chance(.5) ? 2 : 20));
          if (masked) table.gradient().valid = at::ones(table.gradient().rows.sizes(), at::kBool);
          if (draws.chance(.7)) draws.touch(other, draws.integer(0, 6));
          draw_gradients(draws, dense);
          average.update();
          rows.step();
          fused.step();
          reference.after(step, all());
          if (step != 1 && step != 50 && step != 51 && step != 120) continue;
          const auto before = copies(all());
          {
            const WeightAverage::Guard guard = average.apply();
            EXPECT_TRUE(average.applied());
            for (size_t i = 0; i < before.size(); ++i) {
              const at::Tensor expected = reference.samples == 0 ? before[i] : reference.average[i];
              EXPECT_LT(difference(all()[i], expected), type == at::kDouble ? 1e-12 : 3e-6) << "step " << step << ", tensor " << i;
            }
          }
          EXPECT_FALSE(average.applied());
          for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(all()[i], before[i])) << "step " << step << ", tensor " << i;
        }
      }
    }
  }
}

TEST(WeightAverage, RoundsForReducedTypesAndRestoresThemBitForBit) {
  Draws draws(9);
  const RowTable table(draws.normal({31, 5}, at::kBFloat16));
  at::Tensor dense = draws.normal({50}, at::kBFloat16);
  WeightAverage average(table, {dense}, {.decay = .5});
  DenseAverage reference{{.decay = .5}};
  reference.after(0, {table.weight(), dense});
  for (int64_t step = 1; step <= 30; ++step) {
    draws.touch(table, 9);
    average.update();
    table.weight().index_add_(0, table.gradient().rows, table.gradient().values);
    dense.add_(draws.normal({50}, at::kBFloat16));
    reference.after(step, {table.weight(), dense});
  }
  const at::Tensor table_before = table.weight().clone(), dense_before = dense.clone();
  auto guard = average.apply();
  EXPECT_LT(difference(table.weight(), reference.average[0]), 8e-3);
  EXPECT_LT(difference(dense, reference.average[1]), 8e-3);
  guard.restore();
  EXPECT_TRUE(same_bits(table.weight(), table_before));
  EXPECT_TRUE(same_bits(dense, dense_before));
}

TEST(WeightAverage, KeepsFloat64AveragesAndCountersThroughCastsAndSavedState) {
  Draws draws(12);
  const RowTable table(draws.normal({31, 5}, at::kDouble));
  at::Tensor dense = draws.normal({50}, at::kDouble);
  WeightAverage average(table, {dense}, {.decay = .9});
  for (int step = 0; step < 12; ++step) {
    draws.touch(table, 9);
    average.update();
    table.weight().index_add_(0, table.gradient().rows, table.gradient().values);
    dense.add_(draws.normal({50}, at::kDouble));
  }
  const auto before = state_of(average);
  for (const at::Tensor& weight : {table.weight(), dense}) {
    weight.set_data(weight.to(at::kBFloat16));
    weight.set_data(weight.to(at::kDouble));
  }
  WeightAverage loaded(table, {dense}, {.decay = .9});
  load_state(loaded, before);
  const auto after = state_of(average), again = state_of(loaded);
  for (const auto& [name, tensor] : before) {
    EXPECT_EQ(tensor.scalar_type(), name.ends_with("average") ? at::kDouble : name.ends_with("row_sample") ? at::kInt : at::kLong) << name;
    EXPECT_TRUE(same_bits(after.at(name), tensor)) << name;
    EXPECT_TRUE(same_bits(again.at(name), tensor)) << name;
  }
  const auto applied = [&](WeightAverage& which) {
    const auto guard = which.apply();
    return std::pair(table.weight().clone(), dense.clone());
  };
  const auto ours = applied(average), theirs = applied(loaded);
  EXPECT_TRUE(same_bits(ours.first, theirs.first));
  EXPECT_TRUE(same_bits(ours.second, theirs.second));
}

TEST(WeightAverage, ContinuesBitForBitFromSavedStateAndForAnyNumberOfThreads) {
  const auto run = [](std::optional<int> restart, int threads) {
    const htl::test::Threads scope(threads);
    Draws draws(10);
    RowTable table(draws.normal({5000, 6}, at::kFloat));
    std::vector<at::Tensor> dense = parameters(draws, at::kFloat);
    auto average = std::make_unique<WeightAverage>(table, dense, htl::WeightAverageOptions{.decay = .95});
    for (int step = 0; step < 20; ++step) {
      if (restart && *restart == step) {
        const auto saved = state_of(*average);
        table = RowTable(table.weight().clone());
        dense = copies(dense);
        average = std::make_unique<WeightAverage>(table, dense, htl::WeightAverageOptions{.decay = .95});
        load_state(*average, saved);
      }
      draws.touch(table, 2100);
      average->update();
      table.weight().index_add_(0, table.gradient().rows, table.gradient().values);
      const at::NoGradGuard no_grad;
      for (at::Tensor& parameter : dense) parameter.mul_(.9);
    }
    const auto guard = average->apply();
    std::vector<at::Tensor> all = copies(dense);
    all.push_back(table.weight().clone());
    return all;
  };
  const auto whole = run(std::nullopt, 1);
  for (const auto& other : {run(7, 1), run(std::nullopt, 2), run(13, 2)}) {
    for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(same_bits(whole[i], other[i])) << i;
  }
}

TEST(WeightAverage, NamesWhatIsWrong) {
  Draws draws(11);
  const RowTable table(draws.normal({4, 2}, at::kFloat));
  for (const double decay : {1., -.1, std::nan("")}) EXPECT_THROW(WeightAverage(table, {}, {.decay = decay}), c10::ValueError);
  EXPECT_THROW(WeightAverage(table, {}, {.start = -1}), c10::ValueError);
  EXPECT_THROW(WeightAverage(table, {}, {.every = 0}), c10::ValueError);
  EXPECT_THROW(WeightAverage({}), c10::ValueError);
  WeightAverage average(table);
  expect_says(sentence_of([&] { average.update(); }), {"no table has a row gradient", "before the optimizers' step()"});
  draws.touch(table, 2);
  average.update();
  const auto guard = average.apply();
  expect_says(sentence_of([&] { average.update(); }), {"update()", "guard"});
  expect_says(sentence_of([&] { const auto second = average.apply(); }), {"apply()", "already"});
  expect_says(sentence_of([&] { state_of(average); }), {"saved"});
}

}  // namespace
