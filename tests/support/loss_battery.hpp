// SPDX-License-Identifier: Apache-2.0
/// @file loss_battery.hpp
/// @brief loss_battery: what a table of losses that read no other task must hold, in HybridLoss and by name too.
#pragma once

#include <htl/loss/built_in_losses.hpp>

#include <support/loss_cases.hpp>

#include <ATen/ops/cat.h>

#include <limits>
#include <string>
#include <vector>

namespace htl::test {

/// @brief Through HybridLoss: the mean of the rows that count by their weights, as a loop has it. Other rows hold labels that no loss may read, and get no
/// gradient.
inline void expect_mean_over_rows_that_count(const LossCase& one, Random& random) {
  const bool classes = !one.label.is_floating_point();
  const int64_t rows = one.label.size(0);
  const TaskSpec task = classes ? multiclass("t", one.label.max().item<int64_t>() + 2) : one.loss.fits(TaskKind::regression) ? regression("t") : binary("t");
  const HybridLoss loss(TaskSet{task.loss(one.loss)});
  const at::Tensor mask = random.mask({rows}, .6), weight = random.uniform({rows}, 0, 7) * random.mask({rows}, .8).to(at::kDouble);
  const at::Tensor counts = mask.logical_and(weight.gt(0)), output = one.output.clone().requires_grad_();
  const at::Tensor wrong = at::full({}, classes ? -7.0 : std::numeric_limits<double>::quiet_NaN(), one.label.options());
  Labels labels;
  labels.set("t", {at::where(counts, one.label, wrong), mask, weight});
  TaskOutputs outputs;
  outputs.set("t", output);
  const at::Tensor value = loss(outputs, labels).values["t"];
  value.backward();
  const at::Tensor terms = one.loss.per_row({one.output, one.label, one.label, weight * mask, one.context});
  double sum = 0.0, of_weights = 0.0;
  for (int64_t row = 0; row < rows; ++row) {
    if (!counts[row].item<bool>()) {
      EXPECT_EQ(output.grad()[row].abs().max().item<double>(), 0.0) << one.text();
      continue;
    }
    sum += weight[row].item<double>() * terms[row].item<double>();
    of_weights += weight[row].item<double>();
  }
  EXPECT_NEAR(value.item<double>(), of_weights > 0 ? sum / of_weights : 0.0, 1e-10 * (1 + std::abs(sum))) << one.text();
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

/// @brief All of it: derivatives, one pass against rows, threads, NaN, HybridLoss, names, predictions.
/// @param table makes the cases
/// @param seed of the cases
/// @param scales of outputs, where one pass is compared with rows
inline void loss_battery(const LossTable& table, uint64_t seed, const std::vector<double>& scales) {
  expect_one_arithmetic(table, seed, scales, 2e-6);
  Random random(seed + 1);
  for (const LossCase& one : table(random, 4, at::kDouble, 1.0)) expect_nan_only_where_it_counts(one);
  for (int round = 0; round < 4; ++round)
    for (const LossCase& one : table(random, 20, at::kDouble, 1.0)) expect_mean_over_rows_that_count(one, random);
  for (const LossCase& one : table(random, 8, at::kDouble, 1.0)) {
    expect_made_again(one);
    expect_nan_label_stays_nan(one);
    expect_refuses_what_does_not_fit(one);
    expect_finite_predictions(one, random);
  }
}

}  // namespace htl::test
