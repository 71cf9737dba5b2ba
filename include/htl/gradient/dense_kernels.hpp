// SPDX-License-Identifier: Apache-2.0
/// @file dense_kernels.hpp
/// @brief The Gramian of T gradients of one dense tensor, and their weighted sum: one reading of each, on the CPU by plain loops.
#pragma once

#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Four numbers, in whatever registers there are: loops over lanes would become shuffles.
using FourDoubles = double __attribute__((vector_size(32)));
template <class Scalar>
[[gnu::always_inline]] inline void load_four(const Scalar* from, FourDoubles& to) {
  to = FourDoubles{from[0], from[1], from[2], from[3]};  // GCC 12 makes one instruction of this, but not of __builtin_convertvector
}

/// Adds to sums[A][B] the products of A rows with B others, or of A rows with themselves (B = A, below and on the diagonal only), lane by lane; count is a
/// multiple of four. Each number is read once.
template <int A, int B, bool own, class Scalar>
[[gnu::always_inline]] inline void add_fours(const Scalar* const* a, const Scalar* const* b, int64_t count, FourDoubles* sums) {
  FourDoubles here[A * B] = {};
  for (int64_t i = 0; i < count; i += 4) {
    FourDoubles x[own ? A : A + B];
#pragma GCC unroll 4
    for (int r = 0; r < A; ++r) load_four(a[r] + i, x[r]);
#pragma GCC unroll 4
    for (int c = 0; c < (own ? 0 : B); ++c) load_four(b[c] + i, x[A + c]);
#pragma GCC unroll 4
    for (int r = 0; r < A; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < (own ? r + 1 : B); ++c) here[r * B + c] += x[r] * x[own ? c : A + c];
  }
  for (int i = 0; i < A * B; ++i) sums[i] += here[i];
}

/// Adds to products[A][B] those of rows of any length. The order of sums is the same on every machine.
template <int A, int B, bool own, class Scalar>
[[gnu::always_inline]] inline void add_products(const Scalar* const* a, const Scalar* const* b, int64_t count, double* products) {
  FourDoubles sums[A * B] = {};
  const int64_t whole = count / 4 * 4;
  add_fours<A, B, own>(a, b, whole, sums);
  if (whole < count) {  // the rest, filled with zeros
    Scalar last[A + B][4] = {};
    const Scalar* rows[A + B];
    for (int r = 0; r < A + (own ? 0 : B); ++r) {
      const Scalar* const from = (r < A ? a[r] : b[r - A]) + whole;
      std::copy(from, from + (count - whole), last[r]);
    }
    for (int r = 0; r < A + B; ++r) rows[r] = last[r];
    add_fours<A, B, own>(rows, rows + A, 4, sums);
  }
  for (int i = 0; i < A * B; ++i) products[i] += (sums[i][0] + sums[i][2]) + (sums[i][1] + sums[i][3]);
}

/// How products are added: four rows with themselves, and with two others.
template <class Scalar>
struct ProductKernels {
  using Kernel = void (*)(const Scalar* const* a, const Scalar* const* b, int64_t count, double* products);
  Kernel own, others;
};

template <class Scalar>
ProductKernels<Scalar> plain_product_kernels() {
  return {&add_products<4, 4, true, Scalar>, &add_products<4, 2, false, Scalar>};
}

#if defined(__x86_64__)
template <class Scalar>
__attribute__((target("avx2"))) void own_products_avx2(const Scalar* const* a, const Scalar* const* b, int64_t count, double* products) {
  add_products<4, 4, true, Scalar>(a, b, count, products);
}
template <class Scalar>
__attribute__((target("avx2"))) void other_products_avx2(const Scalar* const* a, const Scalar* const* b, int64_t count, double* products) {
  add_products<4, 2, false, Scalar>(a, b, count, products);
}
#endif

/// The fastest that this processor has; all give the same bits.
template <class Scalar>
ProductKernels<Scalar> product_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return {&own_products_avx2<Scalar>, &other_products_avx2<Scalar>};
#endif
  return plain_product_kernels<Scalar>();
}

/// Whether all defined gradients lie in host memory as fp32 or fp64, in one type.
inline bool has_dense_loops(const std::vector<at::Tensor>& gradients, const at::Tensor& like) {
  const at::ScalarType type = like.scalar_type();
  return like.is_cpu() && (type == at::kFloat || type == at::kDouble) &&
         std::all_of(gradients.begin(), gradients.end(), [&](const at::Tensor& g) { return !g.defined() || (g.is_cpu() && g.scalar_type() == type); });
}

/// Blocks of so many numbers: those of a few tasks stay in the nearest cache, and sums do not depend on threads.
inline constexpr int64_t kDenseBlock = 512;

/// [T, T] float64: the products of left_s and right_t, T gradients each of one tensor; undefined ones are zeros. With the same list twice it is symmetric.
inline at::Tensor dense_products(const std::vector<at::Tensor>& left, const std::vector<at::Tensor>& right, const at::Tensor& like) {
  const auto tasks = static_cast<int64_t>(left.size());
  const bool symmetric = &left == &right;
  if (!has_dense_loops(left, like) || !has_dense_loops(right, like)) {
    if (like.is_cpu()) {  // by the loops, of a type that they have: ATen's sums depend on threads
      const auto is_double = [](const at::Tensor& g) { return g.defined() && g.scalar_type() == at::kDouble; };
      const bool wide = is_double(like) || std::any_of(left.begin(), left.end(), is_double) || std::any_of(right.begin(), right.end(), is_double);
      const at::TensorOptions options = at::TensorOptions(wide ? at::kDouble : at::kFloat);
      const auto widened = [&](const std::vector<at::Tensor>& gradients) {
        std::vector<at::Tensor> result;
        for (const at::Tensor& g : gradients) result.push_back(g.defined() ? g.to(options) : g);
        return result;
      };
      const std::vector<at::Tensor> rows = widened(left);
      const at::Tensor as = at::empty(like.sizes(), options);
      return symmetric ? dense_products(rows, rows, as) : dense_products(rows, widened(right), as);
    }
    const at::TensorOptions exact = like.options().dtype(at::kDouble);
    const auto block = [&](const std::vector<at::Tensor>& gradients, int64_t first, int64_t size) {
      std::vector<at::Tensor> rows;
      for (const at::Tensor& g : gradients) rows.push_back(g.defined() ? g.reshape({-1}).narrow(0, first, size).to(at::kDouble) : at::zeros({size}, exact));
      return at::stack(rows);
    };
    at::Tensor sum = at::zeros({tasks, tasks}, exact);
    constexpr int64_t at_once = int64_t{1} << 20;  // all in float64 would take twice the gradients' memory
    for (int64_t first = 0; first < like.numel(); first += at_once) {
      const int64_t size = std::min(at_once, like.numel() - first);
      const at::Tensor rows = block(left, first, size);
      sum.add_(rows.mm((symmetric ? rows : block(right, first, size)).t()));
    }
    return sum;
  }
  const auto dense = [](const std::vector<at::Tensor>& gradients) {
    std::vector<at::Tensor> result;
    for (const at::Tensor& g : gradients) result.push_back(g.defined() ? g.contiguous() : g);
    return result;
  };
  const std::vector<at::Tensor> rows = dense(left), columns = symmetric ? std::vector<at::Tensor>{} : dense(right);
  const int64_t count = like.numel(), chunk = 16 * kDenseBlock, chunks = (count + chunk - 1) / chunk, padded = (tasks + 3) / 4 * 4;
  std::vector<double> partial(static_cast<size_t>(chunks * tasks * tasks), 0.0);
  AT_DISPATCH_FLOATING_TYPES(like.scalar_type(), "htl::dense_products", [&] {
    const ProductKernels<scalar_t> kernels = product_kernels<scalar_t>();
    const std::vector<scalar_t> zeros(static_cast<size_t>(kDenseBlock), scalar_t(0));
    const auto starts = [](const std::vector<at::Tensor>& gradients) {
      std::vector<const scalar_t*> result;
      for (const at::Tensor& g : gradients) result.push_back(g.defined() ? g.const_data_ptr<scalar_t>() : nullptr);
      return result;
    };
    const std::vector<const scalar_t*> of_rows = starts(rows), of_columns = starts(columns);
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      std::vector<const scalar_t*> a(static_cast<size_t>(padded), zeros.data()), b = a;
      const auto move_to = [&](std::vector<const scalar_t*>& to, const std::vector<const scalar_t*>& from, int64_t first) {
        for (size_t t = 0; t < from.size(); ++t)
          if (from[t]) to[t] = from[t] + first;
      };
      std::vector<double> tile(16);
      const auto keep = [&](double* sums, int64_t s, int64_t t, int64_t width) {
        for (int64_t i = 0; i < std::min<int64_t>(4, tasks - s); ++i)
          for (int64_t j = 0; j < std::min(width, tasks - t); ++j) sums[(s + i) * tasks + t + j] += tile[static_cast<size_t>(width * i + j)];
      };
      for (int64_t c = begin; c < end; ++c) {
        double* const sums = partial.data() + c * tasks * tasks;
        for (int64_t first = c * chunk; first < std::min(count, (c + 1) * chunk); first += kDenseBlock) {
          const int64_t size = std::min(kDenseBlock, count - first);
          move_to(a, of_rows, first);
          move_to(b, symmetric ? of_rows : of_columns, first);
          for (int64_t s = 0; s < tasks; s += 4) {
            for (int64_t t = 0; t < (symmetric ? s : tasks); t += 2) {
              std::fill(tile.begin(), tile.end(), 0.0);
              kernels.others(a.data() + s, b.data() + t, size, tile.data());
              keep(sums, s, t, 2);
            }
            if (!symmetric) continue;
            std::fill(tile.begin(), tile.end(), 0.0);
            kernels.own(a.data() + s, nullptr, size, tile.data());
            keep(sums, s, s, 4);
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
