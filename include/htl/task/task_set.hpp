// SPDX-License-Identifier: Apache-2.0
/// @file task_set.hpp
/// @brief TaskSet: the tasks of a model and the graph between them, checked once, as a value.
#pragma once

#include <htl/task/task.hpp>
#include <htl/task/task_outputs.hpp>

#include <functional>
#include <initializer_list>
#include <queue>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Tasks in a directed acyclic graph with any number of core tasks.
///
/// The order of the list is the order of outputs, losses, views and Gramian rows. An edge u → t (`t.after(u)`) says that what u knows flows into t;
/// the order of the list need not respect it. Without any `after()` the set is the full chain: each task follows all those before it.
class TaskSet {
 public:
  /// @brief Checks and links the tasks.
  /// @throws c10::ValueError: no task, a name twice, an unknown parent (with the nearest name), a task that follows itself, a cycle (spelled out),
  ///   `observed_when` of an unknown or non-binary task or of a task whose own label depends on this one, a loss of all rows beside it, a loss that reads an
  ///   unknown task, its own one, or one of a kind that it can't read
  TaskSet(std::initializer_list<TaskSpec> tasks) : TaskSet(std::vector<TaskSpec>(tasks)) {}
  /// @brief The same from a list.
  explicit TaskSet(std::vector<TaskSpec> tasks) : tasks_(std::move(tasks)) {
    HTL_CHECK(!tasks_.empty(), "htl::TaskSet: expected at least one task, got none");
    for (size_t t = 0; t < tasks_.size(); ++t)
      for (size_t s = 0; s < t; ++s)
        HTL_CHECK(tasks_[s].name() != tasks_[t].name(), "htl::TaskSet: the task \"", tasks_[t].name(), "\" is there twice; names must be unique");
    link();
    sort_topologically();
    check_observation();
  }

  /// @brief The number of tasks T.
  int64_t size() const { return static_cast<int64_t>(tasks_.size()); }
  /// @brief The task at a position.
  const TaskSpec& operator[](int64_t index) const {
    HTL_CHECK_INDEX(index >= 0 && index < size(), "htl::TaskSet: expected a position in [0, ", size(), "), got ", index);
    return tasks_[static_cast<size_t>(index)];
  }
  /// @brief The task of a name.
  const TaskSpec& operator[](std::string_view name) const { return tasks_[static_cast<size_t>(index(name))]; }
  /// @brief The position of a name.
  /// @throws c10::IndexError naming the nearest name
  int64_t index(std::string_view name) const {
    for (size_t t = 0; t < tasks_.size(); ++t)
      if (tasks_[t].name() == name) return static_cast<int64_t>(t);
    HTL_CHECK_INDEX(false, "htl::TaskSet: there is no task \"", name, "\"; did you mean \"", nearest(name, names()), "\"? Tasks: ", quoted(names()));
  }
  /// @brief Whether a task of that name is present.
  bool contains(std::string_view name) const {
    for (const TaskSpec& task : tasks_)
      if (task.name() == name) return true;
    return false;
  }
  /// @brief All names, in order.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const TaskSpec& task : tasks_) result.push_back(task.name());
    return result;
  }
  /// @brief All tasks, in order.
  auto begin() const { return tasks_.begin(); }
  /// @brief End of the tasks.
  auto end() const { return tasks_.end(); }

  /// @brief Positions of the tasks that flow directly into one, in the order of the list.
  const std::vector<int64_t>& parents(int64_t task) const { return parents_.at(static_cast<size_t>(task)); }
  /// @brief All positions so that parents come first; ties keep the order of the list.
  const std::vector<int64_t>& order() const { return order_; }
  /// @brief Positions of the core tasks.
  std::vector<int64_t> cores() const {
    std::vector<int64_t> result;
    for (int64_t t = 0; t < size(); ++t)
      if (tasks_[static_cast<size_t>(t)].is_core()) result.push_back(t);
    return result;
  }
  /// @brief Whether a path leads from one task to another.
  bool precedes(int64_t from, int64_t to) const {
    std::vector<bool> reached(tasks_.size(), false);  // in topological order, so that each edge is followed once: a full chain has 2^T paths
    for (const int64_t task : order_)
      for (const int64_t parent : parents(task))
        if (parent == from || reached[static_cast<size_t>(parent)]) reached[static_cast<size_t>(task)] = true;
    return reached.at(static_cast<size_t>(to));
  }

  /// @brief A new set whose label transforms and losses are fitted to the observed training labels (observed_when included).
  /// @throws c10::ValueError if a transform or loss can't be fitted to them, as without any observed label; c10::IndexError if a label is missing
  TaskSet fitted(const Labels& labels) const {
    TaskSet result = *this;
    for (size_t t = 0; t < tasks_.size(); ++t) {
      if (tasks_[t].is_discrete() && tasks_[t].losses().empty()) continue;  // nothing to fit
      Label label = labels[tasks_[t].name()];
      label.mask = observed(static_cast<int64_t>(t), labels);
      try {
        result.tasks_[t] = tasks_[t].fitted(label, labels.context);
      } catch (const c10::Error& error) {
        HTL_CHECK(false, "htl::TaskSet: can't fit task \"", tasks_[t].name(), "\" to its labels: ", error.what_without_backtrace());
      }
    }
    return result;
  }

  /// @brief A new set whose calibrators are fitted to what a trained model gives for validation rows.
  ///
  ///     tasks = tasks.calibrated(net(validation), validation.labels);
  ///
  /// @param outputs [B, W_t] of the tasks that have a calibrator
  /// @param labels of the same rows, with the context columns that losses and transforms read
  /// @throws c10::ValueError if a calibrator can't be fitted to them, as without any observed label; c10::IndexError if a label is missing
  TaskSet calibrated(const TaskOutputs& outputs, const Labels& labels) const {
    TaskSet result = *this;
    for (int64_t t = 0; t < size(); ++t) {
      const TaskSpec& task = (*this)[t];
      if (!task.calibration()) continue;
      Label label = labels[task.name()];
      label.mask = observed(t, labels);
      const at::Tensor raw = with(task.calibration({})).predict(t, outputs[task.name()], labels.context, &outputs);
      try {
        result.tasks_[static_cast<size_t>(t)] = task.calibration(task.calibration().fitted(raw, label));
      } catch (const c10::Error& error) {
        HTL_CHECK(false, "htl::TaskSet: can't calibrate task \"", task.name(), "\": ", error.what_without_backtrace());
      }
    }
    return result;
  }

  /// @brief A new set in which the task of that name is replaced: by a fitted transform with residuals, say.
  /// @throws c10::IndexError if there is none of that name; c10::ValueError as the constructor
  TaskSet with(TaskSpec task) const {
    std::vector<TaskSpec> changed = tasks_;
    changed[static_cast<size_t>(index(task.name()))] = std::move(task);
    return TaskSet(std::move(changed));
  }

  /// @brief [B] bool: the rows that carry a task's label (mask and observed_when together); undefined = all. No synchronisation.
  ///
  /// An event that `observed_when` names happened where its label is 1, is observed itself, and has no weight of 0. The task's own weights do not enter.
  at::Tensor observed(int64_t task, const Labels& labels) const {
    const TaskSpec& spec = (*this)[task];
    at::Tensor mask = labels[spec.name()].mask;
    if (spec.observed_when().empty()) return mask;
    const int64_t condition = index(spec.observed_when());
    const Label& of = labels[spec.observed_when()];
    at::Tensor event = of.value.gt(0.5);
    if (of.weight.defined()) event = event.logical_and(of.weight.gt(0));
    const at::Tensor known = observed(condition, labels);
    if (known.defined()) event = event.logical_and(known);
    return mask.defined() ? mask.logical_and(event) : event;
  }

  /// @brief Outputs [B, W_t] → predictions in the label's unit: probabilities, or the inverse transform of what the losses predict; calibrated where a
  /// calibrator was fitted.
  ///
  /// Gradient flows through; wrap in no-grad for serving. Context columns are needed only by losses that read them. float16 and bfloat16 outputs are lifted
  /// to float32 first.
  Predictions predict(const TaskOutputs& outputs, const Named<at::Tensor>& context = {}) const {
    Predictions predictions;
    for (int64_t t = 0; t < size(); ++t) predictions.set((*this)[t].name(), predict(t, outputs[(*this)[t].name()], context, &outputs));
    return predictions;
  }
  /// @brief One task's output [B, W] → its prediction, as above; with the others' outputs, for losses that read them.
  at::Tensor predict(int64_t position, const at::Tensor& given, const Named<at::Tensor>& context = {}, const TaskOutputs* outputs = nullptr) const {
    const TaskSpec& task = (*this)[position];
    check_shape("htl::TaskSet::predict", "the output of task \"" + task.name() + "\"", given, {-1, task.output_width()});
    const bool narrow = given.scalar_type() == at::kHalf || given.scalar_type() == at::kBFloat16;
    const at::Tensor output = narrow ? given.to(at::kFloat) : given;
    at::Tensor value;
    if (!task.losses().empty()) {
      value = task.losses().front().loss.predict({output, context, outputs});
    } else if (task.kind() == TaskKind::binary) {
      value = output.squeeze(1).sigmoid();
    } else if (task.kind() == TaskKind::multiclass) {
      value = output.softmax(1);
    } else {
      value = output.squeeze(1);
    }
    if (task.kind() == TaskKind::regression && !task.in_label_unit()) value = task.transform().inverse(value, context);
    return task.calibration().apply(value);
  }

 private:
  void link() {
    bool explicit_edges = false;
    for (const TaskSpec& task : tasks_) explicit_edges = explicit_edges || task.parents().has_value();
    parents_.resize(tasks_.size());
    for (size_t t = 0; t < tasks_.size(); ++t) {
      std::vector<bool> is_parent(tasks_.size(), false);
      if (!explicit_edges) std::fill(is_parent.begin(), is_parent.begin() + static_cast<std::ptrdiff_t>(t), true);
      if (tasks_[t].parents())
        for (const std::string& name : *tasks_[t].parents()) {
          HTL_CHECK(contains(name), "htl::TaskSet: task \"", tasks_[t].name(), "\" follows \"", name, "\", which is not there; did you mean \"",
                    nearest(name, names()), "\"? Tasks: ", quoted(names()));
          HTL_CHECK(name != tasks_[t].name(), "htl::TaskSet: task \"", name, "\" follows itself; remove it from its after()");
          is_parent[static_cast<size_t>(index(name))] = true;
        }
      for (size_t s = 0; s < tasks_.size(); ++s)
        if (is_parent[s]) parents_[t].push_back(static_cast<int64_t>(s));
    }
  }

  void sort_topologically() {
    std::vector<std::vector<int64_t>> followers(tasks_.size());
    std::vector<size_t> waits_for(tasks_.size());
    std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> ready;  // the earliest that can come next does
    for (size_t t = 0; t < tasks_.size(); ++t) {
      waits_for[t] = parents_[t].size();
      for (const int64_t parent : parents_[t]) followers[static_cast<size_t>(parent)].push_back(static_cast<int64_t>(t));
      if (waits_for[t] == 0) ready.push(static_cast<int64_t>(t));
    }
    while (!ready.empty()) {
      order_.push_back(ready.top());
      ready.pop();
      for (const int64_t follower : followers[static_cast<size_t>(order_.back())])
        if (--waits_for[static_cast<size_t>(follower)] == 0) ready.push(follower);
    }
    if (order_.size() == tasks_.size()) return;
    std::vector<bool> done(tasks_.size(), false);
    for (const int64_t task : order_) done[static_cast<size_t>(task)] = true;
    HTL_CHECK(false, "htl::TaskSet: the tasks follow each other in a cycle: ", describe_cycle(done), "; remove one of these edges");
  }

  std::string describe_cycle(const std::vector<bool>& done) const {
    size_t at = 0;
    while (done[at]) ++at;
    std::vector<size_t> path;
    while (std::find(path.begin(), path.end(), at) == path.end()) {
      path.push_back(at);
      for (const int64_t parent : parents_[at])
        if (!done[static_cast<size_t>(parent)]) {
          at = static_cast<size_t>(parent);
          break;
        }
    }
    std::string text = "\"" + tasks_[at].name() + "\"";
    const auto first = std::find(path.begin(), path.end(), at);
    for (auto step = first + 1; step != path.end(); ++step) text += " after \"" + tasks_[*step].name() + "\"";
    return text + " after \"" + tasks_[at].name() + "\"";
  }

  void check_observation() const {
    for (const TaskSpec& task : tasks_) {
      std::vector<std::string> seen = {task.name()};
      std::string condition = task.observed_when();
      while (!condition.empty()) {
        HTL_CHECK(contains(condition), "htl::TaskSet: task \"", seen.back(), "\" is observed when \"", condition, "\", which is not there; did you mean \"",
                  nearest(condition, names()), "\"?");
        HTL_CHECK((*this)[condition].kind() == TaskKind::binary, "htl::TaskSet: task \"", seen.back(), "\" is observed when \"", condition, "\", which is ",
                  to_string((*this)[condition].kind()), "; expected a binary task");
        HTL_CHECK(std::find(seen.begin(), seen.end(), condition) == seen.end(), "htl::TaskSet: the label of task \"", condition,
                  "\" is observed only when it is itself observed; break this circle of observed_when()");
        seen.push_back(condition);
        condition = (*this)[condition].observed_when();
      }
      HTL_CHECK(!task.in_label_unit() || task.transform().name() == "none", "htl::TaskSet: the loss \"", name_of_loss_in_label_unit(task), "\" of task \"",
                task.name(), "\" works in the label's unit; remove the label transform \"", task.transform().name(), "\"");
      for (const WeightedLoss& weighted : task.losses()) {
        check_reads(task, weighted.loss);
        if (!weighted.loss.over_all_rows()) continue;
        for (const std::string& name : weighted.loss.reads())
          HTL_CHECK(std::find(seen.begin(), seen.end(), name) == seen.end(), "htl::TaskSet: the loss \"", weighted.loss.name(), "\" of task \"", task.name(),
                    "\" is of all rows, whether \"", name,
                    "\" happened or not, and the task is observed only when it did; remove observed_when(), and let the "
                    "label be 0 where it did not");
      }
    }
  }

  void check_reads(const TaskSpec& task, const AnyLoss& loss) const {
    std::string kinds;
    for (const TaskKind kind : {TaskKind::binary, TaskKind::multiclass, TaskKind::regression})
      if (loss.can_read(kind)) kinds += (kinds.empty() ? "" : " or ") + to_string(kind);
    for (const std::string& name : loss.reads()) {
      const auto sentence = [&](std::string_view rest) {
        return c10::str("htl::TaskSet: the loss \"", loss.name(), "\" of task \"", task.name(), "\" reads ", rest);
      };
      HTL_CHECK(contains(name), sentence("the task \"" + name + "\", which is not there; did you mean \"" + nearest(name, names()) + "\"?"));
      HTL_CHECK(name != task.name(), sentence("its own task; name another one"));
      const TaskKind kind = (*this)[name].kind();
      HTL_CHECK(loss.can_read(kind), sentence(c10::str("the task \"", name, "\", which is ", to_string(kind), "; expected a ", kinds, " task")));
    }
  }

  static std::string name_of_loss_in_label_unit(const TaskSpec& task) {
    for (const WeightedLoss& weighted : task.losses())
      if (weighted.loss.in_label_unit()) return weighted.loss.name();
    return {};
  }

  std::vector<TaskSpec> tasks_;
  std::vector<std::vector<int64_t>> parents_;
  std::vector<int64_t> order_;
};

}  // namespace htl
