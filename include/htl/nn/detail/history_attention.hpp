// SPDX-License-Identifier: Apache-2.0
/// @file history_attention.hpp
/// @brief The parts of TargetAttention that see every entry of a history: its network's first layer, and the weighted sum.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/nn/linear_parts.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief dropout(relu(W [h_j, t, h_j − t, h_j·t] + b)) for entries h_j [N, D] in bags of targets t [B, D]; arguments (entries, target, offsets, weight [H,
/// 4D], bias, dropout, generator).
///
/// = (W_h + W_d) h_j + W_p (h_j·t) + {(W_t − W_d) t + b}: what stands in braces is computed once a bag.
struct EntryLayerFunction : torch::autograd::Function<EntryLayerFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& entries, const at::Tensor& target, const at::Tensor& offsets,
                            const at::Tensor& weight, const at::Tensor& bias, double dropout, const std::optional<at::Generator>& generator) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing in here is recorded
    const int64_t count = entries.size(0), bags = target.size(0), dim = target.size(1), width = weight.size(0);
    const at::Tensor h = entries.contiguous(), t = target.contiguous();
    const std::vector<at::Tensor> w = weight.split(dim, 1);
    const at::Tensor map = at::cat({w[0] + w[2], w[3]}, 1), line = w[1] - w[2];
    const at::Tensor inputs = at::empty({count, 2 * dim}, h.options()), of_bag = at::addmm(bias, t, line.t());
    at::Tensor out = at::empty({count, width}, h.options());
    AT_DISPATCH_FLOATING_TYPES(h.scalar_type(), "htl_entry_layer", [&] {
      const int64_t* const ends = offsets.const_data_ptr<int64_t>();
      const scalar_t *const from = h.const_data_ptr<scalar_t>(), *const targets = t.const_data_ptr<scalar_t>();
      scalar_t* const in = inputs.data_ptr<scalar_t>();
      RowChunks(bags, 16 * dim).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t bag = first; bag < end; ++bag)
          for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j)
            for (int64_t i = 0; i < dim; ++i) {
              in[2 * j * dim + i] = from[j * dim + i];
              in[(2 * j + 1) * dim + i] = from[j * dim + i] * targets[bag * dim + i];
            }
      });
      at::mm_out(out, inputs, map.t());
      const scalar_t* const shift = of_bag.const_data_ptr<scalar_t>();
      scalar_t* const y = out.data_ptr<scalar_t>();
      const RandomStream stream = dropout > 0.0 ? draw_stream(generator) : RandomStream{};
      const auto threshold = static_cast<uint64_t>(dropout * 0x1p32);
      const auto scale = static_cast<scalar_t>(1.0 / (1.0 - dropout));
      RowChunks(bags, 16 * width).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t bag = first; bag < end; ++bag)
          for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j) {
            add_row_relu(y + j * width, shift + bag * width, width);
            for (int64_t i = j * width; threshold > 0 && i < (j + 1) * width; ++i)
              y[i] = (stream.bits(static_cast<uint64_t>(i)) >> 32) < threshold ? scalar_t(0) : y[i] * scale;
          }
      });
    });
    ctx->save_for_backward({inputs, t, offsets, map, line, out});
    ctx->saved_data["scale"] = 1.0 / (1.0 - dropout);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl::TargetAttention: expected a first-order backward, got create_graph = true; its gradient is written by hand and has no second "
                    "derivative");
    const auto saved = ctx->get_saved_variables();
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor &inputs = saved[0], &t = saved[1], &offsets = saved[2], &map = saved[3], &line = saved[4], &out = saved[5];
    const int64_t bags = t.size(0), dim = t.size(1), width = out.size(1);
    const auto start = start_linear_backward(gradients[0], out, ctx->saved_data["scale"].toDouble(), ctx->needs_input_grad(4));
    const at::Tensor& delta = start.first;
    const bool needs_inputs = ctx->needs_input_grad(0) || ctx->needs_input_grad(1);
    const at::Tensor of_bag = at::zeros({bags, width}, delta.options()), of_inputs = needs_inputs ? at::mm(delta, map) : at::Tensor();
    torch::autograd::variable_list result(7);
    if (needs_inputs) {
      result[0] = at::empty({inputs.size(0), dim}, delta.options());
      result[1] = at::zeros({bags, dim}, delta.options());
    }
    AT_DISPATCH_FLOATING_TYPES(delta.scalar_type(), "htl_entry_layer_backward", [&] {
      const int64_t* const ends = offsets.const_data_ptr<int64_t>();
      const scalar_t *const arriving = delta.const_data_ptr<scalar_t>(), *const in = inputs.const_data_ptr<scalar_t>(),
                            *const targets = t.const_data_ptr<scalar_t>();
      const scalar_t* const of = needs_inputs ? of_inputs.const_data_ptr<scalar_t>() : nullptr;
      scalar_t* const sums = of_bag.data_ptr<scalar_t>();
      scalar_t* const dh = needs_inputs ? result[0].data_ptr<scalar_t>() : nullptr;
      scalar_t* const dt = needs_inputs ? result[1].data_ptr<scalar_t>() : nullptr;
      RowChunks(bags, 16 * width).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t bag = first; bag < end; ++bag)
          for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j) {
            add_row(sums + bag * width, arriving + j * width, width);
            for (int64_t i = 0; needs_inputs && i < dim; ++i) {
              const scalar_t along = of[(2 * j + 1) * dim + i];
              dh[j * dim + i] = of[2 * j * dim + i] + along * targets[bag * dim + i];
              dt[bag * dim + i] += along * in[2 * j * dim + i];
            }
          }
      });
    });
    if (needs_inputs) result[1].addmm_(of_bag, line);
    if (ctx->needs_input_grad(3)) {  // offsets need none, so the weight is the fourth
      const at::Tensor of_map = at::mm(delta.t(), inputs), of_line = at::mm(of_bag.t(), t), of_entry = of_map.narrow(1, 0, dim);
      result[3] = at::cat({of_entry, of_line, of_entry - of_line, of_map.narrow(1, dim, dim)}, 1);
    }
    if (ctx->needs_input_grad(4)) result[4] = start.second;
    return result;
  }
};

/// @brief Σ_j w_j h_j [B, D] and w [N], w = s or softmax of s in each bag, for scores s [N]; arguments (scores, entries, offsets, softmax). w has no gradient
/// of its own.
struct BagSumFunction : torch::autograd::Function<BagSumFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& scores, const at::Tensor& entries,
                                                const at::Tensor& offsets, bool softmax) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing in here is recorded
    const int64_t bags = offsets.size(0) - 1, dim = entries.size(1);
    const at::Tensor h = entries.contiguous(), weights = scores.clone(at::MemoryFormat::Contiguous), out = at::zeros({bags, dim}, h.options());
    AT_DISPATCH_FLOATING_TYPES(h.scalar_type(), "htl_bag_sum", [&] {
      const int64_t* const ends = offsets.const_data_ptr<int64_t>();
      const scalar_t* const from = h.const_data_ptr<scalar_t>();
      scalar_t *const w = weights.data_ptr<scalar_t>(), *const to = out.data_ptr<scalar_t>();
      RowChunks(bags, 16 * dim).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t bag = first; bag < end; ++bag) {
          if (softmax && ends[bag] < ends[bag + 1]) {
            scalar_t largest = w[ends[bag]], total = 0;
            for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j) largest = std::max(largest, w[j]);
            for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j) total += w[j] = std::exp(w[j] - largest);
            for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j) w[j] /= total;
          }
          for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j) add_scaled(to + bag * dim, w[j], from + j * dim, dim);
        }
      });
    });
    ctx->mark_non_differentiable({weights});
    ctx->save_for_backward({weights, h, offsets});
    ctx->saved_data["softmax"] = softmax;
    return {out, weights};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl::TargetAttention: expected a first-order backward, got create_graph = true; its gradient is written by hand and has no second "
                    "derivative");
    const auto saved = ctx->get_saved_variables();
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor &weights = saved[0], &h = saved[1], &offsets = saved[2], arriving = gradients[0].contiguous();
    const bool softmax = ctx->saved_data["softmax"].toBool();
    const int64_t bags = offsets.size(0) - 1, dim = h.size(1);
    torch::autograd::variable_list result{at::empty_like(weights), at::empty_like(h), {}, {}};
    AT_DISPATCH_FLOATING_TYPES(h.scalar_type(), "htl_bag_sum_backward", [&] {
      const int64_t* const ends = offsets.const_data_ptr<int64_t>();
      const scalar_t *const g = arriving.const_data_ptr<scalar_t>(), *const from = h.const_data_ptr<scalar_t>(), *const w = weights.const_data_ptr<scalar_t>();
      scalar_t *const dw = result[0].data_ptr<scalar_t>(), *const dh = result[1].data_ptr<scalar_t>();
      RowChunks(bags, 16 * dim).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t bag = first; bag < end; ++bag) {
          scalar_t mean = 0;
          for (int64_t j = ends[bag]; j < ends[bag + 1]; ++j) {
            dw[j] = dot(g + bag * dim, from + j * dim, dim);
            set_scaled(dh + j * dim, w[j], g + bag * dim, dim);
            mean += w[j] * dw[j];
          }
          for (int64_t j = ends[bag]; softmax && j < ends[bag + 1]; ++j) dw[j] = w[j] * (dw[j] - mean);
        }
      });
    });
    return result;
  }
};

/// @brief The first layer by ATen, on any device and in any type; row [N] is each entry's bag.
template <class = void>
at::Tensor entry_layer_tensors(const at::Tensor& entries, const at::Tensor& target, const at::Tensor& row, const at::Tensor& weight, const at::Tensor& bias,
                               double dropout, const std::optional<at::Generator>& generator) {
  const std::vector<at::Tensor> w = weight.split(target.size(1), 1);
  const at::Tensor of_bag = linear_parts({target}, w[1] - w[2], bias), map = at::cat({w[0] + w[2], w[3]}, 1);
  const at::Tensor out = (linear_parts({entries, entries * target.index_select(0, row)}, map, {}) + of_bag.index_select(0, row)).relu();
  return dropout > 0.0 ? out * at::empty_like(out).bernoulli_(1.0 - dropout, generator).mul_(1.0 / (1.0 - dropout)) : out;
}

/// @brief The weighted sums [B, D] and the weights [N] by ATen, on any device and in any type; what valid [N] leaves out (undefined = nothing) has weight 0.
template <class = void>
std::pair<at::Tensor, at::Tensor> bag_sum_tensors(const at::Tensor& scores, const at::Tensor& entries, const at::Tensor& row, int64_t bags, bool softmax,
                                                  const at::Tensor& valid) {
  const auto without = [&](const at::Tensor& of, double value) { return valid.defined() ? of.masked_fill(valid.logical_not(), value) : of; };
  at::Tensor weights = without(scores, 0.0);
  if (softmax) {  // in float32 at least, for sums of many; what is left out does not even get an exponential of its own
    const at::Tensor exact = without(scores.to(scores.scalar_type() == at::kDouble ? at::kDouble : at::kFloat), -std::numeric_limits<double>::infinity());
    const at::Tensor start = at::zeros({bags}, exact.options().requires_grad(false));
    const at::Tensor largest = start.scatter_reduce(0, row, exact.detach(), "amax", /*include_self=*/false).index_select(0, row);
    const at::Tensor powers = (exact - without(largest, 0.0)).exp();
    weights = powers / without(start.index_add(0, row, powers).index_select(0, row), 1.0);
  }
  return {at::zeros({bags, entries.size(1)}, entries.options()).index_add(0, row, entries * weights.to(entries.scalar_type()).unsqueeze(1)), weights};
}

}  // namespace htl::detail
