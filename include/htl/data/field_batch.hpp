// SPDX-License-Identifier: Apache-2.0
/// @file field_batch.hpp
/// @brief FieldBatch: the ids of all fields of a batch; one id a field in its short form, bags in its long form.
#pragma once

#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Ids of F fields for B rows.
///
/// *Short form*: ids [B, F], one id in every field. *Long form*: ids [N] of all bags one after the other, row by row and in each row field by
/// field; the bag of row b and field f is `ids[offsets[b·F + f] … offsets[b·F + f + 1])`; an empty bag looks up zeros. Ids are local to their
/// field: 0 … size_f − 1. A repeated id in a bag counts twice.
struct FieldBatch {
  /// [B, F] (short form) or [N] (long form), int32 or int64.
  at::Tensor ids;
  /// [B·F + 1] int64, from 0 to N, not decreasing; undefined in the short form.
  at::Tensor offsets = {};
  /// [N] floating point, one factor per id; long form only; undefined = 1. Not differentiated.
  at::Tensor weights = {};
  /// F; in the short form it follows from ids.
  int64_t fields = 0;

  /// @brief The short form.
  /// @throws c10::ValueError unless ids is [B, F]; c10::TypeError unless it is int32 or int64
  static FieldBatch of(at::Tensor ids) {
    check_shape("htl::FieldBatch", "ids", ids, {-1, -1});
    const int64_t count = ids.size(1);
    FieldBatch batch{std::move(ids), {}, {}, count};
    batch.check_type();
    return batch;
  }
  /// @brief The long form. Shapes are checked here, the values of offsets and ids where they are looked up.
  /// @throws c10::ValueError on wrong shapes; c10::TypeError on wrong element types
  static FieldBatch bags(at::Tensor ids, at::Tensor offsets, int64_t fields, at::Tensor weights = {}) {
    check_shape("htl::FieldBatch", "ids", ids, {-1});
    check_shape("htl::FieldBatch", "offsets", offsets, {-1});
    HTL_CHECK(fields > 0 && offsets.size(0) >= 1 && (offsets.size(0) - 1) % fields == 0,
              "htl::FieldBatch: expected offsets of B·F + 1 entries for F = ", fields, " fields, got ", offsets.size(0));
    HTL_CHECK_TYPE(offsets.scalar_type() == at::kLong, "htl::FieldBatch: expected int64 offsets, got ", offsets.scalar_type());
    if (weights.defined()) {
      check_shape("htl::FieldBatch", "weights", weights, {ids.size(0)});
      HTL_CHECK_TYPE(weights.is_floating_point(), "htl::FieldBatch: expected floating-point weights, got ", weights.scalar_type());
    }
    FieldBatch batch{std::move(ids), std::move(offsets), std::move(weights), fields};
    batch.check_type();
    return batch;
  }

  /// @brief Whether every field has exactly one id.
  bool is_short() const { return !offsets.defined(); }
  /// @brief B.
  /// @throws c10::ValueError for bags made by hand that name no number of fields
  int64_t rows() const {
    if (is_short()) return ids.defined() ? ids.size(0) : 0;
    HTL_CHECK(fields > 0, "htl::FieldBatch: expected at least one field of bags, got ", fields, "; make the batch by FieldBatch::bags()");
    return (offsets.size(0) - 1) / fields;
  }
  /// @brief The ids of some fields, in the given order: what `FieldEmbedding::lookup(batch, fields)` takes. A history's entries, one by one, are the ids of
  /// `select({history})`.
  /// @throws c10::IndexError for a position that is no field; c10::ValueError without positions, and on the CPU for bags outside of the ids
  ///
  /// **Cost**: copies the ids that it takes. **Device**: any; of bags it synchronises once on CUDA, for their number.
  FieldBatch select(const std::vector<int64_t>& positions) const {
    std::vector<at::Tensor> starts, ends;
    for (const int64_t position : positions) {
      HTL_CHECK_INDEX(position >= 0 && position < fields, "htl::FieldBatch: expected positions of its ", fields, " fields, got ", position);
      const auto of_field = [&](const at::Tensor& t, int64_t from) { return t.narrow(0, from, t.size(0) - 1).reshape({rows(), fields}).select(1, position); };
      starts.push_back(is_short() ? ids.select(1, position) : of_field(offsets, 0));
      if (!is_short()) ends.push_back(of_field(offsets, 1));
    }
    HTL_CHECK(!positions.empty(), "htl::FieldBatch: expected at least one field to select, got none");
    if (is_short()) return of(at::stack(starts, 1));
    const at::Tensor first = at::stack(starts, 1).reshape({-1}), lengths = at::stack(ends, 1).reshape({-1}) - first;
    if (offsets.is_cpu() && lengths.numel() > 0)
      HTL_CHECK(lengths.min().item<int64_t>() >= 0 && first.min().item<int64_t>() >= 0 && (first + lengths).max().item<int64_t>() <= ids.size(0),
                "htl::FieldBatch: expected offsets from 0 to ", ids.size(0), ", the number of ids, that don't decrease");
    const at::Tensor after = lengths.cumsum(0), chosen = at::cat({after.new_zeros({1}), after});
    const int64_t count = chosen[-1].item<int64_t>();
    const at::Tensor place = after.new_ones({count}).cumsum(0) - 1 + (first - chosen.narrow(0, 0, lengths.size(0))).repeat_interleave(lengths, 0, count);
    return bags(ids.index_select(0, place), chosen, static_cast<int64_t>(positions.size()), weights.defined() ? weights.index_select(0, place) : weights);
  }
  /// @brief The long form of the same ids: of the short form bags of one id each.
  FieldBatch as_bags() const {
    if (!is_short()) return *this;
    return bags(ids.reshape({-1}), ids.new_ones({ids.numel() + 1}, at::kLong).cumsum(0) - 1, fields);
  }
  /// @brief The same ids on another device.
  FieldBatch to(const at::Device& device, bool non_blocking = false) const {
    const auto move = [&](const at::Tensor& t) { return t.defined() ? t.to(device, non_blocking) : t; };
    return {move(ids), move(offsets), move(weights), fields};
  }

 private:
  void check_type() const {
    HTL_CHECK_TYPE(ids.scalar_type() == at::kInt || ids.scalar_type() == at::kLong, "htl::FieldBatch: expected int32 or int64 ids, got ", ids.scalar_type());
  }
};

}  // namespace htl
