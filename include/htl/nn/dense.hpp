// SPDX-License-Identifier: Apache-2.0
/// @file dense.hpp
/// @brief Dense: a linear layer with ReLU and dropout whose input may come in several parts.
#pragma once

#include <htl/nn/linear_parts.hpp>

#include <torch/nn/cloneable.h>
#include <torch/nn/init.h>
#include <torch/nn/pimpl.h>

#include <cmath>
#include <numeric>
#include <ostream>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Options of Dense.
///
/// Example: `DenseOptions({430, 128}, 64).activation(Activation::relu).dropout(0.1)`
struct DenseOptions {
  /// @brief A layer over several parts.
  /// @param inputs the parts' widths D_p ≥ 1
  /// @param outputs O ≥ 1
  DenseOptions(std::vector<int64_t> inputs, int64_t outputs) : inputs_(std::move(inputs)), outputs_(outputs) {}
  /// @brief A layer over one input of width D.
  DenseOptions(int64_t input, int64_t outputs) : inputs_{input}, outputs_(outputs) {}

  /// The widths D_p of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// O.
  TORCH_ARG(int64_t, outputs);
  /// What follows the linear map; default none.
  TORCH_ARG(Activation, activation) = Activation::none;
  /// Probability in [0, 1) that an output is dropped in training; needs a ReLU; default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Whether there is a bias; default true.
  TORCH_ARG(bool, bias) = true;
  /// Generator of dropout; undefined = the default one. Clones share it.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief y = dropout(act(Σ_p x_p W_pᵀ + b)): torch::nn::Linear of the concatenated parts without concatenating them; see linear_parts().
///
/// Parameters `weight` [O, Σ D_p] and `bias` [O], initialised like torch::nn::Linear. Dropout acts in training mode only.
/// **Shapes.** parts [B, D_p] → [B, O]. **Gradient, RNG, Device, Cost.** Those of linear_parts(): written by hand, so there is no second derivative; no
/// synchronisation.
class DenseImpl : public torch::nn::Cloneable<DenseImpl> {
 public:
  /// @brief Checks the options and makes the parameters.
  /// @throws c10::ValueError on widths below 1, dropout outside [0, 1) or without ReLU
  explicit DenseImpl(DenseOptions layer_options) : options(std::move(layer_options)) { reset(); }
  /// @brief A plain linear layer.
  DenseImpl(int64_t input, int64_t outputs) : DenseImpl(DenseOptions(input, outputs)) {}

  /// @brief Makes the parameters anew.
  void reset() override {
    HTL_CHECK(!options.inputs().empty(), "htl::Dense: expected at least one input part, got none");
    for (const int64_t width : options.inputs()) HTL_CHECK(width >= 1, "htl::Dense: expected input widths ≥ 1, got ", at::IntArrayRef(options.inputs()));
    HTL_CHECK(options.outputs() >= 1, "htl::Dense: expected at least one output, got ", options.outputs());
    HTL_CHECK(options.dropout() >= 0.0 && options.dropout() < 1.0, "htl::Dense: expected dropout in [0, 1), got ", options.dropout());
    HTL_CHECK(options.dropout() == 0.0 || options.activation() == Activation::relu,
              "htl::Dense: dropout stands behind a ReLU only; set activation(Activation::relu)");
    weight = register_parameter("weight", at::empty({options.outputs(), input_width()}));
    bias = register_parameter("bias", options.bias() ? at::empty({options.outputs()}) : at::Tensor(), options.bias());
    reset_parameters();
  }
  /// @brief Draws weight and bias from U(−1/√D, 1/√D), as torch::nn::Linear does; from the default generator.
  void reset_parameters() {
    torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
    const double bound = 1.0 / std::sqrt(static_cast<double>(input_width()));
    if (bias.defined()) torch::nn::init::uniform_(bias, -bound, bound);
  }

  /// @brief The layer over parts x_p [B, D_p] → [B, O].
  at::Tensor forward(const std::vector<at::Tensor>& parts) {
    std::vector<MappedPart> plain;
    for (const at::Tensor& part : parts) plain.push_back({part, {}, {}});
    return forward_mapped(plain);
  }
  /// @brief The layer over parts z_p [B, D_p], some of which come through a linear map of their own → [B, O]; see linear_mapped_parts().
  at::Tensor forward_mapped(const std::vector<MappedPart>& parts) {
    HTL_CHECK(parts.size() == options.inputs().size(), "htl::Dense: expected ", options.inputs().size(), " input parts of widths ",
              at::IntArrayRef(options.inputs()), ", got ", parts.size());
    for (size_t p = 0; p < parts.size(); ++p) {
      const at::Tensor& values = parts[p].values;
      HTL_CHECK(values.defined() && values.dim() == 2 && parts[p].width() == options.inputs()[p], "htl::Dense: expected input part ", p, " of shape [any, ",
                options.inputs()[p], "], got ", shape_of(values), parts[p].map.defined() ? " through a map of shape " + shape_of(parts[p].map) : "");
    }
    return linear_mapped_parts(parts, weight, bias, options.activation(), is_training() ? options.dropout() : 0.0, options.generator());
  }
  /// @brief The layer over one input [B, D] → [B, O].
  at::Tensor forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }

  /// @brief Σ D_p.
  int64_t input_width() const { return std::accumulate(options.inputs().begin(), options.inputs().end(), int64_t{0}); }
  /// @brief One line: widths, activation, dropout.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::Dense(inputs=" << at::IntArrayRef(options.inputs()) << ", outputs=" << options.outputs();
    if (options.activation() == Activation::relu) stream << ", relu";
    if (options.dropout() > 0.0) stream << ", dropout=" << options.dropout();
    stream << ")";
  }

  /// The options that it was made with.
  DenseOptions options;
  /// [O, Σ D_p].
  at::Tensor weight;
  /// [O], or undefined.
  at::Tensor bias;
};
/// Holder of DenseImpl.
TORCH_MODULE(Dense);

}  // namespace htl
