// SPDX-License-Identifier: Apache-2.0
/// @file cell.hpp
/// @brief A cell of the grid: one model trained with one seed, its best epoch's metrics and test predictions, and what it cost.
#pragma once

#include "options.hpp"

#include <examples/htlnet/data/dataset.hpp>

#include <htl/task/task_outputs.hpp>

#include <functional>
#include <optional>

namespace compare {

/// @brief What a cell came to.
struct CellResult {
  nlohmann::ordered_json figures;  ///< best epoch, metrics, curve, cost; or `failed`: a sentence
  htl::Predictions test;           ///< of the test rows, float32; empty where it failed, and of tuning
};

/// @brief What all cells share; they only read it.
struct Setup {
  const CompareOptions& options;
  const htlnet::Dataset& data;
};

/// @brief The tasks of a kind, unfitted: the core regressions with its loss, or its only task.
htl::TaskSet tasks_of(const htl::TaskSet& tasks, const Kind& kind);

/// @brief The column that --group names, or user or user_id; empty where the data have none.
/// @throws c10::ValueError if --group names none
std::string group_column(const CompareOptions& options, const htlnet::Dataset& data);

/// @brief Metrics by task, and of binary tasks `gauc` within groups.
/// @param group context column; empty = none
nlohmann::json measure(const htl::TaskSet& tasks, const htl::Predictions& predictions, const htl::Labels& labels, const std::string& group);

/// @brief Trains a cell on as many threads as LibTorch has, with its default generator seeded by the cell's seed: the same cell gives the same bits.
/// @param is_asked_to_stop between two steps
/// @returns nothing if it was asked to stop; a refusal or a loss that is not finite is a result, `failed`
std::optional<CellResult> run_cell(const Setup& setup, const Cell& cell, const std::function<bool()>& is_asked_to_stop);

}  // namespace compare
