// SPDX-License-Identifier: Apache-2.0
/// @file id_dropout.hpp
/// @brief IdDropout: in training, ids of large fields are now and then unknown ones.
#pragma once

#include <htl/data/batch.hpp>
#include <htl/task/check.hpp>

#include <ATen/ops/rand.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief Replaces ids by 0, each with probability p, in fields of more than 1000 ids, in the rows that have one id there.
///
/// Two things come of it: a model that can't rely on who exactly it is, so that the rows of users and items overfit later, and a row for the unknown that has
/// learned from all kinds of rows. Bags of several ids are left as they are: each of them counts for little already.
/// On the batch's device, without a synchronisation: which columns these are went there once. Draws from the default generator.
class IdDropout {
 public:
  /// @brief Whether a field is large enough for its ids to be dropped.
  static bool applies(int64_t size) { return size > 1000; }

  /// @brief Nothing drawn.
  /// @param sizes how many ids each field has
  /// @param p in [0, 1); 0 = batches stay as they are
  /// @param device of the batches
  /// @throws c10::ValueError for another p
  IdDropout(const std::vector<int64_t>& sizes, double p, const at::Device& device = at::kCPU) : p_(p) {
    HTL_CHECK(p >= 0.0 && p < 1.0, "htlnet::IdDropout: expected a probability in [0, 1), got ", p);
    std::vector<int64_t> fields;
    for (size_t f = 0; f < sizes.size(); ++f)
      if (applies(sizes[f])) fields.push_back(static_cast<int64_t>(f));
    columns_ = at::tensor(fields, at::kLong).to(device);
  }
  /// @brief The batch with some ids dropped; the given one is not changed.
  htl::Batch operator()(htl::Batch batch) const {
    if (p_ == 0.0 || columns_.numel() == 0 || batch.rows() == 0 || batch.fields.ids.numel() == 0) return batch;
    htl::FieldBatch& all = batch.fields;
    const at::Tensor dropped = at::rand({batch.rows(), columns_.size(0)}, all.ids.options().dtype(at::kFloat)).lt(p_);
    if (all.is_short()) {
      all.ids = all.ids.index_copy(1, columns_, all.ids.index_select(1, columns_).masked_fill(dropped, 0));
      return batch;
    }
    // where the bags of these columns begin, and whether they hold one id
    const at::Tensor begins = all.offsets.slice(0, 0, -1).view({batch.rows(), all.fields}).index_select(1, columns_),
                     ends = all.offsets.slice(0, 1).view({batch.rows(), all.fields}).index_select(1, columns_);
    const at::Tensor places = begins.clamp_max(all.ids.size(0) - 1).flatten(), single = ends.sub(begins).eq(1).logical_and(dropped).flatten();
    // an empty bag begins where the next one does: what it writes back there is added, so that no two writes meet
    const at::Tensor taken = all.ids.index_select(0, places);
    all.ids = all.ids.index_add(0, places, taken.mul(single).neg());
    return batch;
  }

 private:
  double p_;
  at::Tensor columns_;  // [n] int64, of the fields whose ids are dropped
};

}  // namespace htlnet
