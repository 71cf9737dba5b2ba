// SPDX-License-Identifier: Apache-2.0
/// @file padding.hpp
/// @brief Batches of one shape from rows on a device: what BatchLoaderOptions::pad_last does for rows on the CPU.
#pragma once

#include <htl/data/table_data.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>

namespace htlnet {

/// @brief The same rows, with weights of 1 in the tasks that have none: their batches can be padded, and all have the same tensors.
inline htl::TableData with_weights(const htl::TableData& rows) {
  htl::Batch all = rows.all();
  for (auto& [name, label] : all.labels.tasks)
    if (!label.weight.defined()) label.weight = at::ones({rows.rows()}, label.value.options().dtype(at::kFloat));
  return htl::TableData(std::move(all));
}

/// @brief A batch of weighted rows, filled up to `rows` of them with repeats of its last one that weigh 0 in every task: they enter no loss and no gradient.
///
/// Tensor operations on the batch's device, without a synchronisation. Ids in the short form.
inline htl::Batch padded(const htl::Batch& batch, int64_t rows) {
  const int64_t count = batch.rows();
  if (count >= rows) return batch;
  const at::Tensor places = at::arange(rows, batch.fields.ids.options().dtype(at::kLong)), picked = places.clamp_max(count - 1);
  htl::Batch full{htl::FieldBatch::of(batch.fields.ids.index_select(0, picked)),
                  batch.numeric.defined() ? batch.numeric.index_select(0, picked) : batch.numeric, batch.labels.index_select(picked)};
  for (auto& [name, label] : full.labels.tasks) label.weight = label.weight * places.lt(count);
  return full;
}

}  // namespace htlnet
