// SPDX-License-Identifier: Apache-2.0
/// @file prediction_rule.hpp
/// @brief From a task's output to its prediction without tensors, for the losses and label transforms that are known to need none.
#pragma once

#include <htl/loss/binary_cross_entropy.hpp>
#include <htl/loss/huber.hpp>
#include <htl/loss/softmax_cross_entropy.hpp>
#include <htl/loss/squared_error.hpp>
#include <htl/serve/detail/mixture.hpp>
#include <htl/task/task_set.hpp>

#include <algorithm>
#include <cmath>

namespace htl::inline v0_1_0::detail {

/// @brief What TaskSet::predict() does for one task, by loops where the task's first loss and its transform are built in.
class PredictionRule {
 public:
  /// @brief Reads a task.
  explicit PredictionRule(const TaskSpec& task) {
    if (task.calibration().is_fitted()) return;
    const AnyLoss* const loss = task.losses().empty() ? nullptr : &task.losses().front().loss;
    const auto has = [&]<class L>(TaskKind kind, const L*) { return task.kind() == kind && (!loss || loss->get_if<L>()); };
    if (has(TaskKind::binary, static_cast<const BinaryCrossEntropy*>(nullptr))) output_ = Output::sigmoid;
    if (has(TaskKind::multiclass, static_cast<const SoftmaxCrossEntropy*>(nullptr))) output_ = Output::softmax;
    if (has(TaskKind::regression, static_cast<const SquaredError*>(nullptr)) || has(TaskKind::regression, static_cast<const Huber*>(nullptr)))
      output_ = Output::value;
    if (output_ != Output::value) return;
    if (const auto* const z = task.transform().get_if<ZScoreTransform>(); z && z->is_fitted()) {
      factor_ = z->sd;
      shift_ = z->mean;
    } else if (task.transform().get_if<Log1pTransform>()) {
      is_log_ = true;
    } else if (!task.transform().get_if<IdentityTransform>()) {
      output_ = Output::other;
    }
  }
  /// @brief Leaves the prediction to TaskSet::predict(): another task's needs this one's outputs.
  void leave() { output_ = Output::other; }
  /// @brief Whether write() can; else TaskSet::predict() must.
  bool is_known() const { return output_ != Output::other; }

  /// @brief Outputs [n, W] → predictions [n] (multiclass [n, K]) at `to`.
  template <class Scalar>
  void write(const RowsOf<Scalar>& output, int64_t rows, Scalar* to) const {
    for (int64_t row = 0; row < rows; ++row) {
      const Scalar* const y = output[row];
      if (output_ == Output::sigmoid) {
        to[row] = Scalar(1) / (Scalar(1) + std::exp(-*y));
      } else if (output_ == Output::value) {
        to[row] = is_log_ ? std::expm1(*y) : *y * static_cast<Scalar>(factor_) + static_cast<Scalar>(shift_);
      } else {
        Scalar* const p = to + row * output.width;
        const Scalar largest = *std::max_element(y, y + output.width);
        Scalar total = 0;
        for (int64_t k = 0; k < output.width; ++k) total += p[k] = std::exp(y[k] - largest);
        for (int64_t k = 0; k < output.width; ++k) p[k] /= total;
      }
    }
  }

 private:
  enum class Output { sigmoid, softmax, value, other };
  Output output_ = Output::other;
  bool is_log_ = false;
  double factor_ = 1.0, shift_ = 0.0;
};

}  // namespace htl::detail
