// SPDX-License-Identifier: Apache-2.0
/// @file loss_cases.hpp
/// @brief LossCase: a loss with a batch that suits it; and what every loss must do with one.
#pragma once

#include <htl/loss/hybrid_loss.hpp>

#include <torch/torch.h>

#include "support/gradcheck.hpp"
#include "support/seeded.hpp"

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::test {

/// @brief A loss, the outputs of its task and of others, and labels.
struct LossCase {
  AnyLoss loss;                    ///< the loss
  at::Tensor output;               ///< [B, W]
  at::Tensor label;                ///< [B]
  Named<at::Tensor> context = {};  ///< columns that it reads
  TaskOutputs others = {};         ///< outputs of the tasks that it reads
  Labels labels = {};              ///< their labels
  bool exact = true;               ///< whether its gradient is that of its value: false where it cuts some off
  bool stiff = false;              ///< whether far out, float32 rows keep no more than finite: their terms cancel beyond its 24 bits
  std::string note = {};           ///< what sets it apart from others of its name

  /// @brief How failures call it.
  std::string text() const { return loss.name() + (note.empty() ? "" : " ") + note; }
  /// @brief All outputs in another type.
  LossCase to(at::ScalarType type) const {
    LossCase moved = *this;
    moved.output = output.to(type);
    if (label.is_floating_point()) moved.label = label.to(type);
    for (auto& [name, other] : moved.others) other = other.to(type);
    return moved;
  }
  /// @brief The outputs, its own first.
  std::vector<at::Tensor> outputs() const {
    std::vector<at::Tensor> all = {output};
    for (const auto& [name, other] : others) all.push_back(other);
    return all;
  }
  /// @brief The same batch with other outputs, its own first.
  LossCase with(const std::vector<at::Tensor>& outputs) const {
    LossCase changed = *this;
    changed.output = outputs[0];
    size_t k = 0;
    for (auto& [name, other] : changed.others) other = outputs[++k];
    return changed;
  }
  /// @brief The same batch with outputs that are leaves.
  LossCase leaves() const {
    std::vector<at::Tensor> all;
    for (const at::Tensor& one : outputs()) all.push_back(one.detach().clone().requires_grad_());
    return with(all);
  }
  /// @brief What the loss sees; lives as long as the case.
  LossInput input(const at::Tensor& share = {}) const {
    return {output, label, label, share.defined() && share.numel() > 0 ? share / share.max().clamp_min(1e-30) : share, context, &others, &labels};
  }
  /// @brief [B]
  at::Tensor rows(const at::Tensor& share = {}) const { return loss.per_row(input(share)); }
  /// @brief 0-dim
  at::Tensor reduced(const at::Tensor& share) const { return loss.reduced(input(share), share); }
  /// @brief The prediction.
  at::Tensor predict() const { return loss.predict(PredictInput{output, context, &others}); }
};

/// @brief Random shares of rows, some of them 0, of sum 1.
inline at::Tensor random_share(Random& random, int64_t rows, double counted, at::ScalarType type) {
  const at::Tensor raw = random.uniform({rows}, .1) * random.mask({rows}, counted).to(at::kDouble);
  return (raw / raw.sum().clamp_min(1e-30)).to(type);
}

/// @brief Derivatives per row, in one pass and of the prediction, by all outputs.
inline void expect_derivatives(const LossCase& one, const at::Tensor& share) {
  if (one.exact) {
    EXPECT_TRUE(gradcheck([&](const auto& x) { return one.with(x).rows(share); }, one.outputs())) << one.text();
    EXPECT_TRUE(gradcheck([&](const auto& x) { return one.with(x).reduced(share); }, one.outputs())) << one.text();
  }
  EXPECT_TRUE(gradcheck([&](const auto& x) { return one.with(x).predict(); }, one.outputs())) << one.text();
}

/// @brief The one-pass form is the weighted sum of rows, in value and gradient. `one` in the type to test.
inline void expect_one_pass_is_sum(const LossCase& one, const at::Tensor& share, double tolerance) {
  const LossCase a = one.leaves(), b = one.to(at::kDouble).leaves();
  const at::Tensor value = a.reduced(share), expected = weighted_sum(b.rows(share.to(at::kDouble)), share.to(at::kDouble));
  (3 * value).backward();
  (3 * expected).backward();
  EXPECT_EQ(value.scalar_type(), one.output.scalar_type());
  EXPECT_TRUE(close(value, expected, tolerance, tolerance)) << one.text() << " of " << share.size(0) << " rows";
  for (size_t k = 0; k < a.outputs().size(); ++k) {
    const at::Tensor got = a.outputs()[k].grad(), wanted = b.outputs()[k].grad();
    const at::Tensor zeros = torch::zeros_like(b.outputs()[k]);
    EXPECT_TRUE(close(got.defined() ? got : zeros, wanted.defined() ? wanted : zeros, tolerance, tolerance))
        << one.text() << " of " << share.size(0) << " rows, output " << k;
  }
}

/// @brief The same bits with 1 and 2 threads.
inline void expect_same_bits_by_threads(const LossCase& one, const at::Tensor& share) {
  const int threads = at::get_num_threads();
  at::Tensor value;
  std::vector<at::Tensor> gradients;
  for (int repetition = 0; repetition < 6; ++repetition) {
    at::set_num_threads(1 + repetition % 2);
    const LossCase now = one.leaves();
    const at::Tensor result = now.reduced(share);
    result.backward();
    if (repetition == 0) value = result.detach();
    EXPECT_TRUE(same_bits(result, value)) << one.text();
    for (size_t k = 0; k < now.outputs().size(); ++k) {
      if (repetition == 0) gradients.push_back(now.outputs()[k].grad());
      EXPECT_TRUE(same_bits(now.outputs()[k].grad(), gradients[k])) << one.text() << ", output " << k;
    }
  }
  at::set_num_threads(threads);
}

/// @brief Outputs and labels that do not stand one behind the other give the same bits.
inline void expect_same_bits_by_strides(const LossCase& one, const at::Tensor& share) {
  LossCase plain = one.leaves(), spread = one;
  spread.output = one.output.t().contiguous().t();
  spread.label = torch::stack({one.label, one.label + 1}, 1).select(1, 0);
  spread = spread.leaves();
  const at::Tensor value = plain.reduced(share), other = spread.reduced(share);
  value.backward();
  other.backward();
  EXPECT_TRUE(same_bits(value, other)) << one.text();
  EXPECT_TRUE(same_bits(plain.output.grad(), spread.output.grad())) << one.text();
}

/// @brief Cases of some rows in a type, with outputs of a size.
using LossTable = std::function<std::vector<LossCase>(Random& random, int64_t rows, at::ScalarType type, double scale)>;

/// @brief Row by row and in one pass a table of losses has one arithmetic: derivatives, sums over rows, strides, threads.
/// @param table makes the cases
/// @param seed of the cases
/// @param scales of outputs, where one pass is compared with rows
/// @param tolerance of one pass in float32 against rows in float64
inline void expect_one_arithmetic(const LossTable& table, uint64_t seed, const std::vector<double>& scales, double tolerance) {
  Random random(seed);
  for (int round = 0; round < 4; ++round)
    for (const LossCase& one : table(random, 6, at::kDouble, 1.5)) expect_derivatives(one, random_share(random, 6, .7, at::kDouble));
  for (int round = 0; round < 25; ++round) {
    const at::ScalarType type = random.chance(.5) ? at::kDouble : at::kFloat;
    const int64_t rows = random.pick<int64_t>({0, 1, 2, 7, 100, 2049});
    for (const LossCase& one : table(random, rows, type, random.pick(scales)))
      if (rows <= 100 || one.loss.name() != "pairwise_ranking")  // whose rows are compared with each other
        expect_one_pass_is_sum(one, random_share(random, rows, random.real(), type), type == at::kDouble ? 1e-11 : tolerance);
  }
  for (const LossCase& one : table(random, 70, at::kFloat, 2.0)) expect_same_bits_by_strides(one, random_share(random, 70, .8, at::kFloat));
  for (const LossCase& one : table(random, 5000, at::kFloat, 2.0)) expect_same_bits_by_threads(one, random_share(random, 5000, .8, at::kFloat));
}

/// @brief What HybridLoss says to one row with that label.
inline std::string refusal_of(const AnyLoss& loss, double label) {
  const HybridLoss all(TaskSet{regression("t").loss(loss)});
  const Labels labels = Labels().set("t", {at::full({1}, label, at::kDouble)});
  const TaskOutputs outputs = TaskOutputs().set("t", at::zeros({1, loss.output_width()}, at::kDouble));
  return sentence_of([&] { all(outputs, labels); });
}

/// @brief A NaN output in row 1 shows if the row counts, and nowhere else. Row 3 never counts.
inline void expect_nan_only_where_it_counts(LossCase one) {
  one = one.to(at::kDouble);
  one.output[1].fill_(std::numeric_limits<double>::quiet_NaN());
  for (const bool counts : {true, false}) {
    const LossCase now = one.leaves();
    const at::Tensor share = torch::tensor({.5, counts ? .25 : 0., .25, 0.}, at::kDouble), value = now.reduced(share);
    value.backward();
    EXPECT_EQ(std::isnan(value.item<double>()), counts) << one.text();
    EXPECT_EQ(now.output.grad()[1].isnan().any().item<bool>(), counts) << one.text();
    EXPECT_EQ(now.output.grad()[3].abs().max().item<double>(), 0.0) << one.text();
    if (!counts) {
      EXPECT_EQ(now.output.grad()[1].abs().max().item<double>(), 0.0) << one.text();
      EXPECT_FALSE(now.output.grad()[0].isnan().any().item<bool>()) << one.text();
    }
  }
}

/// @brief Outputs far out: finite values and gradients in both types and forms, which agree.
inline void expect_finite_far_out(const LossCase& one, Random& random, const std::vector<double>& far, double tolerance) {
  std::vector<at::Tensor> outputs;
  for (const at::Tensor& output : one.outputs()) {
    at::Tensor moved = output.to(at::kDouble).clone();
    for (int64_t i = 0; i < moved.numel(); ++i) moved.view({-1})[i] = random.pick(far);
    outputs.push_back(moved);
  }
  const at::Tensor share = torch::full({one.label.size(0)}, 1.0 / static_cast<double>(one.label.size(0)), at::kDouble);
  at::Tensor first;
  std::vector<at::Tensor> gradients;
  for (const at::ScalarType type : {at::kDouble, at::kFloat})
    for (const bool pass : {true, false}) {
      const LossCase now = one.with(outputs).to(type).leaves();
      const at::Tensor value = pass ? now.reduced(share.to(type)) : weighted_sum(now.rows(share.to(type)), share.to(type));
      value.backward();
      for (const at::Tensor& output : now.outputs()) {
        const bool finite = !output.grad().defined() || output.grad().isfinite().all().item<bool>();
        EXPECT_TRUE(finite) << one.text() << (pass ? ", one pass, " : ", rows, ") << type;
      }
      const double allowed = type == at::kDouble ? tolerance : 1e-5;
      EXPECT_TRUE(value.isfinite().all().item<bool>()) << one.text();
      EXPECT_TRUE(now.predict().isfinite().all().item<bool>()) << one.text() << " predicts";
      if (!first.defined()) first = value.detach();
      if (one.stiff && !pass && type == at::kFloat) continue;
      EXPECT_TRUE(close(value, first, allowed, 1e-30)) << one.text() << (pass ? ", one pass, " : ", rows, ") << type;
      for (size_t k = 0; k < now.outputs().size(); ++k) {
        const at::Tensor gradient = now.outputs()[k].grad();
        if (gradients.size() == k) gradients.push_back(gradient);
        if (!gradient.defined()) continue;
        // operators in float32 lose σ's slope where σ is 1 but for less than its rounding
        const double least = type == at::kDouble ? tolerance : pass ? 1e-30 : 1e-7, largest = gradients[k].abs().max().item<double>();
        EXPECT_TRUE(close(gradient, gradients[k], allowed, std::max(least, type == at::kDouble ? 0.0 : 1e-5 * largest)))
            << one.text() << (pass ? ", one pass, " : ", rows, ") << type << ", output " << k;
      }
    }
}

}  // namespace htl::test
