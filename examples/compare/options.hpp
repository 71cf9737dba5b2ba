// SPDX-License-Identifier: Apache-2.0
/// @file options.hpp
/// @brief What the program compare can be asked for: the grid, and the options of htlnet train that hold for every cell.
#pragma once

#include "grid.hpp"

#include <examples/htlnet/options.hpp>

#include <htl/task/named.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace compare {

/// @brief The command line.
struct CompareOptions {
  std::vector<std::string> models, adjusters, losses, balancers;
  int64_t seeds = 3, jobs = 1, tune = 0, bootstrap = 1000;
  std::string output, score, group, reference;
  htl::Named<std::string> predictions;  ///< files of predictions that were made outside, by the name that the tables give them
  bool single_tasks = true;
  std::vector<int64_t> trunk = {128, 64}, tower_above_trunk = {64, 32};
  int64_t experts = 4;
  double gate_dropout = 0.0;
  htl::Named<std::string> attend;    ///< target fields by the histories that are weighed for them
  std::string numbers_by = "as_is";  ///< as_is | periodic | piecewise
  htlnet::Options base;              ///< rows, sizes and training, as htlnet train takes them

  /// @brief The rates of cells that were not tuned.
  Rates rates() const { return {base.train.row_lr, base.train.dense_lr, base.train.weight_decay, base.model.dropout}; }
  /// @brief All that a cell depends on beside its kind, seed, rates and rows.
  nlohmann::ordered_json of_every_cell() const;
};

/// @brief The models that there are, by name.
std::vector<std::string> known_models();

/// @brief A core loss of --losses with its transform spelled out: ziln → ziln@none, huber:delta=0.5 → huber:delta=0.5@z_score.
/// @throws c10::ValueError for an unknown loss, transform or option
std::string complete_loss(const std::string& text);

/// @brief Reads the command line. Prints help, or a sentence that names the nearest right option or value, and then sets `exit_code` and leaves `models` empty.
CompareOptions parse_compare_options(int argc, const char* const* argv, int& exit_code);

}  // namespace compare
