// SPDX-License-Identifier: Apache-2.0
/// @file field_batch.hpp
/// @brief FieldBatch: the ids of all fields of a batch; one id a field in its short form, bags in its long form.
#pragma once

#include <htl/task/check.hpp>

#include <utility>

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
