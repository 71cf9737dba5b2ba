// SPDX-License-Identifier: Apache-2.0
/// @file grouped_linear.hpp
/// @brief Several linear layers of one shape, side by side: each reads its own columns and writes its own columns.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/nn/linear_parts.hpp>

#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>

namespace htl::inline v0_1_0::detail {

/// @brief y_g = dropout(act(x_g W_gᵀ + b_g)) for x [B, G·I], W [G, O, I], b [G, O] → [B, G·O]; arguments (x, weight, bias, relu, dropout, generator).
///
/// A product a group straight into its columns, and one pass for all biases, activations and masks.
struct GroupedLinearFunction : torch::autograd::Function<GroupedLinearFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            bool relu, double dropout, const std::optional<at::Generator>& generator) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing in here is recorded
    const int64_t groups = weight.size(0), outputs = weight.size(1), width = weight.size(2);
    at::Tensor out = at::empty({x.size(0), groups * outputs}, x.options());
    for (int64_t g = 0; g < groups; ++g) {
      at::Tensor columns = columns_of(out, g * outputs, outputs);
      at::mm_out(columns, columns_of(x, g * width, width), weight.select(0, g).t());
    }
    finish_linear(out, bias ? bias->reshape({-1}) : at::Tensor(), relu, dropout, generator);
    ctx->save_for_backward({x, weight, relu ? out : at::Tensor()});
    ctx->saved_data["scale"] = 1.0 / (1.0 - dropout);
    ctx->saved_data["has_bias"] = bias.has_value();
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
    HTL_CHECK_STATE(
        !at::GradMode::is_enabled(),
        "htl::GroupedDense: expected a first-order backward, got create_graph = true; its gradient is written by hand and has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor &x = saved[0], &weight = saved[1];
    const int64_t groups = weight.size(0), outputs = weight.size(1), width = weight.size(2);
    const bool with_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    auto [gradient, sums] = start_linear_backward(gradients[0], saved[2], ctx->saved_data["scale"].toDouble(), with_bias);
    torch::autograd::variable_list result(6);
    if (ctx->needs_input_grad(0)) result[0] = at::empty(x.sizes(), x.options());
    if (ctx->needs_input_grad(1)) result[1] = at::empty(weight.sizes(), weight.options());
    for (int64_t g = 0; g < groups; ++g) {
      const at::Tensor arriving = columns_of(gradient, g * outputs, outputs);
      if (result[0].defined()) {
        at::Tensor columns = columns_of(result[0], g * width, width);
        at::mm_out(columns, arriving, weight.select(0, g));
      }
      if (result[1].defined()) {
        at::Tensor slice = result[1].select(0, g);
        at::mm_out(slice, arriving.t(), columns_of(x, g * width, width));
      }
    }
    if (with_bias) result[2] = sums.view({groups, outputs});
    return result;
  }
};

/// @brief The same by ATen, on any device and in any type.
template <class = void>
at::Tensor grouped_linear_tensors(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool relu, double dropout,
                                  const std::optional<at::Generator>& generator) {
  const int64_t rows = x.size(0), groups = weight.size(0), outputs = weight.size(1);
  const at::Tensor inputs = x.reshape({rows, groups, weight.size(2)}).transpose(0, 1), maps = weight.transpose(1, 2);
  at::Tensor y = bias.defined() ? at::baddbmm(bias.unsqueeze(1), inputs, maps) : at::bmm(inputs, maps);
  y = y.transpose(0, 1).reshape({rows, groups * outputs});
  if (relu) y = y.relu();
  if (dropout > 0.0) y = y * at::empty_like(y).bernoulli_(1.0 - dropout, generator).mul_(1.0 / (1.0 - dropout));
  return y;
}

/// @brief y_g = dropout(act(x_g W_gᵀ + b_g)); see GroupedLinearFunction.
inline at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool relu, double dropout,
                                 const std::optional<at::Generator>& generator) {
  const bool casts = at::autocast::is_autocast_enabled(weight.device().type());
  if (casts || !has_cpu_loops(weight)) {
    return casts ? grouped_linear_tensors(autocast(x), autocast(weight), autocast(bias), relu, dropout, generator)
                 : grouped_linear_tensors(x, weight, bias, relu, dropout, generator);
  }
  HTL_CHECK_TYPE(x.scalar_type() == weight.scalar_type() && (!bias.defined() || bias.scalar_type() == weight.scalar_type()),
                 "htl::GroupedDense: expected input, weight and bias of one type, got an input of ", x.scalar_type(), " and a weight of ",
                 weight.scalar_type());
  return GroupedLinearFunction::apply(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt, relu, dropout, generator);
}

}  // namespace htl::detail
