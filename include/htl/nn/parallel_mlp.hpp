// SPDX-License-Identifier: Apache-2.0
/// @file parallel_mlp.hpp
/// @brief ParallelMlp: several MLPs of one shape side by side: experts, gates, the tasks' layers.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/nn/grouped_dense.hpp>

#include <string>

namespace htl::inline v0_1_0 {

/// @brief Options of ParallelMlp.
///
/// Example: `ParallelMlpOptions({430, 10}, 8, {128, 64}).dropout(0.1)`
struct ParallelMlpOptions {
  /// @brief n MLPs over an input in several parts, which all of them read.
  /// @param inputs the parts' widths
  /// @param count n ≥ 1
  /// @param hidden the layers' widths, at least one
  ParallelMlpOptions(std::vector<int64_t> inputs, int64_t count, std::vector<int64_t> hidden)
      : inputs_(std::move(inputs)), count_(count), hidden_(std::move(hidden)) {}

  /// The widths of the input's parts.
  TORCH_ARG(std::vector<int64_t>, inputs);
  /// n.
  TORCH_ARG(int64_t, count);
  /// The widths of the layers.
  TORCH_ARG(std::vector<int64_t>, hidden);
  /// Whether each MLP reads an input of its own, [B, n·D] with one part of width D; default false: all read the same.
  TORCH_ARG(bool, own_inputs) = false;
  /// Whether the last layer is linear and without bias, as that of a gate is; default false: a ReLU behind every layer.
  TORCH_ARG(bool, linear_output) = false;
  /// Dropout behind each ReLU, in [0, 1); default 0.
  TORCH_ARG(double, dropout) = 0.0;
  /// Generator of dropout; undefined = the default one.
  TORCH_ARG(at::Generator, generator) = {};
};

/// @brief n MLPs of one shape, each with weights of its own; their outputs stand side by side: [B, n·H].
///
/// What all of them read meets the first layers of all in one matrix product. Children "0" (Dense [n·H_0, Σ D_p], or GroupedDense with own_inputs), "1", …
/// (GroupedDense). Every MLP is initialised like one of its own, so no two are equal.
/// **Shapes.** parts [B, D_p] → [B, n·H], MLP i in columns i·H … (i+1)·H. **Gradient.** See Dense and GroupedDense. **Device.** Any; no synchronisation.
/// **Cost.** That of n MLPs.
class ParallelMlpImpl : public torch::nn::Cloneable<ParallelMlpImpl> {
 public:
  /// @brief Checks the options and makes the layers.
  /// @throws c10::ValueError without layers, on sizes below 1, or on several parts with own_inputs
  explicit ParallelMlpImpl(ParallelMlpOptions mlp_options) : options(std::move(mlp_options)) { reset(); }

  /// @brief Makes the layers anew.
  void reset() override {
    const std::vector<int64_t>& hidden = options.hidden();
    HTL_CHECK(options.count() >= 1, "htl::ParallelMlp: expected at least one MLP, got ", options.count());
    HTL_CHECK(!hidden.empty(), "htl::ParallelMlp: expected at least one layer, got none; give widths such as {128, 64}");
    for (const int64_t width : hidden) HTL_CHECK(width >= 1, "htl::ParallelMlp: expected widths ≥ 1, got ", at::IntArrayRef(hidden));
    HTL_CHECK(!options.own_inputs() || options.inputs().size() == 1, "htl::ParallelMlp: expected one part with own_inputs, got ", options.inputs().size());
    first_ = Dense(nullptr);
    grouped_.clear();
    for (size_t l = 0; l < hidden.size(); ++l) {
      const bool is_linear = options.linear_output() && l + 1 == hidden.size();
      const Activation activation = is_linear ? Activation::none : Activation::relu;
      const double dropout = is_linear ? 0.0 : options.dropout();
      if (l == 0 && !options.own_inputs()) {
        first_ = register_module("0", Dense(DenseOptions(options.inputs(), options.count() * hidden[0])
                                                .activation(activation)
                                                .dropout(dropout)
                                                .bias(!is_linear)
                                                .generator(options.generator())));
        continue;
      }
      grouped_.push_back(
          register_module(std::to_string(l), GroupedDense(GroupedDenseOptions(options.count(), l == 0 ? options.inputs()[0] : hidden[l - 1], hidden[l])
                                                              .activation(activation)
                                                              .dropout(dropout)
                                                              .bias(!is_linear)
                                                              .generator(options.generator()))));
    }
  }

  /// @brief Parts [B, D_p] (with own_inputs one part [B, n·D]) → [B, n·H].
  at::Tensor forward(const std::vector<at::Tensor>& parts) {
    HTL_CHECK(!options.own_inputs() || parts.size() == 1, "htl::ParallelMlp: expected one part with own_inputs, got ", parts.size());
    at::Tensor out = first_ ? first_->forward(parts) : parts[0];
    for (GroupedDense& layer : grouped_) out = layer->forward(out);
    return out;
  }
  /// @brief The same for one input.
  at::Tensor forward(const at::Tensor& input) { return forward(std::vector<at::Tensor>{input}); }
  /// @brief H, the width of one MLP's output.
  int64_t width() const { return options.hidden().back(); }

  /// @brief One line; the layers follow below it.
  void pretty_print(std::ostream& stream) const override {
    stream << "htl::ParallelMlp(inputs=" << at::IntArrayRef(options.inputs()) << ", count=" << options.count()
           << ", hidden=" << at::IntArrayRef(options.hidden()) << ")";
  }

  /// The options that it was made with.
  ParallelMlpOptions options;

 private:
  Dense first_{nullptr};
  std::vector<GroupedDense> grouped_;
};
/// Holder of ParallelMlpImpl.
TORCH_MODULE(ParallelMlp);

}  // namespace htl
