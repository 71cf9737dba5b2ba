// SPDX-License-Identifier: Apache-2.0
/// @file task_metrics.hpp
/// @brief TaskMetrics: the usual metrics of every task of a TaskSet, from the same predictions and labels that a model gives and takes.
#pragma once

#include <htl/metrics/auc.hpp>
#include <htl/metrics/calibration.hpp>
#include <htl/metrics/gini.hpp>
#include <htl/metrics/log_loss.hpp>
#include <htl/metrics/regression_error.hpp>
#include <htl/metrics/spearman.hpp>
#include <htl/task/task_set.hpp>

#include <limits>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What TaskMetrics leaves open.
struct TaskMetricsOptions {
  Denominator nrmse = Denominator::std;  ///< RMSE is divided by this
  Denominator nmae = Denominator::mean;  ///< MAE is divided by this
};

/// @brief One accumulator for all tasks. A row enters a task where its label is observed (mask and `observed_when`).
///
/// values()[task] has, by kind:
/// - binary: auc, log_loss, normalized_entropy, calibration_ratio;
/// - multiclass: log_loss, accuracy (the first greatest probability; ties count as one try);
/// - regression: rmse, mae, nrmse, nmae, spearman, normalized_gini (NaN where a label is below 0), calibration_ratio; and `rows` for all.
///
/// **Device.** see metric.hpp. **Cost.** a binary task 32 bytes a row, a regression 48.
class TaskMetrics {
 public:
  /// @brief Metrics of these tasks.
  /// @param tasks kinds, names and observation
  /// @param options the denominators of nrmse and nmae
  explicit TaskMetrics(TaskSet tasks, TaskMetricsOptions options = {})
      : tasks_(std::move(tasks)), options_(options), of_task_(static_cast<size_t>(tasks_.size())) {}

  /// @brief Adds a batch.
  /// @param predictions as `tasks.predict(outputs)` returns them: probabilities, and values in the label's unit
  /// @param labels as they came with the batch
  /// @throws c10::IndexError if a task is missing; c10::ValueError naming task and row on data that is refused; then nothing of the batch was added
  void add(const Predictions& predictions, const Labels& labels) {
    std::vector<OfTask> batch(of_task_.size());  // merged at the end, so that a batch that is refused leaves no trace in any task
    for (int64_t t = 0; t < tasks_.size(); ++t) {
      const TaskSpec& task = tasks_[t];
      Label label = labels[task.name()];
      label.mask = tasks_.observed(t, labels);
      try {
        add_one(task.kind(), batch[static_cast<size_t>(t)], predictions[task.name()], label);
      } catch (const c10::ValueError& error) {
        HTL_CHECK(false, "htl::TaskMetrics: task \"", task.name(), "\": ", error.what_without_backtrace());
      }
    }
    merge(batch);
  }
  /// @brief Adds what another accumulator of the same tasks has seen.
  /// @throws c10::ValueError if its tasks have other names
  void merge(const TaskMetrics& other) {
    HTL_CHECK(tasks_.names() == other.tasks_.names(), "htl::TaskMetrics: expected metrics of the tasks ", quoted(tasks_.names()), ", got those of ",
              quoted(other.tasks_.names()));
    merge(other.of_task_);
  }
  /// @brief All metrics by task and name, in the order given above.
  Named<Named<double>> values() const {
    Named<Named<double>> result;
    for (int64_t t = 0; t < tasks_.size(); ++t) result.set(tasks_[t].name(), values_of(tasks_[t].kind(), of_task_[static_cast<size_t>(t)]));
    return result;
  }
  /// @brief What nrmse and nmae were divided by.
  const TaskMetricsOptions& options() const { return options_; }
  /// @brief Whether a greater value of a metric of values() is better: auc, accuracy, spearman, normalized_gini. A calibration ratio is best at 1.
  static bool greater_is_better(std::string_view metric) {
    return metric == "auc" || metric == "accuracy" || metric == "spearman" || metric == "normalized_gini";
  }

 private:
  struct OfTask {
    Auc auc;
    LogLoss log_loss;
    Calibration calibration;
    RegressionError error;
    Spearman spearman;
    NormalizedGini gini;
    bool signed_labels = false;
    double correct = 0.0, weight = 0.0;
    int64_t rows = 0;
  };

  void merge(const std::vector<OfTask>& others) {
    for (size_t t = 0; t < of_task_.size(); ++t) {
      OfTask& of = of_task_[t];
      const OfTask& other = others[t];
      of.auc.merge(other.auc);
      of.log_loss.merge(other.log_loss);
      of.calibration.merge(other.calibration);
      of.error.merge(other.error);
      of.spearman.merge(other.spearman);
      of.signed_labels = of.signed_labels || other.signed_labels;
      if (!of.signed_labels) of.gini.merge(other.gini);
      of.correct += other.correct;
      of.weight += other.weight;
      of.rows += other.rows;
    }
  }

  static void add_one(TaskKind kind, OfTask& of, const at::Tensor& prediction, const Label& given) {
    const auto move = [](const at::Tensor& t) { return t.defined() ? t.detach().to(at::kCPU) : t; };
    const Label label{move(given.value), move(given.mask), move(given.weight)};  // once, not once a metric
    const at::Tensor values = move(prediction);
    bool below_zero = false;
    int64_t rows = 0;
    detail::ObservedRows("htl::TaskMetrics", label).for_each([&](int64_t, double value, double) {
      below_zero = below_zero || value < 0.0;
      ++rows;
    });
    if (kind == TaskKind::binary) {
      of.auc.add(values, label);
      of.log_loss.add(values, label);
      of.calibration.add(values, label);
    } else if (kind == TaskKind::multiclass) {
      check_shape("htl::LogLoss", "probabilities of each class", values, {label.value.size(0), -1});
      of.log_loss.add(values, label);
      const at::Tensor guess = values.argmax(1).to(at::kDouble);
      const double* guesses = guess.const_data_ptr<double>();
      detail::ObservedRows("htl::TaskMetrics", label).for_each([&](int64_t row, double value, double weight) {
        of.correct += guesses[row] == value ? weight : 0.0;
        of.weight += weight;
      });
    } else {
      of.error.add(values, label);
      of.spearman.add(values, label);
      of.signed_labels = of.signed_labels || below_zero;
      if (!of.signed_labels) of.gini.add(values, label);
    }
    of.rows += rows;
  }

  Named<double> values_of(TaskKind kind, const OfTask& of) const {
    constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
    Named<double> values;
    if (kind == TaskKind::binary) {
      values.set("auc", of.auc.value()).set("log_loss", of.log_loss.value());
      values.set("normalized_entropy", of.calibration.normalized_entropy()).set("calibration_ratio", of.calibration.ratio());
    } else if (kind == TaskKind::multiclass) {
      values.set("log_loss", of.log_loss.value()).set("accuracy", of.weight > 0.0 ? of.correct / of.weight : undefined);
    } else {
      values.set("rmse", of.error.rmse()).set("mae", of.error.mae());
      values.set("nrmse", of.error.nrmse(options_.nrmse)).set("nmae", of.error.nmae(options_.nmae));
      values.set("spearman", of.spearman.value()).set("normalized_gini", of.signed_labels ? undefined : of.gini.value());
      values.set("calibration_ratio", of.error.ratio());
    }
    return values.set("rows", static_cast<double>(of.rows));
  }

  TaskSet tasks_;
  TaskMetricsOptions options_;
  std::vector<OfTask> of_task_;
};

}  // namespace htl
