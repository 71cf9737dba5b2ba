// SPDX-License-Identifier: Apache-2.0
/// @file linear_parts.hpp
/// @brief linear_parts: one linear layer over an input that comes in several parts, with its ReLU and dropout, without concatenating.
#pragma once

#include <htl/nn/detail/linear_kernels.hpp>
#include <htl/task/check.hpp>

#include <ATen/autocast_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <vector>

namespace htl {

/// @brief What follows the linear map.
enum class Activation {
  none,  ///< nothing
  relu   ///< max(x, 0)
};

namespace detail {

/// @brief y = dropout(act(Σ_p x_p W_pᵀ + b)); arguments (weight, relu, dropout, generator, parts…, bias).
struct LinearPartsFunction : torch::autograd::Function<LinearPartsFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& weight, bool relu, double dropout,
                            const std::optional<at::Generator>& generator, at::TensorList parts, const std::optional<at::Tensor>& bias) {
    at::Tensor out = at::empty({parts[0].size(0), weight.size(0)}, parts[0].options());
    multiply_parts(out, weight, parts);
    finish_linear(out, bias.value_or(at::Tensor()), relu, dropout, generator);
    torch::autograd::variable_list saved{weight, relu ? out : at::Tensor()};
    saved.insert(saved.end(), parts.begin(), parts.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["scale"] = 1.0 / (1.0 - dropout);
    ctx->saved_data["has_bias"] = bias.has_value();
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl::linear_parts: expected a first-order backward, got create_graph = true; its gradient is written by hand and "
                    "has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& weight = saved[0];
    const size_t count = saved.size() - 2;
    const bool with_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(1 + count);
    torch::autograd::variable_list result(5 + count);  // weight, relu, dropout, generator, parts…, bias
    auto [gradient, bias_gradient] = start_linear_backward(gradients[0], saved[1], ctx->saved_data["scale"].toDouble(), with_bias);
    if (ctx->needs_input_grad(0)) result[0] = at::empty_like(weight);
    result[4 + count] = std::move(bias_gradient);
    int64_t column = 0;
    for (size_t p = 0; p < count; ++p) {
      const at::Tensor& part = saved[2 + p];
      const int64_t width = part.size(1);
      if (result[0].defined()) {
        at::Tensor slice = columns_of(result[0], column, width);
        at::mm_out(slice, gradient.t(), part);
      }
      if (ctx->needs_input_grad(1 + p)) result[4 + p] = at::mm(gradient, columns_of(weight, column, width));
      column += width;
    }
    return result;
  }
};

/// @brief The tensor in autocast's type where autocast is on for its device, else itself.
inline at::Tensor autocast(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  const c10::DeviceType device = tensor.device().type();
  if (!at::autocast::is_autocast_enabled(device)) return tensor;
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), tensor, device);
}

}  // namespace detail

/// @brief y = dropout(act(Σ_p x_p W_pᵀ + b)), the linear layer of the concatenated input, computed part by part into one accumulator.
///
/// **Shapes.** parts: P ≥ 1 tensors x_p [B, D_p]; weight [O, Σ D_p], columns in the order of the parts; bias [O] or undefined; result [B, O].
/// **Gradient.** By hand, exact: dW part by part into one tensor, db, and dx_p only for parts that need it. With ReLU the sign of the result is
/// the mask of activation and dropout together, so neither is stored. No second derivative (refused with a sentence).
/// **RNG.** With dropout one draw of the generator on the CPU, B·O draws on CUDA; the CPU's mask does not depend on the thread count.
/// **Device.** Any; no synchronisation. Follows autocast. **Cost.** B·O·Σ D_p multiply-adds forward, at most twice that backward.
/// @param parts the input's parts
/// @param weight [O, Σ D_p]
/// @param bias [O], or undefined for none
/// @param activation what follows the map
/// @param dropout probability in [0, 1) that an output is dropped (the others are scaled by 1/(1 − dropout)); needs Activation::relu
/// @param generator of the dropout mask; nothing = the device's default one
/// @throws c10::ValueError without parts, on wrong shapes, or dropout outside [0, 1) or without ReLU
inline at::Tensor linear_parts(const std::vector<at::Tensor>& parts, const at::Tensor& weight, const at::Tensor& bias, Activation activation = Activation::none,
                               double dropout = 0.0, const std::optional<at::Generator>& generator = std::nullopt) {
  constexpr const char* who = "htl::linear_parts";
  HTL_CHECK(!parts.empty(), who, ": expected at least one part, got none");
  check_shape(who, "weight", weight, {-1, -1});
  int64_t width = 0;
  for (const at::Tensor& part : parts) {
    check_shape(who, "every part", part, {parts[0].defined() ? parts[0].size(0) : -1, -1});
    width += part.size(1);
  }
  HTL_CHECK(width == weight.size(1), who, ": expected parts of together ", weight.size(1), " columns for a weight of shape ", shape_of(weight), ", got ",
            width);
  if (bias.defined()) check_shape(who, "bias", bias, {weight.size(0)});
  HTL_CHECK(dropout >= 0.0 && dropout < 1.0, who, ": expected dropout in [0, 1), got ", dropout);
  HTL_CHECK(dropout == 0.0 || activation == Activation::relu, who, ": dropout stands behind a ReLU only; got dropout ", dropout, " without one");
  const auto run = [&](const at::Tensor& w, const at::Tensor& b, const std::vector<at::Tensor>& x) {
    bool is_one_type = !b.defined() || b.scalar_type() == w.scalar_type();
    for (const at::Tensor& part : x) is_one_type = is_one_type && part.scalar_type() == w.scalar_type();
    HTL_CHECK_TYPE(is_one_type, who, ": expected parts, weight and bias of one type, got parts of ", x[0].scalar_type(), ", a weight of ", w.scalar_type(),
                   " and a bias of ", b.defined() ? b.scalar_type() : w.scalar_type());
    return detail::LinearPartsFunction::apply(w, activation == Activation::relu, dropout, generator, at::TensorList(x),
                                              b.defined() ? std::optional<at::Tensor>(b) : std::nullopt);
  };
  if (!at::autocast::is_autocast_enabled(weight.device().type())) return run(weight, bias, parts);
  std::vector<at::Tensor> cast;
  for (const at::Tensor& part : parts) cast.push_back(detail::autocast(part));
  return run(detail::autocast(weight), detail::autocast(bias), cast);
}

}  // namespace htl
