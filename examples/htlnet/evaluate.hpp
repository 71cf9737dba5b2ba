// SPDX-License-Identifier: Apache-2.0
/// @file evaluate.hpp
/// @brief Metrics of a model on rows: every task's, within users, and by group.
#pragma once

#include "model.hpp"

#include <htl/data/batch_loader.hpp>
#include <htl/metrics/task_metrics.hpp>

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace htlnet {

/// Names of groups by context column, as a data set has them.
using Groups = htl::Named<std::vector<std::string>>;

/// `{"<task>": {"<metric>": …}}` on all rows; binary tasks also have gauc (AUC within users) where the data name a user. Groups of few values
/// (at most 16) have their own metrics below "by": {"<column>": {"<value>": {"<task>": …}}}.
nlohmann::json evaluate(HtlNet& net, const htl::TaskSet& tasks, const htl::TableData& rows, const Groups& groups, const torch::Device& device);

/// The metric that chooses between epochs.
struct Selection {
  std::string task, metric;
  bool greater = false;

  /// @param wanted TASK.METRIC; empty = the first core task's nrmse or auc (the last task's without a core)
  /// @throws c10::ValueError naming the nearest name
  static Selection parse(const std::string& wanted, const htl::TaskSet& tasks, const nlohmann::json& metrics);
  double value(const nlohmann::json& metrics) const { return metrics.at(task).at(metric).get<double>(); }
  bool better(double candidate, double best) const { return greater ? candidate > best : candidate < best; }
};

/// The metrics as a table for people.
std::string table_of(const nlohmann::json& metrics, const nlohmann::json& reference = {});

}  // namespace htlnet
