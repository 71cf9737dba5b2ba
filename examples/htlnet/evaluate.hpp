// SPDX-License-Identifier: Apache-2.0
/// @file evaluate.hpp
/// @brief Metrics of a model on rows: every task's, within users, and by group.
#pragma once

#include "model.hpp"

#include <htl/data/batch_loader.hpp>
#include <htl/metrics/task_metrics.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace htlnet {

/// Names of groups by context column, as a data set has them.
using Groups = htl::Named<std::vector<std::string>>;

/// A metric as JSON: null where it is not defined.
inline nlohmann::json to_json(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); }
/// `{"<task>": {"<metric>": number or null}}`
nlohmann::json to_json(const htl::Named<htl::Named<double>>& values);

struct Evaluation {
  nlohmann::json metrics;   // {"<task>": {"<metric>": …}} on all rows
  nlohmann::json by_group;  // {"<column>": {"<value>": {"<task>": …}}} for group columns of at most 16 values; values without rows are left out;
                            // what is not UTF-8 has the key {"bytes":"hexadecimal"}, as in features.json
};

/// Metrics of all rows, and of each value of a small group column. For each group column of more values, a binary task also has the AUC within its groups
/// (users, say): gauc if there is one such column, gauc.<column> if there are several.
Evaluation evaluate(HtlNet& net, const htl::TaskSet& tasks, const htl::TableData& rows, const Groups& groups, const torch::Device& device);

/// What the model gives for all rows, on the CPU: [N, W_t] by task.
htl::TaskOutputs outputs_of(HtlNet& net, const htl::TableData& rows, const torch::Device& device);

/// The metric that chooses between epochs.
struct Selection {
  std::string task, metric;

  /// @param wanted TASK.METRIC; empty = the first core task's nrmse or auc (the last task's without a core)
  /// @throws c10::ValueError naming the nearest name
  static Selection parse(const std::string& wanted, const htl::TaskSet& tasks, const Groups& groups);
  /// Whether a value is better than the best one; a NaN is never. Of calibration ratios the nearer one to 1, by factors.
  bool better(double candidate, double best) const {
    if (metric == "calibration_ratio") return distance(candidate) < distance(best);
    return htl::TaskMetrics::greater_is_better(metric) || metric.starts_with("gauc") ? candidate > best : candidate < best;
  }

 private:
  static double distance(double ratio) { return ratio <= 0.0 ? std::numeric_limits<double>::infinity() : std::abs(std::log(ratio)); }
};

/// The metrics as a table for people; "-" where one is not defined.
/// @param optimum the best possible values, a second column; empty = none
/// @param closed the share of the gap between a simple model and the optimum that is closed, a third column; empty = none
std::string table_of(const nlohmann::json& metrics, const nlohmann::json& optimum = {}, const nlohmann::json& closed = {});

}  // namespace htlnet
