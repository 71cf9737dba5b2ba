// SPDX-License-Identifier: Apache-2.0
/// @file bias_tower.hpp
/// @brief BiasTower: what position or exposure adds to a label, learned beside the model and dropped when serving.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/mlp.hpp>

#include <ATen/ops/rand.h>

#include <optional>

namespace htl::inline v0_1_0 {

/// @brief Options of BiasTower.
///
/// Example: `BiasTowerOptions(16, 1).hidden({32}).dropout(0.1)`
struct BiasTowerOptions {
  /// @brief A bias from an input of width D to an output of width W.
  BiasTowerOptions(int64_t input, int64_t output_width) : input_(input), output_width_(output_width) {}

  /// D: an embedding of the position, numbers of the device.
  TORCH_ARG(int64_t, input);
  /// W, that of the tower whose output it is added to.
  TORCH_ARG(int64_t, output_width);
  /// The widths of its hidden layers; default none: linear.
  TORCH_ARG(std::vector<int64_t>, hidden) = {};
  /// Probability in [0, 1) that a row in training goes without the bias, so that the model can't leave everything to it; default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of dropout; undefined = the default one. Clones share it.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief In training output + b(context), in evaluation the output itself: what a row would get at a neutral place.
///
/// For a binary task an additive shift of the logit; for a count by log rate a factor. The context must not enter the model in another way, or what is dropped
/// comes back by that. The last layer begins at 0: the model starts without a bias.
///
/// **Children** `layers` (an Mlp, if there are hidden layers) and `output`. **Shapes.** output [B, W], context [B, D] → [B, W]. **Gradient.** flows through
/// both. **RNG.** with dropout B numbers a forward in training. **Device.** any; no synchronisation. **Cost.** an Mlp's, none in evaluation. **Source.** the
/// shallow tower of Zhao et al., "Recommending What Video to Watch Next", RecSys 2019, Section 4.3; Guo et al., "PAL", RecSys 2019, multiplies probabilities
/// instead.
class BiasTowerImpl : public torch::nn::Cloneable<BiasTowerImpl> {
 public:
  /// @brief Checks the options and makes the layers.
  /// @throws c10::ValueError on widths below 1, dropout outside [0, 1)
  explicit BiasTowerImpl(BiasTowerOptions tower_options) : options(std::move(tower_options)) { reset(); }

  /// @brief Makes the layers anew.
  void reset() override {
    HTL_CHECK(options.dropout() >= 0.0 && options.dropout() < 1.0, "htl::BiasTower: expected dropout in [0, 1), got ", options.dropout());
    layers_ = Mlp(nullptr);
    if (!options.hidden().empty()) layers_ = register_module("layers", Mlp(MlpOptions(options.input(), options.hidden()).generator(options.generator())));
    output_ = register_module("output", Dense(options.hidden().empty() ? options.input() : options.hidden().back(), options.output_width()));
    const torch::NoGradGuard no_grad;
    output_->weight.zero_();
    output_->bias.zero_();
  }

  /// @brief The output with its bias in training, as it is in evaluation.
  /// @param output [B, W]
  /// @param context [B, D]; not read in evaluation, where it may be undefined
  /// @throws c10::ValueError on other shapes, in training
  at::Tensor forward(const at::Tensor& output, const at::Tensor& context) {
    if (!is_training()) return output;
    check_shape("htl::BiasTower", "the output", output, {-1, options.output_width()});
    check_shape("htl::BiasTower", "the context", context, {output.size(0), options.input()});
    at::Tensor bias = this->bias(context);
    if (options.dropout() > 0.0) {
      const std::optional<at::Generator> generator = options.generator().defined() ? std::optional(options.generator()) : std::nullopt;
      bias = bias.mul(at::rand({output.size(0), 1}, generator, output.options().requires_grad(false)).ge(options.dropout()));
    }
    return output + bias;
  }
  /// @brief b(context) [B, W]: what the tower has learned, to be read out.
  /// @throws c10::ValueError on another shape
  at::Tensor bias(const at::Tensor& context) {
    check_shape("htl::BiasTower", "the context", context, {-1, options.input()});
    return output_->forward(layers_ ? layers_->forward(context) : context);
  }
  /// @brief One line; the layers follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::BiasTower(input=" << options.input() << ", hidden=" << at::IntArrayRef(options.hidden()) << ", output_width=" << options.output_width()
           << ", dropout=" << options.dropout() << ")";
  }

  /// The options that it was made with.
  BiasTowerOptions options;

 private:
  Mlp layers_{nullptr};
  Dense output_{nullptr};
};
/// Holder of BiasTowerImpl.
TORCH_MODULE(BiasTower);

}  // namespace htl
