// SPDX-License-Identifier: Apache-2.0
/// @file batch.hpp
/// @brief Batch: features and labels of B rows; BatchSource: anything that yields them.
#pragma once

#include <htl/data/field_batch.hpp>
#include <htl/task/label.hpp>

#include <concepts>
#include <ranges>

namespace htl::inline v0_1_0 {

/// @brief B rows: ids, dense numbers, labels.
struct Batch {
  /// Ids of all fields.
  FieldBatch fields;
  /// [B, N] dense numeric features; undefined = none.
  at::Tensor numeric = {};
  /// Labels and context columns; empty when serving.
  Labels labels = {};

  /// @brief B.
  int64_t rows() const { return fields.rows(); }
  /// @brief The batch on another device.
  Batch to(const at::Device& device, bool non_blocking = false) const {
    return {fields.to(device, non_blocking), numeric.defined() ? numeric.to(device, non_blocking) : numeric, labels.to(device, non_blocking)};
  }
};

/// @brief Anything that a range-for over batches accepts: `for (const htl::Batch& batch : source)`. One pass is one epoch.
template <class S>
concept BatchSource = std::ranges::input_range<S> && std::convertible_to < std::ranges::range_reference_t<S>,
const Batch& > ;

}  // namespace htl
