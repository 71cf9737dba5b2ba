// SPDX-License-Identifier: Apache-2.0
/// @file id_writer.hpp
/// @brief IdWriter: the ids of rows, field by field, in the short form or the long one.
#pragma once

#include <examples/htlnet/data/chunks.hpp>

#include <htl/data/field_batch.hpp>

#include <cstdint>
#include <span>

namespace htlnet {

/// @brief Which form ids are written in.
enum class Bags {
  none,     ///< one id a field: the short form
  summed,   ///< the long form
  averaged  ///< the long form with a weight for each id, so that some bags can be means
};

/// @brief Takes one field after the other of one row after the other.
class IdWriter {
 public:
  /// @brief Nothing written.
  /// @param fields how many a row has
  /// @param bags the form
  IdWriter(int64_t fields, Bags bags) : fields_(fields), bags_(bags) {
    if (bags_ != Bags::none) ends_.push_back(0);
  }
  /// @brief A field with one id.
  void one(int32_t id) { add({&id, 1}, 1.0F); }
  /// @brief A field with any number of ids, which are added up.
  void sum(std::span<const int32_t> ids) { add(ids, 1.0F); }
  /// @brief A field with any number of ids, which weigh 1 together: a long list is not a long vector. For Bags::averaged.
  void mean(std::span<const int32_t> ids) { add(ids, 1.0F / static_cast<float>(ids.size())); }
  /// @brief All that was written; nothing is left.
  htl::FieldBatch finish() {
    if (bags_ == Bags::none) {
      const int64_t rows = static_cast<int64_t>(ids_.size()) / fields_;
      return htl::FieldBatch::of(ids_.to_tensor().view({rows, fields_}));
    }
    at::Tensor ids = ids_.to_tensor(), ends = ends_.to_tensor();
    return htl::FieldBatch::bags(std::move(ids), std::move(ends), fields_, bags_ == Bags::averaged ? weights_.to_tensor() : at::Tensor());
  }

 private:
  void add(std::span<const int32_t> ids, float weight) {
    for (const int32_t id : ids) {
      ids_.push_back(id);
      if (bags_ == Bags::averaged) weights_.push_back(weight);
    }
    if (bags_ != Bags::none) ends_.push_back(static_cast<int64_t>(ids_.size()));
  }

  int64_t fields_;
  Bags bags_;
  Chunks<int32_t> ids_;
  Chunks<int64_t> ends_;
  Chunks<float> weights_;
};

}  // namespace htlnet
