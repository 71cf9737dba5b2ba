// SPDX-License-Identifier: Apache-2.0
/// @file information_fusion.hpp
/// @brief InformationFusion (IFU): what several earlier tasks know, as one vector; and the concept that replaces it.
#pragma once

#include <htl/nn/dense.hpp>
#include <htl/nn/made_from.hpp>
#include <htl/transfer/detail/attention_mix.hpp>
#include <htl/transfer/detail/choice.hpp>

#include <algorithm>
#include <concepts>

namespace htl::inline v0_1_0 {

/// @brief How sources are fused.
enum class FusionKind {
  attention,  ///< weights by self-attention scores (default)
  concat,     ///< one linear map of all sources side by side
  mean,       ///< equal weights
  gate        ///< weights by a softmax gate that sees all sources
};

namespace detail {
inline const Choices<FusionKind>& fusion_kind_names() {
  static const Choices<FusionKind> names{
      {"attention", FusionKind::attention}, {"concat", FusionKind::concat}, {"mean", FusionKind::mean}, {"gate", FusionKind::gate}};
  return names;
}
}  // namespace detail

/// @brief A kind by its name: "attention", "concat", "mean", "gate".
/// @throws c10::ValueError naming the nearest name
inline FusionKind fusion_kind(std::string_view name) { return detail::choose("htl::fusion_kind", name, detail::fusion_kind_names()); }
/// @brief The name of a kind.
inline std::string to_string(FusionKind kind) { return detail::name_of(kind, detail::fusion_kind_names()); }

/// @brief Options of InformationFusion.
///
/// Example: `InformationFusionOptions({128, 128}, 128).kind(FusionKind::gate)`
struct InformationFusionOptions {
  /// @brief A fusion of J sources.
  /// @param sources the widths D_j, at least one
  /// @param outputs O ≥ 1
  InformationFusionOptions(std::vector<int64_t> sources, int64_t outputs) : sources_(std::move(sources)), outputs_(outputs) {}

  /// The widths D_j.
  TORCH_ARG(std::vector<int64_t>, sources);
  /// O.
  TORCH_ARG(int64_t, outputs);
  /// How sources are fused; default attention.
  TORCH_ARG(FusionKind, kind) = FusionKind::attention;
  /// Whether the maps have biases; default true. AITM's have none.
  TORCH_ARG(bool, bias) = true;
};

/// @brief What can stand in for an InformationFusion: a module holder made from InformationFusionOptions.
///
/// - `unit->forward(sources)`: J tensors [B, D_j] → [B, O];
/// - optional, faster: `unit->forward_mapped(sources)` → MappedPart, whose map the receiving tower composes with its first layer.
template <class U>
concept TaskFusion = MadeFrom<U, const InformationFusionOptions&> && requires(U& unit, const std::vector<at::Tensor>& sources) {
  { unit->forward(sources) } -> std::same_as<at::Tensor>;
};

/// @brief Information Fusion Unit: out = Σ_j w_j h1(u_j) over the preceding tasks' vectors u_j.
///
/// attention: w = softmax_j(<h2 u_j, h3 u_j> / √O) · mean: w_j = 1/J · gate: w = softmax(G [u_1 … u_J] + c) · concat: out = h1 [u_1 … u_J], no weights.
/// h1, h2, h3 are linear, with bias by default. Σ w_j = 1, so h1 runs once, on Σ w_j u_j (exact); and <h2 u, h3 u> = uᵀ(W2ᵀ W3)u + (W2ᵀ b3 + W3ᵀ b2)·u + const,
/// so one [D, D] product per source replaces two maps (exact up to rounding; the constant cancels). **One source: out = h1(u), and only h1 exists.** Sources of
/// different widths have their own columns of each map: h(u_j) = W[:, columns of j] u_j + b; the formulas stay.
///
/// **Shapes.** J tensors [B, D_j] → [B, O]. **Gradient.** To all sources and maps; by hand on the CPU in fp32 and fp64 (no second derivative there).
/// **Device.** Any; no synchronisation. **Parameters.** `value` = h1, `query` = h2, `key` = h3, `gate` = G; each a Dense with `weight`, `bias`.
/// **Cost.** attention: B·D·(J·D + O) multiply-adds forward. **Reference.** Tang et al., RecSys 2024, Eq. 13 and 14; AITM's attention in all but the maps'
/// sizes.
class InformationFusionImpl : public torch::nn::Cloneable<InformationFusionImpl> {
 public:
  /// @brief Checks the options and makes the maps.
  /// @throws c10::ValueError without sources, or on widths below 1
  explicit InformationFusionImpl(InformationFusionOptions unit_options) : options(std::move(unit_options)) { reset(); }

  /// @brief Makes the maps anew.
  void reset() override {
    HTL_CHECK(!options.sources().empty(), "htl::InformationFusion: expected at least one source, got none");
    for (const int64_t width : options.sources())
      HTL_CHECK(width >= 1, "htl::InformationFusion: expected source widths ≥ 1, got ", at::IntArrayRef(options.sources()));
    HTL_CHECK(options.outputs() >= 1, "htl::InformationFusion: expected at least one output, got ", options.outputs());
    const bool has_several = options.sources().size() > 1;
    const bool has_scores = has_several && options.kind() == FusionKind::attention;
    const std::vector<int64_t> mapped = is_concatenated() ? options.sources() : std::vector<int64_t>{options.sources().front()};
    value_ = register_module("value", Dense(DenseOptions(mapped, options.outputs()).bias(options.bias())));
    query_ = has_scores ? register_module("query", Dense(DenseOptions(mapped, options.outputs()).bias(options.bias()))) : Dense(nullptr);
    key_ = has_scores ? register_module("key", Dense(DenseOptions(mapped, options.outputs()).bias(options.bias()))) : Dense(nullptr);
    gate_ = has_several && options.kind() == FusionKind::gate
                ? register_module("gate", Dense(DenseOptions(options.sources(), static_cast<int64_t>(options.sources().size())).bias(options.bias())))
                : Dense(nullptr);
  }

  /// @brief Sources u_j [B, D_j] → [B, O].
  at::Tensor forward(const std::vector<at::Tensor>& sources) {
    return value_->forward(maps_once(sources) ? std::vector{mix(sources)} : mapped_columns(sources));
  }
  /// @brief The same before h1: Σ_j w_j u_j [B, D] with h1 as its map, where that is one vector; else the finished result without a map.
  MappedPart forward_mapped(const std::vector<at::Tensor>& sources) {
    if (!maps_once(sources)) return {forward(sources), {}, {}};
    return {mix(sources), value_->weight, bias_of(value_)};
  }

  /// @brief The weights w [B, J] for given sources; rows sum to 1. Differentiable.
  /// @throws c10::Error for concat, which has none
  at::Tensor weights(const std::vector<at::Tensor>& sources) {
    check_sources(sources);
    HTL_CHECK_STATE(options.kind() != FusionKind::concat, "htl::InformationFusion: concat has no weights; use attention, mean or gate");
    return mixture_of(sources);
  }
  /// @brief Whether forward() keeps the weights of its last call for kept_weights(); off by default.
  void keep_weights(bool on = true) {
    keeps_weights_ = on;
    kept_weights_ = at::Tensor();
  }
  /// @brief [B, J] the weights of the last forward, detached; undefined where none were kept, for one source and for concat.
  const at::Tensor& kept_weights() const { return kept_weights_; }

  /// @brief One line; the maps follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::InformationFusion(sources=" << at::IntArrayRef(options.sources()) << ", outputs=" << options.outputs()
           << ", kind=" << to_string(options.kind()) << (options.bias() ? ")" : ", without bias)");
  }

  /// The options that it was made with.
  InformationFusionOptions options;

 private:
  static at::Tensor bias_of(const Dense& map) { return map->bias.defined() ? map->bias : at::zeros({map->options.outputs()}, map->weight.options()); }
  bool has_equal_widths() const {
    return std::all_of(options.sources().begin(), options.sources().end(), [&](int64_t width) { return width == options.sources().front(); });
  }
  bool is_concatenated() const { return options.kind() == FusionKind::concat || !has_equal_widths(); }

  void check_sources(const std::vector<at::Tensor>& sources) const {
    HTL_CHECK(sources.size() == options.sources().size(), "htl::InformationFusion: expected ", options.sources().size(), " sources of widths ",
              at::IntArrayRef(options.sources()), ", got ", sources.size());
    for (size_t j = 0; j < sources.size(); ++j)
      check_shape("htl::InformationFusion", c10::str("source ", j), sources[j], {j == 0 ? -1 : sources[0].size(0), options.sources()[j]});
  }

  // Writes nothing where nothing is kept, so that one model can serve several threads
  void keep(const at::Tensor& weights) {
    if (keeps_weights_) kept_weights_ = weights.defined() ? weights.detach() : weights;
  }
  bool maps_once(const std::vector<at::Tensor>& sources) const { return sources.size() == 1 || !is_concatenated(); }

  // Σ_j w_j u_j [B, D]
  at::Tensor mix(const std::vector<at::Tensor>& sources) {
    check_sources(sources);
    keep({});
    if (sources.size() == 1) return sources[0];
    if (uses_loops(sources)) {
      auto [mixed, attention] = detail::attention_mix(sources, query_->weight, bias_of(query_), key_->weight, bias_of(key_));
      keep(attention);
      return mixed;
    }
    const std::vector<at::Tensor> scaled = scaled_by_weights(sources);
    at::Tensor mixed = scaled[0];
    for (size_t j = 1; j < scaled.size(); ++j) mixed = mixed + scaled[j];
    return mixed;
  }
  // What each source's own columns of h1 are applied to
  std::vector<at::Tensor> mapped_columns(const std::vector<at::Tensor>& sources) {
    check_sources(sources);
    keep({});
    return options.kind() == FusionKind::concat ? sources : scaled_by_weights(sources);
  }
  std::vector<at::Tensor> scaled_by_weights(const std::vector<at::Tensor>& sources) {
    const at::Tensor mixture = mixture_of(sources);
    keep(mixture);
    std::vector<at::Tensor> scaled;
    for (size_t j = 0; j < sources.size(); ++j) scaled.push_back(sources[j] * mixture.narrow(1, static_cast<int64_t>(j), 1).to(sources[j].scalar_type()));
    return scaled;
  }

  bool uses_loops(const std::vector<at::Tensor>& sources) const {
    return options.kind() == FusionKind::attention && !is_concatenated() && detail::has_cpu_loops(query_->weight) &&
           std::all_of(sources.begin(), sources.end(),
                       [&](const at::Tensor& u) { return u.device().is_cpu() && u.scalar_type() == query_->weight.scalar_type(); });
  }

  at::Tensor mixture_of(const std::vector<at::Tensor>& sources) {
    const auto count = static_cast<int64_t>(sources.size());
    if (count == 1) return at::ones({sources[0].size(0), 1}, sources[0].options());
    if (options.kind() == FusionKind::mean) return at::full({sources[0].size(0), count}, 1.0 / static_cast<double>(count), sources[0].options());
    if (options.kind() == FusionKind::gate) return gate_->forward(sources).softmax(1);
    std::vector<at::Tensor> scores;
    int64_t column = 0;
    for (const at::Tensor& source : sources) {
      const int64_t start = is_concatenated() ? column : 0;
      const at::Tensor query = linear_parts({source}, query_->weight.narrow(1, start, source.size(1)), query_->bias);
      const at::Tensor key = linear_parts({source}, key_->weight.narrow(1, start, source.size(1)), key_->bias);
      scores.push_back((query * key).sum(1, /*keepdim=*/true));
      column += source.size(1);
    }
    return (at::cat(scores, 1) / std::sqrt(static_cast<double>(options.outputs()))).softmax(1);
  }

  Dense value_{nullptr}, query_{nullptr}, key_{nullptr}, gate_{nullptr};
  bool keeps_weights_ = false;
  at::Tensor kept_weights_;
};
/// Holder of InformationFusionImpl.
TORCH_MODULE(InformationFusion);

}  // namespace htl
