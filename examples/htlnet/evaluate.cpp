// SPDX-License-Identifier: Apache-2.0
#include "evaluate.hpp"

#include <htl/io/json.hpp>
#include <htl/metrics/grouped_auc.hpp>

#include <torch/types.h>

#include <algorithm>
#include <cstdio>
#include <map>

namespace htlnet {
namespace {

constexpr int64_t few_groups = 16;

/// The metric of each group column that has too many values for a table.
htl::Named<std::string> gauc_names(const Groups& groups) {
  std::vector<std::string> columns;
  for (const auto& [column, values] : groups)
    if (static_cast<int64_t>(values.size()) > few_groups) columns.push_back(column);
  htl::Named<std::string> names;
  for (const std::string& column : columns) names.set(column, columns.size() == 1 ? "gauc" : "gauc." + column);
  return names;
}

/// All metrics that evaluate() gives a task.
std::vector<std::string> metric_names(const htl::TaskSpec& task, const htl::TaskSet& tasks, const Groups& groups) {
  std::vector<std::string> names = htl::TaskMetrics(tasks).values()[task.name()].names();
  std::erase(names, "rows");
  if (task.kind() == htl::TaskKind::binary)
    for (const auto& [column, name] : gauc_names(groups)) names.push_back(name);
  return names;
}

/// A group's text as a key of JSON. Data files have any encoding: what is not UTF-8 is written as in features.json, {"bytes":"hexadecimal"}.
std::string key_of(const std::string& text) {
  const nlohmann::ordered_json json = htl::detail::bytes_to_json(text);
  return json.is_string() ? text : json.dump();
}

struct Within {
  int64_t task;
  std::string column, name;
  htl::GroupedAuc auc;
};
struct ByValue {
  std::vector<htl::TaskMetrics> metrics;
  std::vector<int64_t> rows;
};

}  // namespace

nlohmann::json to_json(const htl::Named<htl::Named<double>>& values) {
  nlohmann::json result = nlohmann::json::object();
  for (const auto& [task, metrics] : values)
    for (const auto& [metric, value] : metrics) result[task][metric] = to_json(value);
  return result;
}

htl::TaskOutputs outputs_of(HtlNet& net, const htl::TableData& rows, const torch::Device& device) {
  const torch::NoGradGuard no_grad;
  const bool was_training = net->is_training();
  net->eval();
  std::map<std::string, std::vector<torch::Tensor>> parts;
  htl::BatchLoader loader(rows, {.batch_size = 8192, .shuffle = false});
  for (const htl::Batch& batch : loader)
    for (const auto& [name, output] : net->forward(batch.to(device))) parts[name].push_back(output.to(torch::kCPU));
  net->train(was_training);
  htl::TaskOutputs outputs;
  for (const auto& [name, of_batches] : parts) outputs.set(name, torch::cat(of_batches));
  return outputs;
}

Evaluation evaluate(HtlNet& net, const htl::TaskSet& tasks, const htl::TableData& rows, const Groups& groups, const torch::Device& device) {
  const torch::InferenceMode inference;
  const bool was_training = net->is_training();
  net->eval();
  htl::TaskMetrics all(tasks);
  std::vector<Within> within;
  for (const auto& [column, name] : gauc_names(groups))
    for (int64_t t = 0; t < tasks.size(); ++t)
      if (tasks[t].kind() == htl::TaskKind::binary) within.push_back({t, column, name, {}});
  htl::Named<ByValue> by_value;
  for (const auto& [column, values] : groups)
    if (static_cast<int64_t>(values.size()) <= few_groups)
      by_value.set(column, {std::vector<htl::TaskMetrics>(values.size(), htl::TaskMetrics(tasks)), std::vector<int64_t>(values.size(), 0)});

  htl::BatchLoader loader(rows, {.batch_size = 8192, .shuffle = false});
  for (const htl::Batch& batch : loader) {
    const htl::Batch moved = batch.to(device);
    htl::Predictions predictions;
    for (const auto& [name, value] : tasks.predict(net->forward(moved), moved.labels.context)) predictions.set(name, value.to(torch::kCPU));
    const htl::Labels labels = batch.labels.to(torch::kCPU);
    all.add(predictions, labels);
    for (Within& of : within) {
      htl::Label label = labels[tasks[of.task].name()];
      label.mask = tasks.observed(of.task, labels);
      of.auc.add(predictions[tasks[of.task].name()], label, labels.context[of.column]);
    }
    for (auto& [column, of] : by_value)
      for (size_t g = 0; g < of.metrics.size(); ++g) {
        const torch::Tensor rows_of_group = (labels.context[column] == static_cast<int64_t>(g)).nonzero().squeeze(1);
        if (rows_of_group.numel() == 0) continue;
        htl::Predictions picked;
        for (const auto& [name, value] : predictions) picked.set(name, value.index_select(0, rows_of_group));
        of.metrics[g].add(picked, labels.index_select(rows_of_group));
        of.rows[g] += rows_of_group.numel();
      }
  }
  net->train(was_training);

  Evaluation result{to_json(all.values()), nlohmann::json::object()};
  for (const Within& of : within) result.metrics[tasks[of.task].name()][of.name] = to_json(of.auc.value());
  for (const auto& [column, of] : by_value)
    for (size_t g = 0; g < of.metrics.size(); ++g)
      if (of.rows[g] > 0) result.by_group[column][key_of(groups[column][g])] = to_json(of.metrics[g].values());
  return result;
}

Selection Selection::parse(const std::string& wanted, const htl::TaskSet& tasks, const Groups& groups) {
  if (wanted.empty()) {
    const std::vector<int64_t> cores = tasks.cores();
    const htl::TaskSpec& task = tasks[cores.empty() ? tasks.size() - 1 : cores.front()];
    const std::string metric = task.kind() == htl::TaskKind::regression ? "nrmse" : task.kind() == htl::TaskKind::binary ? "auc" : "log_loss";
    return {task.name(), metric};
  }
  const size_t dot = wanted.find('.');
  HTL_CHECK(dot != std::string::npos, "htlnet: --select-by expected TASK.METRIC, got \"", wanted, "\"");
  Selection selection{wanted.substr(0, dot), wanted.substr(dot + 1)};
  HTL_CHECK(tasks.contains(selection.task), "htlnet: --select-by names the task \"", selection.task, "\", which is not there; did you mean \"",
            htl::nearest(selection.task, tasks.names()), "\"?");
  const std::vector<std::string> known = metric_names(tasks[selection.task], tasks, groups);
  HTL_CHECK(std::find(known.begin(), known.end(), selection.metric) != known.end(), "htlnet: --select-by names \"", selection.metric,
            "\", which is no metric of task \"", selection.task, "\"; did you mean \"", htl::nearest(selection.metric, known),
            "\"? Metrics: ", htl::quoted(known));
  return selection;
}

std::string table_of(const nlohmann::json& metrics, const nlohmann::json& optimum, const nlohmann::json& closed) {
  std::string text;
  char line[160];
  std::snprintf(line, sizeof(line), "%-14s %-20s %12s%s%s\n", "task", "metric", "model", optimum.empty() ? "" : "      optimum",
                closed.empty() ? "" : "   gap closed");
  text += line;
  const auto figure = [&](const nlohmann::json& value) {
    std::snprintf(line, sizeof(line), " %12.5f", value.is_number() ? value.get<double>() : 0.0);
    text += value.is_number() ? std::string(line) : std::string(12, ' ') + "-";
  };
  for (const auto& [task, values] : metrics.items())
    for (const auto& [metric, value] : values.items()) {
      if (metric == "rows") continue;
      std::snprintf(line, sizeof(line), "%-14s %-20s", task.c_str(), metric.c_str());
      text += line;
      figure(value);
      if (const auto known = optimum.find(task); known != optimum.end() && known->contains(metric)) figure((*known)[metric]);
      if (const auto known = closed.find(task); known != closed.end() && known->contains(metric) && (*known)[metric].is_number()) {
        std::snprintf(line, sizeof(line), " %10.0f %%", 100.0 * (*known)[metric].get<double>());
        text += line;
      }
      text += "\n";
    }
  return text;
}

}  // namespace htlnet
