// SPDX-License-Identifier: Apache-2.0
/// @file mlp.hpp
/// @brief Mlp: dense layers with ReLU, one after the other, over an input that may come in several parts.
#pragma once

#include <htl/nn/dense.hpp>

#include <string>

namespace htl::inline v0_1_0 {

/// @brief Options of Mlp.
///
/// Example: `MlpOptions({430, 128, 10}, {128, 64, 32}).dropout(0.1)`
struct MlpOptions {
  /// @brief An MLP over several parts.
  /// @param inputs the parts' widths
  /// @param hidden the layers' widths, at least one
  MlpOptions(std::vector<int64_t> inputs, std::vector<int64_t> hidden) : inputs_(std::move(inputs)), hidden_(std::move(hidden)) {}
  /// @brief An MLP over one input.
  MlpOptions(int64_t input, std::vector<int64_t> hidden) : inputs_{input}, hidden_(std::move(hidden)) {}

  /// The widths of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// The widths of the layers.
  TORCH_ARG(std::vector<int64_t>, hidden);
  /// Dropout behind each ReLU, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief h_1 = dropout(relu(W_1 [x_1 … x_P] + b_1)), h_l = dropout(relu(W_l h_{l−1} + b_l)). Children "0", "1", …: Dense.
///
/// **Shapes.** parts [B, D_p] → [B, hidden.back()]. **Gradient, RNG, Device, Cost.** Those of Dense, layer by layer.
class MlpImpl : public torch::nn::Cloneable<MlpImpl> {
 public:
  /// @brief Checks the options and makes the layers.
  /// @throws c10::ValueError without layers or on widths below 1
  explicit MlpImpl(MlpOptions mlp_options) : options(std::move(mlp_options)) { reset(); }

  /// @brief Makes the layers anew.
  void reset() override {
    HTL_CHECK(!options.hidden().empty(), "htl::Mlp: expected at least one layer, got none; give widths such as {128, 64, 32}");
    layers_.clear();
    std::vector<int64_t> inputs = options.inputs();
    for (const int64_t width : options.hidden()) {
      layers_.push_back(
          register_module(std::to_string(layers_.size()),
                          Dense(DenseOptions(inputs, width).activation(Activation::relu).dropout(options.dropout()).generator(options.generator()))));
      inputs = {width};
    }
  }

  /// @brief The outputs of all layers, first to last: [B, hidden[l]] each.
  std::vector<at::Tensor> forward_all(const std::vector<at::Tensor>& parts) { return rest_of(layers_.front()->forward(parts)); }
  /// @brief The same over parts of which some come through a linear map of their own; see linear_mapped_parts().
  std::vector<at::Tensor> forward_all_mapped(const std::vector<MappedPart>& parts) { return rest_of(layers_.front()->forward_mapped(parts)); }
  /// @brief The last layer's output [B, hidden.back()].
  at::Tensor forward(const std::vector<at::Tensor>& parts) { return forward_all(parts).back(); }
  /// @brief The same for one input [B, D].
  at::Tensor forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }
  /// @brief One line; the layers follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::Mlp(inputs=" << at::IntArrayRef(options.inputs()) << ", hidden=" << at::IntArrayRef(options.hidden()) << ")";
  }

  /// The options that it was made with.
  MlpOptions options;

 private:
  std::vector<at::Tensor> rest_of(at::Tensor first) {
    std::vector<at::Tensor> outputs{std::move(first)};
    for (size_t l = 1; l < layers_.size(); ++l) outputs.push_back(layers_[l]->forward(outputs.back()));
    return outputs;
  }

  std::vector<Dense> layers_;
};
/// Holder of MlpImpl.
TORCH_MODULE(Mlp);

}  // namespace htl
