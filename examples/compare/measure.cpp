// SPDX-License-Identifier: Apache-2.0
#include "measure.hpp"

#include "averages.hpp"

#include <examples/htlnet/data/load.hpp>
#include <examples/htlnet/data/synthetic_dataset.hpp>
#include <examples/htlnet/parts_by_name.hpp>

#include <htl/io/safetensors.hpp>
#include <htl/metrics/grouped_auc.hpp>
#include <htl/metrics/task_metrics.hpp>

#include <ATen/ops/_unique.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

namespace compare {
namespace {

/// The rows with the labels of one task only, masked where it is not observed.
htl::TableData rows_of_task(const htl::TableData& rows, const htl::TaskSet& tasks, const std::string& name) {
  htl::Batch all = rows.all();
  htl::Label label = all.labels[name];
  label.mask = tasks.observed(tasks.index(name), all.labels);
  htl::Labels labels;
  labels.context = all.labels.context;
  all.labels = labels.set(name, label);
  return htl::TableData(std::move(all));
}

/// The same rows without what is there for a model: rare ids are not pooled, and there are no histories and no statistics.
htlnet::Dataset rows_with_all_ids(const Setup& setup) {
  htlnet::Options plain = setup.options.base;
  plain.data.min_count = 1;
  plain.data.history = false;
  plain.data.target_statistics = "none";
  htlnet::Dataset rows = htlnet::load(plain);
  HTL_CHECK(rows.train.rows() == setup.data.train.rows() && rows.test.rows() == setup.data.test.rows(),
            "compare: the files have other rows than at the start, ", rows.train.rows(), " to train and ", rows.test.rows(), " to test instead of ",
            setup.data.train.rows(), " and ", setup.data.test.rows(), "; start again");
  return rows;
}

}  // namespace

htl::TaskSet tasks_of(const htl::TaskSet& tasks, const Kind& kind) {
  if (kind.is_bound()) return tasks;
  std::vector<htl::TaskSpec> specs;
  for (const htl::TaskSpec& task : tasks) {
    if (!kind.task.empty() && task.name() != kind.task) continue;
    htl::TaskSpec spec = task;
    if (kind.loss != as_the_data_say && task.is_core() && task.kind() == htl::TaskKind::regression) spec = htlnet::with_loss(task, kind.loss);
    if (!kind.task.empty()) spec = spec.after().observed_when("");
    specs.push_back(spec);
  }
  return htl::TaskSet(std::move(specs));
}

htl::TaskSet measured_tasks(const Setup& setup, const Kind& kind) { return kind.task.empty() ? setup.data.tasks : tasks_of(setup.data.tasks, kind); }

htl::TableData rows_of(const htl::TableData& rows, const htl::TaskSet& tasks, const Kind& kind) {
  return kind.task.empty() || rows.rows() == 0 ? rows : rows_of_task(rows, tasks, kind.task);
}

std::string group_column(const CompareOptions& options, const htlnet::Dataset& data) {
  const htl::Named<at::Tensor>& context = data.test.labels().context;
  const auto is_group = [&](const std::string& name) {
    const at::Tensor* const column = context.find(name);
    return column && !column->is_floating_point();
  };
  if (!options.group.empty()) {
    std::vector<std::string> known;
    for (const std::string& name : context.names())
      if (is_group(name)) known.push_back(name);
    HTL_CHECK(is_group(options.group), "compare: --group \"", options.group, "\" is no column of groups; the data have ",
              known.empty() ? "none" : htl::quoted(known));
    return options.group;
  }
  for (const char* name : {"user", "user_id"})
    if (is_group(name) && std::get<0>(at::_unique(context[name])).numel() < data.test.rows()) return name;
  return "";
}

nlohmann::json measure(const htl::TaskSet& tasks, const htl::Predictions& predictions, const htl::Labels& labels, const std::string& group) {
  htl::TaskMetrics metrics(tasks);
  metrics.add(predictions, labels);
  nlohmann::json result = htlnet::to_json(metrics.values());
  if (group.empty()) return result;
  for (int64_t t = 0; t < tasks.size(); ++t) {
    if (tasks[t].kind() != htl::TaskKind::binary) continue;
    htl::Label label = labels[tasks[t].name()];
    label.mask = tasks.observed(t, labels);
    htl::GroupedAuc within;
    within.add(predictions[tasks[t].name()], label, labels.context[group]);
    result[tasks[t].name()]["gauc"] = htlnet::to_json(within.value());
  }
  return result;
}

nlohmann::json measure_test(const Setup& setup, const Kind& kind, const htl::Predictions& predictions) {
  return measure(measured_tasks(setup, kind), predictions, rows_of(setup.data.test, setup.data.tasks, kind).labels(), group_column(setup.options, setup.data));
}

htlnet::Selection selection_of(const Setup& setup, const Kind& kind) {
  return htlnet::Selection::parse(kind.task.empty() ? setup.options.base.train.select_by : "", measured_tasks(setup, kind), setup.data.groups);
}

void check_selection(const Setup& setup, const Kind& kind) {
  const htlnet::Selection selection = selection_of(setup, kind);
  const int64_t n = setup.data.valid.rows();
  if (n == 0) return;
  const htl::TaskSet tasks = measured_tasks(setup, kind);
  const at::Tensor ramp = at::arange(1, n + 1, at::kDouble).div(static_cast<double>(n + 1));  // within (0, 1), no two alike
  htl::Predictions any;
  for (const htl::TaskSpec& task : tasks)
    any.set(task.name(),
            task.kind() == htl::TaskKind::multiclass ? at::full({n, task.classes()}, 1.0 / static_cast<double>(task.classes()), at::kDouble) : ramp);
  const nlohmann::json found = measure(tasks, any, rows_of(setup.data.valid, setup.data.tasks, kind).labels(), group_column(setup.options, setup.data));
  const nlohmann::json& metrics = found[selection.task];
  HTL_CHECK(metrics.contains(selection.metric), "compare: --select-by ", selection.task, ".", selection.metric, " is not measured here",
            selection.metric.starts_with("gauc") ? "; within groups it is gauc, and --group names the column" : "; leave it out");
  HTL_CHECK(metrics[selection.metric].is_number(), "compare: ", selection.task, ".", selection.metric,
            ", by which epochs are chosen, is not defined on the validation rows (one class, or no label?); ",
            kind.task.empty() ? "choose another --select-by" : "leave the task out, or the single-task models by --without-single-tasks");
}

htl::Predictions single_precision(const htl::Predictions& predictions) {
  htl::Predictions result;
  for (const auto& [name, value] : predictions) result.set(name, value.to(at::kCPU, at::kFloat).contiguous());
  return result;
}

htl::Predictions bound_predictions(const Setup& setup, const std::string& name) {
  const htlnet::Options& base = setup.options.base;
  if (const std::string* const path = setup.options.predictions.find(name)) {
    const htl::Named<at::Tensor> found = htl::load_safetensors(*path).tensors;
    htl::Predictions predictions;
    for (const htl::TaskSpec& task : setup.data.tasks) {
      const at::Tensor* const values = found.find(task.name());
      HTL_CHECK(values, "compare: --predictions ", name, ": \"", *path, "\" has no tensor \"", task.name(), "\"; it has ", htl::quoted(found.names()));
      std::vector<int64_t> shape{setup.data.test.rows()};
      if (task.kind() == htl::TaskKind::multiclass) shape.push_back(task.classes());
      HTL_CHECK(values->is_floating_point() && values->sizes() == shape, "compare: --predictions ", name, ": expected floating-point \"", task.name(), "\" ",
                at::IntArrayRef(shape), ", one for each test row, in \"", *path, "\", got ", values->scalar_type(), " ", values->sizes());
      predictions.set(task.name(), *values);
    }
    return single_precision(predictions);
  }
  if (name == "averages") {
    const bool are_all_there = base.data.min_count == 1 && !base.data.history && base.data.target_statistics == "none";
    return single_precision(are_all_there ? averages(setup.data) : averages(rows_with_all_ids(setup)));
  }
  const auto rows = htlnet::synthetic_bounds(base.data.rows);
  const htlnet::SyntheticOptions synthetic = htlnet::synthetic_of(base);
  return single_precision(name == "oracle" ? htlnet::synthetic_oracle(synthetic, rows[2], rows[3]) : htlnet::synthetic_additive(synthetic, rows[2], rows[3]));
}

}  // namespace compare
