// SPDX-License-Identifier: Apache-2.0
/// @file table_data.hpp
/// @brief TableData: a data set in memory, and batches of any of its rows.
#pragma once

#include <htl/data/batch.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief How a batch is taken out of a TableData.
struct GatherOptions {
  /// Rows are added up to this number, repeats of the last one with weight 0 in every task; every label then has a weight. 0 = none are added.
  int64_t pad_to = 0;
  /// The batch in page-locked memory, for asynchronous copies to an accelerator; throws where there is none.
  bool pin_memory = false;
};

/// @brief N rows: ids of all fields, dense numbers, labels, context columns. Copies share the memory.
///
/// The rows live on the CPU, or (ids of the short form only) on any other device, where batches are picked without a host synchronisation.
class TableData {
 public:
  /// @brief No rows.
  TableData() : TableData(Batch{FieldBatch::of(at::empty({0, 0}, at::kInt)), {}, {}}) {}
  /// @brief The data set of all rows of a batch. Nothing is copied unless it is not contiguous.
  /// @throws c10::ValueError if a part has another number of rows, ids, offsets or weights don't fit each other, or the ids are in the long form outside the
  /// CPU
  explicit TableData(Batch all) : all_(std::move(all)) {
    FieldBatch& fields = all_.fields;  // checked again, since a batch can be made by hand
    fields = fields.is_short() ? FieldBatch::of(fields.ids) : FieldBatch::bags(fields.ids, fields.offsets, fields.fields, fields.weights);
    const int64_t n = rows();
    const auto fits = [&](at::Tensor& t, const std::string& what) {
      if (!t.defined()) return;
      HTL_CHECK(t.dim() >= 1 && t.size(0) == n, "htl::TableData: expected ", what, " of ", n, " rows as the ids, got ", shape_of(t));
      t = t.contiguous();
    };
    all_.fields.ids = all_.fields.ids.contiguous();
    for (at::Tensor* part : {&all_.fields.offsets, &all_.fields.weights})
      if (part->defined()) *part = part->contiguous();
    HTL_CHECK(all_.fields.is_short() || all_.fields.ids.is_cpu(), "htl::TableData: bags of ids stay on the CPU (a batch of them has a size that depends on ",
              "the data); use pinned batches");
    if (!all_.fields.is_short()) check_offsets();
    fits(all_.numeric, "numeric");
    for (auto& [name, label] : all_.labels.tasks) {
      fits(label.value, "the label of task \"" + name + "\"");
      fits(label.mask, "the mask of task \"" + name + "\"");
      fits(label.weight, "the weight of task \"" + name + "\"");
    }
    for (auto& [name, column] : all_.labels.context) fits(column, "the context column \"" + name + "\"");
  }

  /// @brief N.
  int64_t rows() const { return all_.rows(); }
  /// @brief All rows as one batch; shares the memory.
  const Batch& all() const { return all_; }
  /// @brief The labels of all rows, as TaskSet::fitted() takes them.
  const Labels& labels() const { return all_.labels; }
  /// @brief Bytes of all tensors.
  int64_t bytes() const;

  /// @brief Rows [begin, end); shares the memory, except for the offsets of bags.
  /// @throws c10::ValueError unless 0 ≤ begin ≤ end ≤ N
  TableData slice(int64_t begin, int64_t end) const;
  /// @brief The same rows on another device.
  TableData to(const at::Device& device, bool non_blocking = false) const { return TableData(all_.to(device, non_blocking)); }

  /// @brief A new batch of the given rows, in their order; data on the CPU.
  ///
  /// Plain copies on the calling thread: no parallel region, so that it can run beside a training step. Cost: bytes of the rows.
  /// @throws c10::IndexError if a row is outside [0, N); c10::ValueError if padding is asked of no rows, or pinned memory of a machine without accelerator
  Batch gather(std::span<const int64_t> picked, const GatherOptions& options = {}) const;
  /// @brief A new batch of the rows of an int64 index [n] on the data's device, by index_select; pad_to and pin_memory do not apply.
  Batch gather(const at::Tensor& picked) const {
    HTL_CHECK(all_.fields.is_short(), "htl::TableData: bags of ids are gathered by a list of rows, not by a tensor");
    return {FieldBatch::of(all_.fields.ids.index_select(0, picked)), all_.numeric.defined() ? all_.numeric.index_select(0, picked) : at::Tensor(),
            all_.labels.index_select(picked)};
  }

 private:
  void check_offsets() const {
    const int64_t* const offsets = all_.fields.offsets.const_data_ptr<int64_t>();
    const int64_t count = all_.fields.offsets.numel();
    bool rising = offsets[0] == 0 && offsets[count - 1] == all_.fields.ids.numel();
    for (int64_t i = 1; i < count; ++i) rising = rising && offsets[i] >= offsets[i - 1];
    HTL_CHECK(rising, "htl::TableData: expected offsets that rise from 0 to ", all_.fields.ids.numel(), ", the number of ids");
  }
  static at::Tensor make(at::IntArrayRef sizes, at::ScalarType type, bool pinned) {
    return at::empty(sizes, at::TensorOptions().dtype(type).pinned_memory(pinned));
  }
  static at::Tensor gather_rows(const at::Tensor& from, std::span<const int64_t> picked, int64_t total, bool pinned);
  FieldBatch gather_bags(std::span<const int64_t> picked, int64_t total, bool pinned) const;

  Batch all_;
};

inline int64_t TableData::bytes() const {
  int64_t total = 0;
  const auto add = [&](const at::Tensor& t) { total += t.defined() ? static_cast<int64_t>(t.nbytes()) : 0; };
  for (const at::Tensor& t : {all_.fields.ids, all_.fields.offsets, all_.fields.weights, all_.numeric}) add(t);
  for (const auto& [name, label] : all_.labels.tasks)
    for (const at::Tensor& t : {label.value, label.mask, label.weight}) add(t);
  for (const auto& [name, column] : all_.labels.context) add(column);
  return total;
}

inline TableData TableData::slice(int64_t begin, int64_t end) const {
  HTL_CHECK(begin >= 0 && begin <= end && end <= rows(), "htl::TableData: expected a slice within [0, ", rows(), "], got [", begin, ", ", end, ")");
  const auto cut = [&](const at::Tensor& t) { return t.defined() ? t.slice(0, begin, end) : t; };
  Batch part = all_;
  if (all_.fields.is_short()) {
    part.fields.ids = cut(all_.fields.ids);
  } else {
    const int64_t f = all_.fields.fields;
    const at::Tensor offsets = all_.fields.offsets.slice(0, begin * f, end * f + 1);
    const int64_t first = offsets.const_data_ptr<int64_t>()[0], last = offsets.const_data_ptr<int64_t>()[(end - begin) * f];
    part.fields.ids = all_.fields.ids.slice(0, first, last);
    part.fields.offsets = offsets - first;
    if (all_.fields.weights.defined()) part.fields.weights = all_.fields.weights.slice(0, first, last);
  }
  part.numeric = cut(all_.numeric);
  for (auto& [name, label] : part.labels.tasks) label = {cut(label.value), cut(label.mask), cut(label.weight)};
  for (auto& [name, column] : part.labels.context) column = cut(column);
  return TableData(std::move(part));
}

// Rows beyond picked.size() repeat the last one.
inline at::Tensor TableData::gather_rows(const at::Tensor& from, std::span<const int64_t> picked, int64_t total, bool pinned) {
  std::vector<int64_t> sizes = from.sizes().vec();
  sizes[0] = total;
  at::Tensor result = make(sizes, from.scalar_type(), pinned);
  const size_t width = from.size(0) == 0 ? 0 : from.nbytes() / static_cast<size_t>(from.size(0));
  if (width == 0) return result;
  const char* const source = static_cast<const char*>(from.const_data_ptr());
  char* to = static_cast<char*>(result.mutable_data_ptr());
  const size_t count = picked.size();
  const auto row = [&](size_t i) { return source + static_cast<size_t>(picked[i]) * width; };
  constexpr size_t ahead = 8;  // rows fetched into the cache before they are copied
  const auto copy = [&](auto constant_width) {
    for (size_t i = 0; i < count; ++i, to += width) {
      if (i + ahead < count)
        for (size_t byte = 0; byte < width; byte += 64) __builtin_prefetch(row(i + ahead) + byte);
      std::memcpy(to, row(i), constant_width > 0 ? constant_width : width);
    }
  };
  if (width == 4)
    copy(std::integral_constant<size_t, 4>());
  else if (width == 8)
    copy(std::integral_constant<size_t, 8>());
  else if (width == 1)
    copy(std::integral_constant<size_t, 1>());
  else
    copy(std::integral_constant<size_t, 0>());
  for (size_t i = count; i < static_cast<size_t>(total); ++i, to += width) std::memcpy(to, row(count - 1), width);
  return result;
}

inline FieldBatch TableData::gather_bags(std::span<const int64_t> picked, int64_t total, bool pinned) const {
  const int64_t f = all_.fields.fields;
  const int64_t* const offsets = all_.fields.offsets.const_data_ptr<int64_t>();
  const auto source_row = [&](int64_t i) { return picked[static_cast<size_t>(std::min<int64_t>(i, static_cast<int64_t>(picked.size()) - 1))]; };
  int64_t count = 0;
  for (int64_t i = 0; i < total; ++i) count += offsets[(source_row(i) + 1) * f] - offsets[source_row(i) * f];
  const bool weighted = all_.fields.weights.defined();
  at::Tensor ids = make({count}, all_.fields.ids.scalar_type(), pinned), new_offsets = make({total * f + 1}, at::kLong, pinned);
  at::Tensor weights = weighted ? make({count}, all_.fields.weights.scalar_type(), pinned) : at::Tensor();
  const auto copy = [](const at::Tensor& from, at::Tensor& to, int64_t begin, int64_t at, int64_t size) {
    const auto width = static_cast<size_t>(from.element_size());
    std::memcpy(static_cast<char*>(to.mutable_data_ptr()) + static_cast<size_t>(at) * width,
                static_cast<const char*>(from.const_data_ptr()) + static_cast<size_t>(begin) * width, static_cast<size_t>(size) * width);
  };
  int64_t* const written = new_offsets.mutable_data_ptr<int64_t>();
  int64_t at = 0;
  written[0] = 0;
  for (int64_t i = 0; i < total; ++i) {
    const int64_t* const bags = offsets + source_row(i) * f;
    for (int64_t j = 1; j <= f; ++j) written[i * f + j] = at + bags[j] - bags[0];
    const int64_t size = bags[f] - bags[0];
    if (size > 0) {
      copy(all_.fields.ids, ids, bags[0], at, size);
      if (weighted) copy(all_.fields.weights, weights, bags[0], at, size);
    }
    at += size;
  }
  return FieldBatch::bags(std::move(ids), std::move(new_offsets), f, std::move(weights));
}

inline Batch TableData::gather(std::span<const int64_t> picked, const GatherOptions& options) const {
  HTL_CHECK(all_.fields.ids.is_cpu(), "htl::TableData: rows on ", all_.fields.ids.device().str(), " are gathered by a tensor on that device");
  const int64_t count = static_cast<int64_t>(picked.size());
  for (const int64_t row : picked) HTL_CHECK_INDEX(row >= 0 && row < rows(), "htl::TableData: expected rows in [0, ", rows(), "), got ", row);
  const bool pad = options.pad_to > 0;
  const int64_t total = std::max(count, options.pad_to);
  HTL_CHECK(!pad || count > 0, "htl::TableData: expected at least one row to pad to ", options.pad_to);
  const bool pinned = options.pin_memory;
  const auto take = [&](const at::Tensor& t) { return t.defined() ? gather_rows(t, picked, total, pinned) : t; };
  Batch batch;
  batch.fields = all_.fields.is_short() ? FieldBatch::of(take(all_.fields.ids)) : gather_bags(picked, total, pinned);
  batch.numeric = take(all_.numeric);
  for (const auto& [name, label] : all_.labels.tasks) {
    Label part{take(label.value), take(label.mask), take(label.weight)};
    if (pad) {
      if (!part.weight.defined()) part.weight = make({total}, at::kFloat, pinned).fill_(1.0);
      if (total > count) part.weight.slice(0, count, total).zero_();
    }
    batch.labels.set(name, std::move(part));
  }
  for (const auto& [name, column] : all_.labels.context) batch.labels.context.set(name, take(column));
  return batch;
}

}  // namespace htl
