// SPDX-License-Identifier: Apache-2.0
#include "evaluate.hpp"

#include <htl/metrics/grouped_auc.hpp>

#include <torch/types.h>

#include <cmath>
#include <cstdio>
#include <map>

namespace htlnet {
namespace {

constexpr int64_t few_groups = 16;

nlohmann::json to_json(const htl::Named<htl::Named<double>>& values) {
  nlohmann::json result = nlohmann::json::object();
  for (const auto& [task, metrics] : values)
    for (const auto& [metric, value] : metrics) result[task][metric] = value;  // NaN is written as null
  return result;
}

}  // namespace

nlohmann::json evaluate(HtlNet& net, const htl::TaskSet& tasks, const htl::TableData& rows, const Groups& groups, const torch::Device& device) {
  const torch::InferenceMode inference;
  const bool was_training = net->is_training();
  net->eval();
  htl::TaskMetrics all(tasks);
  htl::Named<htl::GroupedAuc> within_users;
  std::map<std::string, std::vector<htl::TaskMetrics>> by_group;
  const bool has_users = rows.labels().context.contains("user");
  for (const htl::TaskSpec& task : tasks)
    if (has_users && task.kind() == htl::TaskKind::binary) within_users.set(task.name(), {});
  for (const auto& [column, values] : groups)
    if (static_cast<int64_t>(values.size()) <= few_groups) by_group.emplace(column, std::vector<htl::TaskMetrics>(values.size(), htl::TaskMetrics(tasks)));

  htl::BatchLoader loader(rows, {.batch_size = 8192, .shuffle = false});
  for (const htl::Batch& batch : loader) {
    const htl::Batch moved = batch.to(device);
    htl::Predictions predictions;
    for (const auto& [name, value] : tasks.predict(net->forward(moved), moved.labels.context)) predictions.set(name, value.to(torch::kCPU));
    const htl::Labels labels = batch.labels.to(torch::kCPU);
    all.add(predictions, labels);
    for (auto& [name, auc] : within_users) {
      htl::Label label = labels[name];
      label.mask = tasks.observed(tasks.index(name), labels);
      auc.add(predictions[name], label, labels.context["user"]);
    }
    for (auto& [column, metrics] : by_group)
      for (size_t g = 0; g < metrics.size(); ++g) {
        const torch::Tensor rows_of_group = (labels.context[column] == static_cast<int64_t>(g)).nonzero().squeeze(1);
        if (rows_of_group.numel() == 0) continue;
        htl::Predictions picked;
        for (const auto& [name, value] : predictions) picked.set(name, value.index_select(0, rows_of_group));
        metrics[g].add(picked, labels.index_select(rows_of_group));
      }
  }
  net->train(was_training);

  nlohmann::json result = to_json(all.values());
  for (const auto& [name, auc] : within_users) result[name]["gauc"] = auc.value();
  for (const auto& [column, metrics] : by_group)
    for (size_t g = 0; g < metrics.size(); ++g) result["by"][column][groups[column][g]] = to_json(metrics[g].values());
  return result;
}

Selection Selection::parse(const std::string& wanted, const htl::TaskSet& tasks, const nlohmann::json& metrics) {
  if (wanted.empty()) {
    const std::vector<int64_t> cores = tasks.cores();
    const htl::TaskSpec& task = tasks[cores.empty() ? tasks.size() - 1 : cores.front()];
    const std::string metric = task.kind() == htl::TaskKind::regression ? "nrmse" : task.kind() == htl::TaskKind::binary ? "auc" : "log_loss";
    return {task.name(), metric, htl::TaskMetrics::greater_is_better(metric)};
  }
  const size_t dot = wanted.find('.');
  HTL_CHECK(dot != std::string::npos, "htlnet: --select-by expected TASK.METRIC, got \"", wanted, "\"");
  Selection selection{wanted.substr(0, dot), wanted.substr(dot + 1)};
  HTL_CHECK(tasks.contains(selection.task), "htlnet: --select-by names the task \"", selection.task, "\", which is not there; did you mean \"",
            htl::nearest(selection.task, tasks.names()), "\"?");
  std::vector<std::string> known;
  for (const auto& [name, value] : metrics.at(selection.task).items()) known.push_back(name);
  HTL_CHECK(metrics.at(selection.task).contains(selection.metric), "htlnet: --select-by names the metric \"", selection.metric, "\", which task \"",
            selection.task, "\" does not have; did you mean \"", htl::nearest(selection.metric, known), "\"? Metrics: ", htl::quoted(known));
  selection.greater = htl::TaskMetrics::greater_is_better(selection.metric) || selection.metric == "gauc";
  return selection;
}

std::string table_of(const nlohmann::json& metrics, const nlohmann::json& reference) {
  std::string text;
  char line[160];
  std::snprintf(line, sizeof(line), "%-14s %-20s %12s%s\n", "task", "metric", "model", reference.empty() ? "" : "      optimum");
  text += line;
  for (const auto& [task, values] : metrics.items()) {
    if (task == "by") continue;
    for (const auto& [metric, value] : values.items()) {
      if (metric == "rows" || value.is_null()) continue;
      std::snprintf(line, sizeof(line), "%-14s %-20s %12.5f", task.c_str(), metric.c_str(), value.get<double>());
      text += line;
      const auto known = reference.find(task);
      if (known != reference.end() && known->contains(metric) && (*known)[metric].is_number()) {
        std::snprintf(line, sizeof(line), " %12.5f", (*known)[metric].get<double>());
        text += line;
      }
      text += "\n";
    }
  }
  return text;
}

}  // namespace htlnet
