// SPDX-License-Identifier: Apache-2.0
/// @file piecewise_linear_embedding.hpp
/// @brief PiecewiseLinearEmbedding: how far a number has come in each of its bins; quantile_edges(): the bins of training numbers.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/detail/keep_value.hpp>
#include <htl/nn/grouped_dense.hpp>
#include <htl/task/sorted_quantile.hpp>

#include <ATen/ops/clamp.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>

namespace htl::inline v0_1_0 {

/// @brief For each column the distinct quantiles 0, 1/M, …, 1 of its numbers (linear interpolation): the edges of at most M bins with equally many numbers.
///
/// Reads the numbers on the host: for preparing a model, not for a step. NaN counts as missing.
/// @param numbers [n, N] of training, any floating type
/// @param bins M ≥ 1
/// @return N lists of 2 … M + 1 rising edges
/// @throws c10::ValueError on another shape, bins below 1, infinite numbers, or a column with fewer than two different numbers
template <class = void>
std::vector<std::vector<double>> quantile_edges(const at::Tensor& numbers, int64_t bins) {
  check_shape("htl::quantile_edges", "numbers", numbers, {-1, -1});
  HTL_CHECK(bins >= 1, "htl::quantile_edges: expected at least one bin, got ", bins);
  std::vector<std::vector<double>> result;
  for (int64_t column = 0; column < numbers.size(1); ++column) {
    const at::Tensor all = numbers.detach().select(1, column).to(at::kCPU, at::kDouble).contiguous();
    std::vector<double> sorted;
    for (int64_t i = 0; i < all.size(0); ++i)
      if (const double number = all.const_data_ptr<double>()[i]; !std::isnan(number)) sorted.push_back(number);
    std::sort(sorted.begin(), sorted.end());
    HTL_CHECK(sorted.size() >= 2 && sorted.front() < sorted.back(), "htl::quantile_edges: column ", column,
              " has fewer than two different numbers, so it says nothing; leave it out");
    HTL_CHECK(std::isfinite(sorted.front()) && std::isfinite(sorted.back()), "htl::quantile_edges: column ", column,
              " has infinite numbers; clip them or make them missing (NaN)");
    std::vector<double> edges;
    for (int64_t m = 0; m <= bins; ++m) {
      const double edge = detail::quantile_of(sorted, static_cast<double>(m) / static_cast<double>(bins));
      if (edges.empty() || edge > edges.back()) edges.push_back(edge);
    }
    result.push_back(std::move(edges));
  }
  return result;
}

/// @brief Options of PiecewiseLinearEmbedding.
///
/// Example: `PiecewiseLinearEmbeddingOptions(quantile_edges(train.numeric, 20)).dim(10)`
struct PiecewiseLinearEmbeddingOptions {
  /// @brief Bins between given edges.
  /// @param edges for each number its rising edges, at least 2; M is the largest number of bins
  explicit PiecewiseLinearEmbeddingOptions(std::vector<std::vector<double>> edges) : edges_(std::move(edges)) {}
  /// @brief N.
  int64_t features() const { return static_cast<int64_t>(edges_.size()); }
  /// @brief M, the most bins that a number has.
  int64_t bins() const {
    size_t most = 0;
    for (const std::vector<double>& of : edges_) most = std::max(most, of.size());
    return static_cast<int64_t>(most) - 1;
  }
  /// @brief N·d, or N·M: the width of the result.
  int64_t width() const { return features() * (dim_ > 0 ? dim_ : bins()); }

  /// The edges of each number.
  TORCH_ARG(std::vector<std::vector<double>>, edges);
  /// d: each number's M values go through a linear layer of its own to d values; 0 (default) = the M values themselves.
  TORCH_ARG(int64_t, dim) = 0;
  /// What follows that layer; default relu.
  TORCH_ARG(Activation, activation) = Activation::relu;
};

/// @brief e_im = (x_i − b_{m−1})/(b_m − b_{m−1}), at least 0 but in the first bin, at most 1 but in the last; result e_i, or act(W_i e_i + b_i).
///
/// Bins that a number has fewer of than M are 0. A missing number must have a stand-in (FeatureMap::Numeric::missing), for NaN stays NaN.
/// (A number as the id of its bucket is a field: FieldKind::bucketised.)
/// **Shapes.** [B, N] → [B, N·M], or [B, N·d]. **State.** Buffer `edges` [N, M + 1], fp64 (kept by `to`), the last edge repeated where bins are missing;
/// child `linear` (GroupedDense) where dim is set. **Gradient.** To the linear layers, and to the numbers: one bin's slope each.
/// **Device.** Any; no synchronisation. **Cost.** B·N·M, and B·N·M·d multiply-adds.
/// **Reference.** Gorishniy et al., NeurIPS 2022, "On embeddings for numerical features": PLE, and with dim PLE-LR (relu) or PLE-L (none).
class PiecewiseLinearEmbeddingImpl : public torch::nn::Cloneable<PiecewiseLinearEmbeddingImpl> {
 public:
  /// @brief Checks the options and makes edges and layers.
  /// @throws c10::ValueError without numbers, or on edges that are fewer than 2, not finite or not rising
  explicit PiecewiseLinearEmbeddingImpl(PiecewiseLinearEmbeddingOptions embedding_options) : options(std::move(embedding_options)) { reset(); }

  /// @brief Makes edges and layers anew.
  void reset() override {
    constexpr const char* who = "htl::PiecewiseLinearEmbedding";
    HTL_CHECK(!options.edges().empty(), who, ": expected edges of at least one number, got none");
    HTL_CHECK(options.dim() >= 0, who, ": expected dim ≥ 0, got ", options.dim());
    for (size_t i = 0; i < options.edges().size(); ++i) {
      const std::vector<double>& of = options.edges()[i];
      HTL_CHECK(of.size() >= 2, who, ": expected at least 2 edges for number ", i, ", got ", of.size());
      for (size_t m = 0; m < of.size(); ++m)
        HTL_CHECK(std::isfinite(of[m]) && (m == 0 || of[m] > of[m - 1]), who, ": expected finite edges that rise for number ", i, ", got ", at::ArrayRef(of));
    }
    const auto most = static_cast<size_t>(bins());
    std::vector<double> padded;
    for (const std::vector<double>& of : options.edges())
      for (size_t m = 0; m <= most; ++m) padded.push_back(of[std::min(m, of.size() - 1)]);
    edges = register_buffer("edges", at::tensor(padded, at::kDouble).view({features(), bins() + 1}));
    linear_ = GroupedDense(nullptr);
    if (options.dim() > 0)
      linear_ = register_module("linear", GroupedDense(GroupedDenseOptions(features(), bins(), options.dim()).activation(options.activation())));
  }

  /// @brief Numbers [B, N] → [B, width()].
  /// @throws c10::ValueError on another shape
  at::Tensor forward(const at::Tensor& numbers) {
    check_shape("htl::PiecewiseLinearEmbedding", "numbers", numbers, {-1, features()});
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const at::Tensor lower = edges.narrow(1, 0, bins()), upper = edges.narrow(1, 1, bins()), width_of = upper - lower;
    const at::Tensor exists = width_of.gt(0.0), slope = at::where(exists, width_of.reciprocal(), 0.0);
    at::Tensor least = at::zeros_like(lower), most = exists.to(at::kDouble);
    most = most.masked_fill(exists.logical_and(upper.eq(edges.narrow(1, bins(), 1))), infinity);
    least.select(1, 0).fill_(-infinity);
    const at::ScalarType type = numbers.scalar_type();
    const at::Tensor come = (numbers.unsqueeze(2) - lower.to(type)) * slope.to(type);
    const at::Tensor values =
        at::clamp(come, std::optional<at::Tensor>(least.to(type)), std::optional<at::Tensor>(most.to(type))).view({numbers.size(0), features() * bins()});
    return linear_ ? linear_->forward(values) : values;
  }
  /// @brief N.
  int64_t features() const { return options.features(); }
  /// @brief M, the most bins that a number has.
  int64_t bins() const { return options.bins(); }
  /// @brief N·d, or N·M.
  int64_t width() const { return options.width(); }

  using Module::to;
  /// @brief Moves all and casts the layers; the edges keep type and value.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override {
    detail::keep_value(edges, [&] { Module::to(device, dtype, non_blocking); });
  }
  /// @brief Casts the layers; the edges keep type and value.
  void to(torch::Dtype dtype, bool non_blocking = false) override {
    detail::keep_value(edges, [&] { Module::to(dtype, non_blocking); });
  }

  /// @brief One line: sizes.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::PiecewiseLinearEmbedding(features=" << features() << ", bins=" << bins() << ", dim=" << options.dim() << ")";
  }

  /// The options that it was made with.
  PiecewiseLinearEmbeddingOptions options;
  /// [N, M + 1] fp64.
  at::Tensor edges;

 private:
  GroupedDense linear_{nullptr};
};
/// Holder of PiecewiseLinearEmbeddingImpl.
TORCH_MODULE(PiecewiseLinearEmbedding);

}  // namespace htl
