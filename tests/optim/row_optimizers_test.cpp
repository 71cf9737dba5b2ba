// SPDX-License-Identifier: Apache-2.0
#include <htl/optim/clip.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <optim/random_rows.hpp>

#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

namespace {

using htl::BiasCorrection;
using htl::LazyAdam;
using htl::LazyAdamOptions;
using htl::RowAdagrad;
using htl::RowAdagradOptions;
using htl::RowTable;
using htl::test::difference;
using htl::test::Draws;
using htl::test::load_state;
using htl::test::same_bits;
using htl::test::sentence_of;
using htl::test::state_of;

void expect_says(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << '"' << part << "\" is missing in: " << message;
}

// The definitions, element by element in fp64 over a dense gradient; `touched` says which rows are in the step.
struct DenseAdagrad {
  RowAdagradOptions options;
  at::Tensor weight, sum = at::zeros_like(weight);
  void step(const at::Tensor& gradient, const at::Tensor& touched) {
    auto w = weight.accessor<double, 2>(), g = gradient.accessor<double, 2>(), s = sum.accessor<double, 2>();
    const int64_t d = weight.size(1);
    for (int64_t r = 0; r < weight.size(0); ++r) {
      if (!touched[r].item<bool>()) continue;
      double mean = 0;
      for (int64_t j = 0; j < d; ++j) mean += std::pow(g[r][j] + options.weight_decay * w[r][j], 2) / static_cast<double>(d);
      for (int64_t j = 0; j < d; ++j) {
        const double regularised = g[r][j] + options.weight_decay * w[r][j];
        s[r][j] += options.elementwise ? regularised * regularised : mean;
        w[r][j] -= options.lr * regularised / (std::sqrt(s[r][j] + options.initial_accumulator) + options.eps);
      }
    }
  }
};
struct DenseLazyAdam {
  LazyAdamOptions options;
  at::Tensor weight, m = at::zeros_like(weight), v = at::zeros_like(weight);
  std::vector<int64_t> updates = std::vector<int64_t>(static_cast<size_t>(weight.size(0)));
  int64_t steps = 0;
  void step(const at::Tensor& gradient, const at::Tensor& touched) {
    ++steps;
    auto w = weight.accessor<double, 2>(), g = gradient.accessor<double, 2>(), first = m.accessor<double, 2>(), second = v.accessor<double, 2>();
    for (int64_t r = 0; r < weight.size(0); ++r) {
      if (!touched[r].item<bool>()) continue;
      ++updates[static_cast<size_t>(r)];
      const double t = static_cast<double>(options.bias_correction == BiasCorrection::per_row ? updates[static_cast<size_t>(r)] : steps);
      for (int64_t j = 0; j < weight.size(1); ++j) {
        double value = g[r][j];
        if (options.decoupled_weight_decay) {
          w[r][j] -= options.lr * options.weight_decay * w[r][j];
        } else {
          value += options.weight_decay * w[r][j];
        }
        first[r][j] = options.beta1 * first[r][j] + (1 - options.beta1) * value;
        second[r][j] = options.beta2 * second[r][j] + (1 - options.beta2) * value * value;
        const double mean = first[r][j] / (1 - std::pow(options.beta1, t)), square = second[r][j] / (1 - std::pow(options.beta2, t));
        w[r][j] -= options.lr * mean / (std::sqrt(square) + options.eps);
      }
    }
  }
};

// Random touched sets, from none to all rows, some steps without any gradient; with `masked`, the fixed-slot form that CUDA has.
template <class Optimizer, class Reference, class Options>
void expect_dense_meaning(const Options& options, at::ScalarType type, bool masked, double tolerance, uint64_t seed) {
  const htl::test::Threads one(1);  // thousands of tiny operators: threads would only wait for each other
  Draws draws(seed);
  const int64_t rows = 23, dim = draws.integer(1, 19), padding = 5;
  RowTable table(draws.normal({rows, dim}, type), "table", {.padding_row = padding});
  Optimizer optimizer(table, options);
  Reference reference{options, table.weight().to(at::kDouble).clone()};
  for (int step = 0; step < 300; ++step) {
    if (draws.integer(0, 9) == 0) {
      optimizer.step();
      continue;
    }
    const int64_t count = draws.integer(0, draws.chance(.5) ? 3 : rows);
    const at::Tensor gradient = draws.touch(table, count, std::pow(10., static_cast<double>(draws.integer(-2, 1))));
    at::Tensor touched = at::zeros({rows}, at::kBool);
    touched.index_fill_(0, table.gradient().rows, true);
    touched[padding] = false;
    if (masked) {  // unused slots between the used ones
      const int64_t slots = rows + 9;
      const at::Tensor where = draws.rows(slots, count);
      htl::RowGradient& own = table.gradient();
      own = {at::zeros({slots}, at::kLong).index_copy_(0, where, own.rows), at::zeros({slots, dim}, type).index_copy_(0, where, own.values),
             at::zeros({slots}, at::kBool).index_fill_(0, where, true)};
    }
    optimizer.step();
    EXPECT_FALSE(table.gradient().defined());
    reference.step(gradient, touched);
  }
  EXPECT_LT(difference(table.weight(), reference.weight), tolerance) << "dim " << dim;
}

TEST(RowAdagrad, EqualsItsDenseMeaningOverHundredsOfSteps) {
  for (const bool masked : {false, true}) {
    for (const bool elementwise : {false, true}) {
      for (const double decay : {0., .01}) {
        for (const double initial : {0., .1}) {
          const RowAdagradOptions options{.lr = .05, .eps = 1e-8, .weight_decay = decay, .initial_accumulator = initial, .elementwise = elementwise};
          expect_dense_meaning<RowAdagrad, DenseAdagrad>(options, at::kDouble, masked, 1e-12, 1);
          expect_dense_meaning<RowAdagrad, DenseAdagrad>(options, at::kFloat, masked, 2e-5, 2);
        }
      }
    }
  }
}

TEST(RowAdagrad, ElementwiseEqualsTorchAdagradOnTheDenseGradient) {
  Draws draws(3);
  RowTable table(draws.normal({40, 7}, at::kDouble));
  at::Tensor dense = table.weight().clone().requires_grad_();
  RowAdagrad rows(table, {.lr = .1, .eps = 1e-10, .initial_accumulator = .01, .elementwise = true});
  torch::optim::Adagrad adagrad({dense}, torch::optim::AdagradOptions(.1).eps(1e-10).initial_accumulator_value(.01));
  for (int step = 0; step < 300; ++step) {
    dense.mutable_grad() = draws.touch(table, draws.integer(0, 40));
    rows.step();
    adagrad.step();
  }
  EXPECT_LT(difference(table.weight(), dense), 1e-12);
}

TEST(LazyAdam, EqualsItsDenseMeaningOverHundredsOfSteps) {
  for (const bool masked : {false, true}) {
    for (const BiasCorrection correction : {BiasCorrection::global_step, BiasCorrection::per_row}) {
      for (const double decay : {0., .1}) {
        for (const bool decoupled : {false, true}) {
          LazyAdamOptions options{.lr = .01, .weight_decay = decay, .decoupled_weight_decay = decoupled, .bias_correction = correction};
          expect_dense_meaning<LazyAdam, DenseLazyAdam>(options, at::kDouble, masked, 1e-11, 4);
          expect_dense_meaning<LazyAdam, DenseLazyAdam>(options, at::kFloat, masked, 2e-4, 5);
        }
      }
    }
  }
}

TEST(LazyAdam, IsDenseAdamWhereEveryStepTouchesEveryRow) {
  for (const bool decoupled : {false, true}) {
    for (const BiasCorrection correction : {BiasCorrection::global_step, BiasCorrection::per_row}) {
      Draws draws(6);
      RowTable table(draws.normal({17, 10}, at::kDouble));
      at::Tensor dense = table.weight().clone().requires_grad_();
      LazyAdam rows(table, {.lr = .01, .beta1 = .8, .beta2 = .99, .weight_decay = .05, .decoupled_weight_decay = decoupled, .bias_correction = correction});
      torch::optim::Adam adam({dense}, torch::optim::AdamOptions(.01).betas({.8, .99}).weight_decay(.05));
      torch::optim::AdamW adamw({dense}, torch::optim::AdamWOptions(.01).betas({.8, .99}).weight_decay(.05));
      for (int step = 0; step < 300; ++step) {
        dense.mutable_grad() = draws.touch(table, 17);
        rows.step();
        if (decoupled) {
          adamw.step();
        } else {
          adam.step();
        }
      }
      EXPECT_LT(difference(table.weight(), dense), 1e-11);
    }
  }
}

TEST(LazyAdam, FirstUpdateOfALateRowHasSizeLrOnlyWithPerRowCorrection) {
  for (const BiasCorrection correction : {BiasCorrection::global_step, BiasCorrection::per_row}) {
    RowTable table(at::zeros({2, 3}, at::kDouble));
    LazyAdam rows(table, {.lr = .01, .bias_correction = correction});
    for (int step = 0; step < 5000; ++step) {
      table.gradient() = {at::zeros({1}, at::kLong), at::ones({1, 3}, at::kDouble)};
      rows.step();
    }
    table.gradient() = {at::ones({1}, at::kLong), at::full({1, 3}, 7., at::kDouble)};
    rows.step();
    const double moved = -table.weight()[1][0].item<double>();
    EXPECT_NEAR(moved, correction == BiasCorrection::per_row ? .01 : .01 * .1 * std::sqrt(1 - std::pow(.999, 5001)) / std::sqrt(.001), 1e-8);
  }
}

// Casts of a table to bfloat16 and back, and copies of the state, change neither types nor bits of it.
template <class Optimizer, class Options>
void expect_state_survives_casts(const Options& options) {
  for (const auto type : {at::kDouble, at::kFloat}) {
    Draws draws(16);
    RowTable table(draws.normal({30, 5}, type));
    Optimizer rows(table, options);
    for (int step = 0; step < 10; ++step) {
      draws.touch(table, 20);
      rows.step();
    }
    const auto before = state_of(rows);
    table.weight().set_data(table.weight().to(at::kBFloat16));
    table.weight().set_data(table.weight().to(type));
    RowTable twin(table.weight().clone());
    Optimizer loaded(twin, options);
    load_state(loaded, before);
    for (const auto& [name, tensor] : state_of(rows)) {
      EXPECT_TRUE(same_bits(tensor, before.at(name))) << name;
      EXPECT_EQ(tensor.scalar_type(), name.ends_with("row_step") ? at::kInt : name.ends_with("step") ? at::kLong : type) << name;
    }
    for (int step = 0; step < 3; ++step) {
      draws.touch(table, 20);
      twin.gradient() = table.gradient();
      rows.step();
      loaded.step();
    }
    EXPECT_TRUE(same_bits(table.weight(), twin.weight()));
    const auto ours = state_of(rows), theirs = state_of(loaded);
    for (const auto& [name, tensor] : ours) EXPECT_TRUE(same_bits(tensor, theirs.at(name))) << name;
  }
}

TEST(RowAdagrad, KeepsTypeAndBitsOfItsStateThroughCastsAndCopies) {
  for (const bool elementwise : {false, true}) expect_state_survives_casts<RowAdagrad>(RowAdagradOptions{.lr = .1, .elementwise = elementwise});
}

TEST(LazyAdam, KeepsTypeAndBitsOfItsStateThroughCastsAndCopies) {
  for (const BiasCorrection correction : {BiasCorrection::global_step, BiasCorrection::per_row})
    expect_state_survives_casts<LazyAdam>(LazyAdamOptions{.lr = .1, .bias_correction = correction});
}

template <class Optimizer>
class EachRowOptimizer : public ::testing::Test {};
using RowOptimizers = ::testing::Types<RowAdagrad, LazyAdam>;
TYPED_TEST_SUITE(EachRowOptimizer, RowOptimizers);

// What the docstrings say of overflow: loops and operators alike, and never NaN.
TYPED_TEST(EachRowOptimizer, StandsStillWhereASquareWasNoFloatAndNowhereElse) {
  for (const bool masked : {false, true}) {
    for (const double size : {1e25, 1e38}) {
      Draws draws(17);
      RowTable table(draws.normal({12, 4}, at::kFloat));
      const at::Tensor start = table.weight().clone();
      TypeParam rows(table, {.lr = .01});
      for (int step = 0; step < 20; ++step) {
        table.gradient() = {at::arange(12), draws.normal({12, 4}, at::kFloat).sign(), masked ? at::ones({12}, at::kBool) : at::Tensor()};
        if (step == 0 || step == 5) table.gradient().values.narrow(0, 3, 1).mul_(size);
        rows.step();
      }
      EXPECT_TRUE(at::equal(table.weight()[3], start[3])) << masked << " " << size;
      const at::Tensor others = at::cat({(table.weight() - start).narrow(0, 0, 3), (table.weight() - start).narrow(0, 4, 8)}).abs();
      EXPECT_TRUE(at::isfinite(others).all().template item<bool>());
      EXPECT_GT(others.mean().template item<double>(), .005);
    }
  }
}

TYPED_TEST(EachRowOptimizer, MovesByClippedGradientsOfAnyScaleAlike) {
  for (const bool masked : {false, true}) {
    const auto run = [&](double scale, bool clip) {
      Draws draws(18);
      RowTable table(draws.normal({12, 4}, at::kFloat));
      TypeParam rows(table, {.lr = .01});
      for (int step = 0; step < 20; ++step) {
        draws.touch(table, 9);  // of norm 6
        if (masked) table.gradient().valid = at::ones({9}, at::kBool);
        table.gradient().values.mul_(step % 4 == 1 ? scale : 1);
        if (clip) htl::clip_grad_norm(table, {}, 1);
        rows.step();
      }
      return table.weight().clone();
    };
    for (const double scale : {1e10, 1e20, 1e30}) EXPECT_LT(difference(run(scale, true), run(1, true)), 1e-5) << scale;
    for (const double scale : {1e-20, 1e-30, 1e-40}) {
      for (const bool clip : {false, true}) EXPECT_LT(difference(run(scale, clip), run(0, clip)), 1e-5) << "so small a gradient is as good as 0: " << scale;
    }
  }
}

TYPED_TEST(EachRowOptimizer, LeavesUntouchedRowsThePaddingRowAndTheirStateAlone) {
  for (const bool masked : {false, true}) {
    Draws draws(7);
    RowTable table(draws.normal({50, 6}, at::kFloat), "table", {.padding_row = 3});
    TypeParam rows(table, {.lr = .1, .weight_decay = .1});
    for (int step = 0; step < 20; ++step) {
      draws.touch(table, 30);
      rows.step();
      const at::Tensor before = table.weight().clone();
      auto state = state_of(rows);
      draws.touch(table, 10);
      table.gradient().rows[0] = 3;
      table.gradient().rows.slice(0, 1).masked_fill_(table.gradient().rows.slice(0, 1) == 3, 49);
      if (masked) table.gradient().valid = at::ones({10}, at::kBool);
      at::Tensor touched = at::zeros({50}, at::kBool).index_fill_(0, table.gradient().rows, true);
      touched[3] = false;
      rows.step();
      const at::Tensor same = touched.logical_not();
      EXPECT_TRUE(at::equal(table.weight().index({same}), before.index({same})));
      EXPECT_FALSE(at::equal(table.weight(), before));
      rows.fields([&](const char* name, at::Tensor& tensor) {
        if (tensor.dim() == 0) return;
        EXPECT_TRUE(at::equal(tensor.index({same}), state[name].index({same}))) << name;
      });
    }
  }
}

TYPED_TEST(EachRowOptimizer, ZeroGradientsOnFreshRowsChangeNothing) {
  for (const bool masked : {false, true}) {
    Draws draws(8);
    RowTable table(draws.normal({9, 4}, at::kFloat));
    const at::Tensor before = table.weight().clone();
    TypeParam rows(table);
    table.gradient() = {draws.rows(9, 5), at::zeros({5, 4}), masked ? at::ones({5}, at::kBool) : at::Tensor()};
    rows.step();
    EXPECT_TRUE(at::equal(table.weight(), before));
  }
}

TYPED_TEST(EachRowOptimizer, ChangesNothingButForgetsTheGradientWhereItIsNotActive) {
  Draws draws(10);
  RowTable table(draws.normal({9, 4}, at::kFloat));
  TypeParam rows(table);
  draws.touch(table, 5);
  rows.step(at::ones({}, at::kBool));
  const at::Tensor before = table.weight().clone();
  const auto state = state_of(rows);
  draws.touch(table, 5);
  table.gradient().values.fill_(std::nan(""));
  rows.step(at::zeros({}, at::kBool));
  EXPECT_FALSE(table.gradient().defined());
  EXPECT_TRUE(at::equal(table.weight(), before));
  for (const auto& [name, tensor] : state_of(rows)) EXPECT_TRUE(at::equal(tensor, state.at(name))) << name;
  draws.touch(table, 5);
  EXPECT_THROW(rows.step(at::ones({2}, at::kBool)), c10::ValueError);
  EXPECT_THROW(rows.step(at::ones({}, at::kFloat)), c10::ValueError);
  rows.step(at::ones({}, at::kBool));
  EXPECT_FALSE(at::equal(table.weight(), before));
}

TYPED_TEST(EachRowOptimizer, UpdatesSeveralTablesOfDifferentTypesAndSizesEachAsAlone) {
  Draws draws(9);
  const auto type_of = [](int i) { return i == 1 ? at::kDouble : at::kFloat; };
  std::vector<RowTable> together, alone;
  std::vector<TypeParam> single;
  for (int i = 0; i < 3; ++i) {
    together.emplace_back(draws.normal({5 + 10 * i, 1 + 7 * i}, type_of(i)), i < 2 ? "same" : "other");
    alone.emplace_back(together.back().weight().clone());
    single.emplace_back(alone.back());
  }
  TypeParam all(together);
  for (int step = 0; step < 50; ++step) {
    for (size_t i = 0; i < 3; ++i) {
      if (draws.integer(0, 2) == 0) continue;  // without a gradient
      draws.touch(together[i], draws.integer(0, together[i].rows()));
      alone[i].gradient() = together[i].gradient();
      single[i].step();
    }
    all.step();
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(together[i].weight(), alone[i].weight())) << i;
  const auto state = state_of(all);
  for (const auto& [name, tensor] : state) EXPECT_TRUE(name.starts_with("same#0.") || name.starts_with("same#1.") || name.starts_with("other.")) << name;
}

TYPED_TEST(EachRowOptimizer, ContinuesBitForBitFromSavedState) {
  const auto run = [](std::optional<int> restart) {
    Draws draws(10);
    RowTable table(draws.normal({30, 5}, at::kFloat));
    auto rows = std::make_unique<TypeParam>(table);
    for (int step = 0; step < 60; ++step) {
      if (restart && *restart == step) {
        const auto saved = state_of(*rows);
        table = RowTable(table.weight().clone());
        rows = std::make_unique<TypeParam>(table);
        load_state(*rows, saved);
      }
      draws.touch(table, draws.integer(0, 30));
      rows->step();
    }
    return table.weight();
  };
  EXPECT_TRUE(at::equal(run(std::nullopt), run(33)));
}

TYPED_TEST(EachRowOptimizer, DoesNotDependOnTheNumberOfThreads) {
  const auto run = [](int threads) {
    const htl::test::Threads scope(threads);
    Draws draws(11);
    RowTable table(draws.normal({20000, 10}, at::kFloat));
    TypeParam rows(table);
    for (int step = 0; step < 5; ++step) {
      draws.touch(table, 9001);
      rows.step();
    }
    return table.weight();
  };
  const at::Tensor one = run(1);
  for (int repetition = 0; repetition < 20; ++repetition) EXPECT_TRUE(at::equal(one, run(2)));
}

TYPED_TEST(EachRowOptimizer, KeepsStateInFloat32WhenTheTableBecomesBfloat16) {
  for (const bool masked : {false, true}) {
    Draws draws(12);
    RowTable table(draws.normal({30, 5}, at::kFloat)), twin(table.weight().clone());
    TypeParam rows(table, {.lr = .1}), exact(twin, {.lr = .1});
    for (int step = 0; step < 10; ++step) {
      draws.touch(table, 20);
      twin.gradient() = table.gradient();
      rows.step();
      exact.step();
    }
    table.weight().set_data(table.weight().to(at::kBFloat16));
    draws.touch(table, 20);
    twin.weight().copy_(table.weight());
    twin.gradient() = {table.gradient().rows, table.gradient().values.to(at::kFloat)};
    if (masked) table.gradient().valid = at::ones({20}, at::kBool);
    rows.step();
    exact.step();
    EXPECT_EQ(table.weight().scalar_type(), at::kBFloat16);
    EXPECT_LT(difference(table.weight(), twin.weight()), masked ? 1e-2 : 4e-3);
    EXPECT_TRUE(masked || at::equal(table.weight(), twin.weight().to(at::kBFloat16)));
    const auto want = state_of(exact), have = state_of(rows);
    for (const auto& [name, tensor] : have) {
      EXPECT_EQ(tensor.scalar_type(), want.at(name).scalar_type()) << name;
      EXPECT_LT(difference(tensor, want.at(name)), 1e-6) << name;
    }
  }
}

TYPED_TEST(EachRowOptimizer, WorksOnTablesThatAreSlicesOfAnotherTensor) {
  Draws draws(13);
  const at::Tensor wide = draws.normal({30, 12}, at::kDouble), columns = draws.normal({5, 30}, at::kDouble);
  const at::Tensor wide_before = wide.clone();
  RowTable slice(wide.narrow(1, 4, 5)), transposed(columns.t(), "transposed"), copy(slice.weight().clone()), copy2(transposed.weight().clone(), "transposed");
  TypeParam views(std::vector<RowTable>{slice, transposed}), copies(std::vector<RowTable>{copy, copy2});
  for (int step = 0; step < 20; ++step) {
    draws.touch(slice, 12);
    draws.touch(transposed, 12);
    copy.gradient() = slice.gradient();
    copy2.gradient() = transposed.gradient();
    views.step();
    copies.step();
  }
  EXPECT_TRUE(at::equal(slice.weight(), copy.weight()));
  EXPECT_LT(difference(transposed.weight(), copy2.weight()), 1e-13);
  EXPECT_TRUE(at::equal(wide.narrow(1, 0, 4), wide_before.narrow(1, 0, 4)));
  EXPECT_TRUE(at::equal(wide.narrow(1, 9, 3), wide_before.narrow(1, 9, 3)));
}

TYPED_TEST(EachRowOptimizer, RefusesABackwardThroughWeightsThatItHasChanged) {
  Draws draws(14);
  RowTable table(draws.normal({4, 3}, at::kFloat).requires_grad_());
  const at::Tensor loss = table.weight().square().sum();
  draws.touch(table, 2);
  TypeParam(table).step();
  EXPECT_TRUE(table.weight().requires_grad());
  EXPECT_NE(sentence_of([&] { loss.backward(); }), "no error");
}

TYPED_TEST(EachRowOptimizer, UsesTheRateThatIsSet) {
  Draws draws(15);
  RowTable table(draws.normal({6, 3}, at::kDouble)), twin(table.weight().clone());
  TypeParam rows(table, {.lr = .5}), other(twin, {.lr = .02});
  rows.set_lr(.02);
  EXPECT_EQ(rows.lr(), .02);
  draws.touch(table, 4);
  twin.gradient() = table.gradient();
  rows.step();
  other.step();
  EXPECT_TRUE(at::equal(table.weight(), twin.weight()));
  for (const double wrong : {-1., std::nan(""), HUGE_VAL}) EXPECT_THROW(rows.set_lr(wrong), c10::ValueError);
  EXPECT_EQ(rows.lr(), .02);
}

TYPED_TEST(EachRowOptimizer, NamesWhatIsWrong) {
  RowTable table(at::zeros({4, 3}), "users");
  EXPECT_THROW(TypeParam(table, {.lr = -1}), c10::ValueError);
  EXPECT_THROW(TypeParam(table, {.lr = std::nan("")}), c10::ValueError);
  EXPECT_THROW(TypeParam(table, {.eps = 0}), c10::ValueError);
  EXPECT_THROW(TypeParam(table, {.weight_decay = -.1}), c10::ValueError);
  EXPECT_THROW(TypeParam(htl::RowTables()), c10::ValueError);
  EXPECT_THROW(TypeParam(RowTable(at::zeros({2, 2}).to(at::kFloat8_e4m3fn))), c10::TypeError);
  TypeParam rows(table);
  const auto step_with = [&](at::Tensor which, at::Tensor values, at::Tensor valid = {}) {
    return sentence_of([&] {
      table.gradient() = {which, values, valid};
      rows.step();
    });
  };
  const at::Tensor two = at::tensor({0, 1}, at::kLong), before = table.weight().clone();
  expect_says(step_with(at::tensor({0, 4}, at::kLong), at::ones({2, 3})), {"users", "row 4", "[0, 4)"});
  expect_says(step_with(at::tensor({-1, 1}, at::kLong), at::ones({2, 3})), {"users", "row -1"});
  expect_says(step_with(at::tensor({-1, 1}, at::kLong), at::ones({2, 3}), at::ones({2}, at::kBool)), {"users", "row -1"});
  expect_says(step_with(two, at::ones({2, 4})), {"users", "values", "[any, 3]", "[2, 4]"});
  expect_says(step_with(two, at::ones({3, 3})), {"users", "rows", "[3]"});
  expect_says(step_with(two.to(at::kInt), at::ones({2, 3})), {"users", "int64"});
  expect_says(step_with(two, at::ones({2, 3}, at::kLong)), {"users", "floating"});
  expect_says(step_with(two, at::ones({2, 3}), at::ones({2})), {"users", "bool"});
  expect_says(step_with(two, at::ones({2, 3}), at::ones({3}, at::kBool)), {"users", "valid"});
  EXPECT_TRUE(at::equal(table.weight(), before));
  table.weight().set_data(at::zeros({9, 3}));
  expect_says(step_with(two, at::ones({2, 3})), {"users", "shape", "[4", "[9, 3]"});
  rows.zero_grad();
  EXPECT_FALSE(table.gradient().defined());
}

struct OwnerImpl : torch::nn::Module, htl::RowTableOwner {
  OwnerImpl(int64_t rows, std::string name) : table(register_parameter("weight", at::ones({rows, 2})), std::move(name)) {}
  std::vector<RowTable> row_tables() const override { return {table}; }
  RowTable table;
};
TORCH_MODULE(Owner);
struct NetImpl : torch::nn::Module {
  NetImpl() : first(register_module("first", Owner(3, "first"))), inner(register_module("inner", torch::nn::Linear(2, 2))) {
    register_module("again", first);
    register_module("tied", inner);
    second = inner->register_module("second", Owner(4, "second"));
    frozen = register_parameter("frozen", at::zeros({2}), false);
  }
  Owner first, second{nullptr};
  torch::nn::Linear inner;
  at::Tensor frozen;
};
TORCH_MODULE(Net);

TEST(RowTables, AreFoundInModulesHoldersPointersAndLists) {
  Net net;
  EXPECT_EQ(htl::RowTables(net).size(), 2U);
  EXPECT_EQ(htl::RowTables(*net).size(), 2U);
  EXPECT_EQ(htl::RowTables(net.ptr()).size(), 2U);
  EXPECT_EQ(htl::RowTables(net->first).size(), 1U);
  EXPECT_EQ(htl::RowTables(*net->first).size(), 1U);
  EXPECT_EQ(htl::RowTables(net->first->table).size(), 1U);
  EXPECT_EQ((htl::RowTables{net->first->table, net->second->table, net->first->table}).size(), 2U);
  EXPECT_EQ(htl::RowTables(static_cast<const htl::RowTableOwner&>(*net->first)).size(), 1U);
  EXPECT_EQ(htl::RowTables(static_cast<const torch::nn::Module&>(*net)).size(), 2U);
  EXPECT_TRUE(htl::RowTables(net->second)[0].is_same(net->second->table));
  OwnerImpl on_the_stack(3, "stack");
  EXPECT_EQ(htl::RowTables(on_the_stack).size(), 1U);
  RowAdagrad rows(net->first, {.lr = .05});
  EXPECT_EQ(rows.tables().size(), 1U);
  EXPECT_THROW(RowAdagrad(torch::nn::Linear(2, 2)), c10::ValueError);
  EXPECT_THROW(htl::RowTables(Owner(nullptr)), c10::ValueError);
  const std::vector<at::Tensor> weights = htl::RowTables{net->first->table}.weights();
  ASSERT_EQ(weights.size(), 1U);
  EXPECT_TRUE(weights[0].is_same(net->first->table.weight()));
  EXPECT_THROW(htl::RowTables{RowTable()}, c10::ValueError);
  expect_says(sentence_of([&] { htl::RowTables{net->first->table, RowTable(net->first->table.weight(), "copy")}; }), {"first", "copy", "one weight"});
}

TEST(DenseParameters, AreAllButTheTablesEachOnce) {
  Net net;
  const auto dense = htl::dense_parameters(net);
  ASSERT_EQ(dense.size(), 3U);
  EXPECT_TRUE(dense[0].is_same(net->frozen));
  EXPECT_TRUE(dense[1].is_same(net->inner->weight));
  EXPECT_TRUE(dense[2].is_same(net->inner->bias));
  EXPECT_EQ(htl::dense_parameters(*net).size(), 3U);
  EXPECT_EQ(htl::dense_parameters(*net, RowTable(net->inner->weight)).size(), 2U);
}

}  // namespace
