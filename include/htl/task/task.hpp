// SPDX-License-Identifier: Apache-2.0
/// @file task.hpp
/// @brief TaskSpec: what one task is — its kind, what it follows, its losses, its label — as a value.
#pragma once

#include <htl/task/calibrator.hpp>
#include <htl/task/label_transform.hpp>
#include <htl/task/task_kind.hpp>
#include <htl/task/task_loss.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief One of a task's losses and its weight in the task's sum.
struct WeightedLoss {
  AnyLoss loss;         ///< the loss
  double weight = 1.0;  ///< its factor ≥ 0
};

/// @brief The description of one task. Every setter returns a changed copy:
/// `regression("watch_time").after("click").core().transform(z_score())`.
class TaskSpec {
 public:
  /// @brief A task by name and kind; better written binary(), multiclass(), regression().
  /// @param name non-empty, unique in its TaskSet
  /// @param kind what it predicts
  /// @param classes K for a multiclass task, 2 for a binary one, 0 for a regression
  TaskSpec(std::string name, TaskKind kind, int64_t classes) : name_(std::move(name)), kind_(kind), classes_(classes) {
    HTL_CHECK(!name_.empty(), "htl::TaskSpec: expected a name, got an empty one");
    HTL_CHECK(name_.find_first_of(". \t\n/\"") == std::string::npos, "htl::TaskSpec: the name \"", name_,
              "\" holds a dot, slash, quote or white space, which file formats and parameter names can't; use letters, digits and _");
    HTL_CHECK(kind != TaskKind::multiclass || classes >= 2, "htl::TaskSpec: multiclass task \"", name_, "\" expects at least 2 classes, got ", classes);
  }

  /// @brief The tasks whose representation and label embedding flow into this one. Without names: a root.
  ///
  /// If no task of a set calls it, each task follows all those listed before it (the full chain); if one does, all edges are as written.
  template <class... Names>
  TaskSpec after(const Names&... names) const {
    return after(std::vector<std::string>{std::string(names)...});
  }
  /// @brief The same from a list.
  TaskSpec after(std::vector<std::string> names) const {
    TaskSpec changed = *this;
    changed.parents_ = std::move(names);
    return changed;
  }
  /// @brief Marks the task as (a) core task: the one that the platform lives on, which gradient adjustment protects.
  TaskSpec core(bool is_core = true) const {
    TaskSpec changed = *this;
    changed.core_ = is_core;
    return changed;
  }
  /// @brief Adds a loss; several are summed with their weights. Without any, the kind's default holds (logits BCE, softmax CE, squared error).
  /// @throws c10::ValueError if the weight is negative or not finite, the loss is not for tasks of this kind, or its output width differs from that of an
  ///   earlier loss
  template <TaskLoss L>
  TaskSpec loss(L loss, double weight = 1.0) const {
    return with_loss(std::move(loss), weight);
  }
  /// @brief The task without the losses that were given so far: with its kind's default, until another is given.
  TaskSpec without_losses() const {
    TaskSpec changed = *this;
    changed.losses_.clear();
    return changed;
  }
  /// @brief The transform between label and target (regression only).
  template <LabelTransform F>
  TaskSpec transform(F transform) const {
    return this->transform(AnyLabelTransform(std::move(transform)));
  }
  /// @brief The same for a transform whose kind is known at run time.
  TaskSpec transform(AnyLabelTransform transform) const {
    HTL_CHECK(kind_ == TaskKind::regression || transform.name() == "none", "htl::TaskSpec: task \"", name_, "\" is ", to_string(kind_),
              "; only a regression's label can be transformed by \"", transform.name(), "\"");
    TaskSpec changed = *this;
    changed.transform_ = std::move(transform);
    return changed;
  }
  /// @brief What makes the task's predictions true on average; TaskSet::calibrated() fits it on validation rows, predict() applies it.
  /// @throws c10::ValueError if it is not for tasks of this kind
  TaskSpec calibration(AnyCalibrator calibrator) const {
    HTL_CHECK(calibrator.fits(kind_), "htl::TaskSpec: the calibrator \"", calibrator.name(), "\" is not for a ", to_string(kind_), " task as \"", name_,
              "\" is");
    TaskSpec changed = *this;
    changed.calibrator_ = std::move(calibrator);
    return changed;
  }
  /// @brief The task's label exists only in rows where the named binary task's label is observed and 1.
  TaskSpec observed_when(std::string task) const {
    TaskSpec changed = *this;
    changed.observed_when_ = std::move(task);
    return changed;
  }
  /// @brief The factor of the task's loss in the total.
  /// @throws c10::ValueError if negative or not finite
  TaskSpec weight(double factor) const {
    HTL_CHECK(factor >= 0.0 && std::isfinite(factor), "htl::TaskSpec: task \"", name_, "\" expects a finite weight ≥ 0, got ", factor);
    TaskSpec changed = *this;
    changed.weight_ = factor;
    return changed;
  }
  /// @brief The data column that says which rows carry the label (readers use it).
  TaskSpec mask_column(std::string column) const {
    TaskSpec changed = *this;
    changed.mask_column_ = std::move(column);
    return changed;
  }
  /// @brief The data column with the rows' weights (readers use it).
  TaskSpec weight_column(std::string column) const {
    TaskSpec changed = *this;
    changed.weight_column_ = std::move(column);
    return changed;
  }
  /// @brief Names of context columns that the task's losses read (readers load them).
  TaskSpec context(std::vector<std::string> columns) const {
    TaskSpec changed = *this;
    changed.context_ = std::move(columns);
    return changed;
  }

  /// @brief The task's name.
  const std::string& name() const { return name_; }
  /// @brief What it predicts.
  TaskKind kind() const { return kind_; }
  /// @brief K; 2 for a binary task, 0 for a regression.
  int64_t classes() const { return classes_; }
  /// @brief Whether it is discrete, so that its label can be embedded.
  bool is_discrete() const { return kind_ != TaskKind::regression; }
  /// @brief The named parents, or nothing where after() was not called.
  const std::optional<std::vector<std::string>>& parents() const { return parents_; }
  /// @brief Whether it is a core task.
  bool is_core() const { return core_; }
  /// @brief The named losses; empty = the kind's default.
  const std::vector<WeightedLoss>& losses() const { return losses_; }
  /// @brief The label transform.
  const AnyLabelTransform& transform() const { return transform_; }
  /// @brief What its predictions pass at last.
  const AnyCalibrator& calibration() const { return calibrator_; }
  /// @brief The task on whose event this one's label depends; empty = none.
  const std::string& observed_when() const { return observed_when_; }
  /// @brief The factor of the task's loss in the total.
  double weight() const { return weight_; }
  /// @brief The mask's data column; empty = none.
  const std::string& mask_column() const { return mask_column_; }
  /// @brief The weights' data column; empty = none.
  const std::string& weight_column() const { return weight_column_; }
  /// @brief Context columns: those named by context(…), and those that its losses and transform read.
  std::vector<std::string> context() const {
    std::vector<std::string> names = context_;
    const auto add = [&](const std::vector<std::string>& more) {
      for (const std::string& name : more)
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    };
    add(transform_.context());
    for (const WeightedLoss& weighted : losses_) add(weighted.loss.context());
    return names;
  }
  /// @brief The width W of the tower's output: that of the losses, else K for a multiclass task and 1 for the others.
  int64_t output_width() const {
    if (!losses_.empty()) return losses_.front().loss.output_width();
    return kind_ == TaskKind::multiclass ? classes_ : 1;
  }
  /// @brief Whether the losses work in the label's own unit.
  bool in_label_unit() const {
    return std::any_of(losses_.begin(), losses_.end(), [](const WeightedLoss& weighted) { return weighted.loss.in_label_unit(); });
  }

  /// @brief A copy whose label transform and losses carry the statistics of training labels.
  /// @param label its labels; rows without one, or of weight 0, are left out
  /// @param context columns of the same rows, for losses that read them
  /// @throws c10::ValueError where a transform or loss can't be fitted to them
  TaskSpec fitted(const Label& label, const Named<at::Tensor>& context) const {
    TaskSpec changed = *this;
    if (kind_ == TaskKind::regression) changed.transform_ = transform_.fitted(label, context);
    const at::Tensor rows = label.observed_rows();
    const Label observed = rows.defined() ? label.index_select(rows) : label;
    Named<at::Tensor> columns;
    for (const std::string& name : this->context())
      if (const at::Tensor* column = context.find(name)) columns.set(name, rows.defined() ? column->index_select(0, rows) : *column);
    for (WeightedLoss& weighted : changed.losses_) weighted.loss = weighted.loss.fitted(observed, columns);
    return changed;
  }

 private:
  TaskSpec with_loss(AnyLoss loss, double weight) const {
    HTL_CHECK(weight >= 0.0 && std::isfinite(weight), "htl::TaskSpec: loss \"", loss.name(), "\" of task \"", name_, "\" expects a finite weight ≥ 0, got ",
              weight);
    HTL_CHECK(loss.fits(kind_), "htl::TaskSpec: the loss \"", loss.name(), "\" is not for a ", to_string(kind_), " task as \"", name_, "\" is");
    HTL_CHECK(losses_.empty() || losses_.front().loss.output_width() == loss.output_width(), "htl::TaskSpec: losses of one task share its output; \"",
              loss.name(), "\" of task \"", name_, "\" expects width ", loss.output_width(), ", \"", losses_.empty() ? "" : losses_.front().loss.name(),
              "\" has ", losses_.empty() ? 0 : losses_.front().loss.output_width());
    TaskSpec changed = *this;
    changed.losses_.push_back({std::move(loss), weight});
    return changed;
  }
  std::string name_;
  TaskKind kind_;
  int64_t classes_;
  std::optional<std::vector<std::string>> parents_;
  bool core_ = false;
  std::vector<WeightedLoss> losses_;
  AnyLabelTransform transform_;
  AnyCalibrator calibrator_;
  std::string observed_when_, mask_column_, weight_column_;
  double weight_ = 1.0;
  std::vector<std::string> context_;
};

/// @brief An event: click, long view, purchase.
inline TaskSpec binary(std::string name) { return {std::move(name), TaskKind::binary, 2}; }
/// @brief One of K classes.
inline TaskSpec multiclass(std::string name, int64_t classes) { return {std::move(name), TaskKind::multiclass, classes}; }
/// @brief A number: watch time, revenue.
inline TaskSpec regression(std::string name) { return {std::move(name), TaskKind::regression, 0}; }

}  // namespace htl
