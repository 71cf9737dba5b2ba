// SPDX-License-Identifier: Apache-2.0
/// @file grouped_dense.hpp
/// @brief GroupedDense: several linear layers of one shape side by side, as one module.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/dense.hpp>
#include <htl/nn/detail/grouped_linear.hpp>

namespace htl::inline v0_1_0 {

/// @brief Options of GroupedDense.
///
/// Example: `GroupedDenseOptions(8, 128, 64).activation(Activation::relu)`
struct GroupedDenseOptions {
  /// @brief G layers from I to O.
  /// @param groups G ≥ 1
  /// @param inputs I ≥ 1, of each
  /// @param outputs O ≥ 1, of each
  GroupedDenseOptions(int64_t groups, int64_t inputs, int64_t outputs) : groups_(groups), inputs_(inputs), outputs_(outputs) {}

  /// G.
  TORCH_ARG(int64_t, groups);
  /// I.
  TORCH_ARG(int64_t, inputs);
  /// O.
  TORCH_ARG(int64_t, outputs);
  /// What follows the linear maps; default none.
  TORCH_ARG(Activation, activation) = Activation::none;
  /// Probability in [0, 1) that an output is dropped in training; needs a ReLU; default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Whether there are biases; default true.
  TORCH_ARG(bool, bias) = true;
  /// Generator of dropout; undefined = the default one. Clones share it.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief y_g = dropout(act(x_g W_gᵀ + b_g)) for g = 1 … G: what G torch::nn::Linear do to G inputs, whose columns stand side by side.
///
/// **Shapes.** x [B, G·I] → [B, G·O]. **Parameters.** `weight` [G, O, I], `bias` [G, O]; each group is initialised like a torch::nn::Linear of its own.
/// **Gradient.** By hand on the CPU in fp32 and fp64 (no second derivative there). **Device.** Any; no synchronisation. Follows autocast.
/// **Cost.** B·G·I·O multiply-adds forward, twice that backward.
class GroupedDenseImpl : public torch::nn::Cloneable<GroupedDenseImpl> {
 public:
  /// @brief Checks the options and makes the parameters.
  /// @throws c10::ValueError on sizes below 1, dropout outside [0, 1) or without ReLU
  explicit GroupedDenseImpl(GroupedDenseOptions layer_options) : options(std::move(layer_options)) { reset(); }

  /// @brief Makes the parameters anew.
  void reset() override {
    HTL_CHECK(options.groups() >= 1 && options.inputs() >= 1 && options.outputs() >= 1,
              "htl::GroupedDense: expected groups, inputs and outputs of at least 1, got ", options.groups(), ", ", options.inputs(), " and ",
              options.outputs());
    HTL_CHECK(options.dropout() >= 0.0 && options.dropout() < 1.0, "htl::GroupedDense: expected dropout in [0, 1), got ", options.dropout());
    HTL_CHECK(options.dropout() == 0.0 || options.activation() == Activation::relu,
              "htl::GroupedDense: dropout stands behind a ReLU only; set activation(Activation::relu)");
    weight = register_parameter("weight", at::empty({options.groups(), options.outputs(), options.inputs()}));
    bias = register_parameter("bias", options.bias() ? at::empty({options.groups(), options.outputs()}) : at::Tensor(), options.bias());
    reset_parameters();
  }
  /// @brief Draws all groups' weights and biases from U(−1/√I, 1/√I); from the default generator.
  void reset_parameters() {
    const double bound = 1.0 / std::sqrt(static_cast<double>(options.inputs()));
    torch::nn::init::uniform_(weight, -bound, bound);
    if (bias.defined()) torch::nn::init::uniform_(bias, -bound, bound);
  }

  /// @brief [B, G·I] → [B, G·O].
  at::Tensor forward(const at::Tensor& x) {
    check_shape("htl::GroupedDense", "an input", x, {-1, options.groups() * options.inputs()});
    return detail::grouped_linear(x, weight, bias, options.activation() == Activation::relu, is_training() ? options.dropout() : 0.0, options.generator());
  }

  /// @brief One line: sizes, activation, dropout.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::GroupedDense(groups=" << options.groups() << ", inputs=" << options.inputs() << ", outputs=" << options.outputs();
    if (options.activation() == Activation::relu) stream << ", relu";
    if (options.dropout() > 0.0) stream << ", dropout=" << options.dropout();
    stream << ")";
  }

  /// The options that it was made with.
  GroupedDenseOptions options;
  /// [G, O, I].
  at::Tensor weight;
  /// [G, O], or undefined.
  at::Tensor bias;
};
/// Holder of GroupedDenseImpl.
TORCH_MODULE(GroupedDense);

}  // namespace htl
