// SPDX-License-Identifier: Apache-2.0
/// @file tower.hpp
/// @brief Tower: one task's network; gives its output and the representation that later tasks may read. And the concept that replaces it.
#pragma once

#include <htl/nn/made_from.hpp>
#include <htl/nn/mlp.hpp>

#include <concepts>

namespace htl::inline v0_1_0 {

/// @brief What a tower returns.
struct TowerOutput {
  at::Tensor output;          ///< [B, W] logits, or what the task's loss asks for
  at::Tensor representation;  ///< [B, H] what the tower knows, for tasks that follow
};

/// A tower's first hidden layer as its representation: HTLNet's reading.
inline constexpr int64_t first_hidden = 0;
/// A tower's last hidden layer as its representation: AITM's reading.
inline constexpr int64_t last_hidden = -1;

/// @brief Options of a tower.
///
/// Example: `TowerOptions({430, 128, 10}, 1).hidden({128, 64, 32}).dropout(0.1)`
struct TowerOptions {
  /// @brief A tower over input parts.
  /// @param inputs the widths of the parts: the task's view first, what flows in from other tasks after it
  /// @param output_width W, what the task's loss asks for (TaskSpec::output_width())
  TowerOptions(std::vector<int64_t> inputs, int64_t output_width) : inputs_(std::move(inputs)), output_width_(output_width) {}
  /// @brief A tower over one input.
  TowerOptions(int64_t input, int64_t output_width) : inputs_{input}, output_width_(output_width) {}

  /// The widths of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// W.
  TORCH_ARG(int64_t, output_width);
  /// The widths of the hidden layers, at least one; default 128, 64, 32.
  TORCH_ARG(std::vector<int64_t>, hidden) = {128, 64, 32};
  /// Dropout behind each hidden layer, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Which hidden layer is the representation: first_hidden (0, default), last_hidden (−1), or an index; negative ones count from the end.
  TORCH_ARG(int64_t, representation) = first_hidden;
  /// Generator of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief What can stand in for a Tower: a module holder made from TowerOptions.
///
/// - `tower->forward(parts)`: parts x_p [B, D_p] as TowerOptions::inputs() lists them → TowerOutput;
/// - `tower->representation_width()`: H of TowerOutput::representation;
/// - optional, faster: `tower->forward_mapped(parts)` over MappedPart.
template <class T>
concept TaskTower = MadeFrom<T, const TowerOptions&> && requires(T& tower, const std::vector<at::Tensor>& parts) {
  { tower->forward(parts) } -> std::same_as<TowerOutput>;
  { tower->representation_width() } -> std::convertible_to<int64_t>;
};

/// @brief Hidden layers with ReLU and a linear output: `output = W_o h_L + b_o`, `representation = h_r` (after its ReLU and dropout).
///
/// Children `layers` (an Mlp: `layers.0.weight`, …) and `output`.
/// **Shapes.** parts [B, D_p] → output [B, W], representation [B, hidden[r]]. **Gradient.** flows through both. **RNG.** dropout in training mode. **Device.**
/// any; no synchronisation. **Cost.** see linear_parts().
/// **Reference.** Tang et al., RecSys 2024: 128-64-32, the first hidden layer is transferred; AITM (Xi et al., KDD 2021) transfers the last.
class TowerImpl : public torch::nn::Cloneable<TowerImpl> {
 public:
  /// @brief Checks the options and makes the layers.
  /// @throws c10::ValueError on widths below 1, no hidden layer, a representation index outside the layers, dropout outside [0, 1)
  explicit TowerImpl(TowerOptions tower_options) : options(std::move(tower_options)) { reset(); }

  /// @brief Makes the layers anew.
  void reset() override {
    HTL_CHECK(!options.hidden().empty(), "htl::Tower: expected at least one hidden layer, got none; give widths such as {128, 64, 32}");
    const auto count = static_cast<int64_t>(options.hidden().size());
    HTL_CHECK(options.representation() >= -count && options.representation() < count, "htl::Tower: expected a representation index in [", -count, ", ", count,
              ") for ", count, " hidden layers, got ", options.representation());
    layers_ = register_module("layers", Mlp(MlpOptions(options.inputs(), options.hidden()).dropout(options.dropout()).generator(options.generator())));
    output_ = register_module("output", Dense(options.hidden().back(), options.output_width()));
  }

  /// @brief The tower over parts [B, D_p].
  TowerOutput forward(const std::vector<at::Tensor>& parts) { return finish(layers_->forward_all(parts)); }
  /// @brief The tower over parts of which some come through a linear map of their own, composed with the first layer; see linear_mapped_parts().
  TowerOutput forward_mapped(const std::vector<MappedPart>& parts) { return finish(layers_->forward_all_mapped(parts)); }
  /// @brief The tower over one input [B, D].
  TowerOutput forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }
  /// @brief H.
  int64_t representation_width() const { return options.hidden()[representation_layer()]; }
  /// @brief One line; the layers follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::Tower(inputs=" << at::IntArrayRef(options.inputs()) << ", hidden=" << at::IntArrayRef(options.hidden())
           << ", output_width=" << options.output_width() << ", representation=" << representation_layer() << ")";
  }

  /// The options that it was made with.
  TowerOptions options;

 private:
  TowerOutput finish(const std::vector<at::Tensor>& hidden) { return {output_->forward(hidden.back()), hidden[representation_layer()]}; }
  size_t representation_layer() const {
    const int64_t index = options.representation();
    return static_cast<size_t>(index < 0 ? index + static_cast<int64_t>(options.hidden().size()) : index);
  }
  Mlp layers_{nullptr};
  Dense output_{nullptr};
};
/// Holder of TowerImpl.
TORCH_MODULE(Tower);

}  // namespace htl
