// SPDX-License-Identifier: Apache-2.0
/// @file dense_kernels.hpp
/// @brief The Gramian of T gradients of one dense tensor, and their weighted sum: one reading of each, on the CPU by plain loops.
#pragma once

#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Two numbers in one register of every processor that GCC and Clang know: loops over lanes become shuffles instead.
using TwoDoubles = double __attribute__((vector_size(16)));
inline TwoDoubles two_doubles(const double* from) {
  TwoDoubles result;
  std::memcpy(&result, from, sizeof(result));
  return result;
}

/// Σ a_i b_i of two rows with two others, in 4 interleaved sums each: a fixed order, whatever the machine.
inline void dot_pairs(const double* a0, const double* a1, const double* b0, const double* b1, int64_t count, double* products) {
  TwoDoubles even[4] = {}, odd[4] = {};  // lanes 0 and 1, lanes 2 and 3
  const auto add = [&](TwoDoubles* sums, int64_t i) {
    const TwoDoubles x0 = two_doubles(a0 + i), x1 = two_doubles(a1 + i), y0 = two_doubles(b0 + i), y1 = two_doubles(b1 + i);
    sums[0] += x0 * y0;
    sums[1] += x0 * y1;
    sums[2] += x1 * y0;
    sums[3] += x1 * y1;
  };
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    add(even, i);
    add(odd, i + 2);
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) {
    TwoDoubles* const sums = lane < 2 ? even : odd;
    sums[0][lane % 2] += a0[i] * b0[i];
    sums[1][lane % 2] += a0[i] * b1[i];
    sums[2][lane % 2] += a1[i] * b0[i];
    sums[3][lane % 2] += a1[i] * b1[i];
  }
  for (int64_t pair = 0; pair < 4; ++pair) products[pair] = (even[pair][0] + odd[pair][0]) + (even[pair][1] + odd[pair][1]);
}

/// Whether all defined gradients lie in host memory as fp32 or fp64, in one type.
inline bool has_dense_loops(const std::vector<at::Tensor>& gradients, const at::Tensor& like) {
  const at::ScalarType type = like.scalar_type();
  return like.is_cpu() && (type == at::kFloat || type == at::kDouble) &&
         std::all_of(gradients.begin(), gradients.end(), [&](const at::Tensor& g) { return !g.defined() || (g.is_cpu() && g.scalar_type() == type); });
}

/// Blocks of so many numbers: those of a few tasks stay in the nearest cache as float64, and sums do not depend on threads.
inline constexpr int64_t kDenseBlock = 512;

/// [T, T] float64: the products of left_s and right_t, T gradients each of one tensor; undefined ones are zeros. With the same list twice it is symmetric.
inline at::Tensor dense_products(const std::vector<at::Tensor>& left, const std::vector<at::Tensor>& right, const at::Tensor& like) {
  const auto tasks = static_cast<int64_t>(left.size());
  const bool symmetric = &left == &right;
  if (!has_dense_loops(left, like) || !has_dense_loops(right, like)) {
    const auto matrix = [&](const std::vector<at::Tensor>& gradients) {
      std::vector<at::Tensor> flat;
      for (const at::Tensor& g : gradients) flat.push_back((g.defined() ? g : at::zeros_like(like)).reshape({-1}).to(at::kDouble));
      return at::stack(flat);
    };
    const at::Tensor rows = matrix(left);
    return rows.mm((symmetric ? rows : matrix(right)).t());
  }
  const auto dense = [](const std::vector<at::Tensor>& gradients) {
    std::vector<at::Tensor> result;
    for (const at::Tensor& g : gradients) result.push_back(g.defined() ? g.contiguous() : g);
    return result;
  };
  const std::vector<at::Tensor> rows = dense(left), columns = symmetric ? std::vector<at::Tensor>{} : dense(right);
  const int64_t count = like.numel(), chunk = 16 * kDenseBlock, chunks = (count + chunk - 1) / chunk, even = tasks + tasks % 2;
  std::vector<double> partial(static_cast<size_t>(chunks * tasks * tasks), 0.0);
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), "htl::dense_products", [&] {
    const auto pointers = [](const std::vector<at::Tensor>& gradients) {
      std::vector<const scalar_t*> result;
      for (const at::Tensor& g : gradients) result.push_back(g.defined() ? g.const_data_ptr<scalar_t>() : nullptr);
      return result;
    };
    const std::vector<const scalar_t*> a = pointers(rows), b = pointers(columns);
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      std::vector<double> buffer(static_cast<size_t>((symmetric ? 1 : 2) * even * kDenseBlock), 0.0);  // an odd task's partner stays 0
      double *const x = buffer.data(), *const y = symmetric ? x : x + even * kDenseBlock;
      const auto widen = [&](const std::vector<const scalar_t*>& from, double* to, int64_t first, int64_t size) {
        for (size_t t = 0; t < from.size(); ++t, to += kDenseBlock)
          if (from[t])
            for (int64_t i = 0; i < size; ++i) to[i] = static_cast<double>(from[t][first + i]);
      };
      for (int64_t c = begin; c < end; ++c) {
        double* const sums = partial.data() + c * tasks * tasks;
        for (int64_t first = c * chunk; first < std::min(count, (c + 1) * chunk); first += kDenseBlock) {
          const int64_t size = std::min(kDenseBlock, count - first);
          widen(a, x, first, size);
          if (!symmetric) widen(b, y, first, size);
          for (int64_t s = 0; s < tasks; s += 2)
            for (int64_t t = 0; t < (symmetric ? s + 1 : tasks); t += 2) {
              double products[4];
              dot_pairs(x + s * kDenseBlock, x + (s + 1) * kDenseBlock, y + t * kDenseBlock, y + (t + 1) * kDenseBlock, size, products);
              for (int64_t i = 0; i < 2; ++i)
                for (int64_t j = 0; j < 2; ++j)
                  if (s + i < tasks && t + j < tasks) sums[(s + i) * tasks + t + j] += products[2 * i + j];
            }
        }
      }
    });
  });
  at::Tensor result = at::zeros({tasks, tasks}, at::kDouble);
  auto* const sums = result.mutable_data_ptr<double>();
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t i = 0; i < tasks * tasks; ++i) sums[i] += partial[static_cast<size_t>(c * tasks * tasks + i)];
  if (symmetric)
    for (int64_t s = 0; s < tasks; ++s)
      for (int64_t t = 0; t < s; ++t) sums[t * tasks + s] = sums[s * tasks + t];
  return result;
}

/// Σ_t weights[t] · gradients[t], like `like`; undefined gradients are zeros. Weights are [T] float64 on its device. Undefined where all gradients are.
inline at::Tensor combine_dense(const std::vector<at::Tensor>& gradients, const at::Tensor& weights, const at::Tensor& like) {
  if (std::none_of(gradients.begin(), gradients.end(), [](const at::Tensor& g) { return g.defined(); })) return {};
  if (!has_dense_loops(gradients, like)) {
    at::Tensor sum;
    for (size_t t = 0; t < gradients.size(); ++t) {
      if (!gradients[t].defined()) continue;
      const at::ScalarType type = gradients[t].scalar_type() == at::kDouble ? at::kDouble : at::kFloat;  // half types add up in float32
      const at::Tensor part = gradients[t].to(type) * weights[static_cast<int64_t>(t)].to(type);
      sum = sum.defined() ? sum + part : part;
    }
    return sum.to(like.scalar_type());
  }
  std::vector<at::Tensor> held;
  std::vector<double> factors;
  for (size_t t = 0; t < gradients.size(); ++t) {
    if (!gradients[t].defined()) continue;
    held.push_back(gradients[t].contiguous());
    factors.push_back(weights.const_data_ptr<double>()[t]);
  }
  at::Tensor result = at::empty_like(held.front());
  const int64_t count = like.numel();
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), "htl::combine_dense", [&] {
    scalar_t* const to = result.mutable_data_ptr<scalar_t>();
    std::vector<const scalar_t*> from;
    for (const at::Tensor& g : held) from.push_back(g.const_data_ptr<scalar_t>());
    at::parallel_for(0, count, 32 * kDenseBlock, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin; first < end; first += kDenseBlock) {
        const int64_t last = std::min(first + kDenseBlock, end);
        const auto weight_of = [&](size_t t) { return static_cast<scalar_t>(factors[t]); };
        for (int64_t i = first; i < last; ++i) to[i] = weight_of(0) * from[0][i];
        for (size_t t = 1; t < from.size(); ++t)
          for (int64_t i = first; i < last; ++i) to[i] += weight_of(t) * from[t][i];
      }
    });
  });
  return result;
}

}  // namespace htl::detail
