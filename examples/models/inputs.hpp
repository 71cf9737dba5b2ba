// SPDX-License-Identifier: Apache-2.0
/// @file inputs.hpp
/// @brief Inputs: a batch as what a model begins with: pooled fields, attended histories (DIN), embedded numbers, and numbers as they are.
#pragma once

#include <htl/embedding/field_embedding.hpp>
#include <htl/nn/periodic_embedding.hpp>
#include <htl/nn/piecewise_linear_embedding.hpp>
#include <htl/nn/target_attention.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace models {

/// A multi-valued field whose values are weighed for a target (Zhou et al., "Deep interest network", KDD 2018) instead of pooled.
struct AttendedHistory {
  int64_t history = 0;      // its position among the fields
  int64_t target = 0;       // that of the field for which its values are weighed
  bool shares_rows = true;  // its ids mean the target's rows; false = its own rows
  at::Tensor target_ids{};  // [ids of the history] int64: which of the target's ids each is, where rows are shared; undefined = the same one
};

/// What a model reads. In Batch::numeric first stand the numbers that are embedded, then those, or vectors from elsewhere, that are read as they are.
struct InputOptions {
  InputOptions(htl::FieldEmbeddingOptions embedded) : fields(std::move(embedded)) {}  // NOLINT(google-explicit-constructor): fields alone are an input

  htl::FieldEmbeddingOptions fields;
  std::vector<AttendedHistory> histories = {};
  std::vector<int64_t> attention = {80, 40};                           // the attention network's hidden layers
  std::optional<htl::PeriodicEmbeddingOptions> periodic = {};          // of the first numbers
  at::Tensor center{}, spread{};                                       // [numbers]: what periodic reads is (x − center) / spread; undefined = x
  std::optional<htl::PiecewiseLinearEmbeddingOptions> piecewise = {};  // of the first numbers, instead
  int64_t numeric_width = 0;                                           // how many numbers are read as they are

  /// How many numbers are embedded.
  int64_t embedded_numbers() const { return periodic ? periodic->features() : piecewise ? piecewise->features() : 0; }
  /// The width of all that is embedded.
  int64_t width() const {
    return static_cast<int64_t>(fields.sizes().size()) * fields.dim() + (periodic ? periodic->width() : piecewise ? piecewise->width() : 0);
  }
};

/// The embedding of all fields, and above it what is learned before the tasks' own layers begin: shared by all tasks.
class InputsImpl : public torch::nn::Module {
 public:
  explicit InputsImpl(InputOptions input_options)
      : options(std::move(input_options)), embedding(register_module("embedding", htl::FieldEmbedding(options.fields))) {
    HTL_CHECK(!options.periodic || !options.piecewise, "models::Inputs: expected one embedding of the numbers, got a periodic and a piecewise linear one");
    if (options.periodic) periodic_ = register_module("periodic", htl::PeriodicEmbedding(*options.periodic));
    if (options.piecewise) piecewise_ = register_module("piecewise", htl::PiecewiseLinearEmbedding(*options.piecewise));
    for (size_t f = 0; f < options.fields.sizes().size(); ++f) pooled_.push_back(static_cast<int64_t>(f));
    for (const AttendedHistory& of : options.histories) {
      HTL_CHECK(std::erase(pooled_, of.history) == 1, "models::Inputs: expected the position of one more field as a history, got ", of.history);
      attentions.push_back(register_module("attention_" + std::to_string(attentions.size()),
                                           htl::TargetAttention(htl::TargetAttentionOptions(options.fields.dim()).hidden(options.attention))));
    }
    for (const AttendedHistory& of : options.histories)
      HTL_CHECK(std::count(pooled_.begin(), pooled_.end(), of.target) == 1,
                "models::Inputs: expected the position of a field that is no history as the target of ", of.history, ", got ", of.target);
  }

  /// All that is embedded, [B, width()].
  at::Tensor forward(const htl::Batch& batch) {
    if (const int64_t numbers = options.embedded_numbers() + options.numeric_width; numbers > 0)
      htl::check_shape("models::Inputs", "numbers", batch.numeric, {batch.rows(), numbers});
    if (!learns()) return embedding->forward(batch);
    htl::Lookup pooled = attentions.empty() ? embedding->lookup(batch) : embedding->lookup(batch.fields.select(pooled_), pooled_);
    std::vector<at::Tensor> parts{pooled.values()};
    for (size_t h = 0; h < attentions.size(); ++h) {
      const AttendedHistory& of = options.histories[h];
      const htl::FieldBatch history = batch.fields.select({of.history}).as_bags();
      const at::Tensor ids = of.target_ids.defined() ? of.target_ids.to(history.ids.device()).index_select(0, history.ids) : history.ids;
      const at::Tensor entries = embedding->lookup(htl::FieldBatch::of(ids.unsqueeze(1)), {of.shares_rows ? of.target : of.history}).values();
      const int64_t place = std::find(pooled_.begin(), pooled_.end(), of.target) - pooled_.begin(), dim = options.fields.dim();
      parts.push_back(attentions[h]->forward_bags(entries, history.offsets, parts.front().narrow(1, place * dim, dim).contiguous()));
    }
    if (periodic_) {
      const at::Tensor numbers = batch.numeric.narrow(1, 0, options.embedded_numbers());
      parts.push_back(
          periodic_->forward(options.center.defined() ? numbers.sub(options.center.to(numbers.device())).div(options.spread.to(numbers.device())) : numbers));
    }
    if (piecewise_) parts.push_back(piecewise_->forward(batch.numeric.narrow(1, 0, options.embedded_numbers())));
    return at::cat(parts, 1);
  }
  /// The numbers as they are, [B, numeric_width]; undefined where there are none.
  at::Tensor numbers(const htl::Batch& batch) const {
    return options.numeric_width > 0 ? batch.numeric.narrow(1, options.embedded_numbers(), options.numeric_width) : at::Tensor();
  }
  /// Whether there is more to learn than the embedding.
  bool learns() const { return periodic_ || piecewise_ || !attentions.empty(); }

  InputOptions options;
  htl::FieldEmbedding embedding;
  std::vector<htl::TargetAttention> attentions;  // over each history; its weights can be read

 private:
  std::vector<int64_t> pooled_;
  htl::PeriodicEmbedding periodic_{nullptr};
  htl::PiecewiseLinearEmbedding piecewise_{nullptr};
};
TORCH_MODULE(Inputs);

}  // namespace models
