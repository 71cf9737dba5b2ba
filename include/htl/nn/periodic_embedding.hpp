// SPDX-License-Identifier: Apache-2.0
/// @file periodic_embedding.hpp
/// @brief PeriodicEmbedding: numbers as sines and cosines of learnt frequencies.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/grouped_dense.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/sin.h>

namespace htl::inline v0_1_0 {

/// @brief Options of PeriodicEmbedding.
///
/// Example: `PeriodicEmbeddingOptions(12, 16).dim(10).sigma(0.1)`
struct PeriodicEmbeddingOptions {
  /// @brief An embedding of N numbers.
  /// @param features N ≥ 1
  /// @param frequencies k ≥ 1, of each
  PeriodicEmbeddingOptions(int64_t features, int64_t frequencies) : features_(features), frequencies_(frequencies) {}
  /// @brief N·d, or N·2k: the width of the result.
  int64_t width() const { return features_ * (dim_ > 0 ? dim_ : 2 * frequencies_); }

  /// N.
  TORCH_ARG(int64_t, features);
  /// k.
  TORCH_ARG(int64_t, frequencies);
  /// d: each number's 2k waves go through a linear layer of its own to d values; 0 (default) = the waves themselves.
  TORCH_ARG(int64_t, dim) = 0;
  /// What follows that layer; default relu.
  TORCH_ARG(Activation, activation) = Activation::relu;
  /// Standard deviation of the frequencies at first, > 0; default 0.1. The one option to tune: the paper tries 0.01 … 100.
  TORCH_ARG(double, sigma) = 0.1;
};

/// @brief p_i = [sin(2π c_i x_i), cos(2π c_i x_i)] with learnt frequencies c_i ∈ ℝᵏ; result p_i, or act(W_i p_i + b_i), number by number.
///
/// Numbers should be scaled to about unit spread; a missing one must have a stand-in (FeatureMap::Numeric::missing), for NaN stays NaN.
/// **Shapes.** [B, N] → [B, N·2k], or [B, N·d]. **Parameters.** `frequencies` [N, k], drawn from N(0, sigma²); child `linear` (GroupedDense) where dim is set.
/// **Gradient.** To parameters and numbers. **Device.** Any; no synchronisation. **Cost.** 2·B·N·k waves, and B·N·2k·d multiply-adds.
/// **Reference.** Gorishniy et al., NeurIPS 2022, "On embeddings for numerical features": P, and with dim PLR (relu) or PL (none).
class PeriodicEmbeddingImpl : public torch::nn::Cloneable<PeriodicEmbeddingImpl> {
 public:
  /// @brief Checks the options and makes the parameters.
  /// @throws c10::ValueError on sizes below 1 or sigma ≤ 0
  explicit PeriodicEmbeddingImpl(const PeriodicEmbeddingOptions& embedding_options) : options(embedding_options) { reset(); }

  /// @brief Makes the parameters anew; from the default generator.
  void reset() override {
    HTL_CHECK(options.features() >= 1 && options.frequencies() >= 1, "htl::PeriodicEmbedding: expected at least one number and one frequency, got ",
              options.features(), " and ", options.frequencies());
    HTL_CHECK(options.dim() >= 0, "htl::PeriodicEmbedding: expected dim ≥ 0, got ", options.dim());
    HTL_CHECK(options.sigma() > 0.0, "htl::PeriodicEmbedding: expected sigma > 0, got ", options.sigma());
    frequencies = register_parameter("frequencies", at::empty({options.features(), options.frequencies()}));
    torch::nn::init::normal_(frequencies, 0.0, options.sigma());
    linear_ = GroupedDense(nullptr);
    if (options.dim() > 0)
      linear_ = register_module(
          "linear", GroupedDense(GroupedDenseOptions(options.features(), 2 * options.frequencies(), options.dim()).activation(options.activation())));
  }

  /// @brief Numbers [B, N] → [B, width()].
  /// @throws c10::ValueError on another shape
  at::Tensor forward(const at::Tensor& numbers) {
    check_shape("htl::PeriodicEmbedding", "numbers", numbers, {-1, options.features()});
    constexpr double two_pi = 6.283185307179586;
    const at::Tensor angles = numbers.unsqueeze(2) * (frequencies * two_pi);
    const at::Tensor waves = at::cat({at::sin(angles), at::cos(angles)}, 2).view({numbers.size(0), options.features() * 2 * options.frequencies()});
    return linear_ ? linear_->forward(waves) : waves;
  }
  /// @brief N·d, or N·2k.
  int64_t width() const { return options.width(); }

  /// @brief One line: sizes and sigma.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::PeriodicEmbedding(features=" << options.features() << ", frequencies=" << options.frequencies() << ", dim=" << options.dim()
           << ", sigma=" << options.sigma() << ")";
  }

  /// The options that it was made with.
  PeriodicEmbeddingOptions options;
  /// [N, k].
  at::Tensor frequencies;

 private:
  GroupedDense linear_{nullptr};
};
/// Holder of PeriodicEmbeddingImpl.
TORCH_MODULE(PeriodicEmbedding);

}  // namespace htl
