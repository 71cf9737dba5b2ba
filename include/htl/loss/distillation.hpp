// SPDX-License-Identifier: Apache-2.0
/// @file distillation.hpp
/// @brief Distillation: a task that learns from another task's output.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/other_tasks.hpp>
#include <htl/loss/detail/special.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/cat.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What student and teacher output.
enum class DistillationForm {
  binary,      ///< a logit each
  multiclass,  ///< K logits each
  squared      ///< a number each
};

/// @brief Choices of Distillation.
struct DistillationOptions {
  /// The task that is learned from.
  std::string teacher;
  /// What both output.
  DistillationForm form = DistillationForm::binary;
  /// K of the multiclass form.
  int64_t classes = 2;
  /// τ > 0 by which logits are divided; for the forms with logits.
  double temperature = 1.0;
  /// Whether the teacher is a constant; false: gradient flows into it, too.
  bool detach = true;
};

/// @brief l = τ²·KL(q ‖ p) with q from the teacher's logits over τ and p from this task's, or (x − x_teacher)² of numbers: a term beside the task's own loss.
///
/// Width 1, or K. No label is read; only rows in which this task's label counts enter. Numbers are compared as the towers give them: both tasks should have the
/// same label transform. Gradient: τ·(p − q) into the student; into the teacher none, unless `detach` is false. Finite for all finite logits. The prediction is
/// what the output means: σ(z), softmax(z), x. Any device, no synchronisation. O(B·W).
///
/// Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, §2.
struct Distillation {
  /// @brief With its options.
  /// @throws c10::ValueError without a teacher, or for classes < 2 or a temperature that is not finite and > 0
  explicit Distillation(DistillationOptions choices) : options(std::move(choices)) {
    HTL_CHECK(!options.teacher.empty(), kWho, ": expected the name of a task as teacher, got an empty one");
    HTL_CHECK(options.classes >= 2, kWho, ": expected at least 2 classes, got ", options.classes);
    HTL_CHECK(options.temperature > 0.0 && std::isfinite(options.temperature), kWho, ": expected a finite temperature > 0, got ", options.temperature);
  }
  /// What it was made with.
  DistillationOptions options;

  /// @brief "distillation"
  std::string name() const { return "distillation"; }
  /// @brief 1, or K
  int64_t output_width() const { return options.form == DistillationForm::multiclass ? options.classes : 1; }
  /// @brief teacher, form, classes, temperature, detach
  Options parameters() const {
    const char* const form = options.form == DistillationForm::binary ? "binary" : options.form == DistillationForm::multiclass ? "multiclass" : "squared";
    return {{"teacher", options.teacher}, {"form", form}, {"classes", options.classes}, {"temperature", options.temperature}, {"detach", options.detach}};
  }
  /// @brief The teacher.
  std::vector<std::string> reads() const { return {options.teacher}; }
  /// @brief Teachers of the form's kind, as students.
  bool can_read(TaskKind kind) const { return fits(kind); }
  /// @brief Tasks of the form's kind; a binary student may be a regression of soft labels.
  bool fits(TaskKind kind) const {
    if (options.form == DistillationForm::multiclass) return kind == TaskKind::multiclass;
    return options.form == DistillationForm::squared ? kind == TaskKind::regression : kind != TaskKind::multiclass;
  }

  /// @brief [B] from the student's and the teacher's outputs [B, W].
  /// @throws c10::ValueError on other shapes
  at::Tensor operator()(const at::Tensor& student, const at::Tensor& teacher) const {
    check_shape(kWho, "a student's output", student, {-1, output_width()});
    check_shape(kWho, "a teacher's output", teacher, {student.size(0), output_width()});
    const at::Tensor known = options.detach ? teacher.detach() : teacher;
    if (options.form == DistillationForm::squared) return student.sub(known).square().squeeze(1);
    const double heat = options.temperature;
    const at::Tensor z = student.div(heat), u = known.div(heat);
    if (options.form == DistillationForm::multiclass) {
      const at::Tensor log_q = u.log_softmax(1);
      return log_q.exp().mul(log_q.sub(z.log_softmax(1))).sum(1).mul(heat * heat);
    }
    const at::Tensor yes = u.sigmoid().mul(detail::softplus(z.neg()).sub(detail::softplus(u.neg())));
    const at::Tensor no = u.neg().sigmoid().mul(detail::softplus(z).sub(detail::softplus(u)));
    return yes.add(no).mul(heat * heat).squeeze(1);
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, teacher_of(input)); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    if (!input.output.is_cpu()) return weighted_sum(per_row(input), share);
    const at::Tensor given = teacher_of(input), teacher = options.detach ? given.detach() : given;
    const at::Tensor both = output_width() == 1 ? at::stack({input.output.select(1, 0), teacher.select(1, 0)}).t() : at::cat({input.output, teacher}, 1);
    detail::check_rows(*this, both, input.target, share);
    if (options.form != DistillationForm::binary) return one_pass(*this, detail::with_output(input, both), share);
    const Events events{options.temperature};
    const at::Tensor cooled = options.temperature == 1.0 ? both : both.div(options.temperature);
    return detail::OnePass::apply(cooled, input.target, share, &detail::reduce_rows<Events>, static_cast<const void*>(&events));
  }
  /// @brief σ(z) [B], softmax(z) [B, K] or x [B].
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    if (options.form == DistillationForm::multiclass) return output.softmax(1);
    return options.form == DistillationForm::binary ? detail::column(kWho, output).sigmoid() : detail::column(kWho, output);
  }

  /// @brief 2·W, of which row() reads numbers.
  int64_t row_width() const { return 2 * output_width(); }
  /// @brief One row in fp64 from both outputs, the student's first.
  double row(const double* output, double, double* slope) const {
    const size_t width = static_cast<size_t>(output_width());
    const double *teacher = output + width, heat = options.temperature;
    double* const by_teacher = slope + width;
    if (options.form == DistillationForm::squared) {
      const double error = *output - *teacher;
      *slope = 2.0 * error;
      *by_teacher = -2.0 * error;
      return error * error;
    }
    if (options.form == DistillationForm::binary) {
      const std::array<double, 2> cooled = {*output / heat, *teacher / heat};
      const std::array<detail::Logistic, 2> logistic = {detail::logistic(cooled[0]), detail::logistic(cooled[1])};
      const double value = Events{heat}.row(logistic.data(), cooled.data(), nullptr, slope);
      *slope /= heat;
      *by_teacher /= heat;
      return value;
    }
    const double top = *std::max_element(output, output + width), teacher_top = *std::max_element(teacher, teacher + width);
    double sum = 0.0, teacher_sum = 0.0, value = 0.0;
    for (size_t k = 0; k < width; ++k) {
      sum += slope[k] = std::exp((output[k] - top) / heat);
      teacher_sum += by_teacher[k] = std::exp((teacher[k] - teacher_top) / heat);
    }
    const double shift = std::log(sum) - std::log(teacher_sum) + (top - teacher_top) / heat;
    for (size_t k = 0; k < width; ++k) value += (by_teacher[k] /= teacher_sum) * ((teacher[k] - output[k]) / heat + shift);
    for (size_t k = 0; k < width; ++k) {
      const double q = by_teacher[k];
      slope[k] = heat * (slope[k] / sum - q);
      by_teacher[k] = heat * q * ((teacher[k] - output[k]) / heat + shift - value);
    }
    return heat * heat * value;
  }

 private:
  static constexpr const char* kWho = "htl::Distillation";

  /// The binary form for logits over τ.
  struct Events {
    double heat;
    double row(const detail::Logistic* logistic, const double* output, const double*, double* slope) const {
      const detail::Logistic &own = logistic[0], &other = logistic[1];
      const bool high = (output[0] > 0.0) & (output[1] > 0.0);  // there the difference of 1 − σ loses nothing
      slope[0] = heat * heat * (detail::kept(other.down - own.down, high) + detail::kept(own.up - other.up, !high));
      slope[1] = heat * heat * other.up * other.down * (output[1] - output[0]);
      return heat * heat * (other.up * (own.under - other.under) + other.down * (own.over - other.over));
    }
  };

  at::Tensor teacher_of(const LossInput& input) const {
    HTL_CHECK_STATE(input.outputs, kWho, ": reads the output of task \"", options.teacher, "\", but got no outputs; use it through HybridLoss");
    const at::Tensor* const found = input.outputs->find(options.teacher);
    HTL_CHECK_INDEX(found, kWho, ": there is no output of task \"", options.teacher, "\"; the model gave ", quoted(input.outputs->names()));
    check_shape(kWho, "the output of the teacher \"" + options.teacher + "\"", *found, {input.output.size(0), output_width()});
    return found->to(input.output.scalar_type());
  }
};

}  // namespace htl
