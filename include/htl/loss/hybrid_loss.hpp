// SPDX-License-Identifier: Apache-2.0
/// @file hybrid_loss.hpp
/// @brief HybridLoss: outputs and labels of tasks of any kind → one scalar loss per task.
#pragma once

#include <htl/loss/binary_cross_entropy.hpp>
#include <htl/loss/prepared_label.hpp>
#include <htl/loss/softmax_cross_entropy.hpp>
#include <htl/loss/squared_error.hpp>
#include <htl/task/task_outputs.hpp>
#include <htl/task/task_set.hpp>

#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The loss of a task that names none: logits BCE (binary), softmax cross-entropy (multiclass), squared error (regression).
inline AnyLoss default_loss(const TaskSpec& task) {
  if (task.kind() == TaskKind::binary) return BinaryCrossEntropy{};
  if (task.kind() == TaskKind::multiclass) return SoftmaxCrossEntropy(task.classes());
  return SquaredError{};
}

/// @brief Choices of HybridLoss.
struct HybridLossOptions {
  /// Check labels, weights and context columns on devices other than the CPU too. Copies them to the CPU in every call, which synchronises: for debugging.
  bool check_labels_on_device = false;
};

/// @brief One scalar per task: L_t = v_t Σ_k c_k · Σ_i w_i l_k,i / Σ_i w_i over the rows i that carry the task's label.
///
/// v_t is the task's weight, c_k the weight of its k-th loss, w_i the row's weight. A row counts if the label's mask allows it, the events that
/// `observed_when` names happened, and w_i > 0; other rows may hold anything, NaN included, and get gradient 0. The mean is taken of each task alone:
/// a loss scales neither with the batch nor with other tasks' masks. A task without such a row has the loss 0, with a graph and gradient 0, and is not
/// active; nor is a task of weight 0. Regression labels pass their transform; losses in the label's unit read the label itself.
///
/// Computed in the output's type; float16 and bfloat16 outputs are lifted to float32 first. On the CPU every label and weight that counts is checked, and that
/// the columns which losses and transforms read are finite there; built-in losses take one pass with fp64 sums over fixed chunks (bit-identical for any number
/// of threads). On other devices: no checks unless asked for, and no synchronisation but that of losses and transforms which copy their tables there: D2Q,
/// CREAD, TPM, BucketSoftmax, QuantileTransform. Values are differentiable once in the outputs. O(Σ_t B·W_t).
///
///     htl::HybridLoss loss(tasks);
///     htl::TaskLosses losses = loss(outputs, batch.labels);
class HybridLoss {
 public:
  /// @brief For the tasks of a set.
  /// @param tasks with fitted label transforms
  /// @param options checks on devices
  /// @throws c10::Error if a transform or loss is not fitted
  explicit HybridLoss(TaskSet tasks, HybridLossOptions options = {}) : tasks_(std::move(tasks)), options_(options) {
    for (const TaskSpec& task : tasks_) {
      HTL_CHECK_STATE(task.transform().is_fitted(), "htl::HybridLoss: the label transform \"", task.transform().name(), "\" of task \"", task.name(),
                      "\" is not fitted; call tasks.fitted(training_labels) and give its result");
      for (const WeightedLoss& weighted : task.losses())
        HTL_CHECK_STATE(weighted.loss.is_fitted(), "htl::HybridLoss: the loss \"", weighted.loss.name(), "\" of task \"", task.name(),
                        "\" is not fitted; call tasks.fitted(training_labels) and give its result");
      losses_.push_back(task.losses().empty() ? std::vector<WeightedLoss>{{default_loss(task), 1.0}} : task.losses());
    }
  }

  /// @brief The losses of a batch, in the order of the tasks.
  /// @param outputs [B, W_t] for each task; others are ignored
  /// @param labels [B] for each task, on the outputs' device
  /// @throws c10::IndexError if a task's output, label or context column is missing; c10::ValueError on wrong shapes, devices, labels, weights or columns;
  ///   c10::TypeError on wrong element types
  TaskLosses operator()(const TaskOutputs& outputs, const Labels& labels) const {
    TaskLosses result;
    std::vector<at::Tensor> active;
    for (int64_t t = 0; t < tasks_.size(); ++t) {
      const TaskSpec& task = tasks_[t];
      const at::Tensor output = checked_output(task, outputs);
      const PreparedLabel prepared = prepare(t, output, labels);
      const std::optional<Labels> masked = with_masks(t, output, labels);
      const LossInput input{output, prepared.target, prepared.label, prepared.weight, labels.context, &outputs, masked ? &*masked : &labels};
      at::Tensor total;
      double factors = 0.0;
      for (const auto& [loss, weight] : losses_[static_cast<size_t>(t)]) {
        if (output.is_cpu()) detail::check_range(task, loss, loss.in_label_unit() ? prepared.label : prepared.target, prepared.share);
        const double factor = task.weight() * weight;
        at::Tensor value = loss.reduced(input, prepared.share);
        check_shape("htl::HybridLoss", "reduced() of loss \"" + loss.name() + "\"", value, {});
        if (factor != 1.0) value = value.mul(factor);
        total = total.defined() ? total.add(value) : value;
        factors += factor;
      }
      result.values.set(task.name(), total);
      active.push_back(factors > 0.0 ? prepared.active : at::scalar_tensor(false, prepared.active.options()));
    }
    result.active = at::stack(active);
    return result;
  }

  /// @brief The tasks.
  const TaskSet& tasks() const { return tasks_; }

 private:
  static at::Tensor checked_output(const TaskSpec& task, const TaskOutputs& outputs) {
    const at::Tensor* const found = outputs.find(task.name());
    HTL_CHECK_INDEX(found, "htl::HybridLoss: there is no output of task \"", task.name(), "\"; the model gave ", quoted(outputs.names()));
    check_shape("htl::HybridLoss", "the output of task \"" + task.name() + "\"", *found, {-1, task.output_width()});
    HTL_CHECK_TYPE(found->is_floating_point(), "htl::HybridLoss: expected a floating-point output of task \"", task.name(), "\", got ", found->scalar_type());
    const bool narrow = found->scalar_type() != at::kFloat && found->scalar_type() != at::kDouble;
    return narrow ? found->to(at::kFloat) : *found;
  }

  static void check_column(const TaskSpec& task, const char* what, const at::Tensor& column, const at::Tensor& output) {
    if (!column.defined() || column.dim() != 1 || column.size(0) != output.size(0))
      check_shape("htl::HybridLoss", std::string("the ") + what + " of task \"" + task.name() + "\"", column, {output.size(0)});
    HTL_CHECK(column.device() == output.device(), "htl::HybridLoss: the ", what, " of task \"", task.name(), "\" is on ", column.device(), ", its output on ",
              output.device(), "; call batch.to(device)");
  }

  PreparedLabel prepare(int64_t t, const at::Tensor& output, const Labels& labels) const {
    const TaskSpec& task = tasks_[t];
    for (std::string name = task.name(); !name.empty(); name = tasks_[name].observed_when()) check_label(tasks_[name], output, labels);
    for (const std::string& name : task.context()) {
      const at::Tensor* const column = labels.context.find(name);
      HTL_CHECK_INDEX(column, "htl::HybridLoss: task \"", task.name(), "\" reads the context column \"", name, "\", which the labels do not have; they have ",
                      quoted(labels.context.names()));
      check_column(task, "context column", *column, output);
    }
    Label label = labels[task.name()];
    label.mask = tasks_.observed(t, labels);
    if (output.is_cpu()) return detail::prepare_by_loops(task, label, labels.context, output.scalar_type());
    if (options_.check_labels_on_device) {
      Labels copied = labels.to(at::kCPU);
      detail::prepare_by_loops(task, label.to(at::kCPU), copied.context, output.scalar_type());
    }
    return detail::prepare_by_tensors(task, label, labels.context, output.scalar_type());
  }

  /// The labels, those of tasks that a task's losses read with a mask of the rows that carry them and count; nothing where they read none.
  std::optional<Labels> with_masks(int64_t t, const at::Tensor& output, const Labels& labels) const {
    std::optional<Labels> result;
    for (const WeightedLoss& weighted : losses_[static_cast<size_t>(t)])
      for (const std::string& name : weighted.loss.reads()) {
        for (std::string of = name; !of.empty(); of = tasks_[of].observed_when()) check_label(tasks_[of], output, labels);
        if (!result) result = labels;
        Label& label = *result->tasks.find(name);
        label.mask = tasks_.observed(tasks_.index(name), labels);
        if (!label.weight.defined()) continue;
        const at::Tensor counts = label.weight.gt(0);
        label.mask = label.mask.defined() ? label.mask.logical_and(counts) : counts;
      }
    return result;
  }

  static void check_label(const TaskSpec& task, const at::Tensor& output, const Labels& labels) {
    const Label* const label = labels.tasks.find(task.name());
    HTL_CHECK_INDEX(label, "htl::HybridLoss: there is no label of task \"", task.name(), "\"; the batch has ", quoted(labels.tasks.names()));
    check_column(task, "label", label->value, output);
    HTL_CHECK_TYPE(!label->value.is_complex(), "htl::HybridLoss: expected real labels of task \"", task.name(), "\", got ", label->value.scalar_type());
    if (label->mask.defined()) {
      check_column(task, "mask", label->mask, output);
      HTL_CHECK_TYPE(label->mask.scalar_type() == at::kBool, "htl::HybridLoss: expected a bool mask of task \"", task.name(), "\", got ",
                     label->mask.scalar_type());
    }
    if (label->weight.defined()) check_column(task, "weight", label->weight, output);
  }

  TaskSet tasks_;
  HybridLossOptions options_;
  std::vector<std::vector<WeightedLoss>> losses_;
};

}  // namespace htl
