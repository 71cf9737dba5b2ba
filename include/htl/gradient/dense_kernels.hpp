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
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Σ a_i b_i in float64, in 8 interleaved sums: a fixed order, whatever the machine.
template <class T>
double exact_dot(const T* __restrict__ a, const T* __restrict__ b, int64_t count) {
  constexpr int64_t lanes = 8;
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
  for (int64_t lane = 0; i < count; ++i, ++lane) sums[lane] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

/// Whether all defined gradients lie in host memory as fp32 or fp64, in one type.
inline bool has_dense_loops(const std::vector<at::Tensor>& gradients, const at::Tensor& like) {
  const at::ScalarType type = like.scalar_type();
  return like.is_cpu() && (type == at::kFloat || type == at::kDouble) &&
         std::all_of(gradients.begin(), gradients.end(), [&](const at::Tensor& g) { return !g.defined() || (g.is_cpu() && g.scalar_type() == type); });
}

/// Blocks of so many numbers: T of them stay in the nearest cache, and sums do not depend on threads.
inline constexpr int64_t kDenseBlock = 2048;

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
  std::vector<at::Tensor> held;
  const auto dense = [&](const std::vector<at::Tensor>& gradients) {
    std::vector<at::Tensor> result;
    for (const at::Tensor& g : gradients) result.push_back(g.defined() ? g.contiguous() : g);
    return result;
  };
  const std::vector<at::Tensor> rows = dense(left), columns = symmetric ? rows : dense(right);
  const int64_t count = like.numel(), blocks = (count + kDenseBlock - 1) / kDenseBlock;
  std::vector<double> partial(static_cast<size_t>(blocks * tasks * tasks), 0.0);
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), "htl::dense_products", [&] {
    const auto pointers = [](const std::vector<at::Tensor>& gradients) {
      std::vector<const scalar_t*> result;
      for (const at::Tensor& g : gradients) result.push_back(g.defined() ? g.const_data_ptr<scalar_t>() : nullptr);
      return result;
    };
    const std::vector<const scalar_t*> a = pointers(rows), b = pointers(columns);
    at::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kDenseBlock, size = std::min(kDenseBlock, count - first);
        double* const products = partial.data() + block * tasks * tasks;
        for (int64_t s = 0; s < tasks; ++s)
          for (int64_t t = 0; t < (symmetric ? s + 1 : tasks); ++t)
            if (const scalar_t* x = a[static_cast<size_t>(s)], *y = b[static_cast<size_t>(t)]; x && y)
              products[s * tasks + t] = exact_dot(x + first, y + first, size);
      }
    });
  });
  at::Tensor result = at::zeros({tasks, tasks}, at::kDouble);
  auto* const sums = result.mutable_data_ptr<double>();
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t i = 0; i < tasks * tasks; ++i) sums[i] += partial[static_cast<size_t>(block * tasks * tasks + i)];
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
      const at::Tensor part = gradients[t] * weights[static_cast<int64_t>(t)].to(gradients[t].scalar_type());
      sum = sum.defined() ? sum + part : part;
    }
    return sum;
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
    at::parallel_for(0, count, 8 * kDenseBlock, [&](int64_t begin, int64_t end) {
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
