// SPDX-License-Identifier: Apache-2.0
/// @file target_attention.hpp
/// @brief TargetAttention (DIN): a history as one vector, weighed entry by entry for the target at hand.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/detail/history_attention.hpp>
#include <htl/nn/mlp.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/zeros.h>

namespace htl::inline v0_1_0 {

/// @brief Options of TargetAttention.
///
/// Example: `TargetAttentionOptions(32).hidden({80, 40}).softmax(true)`
struct TargetAttentionOptions {
  /// @brief Attention over entries of width D.
  explicit TargetAttentionOptions(int64_t dim) : dim_(dim) {}

  /// D, the width of target and entries.
  TORCH_ARG(int64_t, dim);
  /// The widths of the attention network's hidden layers, at least one; default 80, 40.
  TORCH_ARG(std::vector<int64_t>, hidden) = {80, 40};
  /// Whether a history's weights go through a softmax; default false: the network's outputs are the weights, as in the paper, so that their sum
  /// tells how strong an interest is.
  TORCH_ARG(bool, softmax) = false;
  /// Dropout behind each ReLU, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief out = Σ_j w_j h_j, w_j = a(h_j, t) or softmax_j of it, with a network a over [h, t, h − t, h·t], for entries h_j of a history and a target t.
///
/// The network's first layer is split: W [h, t, h − t, h·t] = (W_h + W_d) h + W_p (h·t) + (W_t − W_d) t, whose last term is the same for a whole history,
/// so each entry meets 2D columns instead of 4D (exact up to rounding). **Padding has weight 0 and may hold anything; an empty history gives zeros.**
///
/// **Shapes.** History [B, L, D] with a mask [B, L] or without, or as bags: entries [N, D] and offsets [B + 1] (FieldBatch's long form of one field), and
/// targets [B, D] → [B, D]. **Children.** `first` (the layer over 4D columns: of h, t, h − t and h·t), `rest` (the other hidden layers), `output`.
/// **Gradient.** To entries, targets and layers; by hand on the CPU in fp32 and fp64 (no second derivative there). **Device.** Any; the bags' offsets are
/// trusted on CUDA and nothing synchronises. On the CPU padding is left out of the work. **RNG.** Dropout in training mode. **Cost.** An entry H_0·2D + H_0·H_1
/// + … multiply-adds, a target H_0·D.
/// **Reference.** Zhou et al., KDD 2018 (DIN), Eq. 3. Deviation: ReLU instead of Dice; [h, t, h − t, h·t] is the
/// authors' code, the paper draws an outer product.
class TargetAttentionImpl : public torch::nn::Cloneable<TargetAttentionImpl> {
 public:
  /// @brief Checks the options and makes the network.
  /// @throws c10::ValueError on widths below 1 or without hidden layers
  explicit TargetAttentionImpl(TargetAttentionOptions attention_options) : options(std::move(attention_options)) { reset(); }

  /// @brief Makes the network anew.
  void reset() override {
    HTL_CHECK(options.dim() >= 1, "htl::TargetAttention: expected a width ≥ 1, got ", options.dim());
    HTL_CHECK(!options.hidden().empty(), "htl::TargetAttention: expected at least one hidden layer, got none; give widths such as {80, 40}");
    const auto layer = [&](std::vector<int64_t> inputs, int64_t width) {
      return Dense(DenseOptions(std::move(inputs), width).activation(Activation::relu).dropout(options.dropout()).generator(options.generator()));
    };
    first_ = register_module("first", layer(std::vector<int64_t>(4, options.dim()), options.hidden()[0]));
    rest_ = Mlp(nullptr);
    const std::vector<int64_t> rest(options.hidden().begin() + 1, options.hidden().end());
    if (!rest.empty()) rest_ = register_module("rest", Mlp(MlpOptions(options.hidden()[0], rest).dropout(options.dropout()).generator(options.generator())));
    output_ = register_module("output", Dense(options.hidden().back(), 1));
  }

  /// @brief A padded history.
  /// @param history [B, L, D]
  /// @param target [B, D]
  /// @param mask [B, L] bool, true = an entry, in any places; undefined = all
  /// @return [B, D]
  /// @throws c10::ValueError on wrong shapes; c10::TypeError unless the mask is bool
  at::Tensor forward(const at::Tensor& history, const at::Tensor& target, const at::Tensor& mask = {}) {
    check_shape(who, "a history", history, {-1, -1, options.dim()});
    const int64_t rows = history.size(0), length = history.size(1);
    check_shape(who, "targets", target, {rows, options.dim()});
    if (mask.defined()) {
      check_shape(who, "a mask", mask, {rows, length});
      HTL_CHECK_TYPE(mask.scalar_type() == at::kBool, who, ": expected a mask of bools, got ", mask.scalar_type());
    }
    const at::Tensor all = history.reshape({rows * length, options.dim()}), valid = mask.defined() ? mask.reshape({-1}) : at::Tensor();
    const at::TensorOptions whole = at::TensorOptions(history.device()).dtype(at::kLong);
    if (!uses_loops(history, target)) {
      const at::Tensor row = at::arange(rows, whole).view({rows, 1}).expand({rows, length}).reshape({-1});
      auto [out, weights] = attend(valid.defined() ? all.masked_fill(valid.logical_not().unsqueeze(1), 0.0) : all, row, target, valid);
      if (keeps_weights_) kept_weights_ = weights.detach().view({rows, length});
      return out;
    }
    if (!valid.defined()) {
      auto [out, weights] = attend_in_loops(all, at::arange(rows + 1, whole) * length, target);
      if (keeps_weights_) kept_weights_ = weights.detach().view({rows, length});
      return out;
    }
    const at::Tensor places = valid.nonzero().squeeze(1), offsets = at::zeros({rows + 1}, whole);
    offsets.narrow(0, 1, rows).copy_(mask.sum(1).cumsum(0));
    auto [out, weights] = attend_in_loops(all.index_select(0, places), offsets, target);
    if (keeps_weights_) kept_weights_ = at::zeros({rows * length}, weights.options()).index_copy(0, places, weights.detach()).view({rows, length});
    return out;
  }
  /// @brief A history by its number of entries, the first of each row.
  /// @param history [B, L, D]
  /// @param target [B, D]
  /// @param lengths [B] int64, each in [0, L]
  at::Tensor forward_lengths(const at::Tensor& history, const at::Tensor& target, const at::Tensor& lengths) {
    check_shape(who, "a history", history, {-1, -1, options.dim()});
    check_shape(who, "lengths", lengths, {history.size(0)});
    return forward(history, target, at::arange(history.size(1), lengths.options()).unsqueeze(0) < lengths.unsqueeze(1));
  }
  /// @brief Histories as bags.
  /// @param entries [N, D], row by row
  /// @param offsets [B + 1] int64, from 0 to N, not decreasing: row b has entries offsets[b] … offsets[b + 1]
  /// @param target [B, D]
  /// @return [B, D]
  /// @throws c10::ValueError on wrong shapes, and on the CPU on offsets that decrease or do not run from 0 to N
  at::Tensor forward_bags(const at::Tensor& entries, const at::Tensor& offsets, const at::Tensor& target) {
    check_shape(who, "entries", entries, {-1, options.dim()});
    check_shape(who, "targets", target, {-1, options.dim()});
    const int64_t rows = target.size(0), count = entries.size(0);
    check_shape(who, "offsets", offsets, {rows + 1});
    HTL_CHECK_TYPE(offsets.scalar_type() == at::kLong, who, ": expected int64 offsets, got ", offsets.scalar_type());
    const at::Tensor lengths = offsets.narrow(0, 1, rows) - offsets.narrow(0, 0, rows);
    if (offsets.is_cpu())
      HTL_CHECK(offsets[0].item<int64_t>() == 0 && offsets[rows].item<int64_t>() == count && (rows == 0 || lengths.min().item<int64_t>() >= 0), who,
                ": expected offsets that run from 0 to ", count, " without decreasing");
    auto [out, weights] = uses_loops(entries, target)
                              ? attend_in_loops(entries, offsets.contiguous(), target)
                              : attend(entries, at::repeat_interleave(at::arange(rows, offsets.options()), lengths, 0, /*output_size=*/count), target, {});
    if (keeps_weights_) kept_weights_ = weights.detach();
    return out;
  }

  /// @brief Whether forward() keeps the weights of its last call for kept_weights(); off by default, and then forward() writes nothing to the module.
  void keep_weights(bool on = true) {
    keeps_weights_ = on;
    kept_weights_ = at::Tensor();
  }
  /// @brief The weights of the last forward, detached: [B, L], 0 in padding; or [N] of bags. Undefined where none were kept.
  const at::Tensor& kept_weights() const { return kept_weights_; }

  /// @brief One line; the layers follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::TargetAttention(dim=" << options.dim() << ", hidden=" << at::IntArrayRef(options.hidden()) << (options.softmax() ? ", softmax)" : ")");
  }

  /// The options that it was made with.
  TargetAttentionOptions options;

 private:
  static constexpr const char* who = "htl::TargetAttention";

  bool uses_loops(const at::Tensor& entries, const at::Tensor& target) const {
    const at::Tensor& weight = first_->weight;
    return detail::has_cpu_loops(weight) && !at::autocast::is_autocast_enabled(at::kCPU) && entries.device().is_cpu() && target.device().is_cpu() &&
           entries.scalar_type() == weight.scalar_type() && target.scalar_type() == weight.scalar_type();
  }
  double dropout() const { return is_training() ? options.dropout() : 0.0; }
  at::Tensor scores_of(const at::Tensor& hidden) { return output_->forward(rest_ ? rest_->forward(hidden) : hidden).squeeze(1); }

  /// Entries [N, D] in bags → [B, D], and weights [N].
  std::pair<at::Tensor, at::Tensor> attend_in_loops(const at::Tensor& entries, const at::Tensor& offsets, const at::Tensor& target) {
    const at::Tensor hidden =
        detail::EntryLayerFunction::apply(entries, target, offsets, first_->weight, first_->bias, dropout(), std::optional<at::Generator>(options.generator()));
    const auto results = detail::BagSumFunction::apply(scores_of(hidden), entries, offsets, options.softmax());
    return {results[0], results[1]};
  }
  /// Entries [N, D] of rows [N], some of which count (undefined = all) → [B, D], and weights [N].
  std::pair<at::Tensor, at::Tensor> attend(const at::Tensor& entries, const at::Tensor& row, const at::Tensor& target, const at::Tensor& valid) {
    const at::Tensor hidden =
        detail::entry_layer_tensors(entries, target, row, first_->weight, first_->bias, dropout(), std::optional<at::Generator>(options.generator()));
    return detail::bag_sum_tensors(scores_of(hidden), entries, row, target.size(0), options.softmax(), valid);
  }

  Dense first_{nullptr}, output_{nullptr};
  Mlp rest_{nullptr};
  bool keeps_weights_ = false;
  at::Tensor kept_weights_;
};
/// Holder of TargetAttentionImpl.
TORCH_MODULE(TargetAttention);

}  // namespace htl
