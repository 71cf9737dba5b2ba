// SPDX-License-Identifier: Apache-2.0
/// @file loss_battery.hpp
/// @brief loss_battery: what a table of losses that read no other task must hold, in HybridLoss and by name too; and signs of curvature.
#pragma once

#include <htl/loss/built_in_losses.hpp>

#include <support/loss_cases.hpp>

#include <ATen/ops/cat.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::test {

/// @brief A binary task of that name, or one that the loss can read and whose output has that width.
inline TaskSpec other_task(const AnyLoss& loss, const std::string& name, int64_t width) {
  if (loss.can_read(TaskKind::multiclass) && width > 1) return multiclass(name, width);
  if (!loss.can_read(TaskKind::binary)) return regression(name);
  return width == 1 ? binary(name) : binary(name).loss(OrderCalibration({.after = {"click"}, .width = width}));
}

/// @brief Through HybridLoss: the mean of the rows that count by their weights, as a loop has it. Other rows hold labels and columns that no loss may read, and
/// get no gradient.
inline void expect_mean_over_rows_that_count(LossCase one, Random& random) {
  if (!one.loss.fits(TaskKind::binary) && !one.loss.fits(TaskKind::regression)) one.label = one.label.to(at::kLong);
  const bool classes = !one.label.is_floating_point();
  const int64_t rows = one.label.size(0);
  const TaskSpec task = classes ? multiclass("t", one.label.max().item<int64_t>() + 2) : one.loss.fits(TaskKind::regression) ? regression("t") : binary("t");
  const at::Tensor mask = random.mask({rows}, .6), weight = random.uniform({rows}, 0, 7) * random.mask({rows}, .8).to(at::kDouble);
  const at::Tensor counts = mask.logical_and(weight.gt(0));
  const auto where_it_counts = [&](const at::Tensor& column) {
    if (!column.is_floating_point()) return at::where(counts, column, at::full({}, -7, column.options()));
    return at::where(counts, column, at::full({}, std::numeric_limits<double>::quiet_NaN(), column.options()));
  };
  Labels labels = one.labels;
  std::vector<TaskSpec> tasks = {task.loss(one.loss)};
  const LossCase leaves = one.leaves();
  TaskOutputs outputs = leaves.others;
  for (const auto& [name, label] : one.labels.tasks)
    if (!outputs.find(name)) outputs.set(name, at::zeros({rows, 1}, at::kDouble));
  for (const auto& [name, output] : outputs) {
    tasks.push_back(other_task(one.loss, name, output.size(1)));
    if (!labels.tasks.find(name)) labels.set(name, {tasks.back().kind() == TaskKind::multiclass ? random.ids({rows}, 2) : random.events({rows})});
  }
  for (const auto& [name, column] : one.context) labels.context.set(name, where_it_counts(column));
  labels.set("t", {where_it_counts(one.label), mask, weight});
  outputs.set("t", leaves.output);
  const at::Tensor value = HybridLoss(TaskSet(tasks))(outputs, labels).values["t"];
  value.backward();
  const at::Tensor terms = one.loss.per_row({one.output, one.label, one.label, weight * mask, one.context, &one.others, &one.labels});
  double sum = 0.0, of_weights = 0.0;
  for (int64_t row = 0; row < rows; ++row) {
    if (!counts[row].item<bool>()) {
      for (const at::Tensor& output : leaves.outputs()) {
        if (!output.grad().defined()) continue;
        EXPECT_EQ(output.grad()[row].abs().max().item<double>(), 0.0) << one.text();
      }
      continue;
    }
    sum += weight[row].item<double>() * terms[row].item<double>();
    of_weights += weight[row].item<double>();
  }
  EXPECT_NEAR(value.item<double>(), of_weights > 0 ? sum / of_weights : 0.0, 1e-10 * (1 + std::abs(sum))) << one.text();
}

/// @brief The least and the largest second difference of rows along random directions of many lengths, in parts of the rows' values.
/// @param one the loss, labels and outputs, which are moved to random places
/// @param columns [W] 1 for outputs to move, 0 for others
/// @param others whether outputs of other tasks move, too
inline std::pair<double, double> second_differences(const LossCase& one, Random& random, const at::Tensor& columns = {}, bool others = false) {
  double least = std::numeric_limits<double>::infinity(), largest = -least;
  for (int round = 0; round < 60; ++round) {
    std::vector<at::Tensor> middle, up, down;
    for (const at::Tensor& output : one.outputs()) {
      const bool own = middle.empty();
      middle.push_back(random.normal(output.sizes(), 3));
      at::Tensor move = random.normal(output.sizes(), random.pick<double>({.01, .3, 3, 30}));
      if (own ? columns.defined() : !others) move = own ? move * columns : at::zeros_like(move);
      up.push_back(middle.back() + move);
      down.push_back(middle.back() - move);
    }
    const at::Tensor a = one.with(up).rows(), b = one.with(middle).rows(), c = one.with(down).rows();
    const at::Tensor parts = (a - 2 * b + c) / (1 + a.abs() + 2 * b.abs() + c.abs());
    least = std::min(least, parts.min().item<double>());
    largest = std::max(largest, parts.max().item<double>());
  }
  return {least, largest};
}

/// @brief Second differences that are ≥ 0 but for rounding, and somewhere clearly above.
inline void expect_convex(const LossCase& one, Random& random, const at::Tensor& columns = {}, bool others = false) {
  const auto [least, largest] = second_differences(one, random, columns, others);
  EXPECT_GE(least, -1e-14) << one.text();
  EXPECT_GT(largest, .01) << one.text();
}

/// @brief A witness that it is not: a second difference that is clearly below 0.
inline void expect_not_convex(const LossCase& one, Random& random, const at::Tensor& columns = {}, bool others = false) {
  EXPECT_LT(second_differences(one, random, columns, others).first, -1e-3) << one.text();
}

/// @brief Made again from its name and parameters it is the same loss.
inline void expect_made_again(const LossCase& one) {
  const AnyLoss again = loss_by_name(one.loss.name(), one.loss.parameters());
  EXPECT_EQ(again.output_width(), one.loss.output_width()) << one.text();
  EXPECT_EQ(one.output.size(1), one.loss.output_width()) << one.text();
  EXPECT_EQ(again.parameters().names(), one.loss.parameters().names()) << one.text();
  EXPECT_TRUE(same_bits(again.per_row(one.input()), one.loss.per_row(one.input()))) << one.text();
  EXPECT_TRUE(same_bits(again.predict({one.output, one.context}), one.predict())) << one.text();
}

/// @brief Predictions of outputs far out, and their gradients, are finite in fp32.
inline void expect_finite_predictions(const LossCase& one, Random& random) {
  at::Tensor output = at::zeros({200, one.loss.output_width()});
  for (int64_t i = 0; i < output.numel(); ++i) output.view({-1})[i] = random.pick<double>({-80, -1, 0, 1e-30, 1e-3, 2, 17, 80});
  output.requires_grad_();
  const at::Tensor prediction = one.loss.predict({output, one.context});
  prediction.sum().backward();
  EXPECT_TRUE(prediction.isfinite().all().item<bool>()) << one.text();
  EXPECT_TRUE(output.grad().isfinite().all().item<bool>()) << one.text();
}

/// @brief A label that is NaN is no label of any kind: alone, where nobody has checked it, the row's value is NaN in both forms.
inline void expect_nan_label_stays_nan(const LossCase& one) {
  if (!one.label.is_floating_point()) return;
  at::Tensor label = one.label.clone();
  label[1].fill_(std::numeric_limits<double>::quiet_NaN());
  const LossInput input{one.output, label, label, {}, one.context};
  const at::Tensor rows = one.loss.per_row(input);
  EXPECT_TRUE(std::isnan(rows[1].item<double>())) << one.text();
  EXPECT_FALSE(std::isnan(rows[0].item<double>())) << one.text();
  for (const int64_t row : {0, 1}) {
    const at::Tensor share = at::zeros({label.size(0)}, one.output.options());
    share[row].fill_(1.0);
    EXPECT_EQ(std::isnan(one.loss.reduced(input, share).item<double>()), row == 1) << one.text();
  }
}

/// @brief Rows that do not belong together, or outputs of another width, are refused and read nowhere.
inline void expect_refuses_what_does_not_fit(const LossCase& one) {
  const int64_t rows = one.label.size(0), width = one.output.size(1);
  const at::Tensor share = at::full({rows}, 1.0 / static_cast<double>(rows), one.output.options());
  const auto refuses = [&](const at::Tensor& output, const at::Tensor& label, const at::Tensor& shares) {
    EXPECT_THROW(one.loss.reduced({output, label, label, {}, one.context}, shares), c10::Error)
        << one.text() << output.sizes() << label.sizes() << shares.sizes();
  };
  refuses(one.output, one.label, share.narrow(0, 0, rows - 1));
  refuses(one.output, one.label.narrow(0, 0, rows - 1), share);
  refuses(at::cat({one.output, one.output.narrow(1, 0, 1)}, 1), one.label, share);
  if (width > 1) refuses(one.output.narrow(1, 0, width - 1), one.label, share);
  EXPECT_THROW(one.loss.predict({at::cat({one.output, one.output}, 1), one.context}), c10::Error) << one.text();
}

/// @brief expect_mean_over_rows_that_count() of several random batches of each case.
inline void expect_means_over_rows_that_count(const LossTable& table, uint64_t seed) {
  Random random(seed);
  for (int round = 0; round < 4; ++round)
    for (const LossCase& one : table(random, 20, at::kDouble, 1.0)) expect_mean_over_rows_that_count(one, random);
}

/// @brief All of it: derivatives, one pass against rows, threads, NaN, HybridLoss, names, predictions.
/// @param table makes the cases
/// @param seed of the cases
/// @param scales of outputs, where one pass is compared with rows
inline void loss_battery(const LossTable& table, uint64_t seed, const std::vector<double>& scales) {
  expect_one_arithmetic(table, seed, scales, 2e-6);
  Random random(seed + 1);
  for (const LossCase& one : table(random, 4, at::kDouble, 1.0)) expect_nan_only_where_it_counts(one);
  expect_means_over_rows_that_count(table, seed + 2);
  for (const LossCase& one : table(random, 8, at::kDouble, 1.0)) {
    expect_made_again(one);
    expect_nan_label_stays_nan(one);
    expect_refuses_what_does_not_fit(one);
    expect_finite_predictions(one, random);
  }
}

}  // namespace htl::test
