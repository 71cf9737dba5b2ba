// SPDX-License-Identifier: Apache-2.0
/// @file text_batch.hpp
/// @brief batch_of_texts: a batch from raw texts, as a request or a log has them.
#pragma once

#include <htl/data/batch.hpp>
#include <htl/data/feature_map.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The ids and numbers of rows of texts: one text for each field of the map, then one for each of its numeric columns.
///
///     htl::Batch batch = htl::batch_of_texts(features, {{"Oslo", "9", "12.50"}, {"Paris", "20", ""}});
///
/// Texts are mapped as FeatureMap does it: unknown and missing ones have id 0, missing numbers their stand-in. Short form unless a field is multi-valued.
/// **Cost.** One hash a text. Whole files are for the CSV reader (component htl::data), which holds no row as strings.
/// @throws c10::ValueError for a row of another length, and as FeatureMap
inline Batch batch_of_texts(const FeatureMap& features, const std::vector<std::vector<std::string>>& rows) {
  const int64_t fields = features.size(), numbers = static_cast<int64_t>(features.numeric().size()), count = static_cast<int64_t>(rows.size());
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets{0};
  Batch batch;
  if (numbers > 0) batch.numeric = at::empty({count, numbers}, at::kFloat);
  for (int64_t r = 0; r < count; ++r) {
    const std::vector<std::string>& row = rows[static_cast<size_t>(r)];
    HTL_CHECK(static_cast<int64_t>(row.size()) == fields + numbers, "htl::batch_of_texts: expected ", fields + numbers, " texts in row ", r, " (", fields,
              " fields, then ", numbers, " numeric columns), got ", row.size());
    for (int64_t f = 0; f < fields; ++f) {
      features.append_ids(f, row[static_cast<size_t>(f)], ids);
      offsets.push_back(static_cast<int64_t>(ids.size()));
    }
    for (int64_t n = 0; n < numbers; ++n) batch.numeric.mutable_data_ptr<float>()[r * numbers + n] = features.number(n, row[static_cast<size_t>(fields + n)]);
  }
  const at::Tensor flat = at::tensor(ids, at::kInt);
  batch.fields = features.is_short() ? FieldBatch::of(flat.view({count, fields})) : FieldBatch::bags(flat, at::tensor(offsets, at::kLong), fields);
  return batch;
}

}  // namespace htl
