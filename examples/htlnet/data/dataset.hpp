// SPDX-License-Identifier: Apache-2.0
/// @file dataset.hpp
/// @brief Dataset: what a reader hands to the training program.
#pragma once

#include <htl/data/field_counter.hpp>
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

/// @brief Gives a bucketised field the edges that an earlier map has for it, so that its buckets mean the same.
/// @param plan the field
/// @param statistics the earlier map; nothing = leave the plan as it is
inline void keep_edges(htl::FieldPlan& plan, const htl::FeatureMap* statistics) {
  if (statistics == nullptr || plan.kind != htl::FieldKind::bucketised) return;
  for (const htl::FeatureMap::Field& field : statistics->fields())
    if (field.name == plan.name && field.kind == plan.kind) plan.edges = field.edges;
}

}  // namespace htlnet
