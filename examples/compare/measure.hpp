// SPDX-License-Identifier: Apache-2.0
/// @file measure.hpp
/// @brief What a cell is measured by: its tasks and rows, the metrics of predictions, and the one that chooses between epochs.
#pragma once

#include "options.hpp"

#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/evaluate.hpp>

#include <htl/task/task_outputs.hpp>

#include <memory>
#include <string>
#include <vector>

namespace models {
struct InputOptions;
}

namespace compare {

/// @brief What all cells share; they only read it.
struct Setup {
  const CompareOptions& options;
  const htlnet::Dataset& data;
  std::shared_ptr<const models::InputOptions> inputs = {};  ///< inputs_of() these; measuring needs none
};

/// @brief The tasks of a kind, unfitted: the core regressions with its loss, or its only task. Of a bound the data set's own.
htl::TaskSet tasks_of(const htl::TaskSet& tasks, const Kind& kind);

/// @brief The tasks that a kind's metrics are of: the data set's own, or its only one.
htl::TaskSet measured_tasks(const Setup& setup, const Kind& kind);

/// @brief The rows of a kind: the data set's own, or with the labels of its only task.
htl::TableData rows_of(const htl::TableData& rows, const htl::TaskSet& tasks, const Kind& kind);

/// @brief The column that --group names, or user or user_id where some of their test rows have one in common; empty where there is none.
/// @throws c10::ValueError if --group names none
std::string group_column(const CompareOptions& options, const htlnet::Dataset& data);

/// @brief Metrics by task, and of binary tasks `gauc` within groups.
/// @param group context column; empty = none
nlohmann::json measure(const htl::TaskSet& tasks, const htl::Predictions& predictions, const htl::Labels& labels, const std::string& group);

/// @brief Metrics of a kind's predictions of the test rows.
nlohmann::json measure_test(const Setup& setup, const Kind& kind, const htl::Predictions& predictions);

/// @brief The metric that chooses between a kind's epochs.
htlnet::Selection selection_of(const Setup& setup, const Kind& kind);

/// @brief Refuses a selection that would fail in every epoch: a metric that is not measured here, or that these validation rows do not define.
/// @throws c10::ValueError naming it
void check_selection(const Setup& setup, const Kind& kind);

/// @brief Predictions in float32 on the CPU.
htl::Predictions single_precision(const htl::Predictions& predictions);

/// @brief What is known without a network, in float32: the best expectations, the averages, or the file that --predictions names.
/// @throws c10::ValueError for a file that does not fit the test rows
htl::Predictions bound_predictions(const Setup& setup, const std::string& name);

}  // namespace compare
