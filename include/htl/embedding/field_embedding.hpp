// SPDX-License-Identifier: Apache-2.0
/// @file field_embedding.hpp
/// @brief FieldEmbedding: the embeddings of all fields in one table, looked up in one pass.
#pragma once

#include <htl/data/batch.hpp>
#include <htl/embedding/lookup.hpp>
#include <htl/task/large_memory.hpp>

#include <torch/csrc/api/include/torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <numeric>
#include <ostream>

namespace htl::inline v0_1_0 {

/// @brief What a feature map must say: the fields' names, and how many ids each has (id 0 included).
template <class M>
concept FieldVocabulary = requires(const M& map) {
  { map.names() } -> std::convertible_to<std::vector<std::string>>;
  { map.sizes() } -> std::convertible_to<std::vector<int64_t>>;
};

/// @brief Options of FieldEmbedding.
struct FieldEmbeddingOptions {
  /// @brief Fields by their sizes.
  /// @param sizes number of ids of each field, id 0 included
  /// @param dim width of one embedding
  FieldEmbeddingOptions(std::vector<int64_t> sizes, int64_t dim) : sizes_(std::move(sizes)), dim_(dim) {}
  /// @brief Fields from a feature map.
  template <FieldVocabulary Map>
  FieldEmbeddingOptions(const Map& features, int64_t dim) : sizes_(features.sizes()), dim_(dim), names_(features.names()) {}

  /// Number of ids of each field.
  TORCH_ARG(std::vector<int64_t>, sizes);
  /// d, the width of one embedding.
  TORCH_ARG(int64_t, dim);
  /// Names for error sentences; empty = "0", "1", ….
  TORCH_ARG(std::vector<std::string>, names) = {};
  /// What happens to an id outside its field.
  TORCH_ARG(UnknownIds, unknown_ids) = UnknownIds::error;
  /// How bags are reduced.
  TORCH_ARG(Pooling, pooling) = Pooling::sum;
  /// Freezes id 0 of every field at zero: padding, or unknown values that should say nothing.
  TORCH_ARG(bool, frozen_zero) = false;
  /// Standard deviation of the initial rows ~ N(0, sd²).
  TORCH_ARG(double, initial_sd) = 0.01;
  /// Also hand the row gradient to `weight.grad()` as a sparse COO tensor, for foreign optimizers (RowTable::coo_gradient).
  TORCH_ARG(bool, coo_gradient) = false;
};

/// @brief All fields' embeddings in one table [Σ sizes, d].
///
/// `lookup(batch)` gives a Lookup: hand it to a gradient fork, or take its `values()` [B, F·d]. `forward` is the latter.
/// **Gradient**: to touched rows only, in `table().gradient()` (or also `.grad()`, by coo_gradient). **Cost**: O(B·F·d) a step, whatever the table's size.
/// **Names**: the only parameter is `weight`.
class FieldEmbeddingImpl : public torch::nn::Cloneable<FieldEmbeddingImpl>, public RowTableOwner {
 public:
  /// @brief From sizes or a feature map, and d.
  template <class Fields>
  FieldEmbeddingImpl(const Fields& fields, int64_t dim) : FieldEmbeddingImpl(FieldEmbeddingOptions(fields, dim)) {}
  /// @brief From options.
  /// @throws c10::ValueError without fields, on sizes or d below 1, on names that don't match the sizes, or beyond 2³¹ − 1 rows
  explicit FieldEmbeddingImpl(FieldEmbeddingOptions values) : options(std::move(values)) { reset(); }

  /// @brief Registers and draws the table (LibTorch's default generator).
  void reset() override {
    const std::vector<int64_t>& sizes = options.sizes();
    HTL_CHECK(!sizes.empty(), "htl::FieldEmbedding: expected at least one field, got none");
    HTL_CHECK(options.dim() > 0, "htl::FieldEmbedding: expected dim ≥ 1, got ", options.dim());
    HTL_CHECK(options.names().empty() || options.names().size() == sizes.size(), "htl::FieldEmbedding: expected a name for each of the ", sizes.size(),
              " fields, got ", options.names().size());
    HTL_CHECK(options.initial_sd() >= 0.0, "htl::FieldEmbedding: expected initial_sd ≥ 0, got ", options.initial_sd());
    fields_.clear();
    int64_t rows = 0;
    for (size_t f = 0; f < sizes.size(); ++f) {
      const std::string name = options.names().empty() ? std::to_string(f) : options.names()[f];
      HTL_CHECK(sizes[f] > 0, "htl::FieldEmbedding: expected field \"", name, "\" to have at least one id, got ", sizes[f]);
      fields_.push_back({rows, sizes[f], options.frozen_zero(), name});
      rows += sizes[f];
      HTL_CHECK(rows <= std::numeric_limits<int32_t>::max(), "htl::FieldEmbedding: expected at most 2³¹ − 1 rows in all, got more up to field \"", name,
                "\"; hash or prune the vocabulary");
    }
    weight = register_parameter("weight", at::empty({rows, options.dim()}, at::kFloat));
    detail::ask_for_huge_pages(weight);
    {
      const c10::AutoGradMode without_graph(false);
      weight.normal_(0.0, options.initial_sd());
      if (options.frozen_zero())
        for (const FieldRows& field : fields_) weight.select(0, field.first_row).zero_();
    }
    table_ = RowTable(weight, "weight", {.coo_gradient = options.coo_gradient()});
  }
  /// @brief Prints "htl::FieldEmbedding(fields=43, rows=36000, dim=10)".
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::FieldEmbedding(fields=" << fields_.size() << ", rows=" << weight.size(0) << ", dim=" << options.dim() << ")";
  }

  /// @brief Looks up a batch. See htl::lookup() for errors and cost.
  Lookup lookup(const Batch& batch) { return lookup(batch.fields); }
  /// @brief Looks up the ids of all fields.
  Lookup lookup(const FieldBatch& batch) { return htl::lookup(table_, batch, fields_, options.pooling(), options.unknown_ids()); }
  /// @brief Looks up ids of some of its fields, or in some fields' rows: field i of the batch in the rows of field `of[i]`, [B, len(of)·d].
  ///
  /// A history's entries, one by one, in the rows of the target that they are compared with:
  /// `lookup(FieldBatch::of(batch.fields.select({history}).ids.unsqueeze(1)), {target})`.
  /// @throws c10::IndexError for a position that is no field
  Lookup lookup(const FieldBatch& batch, const std::vector<int64_t>& of) {
    std::vector<FieldRows> rows;
    for (const int64_t position : of) {
      HTL_CHECK_INDEX(position >= 0 && position < static_cast<int64_t>(fields_.size()), "htl::FieldEmbedding: expected positions of its ", fields_.size(),
                      " fields, got ", position);
      rows.push_back(fields_[static_cast<size_t>(position)]);
    }
    return htl::lookup(table_, batch, rows, options.pooling(), options.unknown_ids());
  }
  /// @brief [B, F·d] differentiable values.
  at::Tensor forward(const Batch& batch) { return lookup(batch).values(); }

  /// @brief F·d.
  int64_t width() const { return static_cast<int64_t>(fields_.size()) * options.dim(); }
  /// @brief The table, for optimizers.
  const RowTable& table() const { return table_; }
  /// @brief The table, for optimizers that ask a module.
  std::vector<RowTable> row_tables() const override { return {table_}; }
  /// @brief Which rows each field's ids mean.
  const std::vector<FieldRows>& fields() const { return fields_; }

  /// The options.
  FieldEmbeddingOptions options;
  /// [Σ sizes, d].
  at::Tensor weight;

 private:
  std::vector<FieldRows> fields_;
  RowTable table_;
};
TORCH_MODULE(FieldEmbedding);

}  // namespace htl
