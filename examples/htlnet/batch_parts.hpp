// SPDX-License-Identifier: Apache-2.0
/// @file batch_parts.hpp
/// @brief A batch in parts, for methods that want several independent batches in a step.
#pragma once

#include <htl/data/table_data.hpp>

#include <cstdint>
#include <vector>

namespace htlnet {

/// @brief The rows of a batch in near equal parts, empty ones where there are too few; itself where one is asked for.
inline std::vector<htl::Batch> batch_parts(const htl::Batch& batch, int64_t count) {
  if (count == 1) return {batch};
  const htl::TableData rows(batch);
  std::vector<htl::Batch> parts;
  for (int64_t p = 0; p < count; ++p) parts.push_back(rows.slice(batch.rows() * p / count, batch.rows() * (p + 1) / count).all());
  return parts;
}

}  // namespace htlnet
