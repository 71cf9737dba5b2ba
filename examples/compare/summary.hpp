// SPDX-License-Identifier: Apache-2.0
/// @file summary.hpp
/// @brief What the finished cells say together: means over seeds, differences to the reference, gains over single-task models, cost.
#pragma once

#include "bootstrap.hpp"
#include "store.hpp"

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace compare {

/// @brief A column of the tables.
struct Measured {
  std::string task;    ///< of the data set, or "score" for the fused one
  std::string metric;  ///< as htl::TaskMetrics names it; gauc; of the score gauc(TASK), ndcg@10(TASK)
  bool greater_is_better = true;
  bool is_main = false;       ///< the one of its task that gains are of: auc, nrmse, log_loss
  bool is_resampled = false;  ///< whether the bootstrap is of it: the main ones, and spearman

  std::string name() const { return task + " " + metric; }
};

/// @brief One figure of one kind.
struct Figure {
  std::vector<double> by_seed = {};  ///< NaN where that seed failed
  Moments moments = {};
  PairedDifference by_seeds = {};  ///< to the reference
  Interval by_rows = {};           ///< to the reference, of the means over the seeds that both have; undefined but for resampled ones
};

/// @brief One row of the tables.
struct KindSummary {
  Kind kind = {};
  Rates rates = {};                  ///< of the single-task models together NaN where theirs differ
  std::vector<Figure> figures = {};  ///< by column of Summary::columns
  std::vector<Figure> shares = {};   ///< the same of the gap from the best additive model to the optimum; empty where there is no such gap
  Figure gain = {};                  ///< over the single-task models
  Figure ms_per_step = {}, memory_mb = {}, parameters = {}, best_epoch = {};
  std::vector<std::string> failures = {};                            ///< "seed 2: …"
  std::vector<std::vector<std::pair<int64_t, double>>> curves = {};  ///< by seed: epoch and the selecting figure
  std::string curve_of = {};                                         ///< "task.metric"
};

/// @brief All that the report shows.
struct Summary {
  std::vector<Measured> columns;
  std::vector<KindSummary> kinds;
  size_t reference = 0;
  int64_t seeds = 0, test_rows = 0, replicates = 0;
  std::string score, group, core;  ///< formula, group column, core task; empty = none
  std::string unit = {};           ///< the column whose values the bootstrap draws; empty = rows
  std::vector<std::string> notes;  ///< what was left out, and why

  /// @brief The position of a column; columns.size() if there is none.
  size_t column(const std::string& task, const std::string& metric) const;
};

/// @brief Reads the finished cells and computes.
/// @param kinds in the order of the tables
/// @param cells all of them, by kind and seed
Summary summarize(const Setup& setup, const Store& store, const std::vector<Kind>& kinds, const std::vector<Cell>& cells);

}  // namespace compare
