// SPDX-License-Identifier: Apache-2.0
/// @file linear_parts.hpp
/// @brief linear_parts: one linear layer over an input that comes in several parts, with its ReLU and dropout, without concatenating.
#pragma once

#include <htl/nn/detail/linear_kernels.hpp>
#include <htl/task/check.hpp>

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What follows the linear map.
enum class Activation {
  none,  ///< nothing
  relu   ///< max(x, 0)
};

namespace detail {

/// @brief Takes what dW = δᵀ x is made of instead of dW: who puts one into a node's saved_data under "capture" forms dW itself, or does without it.
struct LinearCapture : torch::CustomClassHolder {
  at::Tensor delta;               // [B, O] of the last backward
  std::vector<at::Tensor> parts;  // x_p [B, D_p]
};

/// @brief y = dropout(act(Σ_p z_p W_pᵀ + b)), z_p = x_p or x_p M_pᵀ + s_p; arguments (weight, relu, dropout, generator, parts…, maps…, mapped, bias).
///
/// maps = M_p, s_p of the mapped parts in their order; mapped[p] = the place of M_p among them, or −1.
/// z_p W_pᵀ = x_p (W_p M_p)ᵀ + W_p s_p: the batch is multiplied once instead of twice.
struct LinearPartsFunction : torch::autograd::Function<LinearPartsFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& weight, bool relu, double dropout,
                            const std::optional<at::Generator>& generator, at::TensorList parts, at::TensorList maps, const std::vector<int64_t>& mapped,
                            const std::optional<at::Tensor>& bias) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing in here is recorded
    std::vector<at::Tensor> blocks;
    at::Tensor shift = bias.value_or(at::Tensor());
    int64_t column = 0;
    for (size_t p = 0; p < parts.size(); ++p) {
      const at::Tensor* map = mapped[p] < 0 ? nullptr : &maps[static_cast<size_t>(mapped[p])];
      const int64_t width = map ? map->size(0) : parts[p].size(1);
      at::Tensor block = columns_of(weight, column, width);
      if (map) {
        const at::Tensor moved = at::mv(block, maps[static_cast<size_t>(mapped[p]) + 1]);
        shift = shift.defined() ? shift + moved : moved;
        block = at::mm(block, *map);
      }
      blocks.push_back(std::move(block));
      column += width;
    }
    at::Tensor out = at::empty({parts[0].size(0), weight.size(0)}, parts[0].options());
    multiply_parts(out, parts, blocks);
    finish_linear(out, shift, relu, dropout, generator);
    torch::autograd::variable_list saved{weight, relu ? out : at::Tensor()};
    saved.insert(saved.end(), parts.begin(), parts.end());
    saved.insert(saved.end(), maps.begin(), maps.end());
    for (size_t p = 0; p < parts.size(); ++p)
      if (mapped[p] >= 0) saved.push_back(blocks[p]);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["scale"] = 1.0 / (1.0 - dropout);
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["mapped"] = mapped;
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, torch::autograd::variable_list gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl::linear_parts: expected a first-order backward, got create_graph = true; its gradient is written by hand and "
                    "has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::AutoDispatchBelowADInplaceOrView below;
    const std::vector<int64_t> mapped = ctx->saved_data["mapped"].toIntVector();
    const size_t count = mapped.size(), maps = (saved.size() - 2 - count) / 3 * 2;  // M_p, s_p, and W_p M_p for each
    const at::Tensor& weight = saved[0];
    const bool with_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(1 + count + maps);
    torch::autograd::variable_list result(6 + count + maps);  // weight, relu, dropout, generator, parts…, maps…, mapped, bias
    auto [gradient, sums] = start_linear_backward(gradients[0], saved[1], ctx->saved_data["scale"].toDouble(), with_bias || maps > 0);
    if (const auto capture = ctx->saved_data.find("capture"); capture != ctx->saved_data.end()) {
      const auto taken = c10::static_intrusive_pointer_cast<LinearCapture>(capture->second.toCapsule());
      taken->delta = gradient;
      taken->parts.assign(saved.begin() + 2, saved.begin() + 2 + static_cast<std::ptrdiff_t>(count));
    } else if (ctx->needs_input_grad(0)) {
      result[0] = at::empty(weight.sizes(), weight.options());  // dense rows, whatever the weight's strides
    }
    int64_t column = 0;
    for (size_t p = 0; p < count; ++p) {
      const at::Tensor& part = saved[2 + p];
      const size_t place = mapped[p] < 0 ? 0 : static_cast<size_t>(mapped[p]);
      const int64_t width = mapped[p] < 0 ? part.size(1) : saved[2 + count + place].size(0);
      const at::Tensor block = columns_of(weight, column, width);
      at::Tensor slice = result[0].defined() ? columns_of(result[0], column, width) : at::Tensor();
      if (mapped[p] < 0) {
        if (slice.defined()) weight_gradient(slice, gradient, part);
        if (ctx->needs_input_grad(1 + p)) result[4 + p] = input_gradient(gradient, block);
      } else {
        const at::Tensor &map = saved[2 + count + place], &shift = saved[3 + count + place], &composed = saved[2 + count + maps + place / 2];
        const bool needs_map = ctx->needs_input_grad(1 + count + place);
        at::Tensor along;
        if (slice.defined() || needs_map) along = at::mm(gradient.t(), part);  // of W_p M_p
        if (slice.defined()) {
          at::mm_out(slice, along, map.t());
          slice.addr_(sums, shift);
        }
        if (needs_map) result[4 + count + place] = at::mm(block.t(), along);
        if (ctx->needs_input_grad(2 + count + place)) result[5 + count + place] = at::mv(block.t(), sums);
        if (ctx->needs_input_grad(1 + p)) result[4 + p] = at::mm(gradient, composed);
      }
      column += width;
    }
    if (with_bias) result[5 + count + maps] = std::move(sums);
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

/// @brief A part of a layer's input that may come through a linear map of its own: z = x Mᵀ + s; without a map z = x.
struct MappedPart {
  at::Tensor values;  ///< x [B, D]
  at::Tensor map;     ///< M [D', D], or undefined
  at::Tensor shift;   ///< s [D'], defined where the map is

  /// @brief D', the columns of the layer's weight that read it.
  int64_t width() const { return map.defined() ? map.size(0) : values.size(1); }
};

/// @brief y = dropout(act(Σ_p z_p W_pᵀ + b)), the linear layer of the concatenated input, computed part by part into one accumulator.
///
/// **Maps.** z_p W_pᵀ = x_p (W_p M_p)ᵀ + W_p s_p. Where that is less work, the maps are composed before they meet the batch, forward and backward: equal up
/// to rounding to mapping the part first, and which of the two happens depends on shapes alone. Under autocast parts are mapped first.
/// **Shapes.** parts: P ≥ 1, x_p [B, D_p], z_p [B, D'_p]; weight [O, Σ D'_p], columns in the order of the parts; bias [O] or undefined; result [B, O].
/// **Gradient.** By hand, exact: dW part by part into one tensor, db, dM_p, ds_p, and dx_p only for parts that need it. With ReLU the sign of the result is
/// the mask of activation and dropout together, so neither is stored. No second derivative (refused with a sentence).
/// **RNG.** With dropout one draw of the generator on the CPU, B·O draws on CUDA; the CPU's mask does not depend on the thread count.
/// **Device.** Any; no synchronisation. Follows autocast. **Cost.** B·O·Σ D_p multiply-adds forward, at most twice that backward.
/// @param parts the input's parts
/// @param weight [O, Σ D'_p]
/// @param bias [O], or undefined for none
/// @param activation what follows the map
/// @param dropout probability in [0, 1) that an output is dropped (the others are scaled by 1/(1 − dropout)); needs Activation::relu
/// @param generator of the dropout mask; nothing = the device's default one
/// @throws c10::ValueError without parts, on wrong shapes, or dropout outside [0, 1) or without ReLU
inline at::Tensor linear_mapped_parts(const std::vector<MappedPart>& parts, const at::Tensor& weight, const at::Tensor& bias,
                                      Activation activation = Activation::none, double dropout = 0.0,
                                      const std::optional<at::Generator>& generator = std::nullopt) {
  constexpr const char* who = "htl::linear_parts";
  HTL_CHECK(!parts.empty(), who, ": expected at least one part, got none");
  check_shape(who, "weight", weight, {-1, -1});
  int64_t width = 0;
  for (const MappedPart& part : parts) {
    check_shape(who, "every part", part.values, {parts[0].values.defined() ? parts[0].values.size(0) : -1, -1});
    if (part.map.defined()) {
      check_shape(who, "a part's map", part.map, {-1, part.values.size(1)});
      check_shape(who, "a part's shift", part.shift, {part.map.size(0)});
    }
    width += part.width();
  }
  HTL_CHECK(width == weight.size(1), who, ": expected parts of together ", weight.size(1), " columns for a weight of shape ", shape_of(weight), ", got ",
            width);
  if (bias.defined()) check_shape(who, "bias", bias, {weight.size(0)});
  HTL_CHECK(dropout >= 0.0 && dropout < 1.0, who, ": expected dropout in [0, 1), got ", dropout);
  HTL_CHECK(dropout == 0.0 || activation == Activation::relu, who, ": dropout stands behind a ReLU only; got dropout ", dropout, " without one");

  const bool casts = at::autocast::is_autocast_enabled(weight.device().type());
  const int64_t rows = parts[0].values.size(0), outputs = weight.size(0);
  std::vector<at::Tensor> values, maps;
  std::vector<int64_t> mapped;
  for (const MappedPart& part : parts) {
    mapped.push_back(-1);
    if (!part.map.defined()) {
      values.push_back(part.values);
      continue;
    }
    const int64_t through = part.map.size(0), from = part.map.size(1);
    if (casts || rows * outputs * from + outputs * through * from >= rows * through * (from + outputs)) {
      values.push_back(linear_mapped_parts({{part.values, {}, {}}}, part.map, part.shift));
      continue;
    }
    mapped.back() = static_cast<int64_t>(maps.size());
    values.push_back(part.values);
    maps.push_back(part.map);
    maps.push_back(part.shift);
  }
  const auto run = [&](const at::Tensor& w, const at::Tensor& b) {
    bool is_one_type = !b.defined() || b.scalar_type() == w.scalar_type();
    for (const auto* list : {&values, &maps})
      for (const at::Tensor& tensor : *list) is_one_type = is_one_type && tensor.scalar_type() == w.scalar_type();
    HTL_CHECK_TYPE(is_one_type, who, ": expected parts, weight and bias of one type, got parts of ", values[0].scalar_type(), ", a weight of ", w.scalar_type(),
                   " and a bias of ", b.defined() ? b.scalar_type() : w.scalar_type());
    return detail::LinearPartsFunction::apply(w, activation == Activation::relu, dropout, generator, at::TensorList(values), at::TensorList(maps), mapped,
                                              b.defined() ? std::optional<at::Tensor>(b) : std::nullopt);
  };
  if (!casts) return run(weight, bias);
  for (at::Tensor& tensor : values) tensor = detail::autocast(tensor);
  return run(detail::autocast(weight), detail::autocast(bias));
}

/// @brief linear_mapped_parts() of parts without maps.
inline at::Tensor linear_parts(const std::vector<at::Tensor>& parts, const at::Tensor& weight, const at::Tensor& bias, Activation activation = Activation::none,
                               double dropout = 0.0, const std::optional<at::Generator>& generator = std::nullopt) {
  std::vector<MappedPart> plain;
  for (const at::Tensor& part : parts) plain.push_back({part, {}, {}});
  return linear_mapped_parts(plain, weight, bias, activation, dropout, generator);
}

}  // namespace htl
