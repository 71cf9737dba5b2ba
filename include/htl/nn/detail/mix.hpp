// SPDX-License-Identifier: Apache-2.0
/// @file mix.hpp
/// @brief Weighted sums of experts: several mixtures of the same experts in one pass, and their gradients.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/nn/detail/row_chunks.hpp>
#include <htl/nn/detail/row_loops.hpp>
#include <htl/task/check.hpp>

#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief Which blocks of experts each mixture reads, in the order of its weights.
using MixReads = std::vector<std::vector<int64_t>>;

/// @brief Row by row: out_s += weights[column] · block[offset … offset + H).
struct MixTerm {
  size_t output, block;
  int64_t column, offset;
  bool is_first = false;  // of its output forward, of its expert backward
};

/// @brief m_s = Σ_j w_sj E_sj; arguments (weights, blocks, H, reads flattened as count, blocks, count, …, joined). See mix().
struct MixFunction : torch::autograd::Function<MixFunction> {
  static std::vector<MixTerm> terms_of(const std::vector<int64_t>& reads, at::TensorList blocks, int64_t width) {
    std::vector<MixTerm> terms;
    int64_t column = 0;
    size_t output = 0;
    for (size_t r = 0; r < reads.size(); ++output) {
      const size_t end = r + 1 + static_cast<size_t>(reads[r]);
      for (++r; r < end; ++r) {
        const auto block = static_cast<size_t>(reads[r]);
        for (int64_t offset = 0; offset < blocks[block].size(1); offset += width) terms.push_back({output, block, column++, offset});
      }
    }
    return terms;
  }
  /// Memory of S tensors [B, H]: one by one, or columns of one.
  static at::Tensor output_of(const torch::autograd::variable_list& tensors, size_t output, bool joined, int64_t width) {
    return joined ? tensors[0].narrow(1, static_cast<int64_t>(output) * width, width) : tensors[output];
  }

  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& weights, at::TensorList blocks, int64_t width,
                                                const std::vector<int64_t>& reads, bool joined) {
    const at::AutoDispatchBelowADInplaceOrView below;  // nothing in here is recorded
    const int64_t rows = weights.size(0);
    std::vector<MixTerm> terms = terms_of(reads, blocks, width);
    const size_t outputs = terms.back().output + 1;
    for (size_t i = 0; i < terms.size(); ++i) terms[i].is_first = i == 0 || terms[i - 1].output != terms[i].output;
    torch::autograd::variable_list results, saved{weights.stride(1) == 1 ? weights : weights.contiguous()};
    for (const at::Tensor& block : blocks) saved.push_back(block.stride(1) == 1 ? block : block.contiguous());
    for (size_t s = 0; s < (joined ? 1 : outputs); ++s)
      results.push_back(at::empty({rows, joined ? static_cast<int64_t>(outputs) * width : width}, weights.options()));
    AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "htl_mix", [&] {
      std::vector<scalar_t*> out;
      std::vector<const scalar_t*> in;
      for (size_t s = 0; s < outputs; ++s) out.push_back(output_of(results, s, joined, width).data_ptr<scalar_t>());
      for (size_t k = 1; k < saved.size(); ++k) in.push_back(saved[k].const_data_ptr<scalar_t>());
      const scalar_t* const w = saved[0].const_data_ptr<scalar_t>();
      const int64_t leading = results[0].stride(0), step = saved[0].stride(0);
      RowChunks(rows, static_cast<int64_t>(terms.size()) * width).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row)
          for (const MixTerm& term : terms) {
            scalar_t* const to = out[term.output] + row * leading;
            const scalar_t* const from = in[term.block] + row * saved[1 + term.block].stride(0) + term.offset;
            const scalar_t factor = w[row * step + term.column];
            term.is_first ? set_scaled(to, factor, from, width) : add_scaled(to, factor, from, width);
          }
      });
    });
    ctx->save_for_backward(std::move(saved));
    ctx->set_materialize_grads(false);
    ctx->saved_data["width"] = width;
    ctx->saved_data["reads"] = reads;
    ctx->saved_data["joined"] = joined;
    return results;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& gradients) {
    HTL_CHECK_STATE(!at::GradMode::is_enabled(),
                    "htl::detail::mix: expected a first-order backward, got create_graph = true; its gradient is written by hand and has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor& weights = saved[0];
    const at::TensorList blocks(saved.data() + 1, saved.size() - 1);
    const int64_t width = ctx->saved_data["width"].toInt(), rows = weights.size(0);
    const bool joined = ctx->saved_data["joined"].toBool();
    std::vector<MixTerm> terms = terms_of(ctx->saved_data["reads"].toIntVector(), blocks, width);
    const size_t outputs = terms.back().output + 1, all = terms.size();
    std::erase_if(terms, [&](const MixTerm& term) { return !gradients[joined ? 0 : term.output].defined(); });
    torch::autograd::variable_list arriving, result(1 + blocks.size() + 3);
    if (terms.empty()) return result;
    for (const at::Tensor& gradient : gradients) arriving.push_back(gradient.defined() && gradient.stride(1) != 1 ? gradient.contiguous() : gradient);
    const bool needs_weights = ctx->needs_input_grad(0);
    if (needs_weights) result[0] = terms.size() == all ? at::empty(weights.sizes(), weights.options()) : at::zeros(weights.sizes(), weights.options());
    for (MixTerm& term : terms) {
      at::Tensor& leaving = result[1 + term.block];
      term.is_first = std::none_of(terms.data(), &term, [&](const MixTerm& other) { return other.block == term.block && other.offset == term.offset; });
      if (!leaving.defined() && ctx->needs_input_grad(1 + term.block)) leaving = at::empty(blocks[term.block].sizes(), weights.options());
    }
    AT_DISPATCH_FLOATING_TYPES(weights.scalar_type(), "htl_mix_backward", [&] {
      std::vector<const scalar_t*> g(outputs, nullptr), in;
      std::vector<scalar_t*> out;
      std::vector<int64_t> leading(outputs, 0);
      for (const MixTerm& term : terms) {
        const at::Tensor tensor = output_of(arriving, term.output, joined, width);
        g[term.output] = tensor.const_data_ptr<scalar_t>();
        leading[term.output] = tensor.stride(0);
      }
      for (size_t k = 0; k < blocks.size(); ++k) {
        in.push_back(blocks[k].const_data_ptr<scalar_t>());
        out.push_back(result[1 + k].defined() ? result[1 + k].data_ptr<scalar_t>() : nullptr);
      }
      const scalar_t* const w = weights.const_data_ptr<scalar_t>();
      scalar_t* const dw = needs_weights ? result[0].data_ptr<scalar_t>() : nullptr;
      const int64_t columns = weights.size(1), step = weights.stride(0);
      RowChunks(rows, static_cast<int64_t>(terms.size()) * width).for_each([&](int64_t, int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row)
          for (const MixTerm& term : terms) {
            const scalar_t* const arrived = g[term.output] + row * leading[term.output];
            if (dw) dw[row * columns + term.column] = dot(arrived, in[term.block] + row * blocks[term.block].stride(0) + term.offset, width);
            if (!out[term.block]) continue;
            scalar_t* const to = out[term.block] + row * blocks[term.block].size(1) + term.offset;
            const scalar_t factor = w[row * step + term.column];
            term.is_first ? set_scaled(to, factor, arrived, width) : add_scaled(to, factor, arrived, width);
          }
      });
    });
    return result;
  }
};

/// @brief The same by ATen, on any device and in any type.
template <class = void>
std::vector<at::Tensor> mix_tensors(const at::Tensor& weights, const std::vector<at::Tensor>& blocks, int64_t width, const MixReads& reads, bool joined) {
  const int64_t rows = weights.size(0);
  const auto experts = [&](const std::vector<int64_t>& read) {
    std::vector<at::Tensor> of;
    for (const int64_t block : read) of.push_back(blocks[static_cast<size_t>(block)]);
    const at::Tensor all = of.size() == 1 ? of[0] : at::cat(of, 1);
    return all.reshape({rows, all.size(1) / width, width});
  };
  std::vector<at::Tensor> results;
  if (std::all_of(reads.begin(), reads.end(), [&](const auto& read) { return read == reads[0]; })) {
    const at::Tensor all = experts(reads[0]), mixed = at::bmm(weights.reshape({rows, static_cast<int64_t>(reads.size()), all.size(1)}), all);
    if (joined) return {mixed.reshape({rows, mixed.size(1) * width})};
    for (size_t s = 0; s < reads.size(); ++s) results.push_back(mixed.select(1, static_cast<int64_t>(s)));
    return results;
  }
  int64_t column = 0;
  for (const auto& read : reads) {
    const at::Tensor all = experts(read);
    results.push_back(at::bmm(weights.narrow(1, column, all.size(1)).unsqueeze(1), all).squeeze(1));
    column += all.size(1);
  }
  return joined ? std::vector<at::Tensor>{at::cat(results, 1)} : results;
}

/// @brief m_s = Σ_j w_sj E_sj [B, H] for several mixtures s at once, without forming [B, S, n, H].
/// @param weights [B, Σ_s n_s], mixture by mixture, each in the order of the experts that it reads; rows may be one in memory (expanded)
/// @param blocks of experts [B, n_k·H], expert by expert
/// @param width H
/// @param reads the blocks that each mixture reads, at least one
/// @param joined one result [B, S·H] instead of S results [B, H]
inline std::vector<at::Tensor> mix(const at::Tensor& weights, const std::vector<at::Tensor>& blocks, int64_t width, const MixReads& reads,
                                   bool joined = false) {
  const bool loops = has_cpu_loops(weights) && std::all_of(blocks.begin(), blocks.end(), [&](const at::Tensor& block) {
                       return block.device().is_cpu() && block.scalar_type() == weights.scalar_type();
                     });
  if (!loops) return mix_tensors(weights.to(blocks[0].scalar_type()), blocks, width, reads, joined);
  std::vector<int64_t> flat;
  for (const auto& read : reads) {
    flat.push_back(static_cast<int64_t>(read.size()));
    flat.insert(flat.end(), read.begin(), read.end());
  }
  return MixFunction::apply(weights, at::TensorList(blocks), width, flat, joined);
}

}  // namespace htl::detail
