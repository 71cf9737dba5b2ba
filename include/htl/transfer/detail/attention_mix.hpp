// SPDX-License-Identifier: Apache-2.0
/// @file attention_mix.hpp
/// @brief Attention over a few sources of equal width on the CPU: the mixture Σ_j w_j u_j with its gradients, without forming queries and keys.
#pragma once

#include <htl/nn/detail/row_chunks.hpp>
#include <htl/nn/detail/row_loops.hpp>
#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/addmv.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief Data pointers of several contiguous tensors.
template <class Scalar>
std::vector<Scalar*> pointers(const std::vector<at::Tensor>& tensors) {
  std::vector<Scalar*> result;
  for (const at::Tensor& tensor : tensors) result.push_back(tensor.data_ptr<Scalar>());
  return result;
}

/// @brief s_j = (u_j·S u_j + v·u_j)/√O with S = (W2ᵀW3 + W3ᵀW2)/2, v = W2ᵀb3 + W3ᵀb2; w = softmax(s); results Σ_j w_j u_j [B, D] and w [B, J].
///
/// <h2 u, h3 u> = u·S u + v·u + b2·b3, and the constant cancels in the softmax. Arguments (W2, b2, W3, b3, sources…). w has no gradient of its own.
struct AttentionMixFunction : torch::autograd::Function<AttentionMixFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& query, const at::Tensor& query_bias,
                                                const at::Tensor& key, const at::Tensor& key_bias, at::TensorList sources) {
    bool needs_images = false;
    for (const at::Tensor& source : sources) needs_images = needs_images || source.requires_grad();
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing in here is recorded
    const int64_t rows = sources[0].size(0), width = sources[0].size(1);
    const size_t count = sources.size();
    const auto columns = static_cast<int64_t>(count);
    const double scale = 1.0 / std::sqrt(static_cast<double>(query.size(0)));
    const at::Tensor product = at::mm(query.t(), key);
    const at::Tensor form = (product + product.t()).mul_(0.5 * scale);                                // S/√O
    const at::Tensor line = at::addmv(at::mv(query.t(), key_bias), key.t(), query_bias).mul_(scale);  // v/√O
    std::vector<at::Tensor> inputs, images;
    for (const at::Tensor& source : sources) {
      inputs.push_back(source.contiguous());
      images.push_back(at::mm(inputs.back(), form));
    }
    at::Tensor mixed = at::empty({rows, width}, sources[0].options()), weights = at::empty({rows, columns}, sources[0].options());
    AT_DISPATCH_FLOATING_TYPES(mixed.scalar_type(), "htl_attention_mix", [&] {
      const auto u = pointers<scalar_t>(inputs), image = pointers<scalar_t>(images);
      const scalar_t* const v = line.const_data_ptr<scalar_t>();
      scalar_t* const result = mixed.data_ptr<scalar_t>();
      scalar_t* const attention = weights.data_ptr<scalar_t>();
      RowChunks(rows, width * columns).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row) {
          scalar_t* const w = attention + row * columns;
          scalar_t* const out = result + row * width;
          scalar_t largest = 0, total = 0;
          for (size_t j = 0; j < count; ++j) {
            const scalar_t* const x = u[j] + row * width;
            const scalar_t score = dot(x, image[j] + row * width, width) + dot(x, v, width);
            w[j] = score;
            largest = j == 0 ? score : std::max(largest, score);
          }
          for (size_t j = 0; j < count; ++j) total += w[j] = std::exp(w[j] - largest);
          for (size_t j = 0; j < count; ++j) w[j] /= total;
          set_scaled(out, w[0], u[0] + row * width, width);
          for (size_t j = 1; j < count; ++j) add_scaled(out, w[j], u[j] + row * width, width);
        }
      });
    });
    ctx->mark_non_differentiable({weights});
    torch::autograd::variable_list saved{query, query_bias, key, key_bias, line, weights};
    saved.insert(saved.end(), inputs.begin(), inputs.end());
    if (needs_images) saved.insert(saved.end(), images.begin(), images.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["count"] = columns;
    return {mixed, weights};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl::InformationFusion: expected a first-order backward, got create_graph = true; its gradient is written by hand "
                    "and has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto count = static_cast<size_t>(ctx->saved_data["count"].toInt());
    const at::Tensor &query = saved[0], &query_bias = saved[1], &key = saved[2], &key_bias = saved[3], &line = saved[4], &weights = saved[5];
    const auto first_input = saved.begin() + 6;
    const std::vector<at::Tensor> inputs(first_input, first_input + static_cast<std::ptrdiff_t>(count));
    const std::vector<at::Tensor> images(first_input + static_cast<std::ptrdiff_t>(count), saved.end());
    const double scale = 1.0 / std::sqrt(static_cast<double>(query.size(0)));
    const at::Tensor arriving = gradients[0].contiguous();
    const int64_t rows = arriving.size(0), width = arriving.size(1), sources = static_cast<int64_t>(count);

    std::vector<at::Tensor> scored, leaving;  // ds_j u_j, and du_j
    for (size_t j = 0; j < count; ++j) {
      scored.push_back(at::empty_like(arriving));
      if (!images.empty()) leaving.push_back(at::empty_like(arriving));
    }
    const RowChunks chunks(rows, width * sources);
    const at::Tensor partial_sums = at::zeros({chunks.count, width}, arriving.options());
    AT_DISPATCH_FLOATING_TYPES(arriving.scalar_type(), "htl_attention_mix_backward", [&] {
      const auto u = pointers<scalar_t>(inputs), image = pointers<scalar_t>(images), z = pointers<scalar_t>(scored), du = pointers<scalar_t>(leaving);
      const scalar_t* const g = arriving.const_data_ptr<scalar_t>();
      const scalar_t* const v = line.const_data_ptr<scalar_t>();
      const scalar_t* const attention = weights.const_data_ptr<scalar_t>();
      scalar_t* const partial = partial_sums.data_ptr<scalar_t>();
      chunks.for_each([&](int64_t chunk, int64_t first, int64_t end) {
        scalar_t* const sum = partial + chunk * width;
        std::vector<scalar_t> ds(count);
        for (int64_t row = first; row < end; ++row) {
          const scalar_t* const w = attention + row * sources;
          const scalar_t* const arrived = g + row * width;
          scalar_t mean = 0;
          for (size_t j = 0; j < count; ++j) {
            const scalar_t along = dot(arrived, u[j] + row * width, width);
            ds[j] = along;
            mean += w[j] * along;
          }
          for (size_t j = 0; j < count; ++j) {
            scalar_t* const product = z[j] + row * width;
            const scalar_t factor = w[j] * (ds[j] - mean);
            set_scaled(product, factor, u[j] + row * width, width);
            add_row(sum, product, width);
            if (du.empty()) continue;
            const scalar_t* const sx = image[j] + row * width;
            scalar_t* const d = du[j] + row * width;
            for (int64_t i = 0; i < width; ++i) d[i] = w[j] * arrived[i] + factor * (scalar_t(2) * sx[i] + v[i]);
          }
        }
      });
    });
    torch::autograd::variable_list result(4 + count);
    for (size_t j = 0; j < leaving.size(); ++j)
      if (ctx->needs_input_grad(4 + j)) result[4 + j] = leaving[j];
    if (!ctx->needs_input_grad({torch::autograd::IndexRange(0, 4)})) return result;
    at::Tensor form_gradient = at::mm(scored[0].t(), inputs[0]);  // d(u·S u)/dS, symmetric
    for (size_t j = 1; j < count; ++j) at::addmm_out(form_gradient, form_gradient, scored[j].t(), inputs[j]);
    form_gradient.mul_(scale);
    const at::Tensor line_gradient = partial_sums.sum(0).mul_(scale);
    result[0] = at::mm(key, form_gradient).addr_(key_bias, line_gradient);
    result[1] = at::mv(key, line_gradient);
    result[2] = at::mm(query, form_gradient).addr_(query_bias, line_gradient);
    result[3] = at::mv(query, line_gradient);
    return result;
  }
};

/// @brief The mixture [B, D] and the weights [B, J]; see AttentionMixFunction.
inline std::pair<at::Tensor, at::Tensor> attention_mix(const std::vector<at::Tensor>& sources, const at::Tensor& query, const at::Tensor& query_bias,
                                                       const at::Tensor& key, const at::Tensor& key_bias) {
  auto results = AttentionMixFunction::apply(query, query_bias, key, key_bias, at::TensorList(sources));
  return {results[0], results[1]};
}

}  // namespace htl::detail
