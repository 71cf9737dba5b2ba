// SPDX-License-Identifier: Apache-2.0
/// @file dataset.hpp
/// @brief Dataset: what a reader hands to the training program.
#pragma once

#include <htl/data/feature_map.hpp>
#include <htl/data/table_data.hpp>
#include <htl/task/task_set.hpp>

#include <string>
#include <vector>

namespace htlnet {

/// @brief Rows of three disjoint parts, the map that made their ids, and the tasks.
struct Dataset {
  htl::FeatureMap features;  ///< fitted on the training rows only
  htl::TaskSet tasks;        ///< transforms not fitted yet: `tasks.fitted(train.labels())`
  htl::TableData train;      ///< rows to learn from
  htl::TableData valid;      ///< rows to choose by; may be empty
  htl::TableData test;       ///< rows to report
  /// Columns that metrics are grouped by: the int32 context column of each name holds positions in these texts.
  htl::Named<std::vector<std::string>> groups = {};
};

}  // namespace htlnet
