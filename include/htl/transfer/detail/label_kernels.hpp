// SPDX-License-Identifier: Apache-2.0
/// @file label_kernels.hpp
/// @brief The label embedding's weights by ATen for every device and number of classes, and in one pass for binary tasks on the CPU.
#pragma once

#include <htl/nn/detail/random_stream.hpp>
#include <htl/nn/detail/row_chunks.hpp>
#include <htl/task/check.hpp>
#include <htl/transfer/detail/label_mean.hpp>
#include <htl/transfer/detail/label_weight.hpp>

#include <ATen/Dispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

namespace htl::inline v0_1_0::detail {

/// @brief How weights come from tempered logits.
enum class LabelForm {
  soft,              ///< softmax
  straight_through,  ///< one-hot forward, softmax backward
  argmax,            ///< one-hot, no gradient
  mean               ///< the mean of noisy soft weights
};

/// @brief All that decides the weights of one forward.
struct LabelRule {
  LabelForm form = LabelForm::soft;    ///< see there
  bool is_noisy = false;               ///< whether Gumbel noise is added
  double temperature = 1.0;            ///< τ, unless device_temperature is defined
  at::Tensor device_temperature = {};  ///< τ as a scalar on the device
};

/// @brief Weights [B, K] of the rows by ATen, differentiable by autograd; logits [B, 1] (binary; row 0 positive) or [B, K], fp32 or fp64.
inline at::Tensor label_weights(const at::Tensor& logits, const LabelRule& rule, const std::optional<at::Generator>& generator) {
  const bool is_binary = logits.size(1) == 1;
  const at::Tensor tau =
      rule.device_temperature.defined() ? rule.device_temperature.to(logits.scalar_type()) : at::full({}, rule.temperature, logits.options());
  const auto both = [](const at::Tensor& q) { return at::cat({q, 1.0 - q}, 1); };
  if (rule.form == LabelForm::mean) {
    if (is_binary) return both(mean_weight(logits, tau));
    return mean_weights_of_classes(logits, tau);
  }
  at::Tensor noisy = logits;
  if (rule.is_noisy) {
    noisy = logits + gumbel_noise(logits, generator);
    if (is_binary) noisy = noisy - gumbel_noise(logits, generator);  // the difference of two Gumbel variables is logistic
  }
  // without their maximum the largest finite logits stay finite through the division
  const auto soft = [&] { return is_binary ? both((noisy / tau).sigmoid()) : ((noisy - noisy.detach().amax(1, true)) / tau).softmax(1); };
  if (rule.form == LabelForm::argmax || rule.form == LabelForm::straight_through) {
    at::Tensor hard = is_binary ? both((noisy > 0).to(logits.scalar_type())) : at::zeros_like(noisy).scatter(1, noisy.argmax(1, true), 1.0);
    if (rule.form == LabelForm::argmax) return hard;
    const at::Tensor taught = soft();
    return hard + (taught - taught.detach());
  }
  return soft();
}

/// @brief Whether BinaryLabelFunction can do it.
inline bool has_label_loops(const at::Tensor& logits, const at::Tensor& table, const LabelRule& rule) {
  return has_cpu_loops(table) && logits.size(1) == 1 && logits.device().is_cpu() && logits.scalar_type() == table.scalar_type() &&
         (rule.form != LabelForm::mean || rule.temperature == 1.0);
}

/// @brief Weight of row 0 and its derivative for one logit.
inline WeightAndSlope binary_weight(double logit, double noise, LabelForm form, double temperature) {
  if (form == LabelForm::mean) return mean_weight(logit);
  const double tempered = (logit + noise) / temperature;
  if (form == LabelForm::argmax) return {tempered > 0.0 ? 1.0 : 0.0, 0.0};
  const double soft = 1.0 / (1.0 + std::exp(-tempered));
  const double slope = soft * (1.0 - soft) / temperature;
  return {form == LabelForm::soft ? soft : (tempered > 0.0 ? 1.0 : 0.0), slope};
}

/// @brief q E_0 + (1 − q) E_1 for logits [B, 1] and a table [2, E] on the CPU, forward and backward in one pass each.
struct BinaryLabelFunction : torch::autograd::Function<BinaryLabelFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& logits, const at::Tensor& table, const LabelRule& rule,
                            const RandomStream& stream) {
    const int64_t rows = logits.size(0), width = table.size(1);
    const at::Tensor dense = logits.contiguous(), labels = table.contiguous();
    at::Tensor out = at::empty({rows, width}, table.options()), weights = at::empty({2, rows}, table.options());  // weight of row 0, slope
    AT_DISPATCH_FLOATING_TYPES(table.scalar_type(), "htl_label_embedding", [&] {
      const scalar_t* const z = dense.const_data_ptr<scalar_t>();
      const scalar_t* const positive = labels.const_data_ptr<scalar_t>();
      const scalar_t* const negative = positive + width;
      scalar_t* const q = weights.data_ptr<scalar_t>();
      scalar_t* const slope = q + rows;
      scalar_t* const result = out.data_ptr<scalar_t>();
      RowChunks(rows, width + 16).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row) {
          double noise = 0.0;
          if (rule.is_noisy) {
            const double uniform = stream.uniform(static_cast<uint64_t>(row));
            noise = std::log(uniform / (1.0 - uniform));
          }
          const WeightAndSlope at_row = binary_weight(static_cast<double>(z[row]), noise, rule.form, rule.temperature);
          q[row] = static_cast<scalar_t>(at_row.weight);
          slope[row] = static_cast<scalar_t>(at_row.slope);
          const scalar_t rest = static_cast<scalar_t>(1.0 - at_row.weight);
          for (int64_t j = 0; j < width; ++j) result[row * width + j] = q[row] * positive[j] + rest * negative[j];
        }
      });
    });
    ctx->save_for_backward({table, weights});
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl::LabelEmbedding: expected a first-order backward, got create_graph = true; its gradient is written by hand "
                    "and has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor labels = saved[0].contiguous(), arriving = gradients[0].contiguous();
    const at::Tensor& weights = saved[1];
    const int64_t rows = weights.size(1), width = labels.size(1);
    at::Tensor logit_gradient = at::empty({rows, 1}, labels.options()), table_gradient = at::zeros({2, width}, labels.options());
    const RowChunks chunks(rows, width + 16);
    const at::Tensor partial_sums = at::zeros({chunks.count, 2, width}, labels.options());
    AT_DISPATCH_FLOATING_TYPES(labels.scalar_type(), "htl_label_embedding_backward", [&] {
      const scalar_t* const g = arriving.const_data_ptr<scalar_t>();
      const scalar_t* const positive = labels.const_data_ptr<scalar_t>();
      const scalar_t* const negative = positive + width;
      const scalar_t* const q = weights.const_data_ptr<scalar_t>();
      const scalar_t* const slope = q + rows;
      scalar_t* const dz = logit_gradient.data_ptr<scalar_t>();
      scalar_t* const partial = partial_sums.data_ptr<scalar_t>();
      chunks.for_each([&](int64_t chunk, int64_t first, int64_t end) {
        scalar_t* const sum = partial + chunk * 2 * width;
        for (int64_t row = first; row < end; ++row) {
          const scalar_t* const arrived = g + row * width;
          scalar_t along = 0;
          for (int64_t j = 0; j < width; ++j) {
            along += arrived[j] * (positive[j] - negative[j]);
            sum[j] += q[row] * arrived[j];
            sum[width + j] += (scalar_t(1) - q[row]) * arrived[j];
          }
          dz[row] = slope[row] * along;
        }
      });
      scalar_t* const total = table_gradient.data_ptr<scalar_t>();
      for (int64_t chunk = 0; chunk < chunks.count; ++chunk)
        for (int64_t j = 0; j < 2 * width; ++j) total[j] += partial[chunk * 2 * width + j];
    });
    return {logit_gradient, table_gradient, {}, {}};
  }
};

}  // namespace htl::detail
