// SPDX-License-Identifier: Apache-2.0
/// @file row_kernels.hpp
/// @brief The loops under lookup and fork: gather rows, sum gradients by row with their Gramian, combine them. Plain loops on the CPU, ATen on CUDA.
#pragma once

#include <htl/embedding/row_groups.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>

#include <array>

namespace htl::inline v0_1_0::detail {

/// Calls f with the row width as a compile-time constant where it is a usual one, so that the loop over it unrolls; 0 = only known at run time.
template <class F>
void with_width(int64_t width, F&& f) {
  switch (width) {
    case 4:
      return f(std::integral_constant<int64_t, 4>{});
    case 8:
      return f(std::integral_constant<int64_t, 8>{});
    case 10:
      return f(std::integral_constant<int64_t, 10>{});
    case 12:
      return f(std::integral_constant<int64_t, 12>{});
    case 16:
      return f(std::integral_constant<int64_t, 16>{});
    case 32:
      return f(std::integral_constant<int64_t, 32>{});
    case 64:
      return f(std::integral_constant<int64_t, 64>{});
    default:
      return f(std::integral_constant<int64_t, 0>{});
  }
}

/// The bags of a batch: entry n lies in bag `bag[n]` with factor `coefficient[n]`; bags · width = numel of the looked-up values.
struct Bags {
  int64_t count = 0;
  at::Tensor bag;          // [N] int64, not decreasing; undefined: entry n is bag n
  at::Tensor coefficient;  // [N] in the table's type; undefined: 1
};

/// Asks for the memory of a row that is read soon: rows lie anywhere, and no hardware guesses where.
template <class T>
void prefetch_row(const T* row, int64_t width) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(row);
  __builtin_prefetch(row + width - 1);
#else
  static_cast<void>(row), static_cast<void>(width);
#endif
}

inline int32_t unfrozen(int32_t row) { return row < 0 ? -1 - row : row; }

inline at::Tensor gather_rows_tensors(const at::Tensor& weight, const at::Tensor& entry_rows, const Bags& bags) {
  at::Tensor rows = at::embedding(weight, entry_rows.where(entry_rows >= 0, -1 - entry_rows));
  if (bags.coefficient.defined()) rows = rows * bags.coefficient.unsqueeze(1);
  return bags.bag.defined() ? at::zeros({bags.count, weight.size(1)}, rows.options()).index_add_(0, bags.bag, rows) : rows;
}

inline at::Tensor gather_rows_loops(const at::Tensor& weight, const at::Tensor& entry_rows, const Bags& bags) {
  const int64_t width = weight.size(1), entries = entry_rows.numel();
  at::Tensor values = bags.bag.defined() ? at::zeros({bags.count, width}, weight.options()) : at::empty({entries, width}, weight.options());
  const at::Tensor table = weight.stride(1) == 1 ? weight : weight.contiguous();  // rows may lie apart, as in a part of a wider table
  const int64_t step = table.stride(0);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, weight.scalar_type(), "htl::gather_rows", [&] {
    const scalar_t* from = table.const_data_ptr<scalar_t>();
    scalar_t* to = values.mutable_data_ptr<scalar_t>();
    const int32_t* row_of = entry_rows.const_data_ptr<int32_t>();
    if (bags.bag.defined()) {
      const int64_t* bag_of = bags.bag.const_data_ptr<int64_t>();
      const scalar_t* coefficient = bags.coefficient.defined() ? bags.coefficient.const_data_ptr<scalar_t>() : nullptr;
      at::parallel_for(0, entries, 4096, [&](int64_t begin, int64_t end) {
        const auto whole = [&](int64_t n) {  // a bag belongs to the thread that has its first entry
          while (n > 0 && n < entries && bag_of[n] == bag_of[n - 1]) ++n;
          return n;
        };
        for (int64_t n = whole(begin), last = whole(end); n < last; ++n) {
          const scalar_t* row = from + static_cast<int64_t>(unfrozen(row_of[n])) * step;
          scalar_t* bag = to + bag_of[n] * width;
          const scalar_t factor = coefficient ? coefficient[n] : scalar_t(1);
          for (int64_t k = 0; k < width; ++k) bag[k] += factor * row[k];
        }
      });
      return;
    }
    with_width(width, [&](auto fixed) {
      at::parallel_for(0, entries, 4096, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          const int64_t d = fixed() ? fixed() : width;
          const scalar_t* row = from + static_cast<int64_t>(unfrozen(row_of[n])) * step;
          for (int64_t k = 0; k < d; ++k) to[n * d + k] = row[k];
        }
      });
    });
  });
  return values;
}

/// values[bag, :] = Σ coefficient · weight[row, :]; [bags, d].
inline at::Tensor gather_rows(const at::Tensor& weight, const at::Tensor& entry_rows, const Bags& bags) {
  return weight.is_cpu() ? gather_rows_loops(weight, entry_rows, bags) : gather_rows_tensors(weight, entry_rows, bags);
}

/// Chunks of whole groups of roughly equal numbers of entries; the cut depends on the groups alone, so results don't depend on threads.
inline std::vector<int64_t> group_chunks(const RowGroups& groups) {
  constexpr int64_t entries_per_chunk = 2048;
  const int32_t* starts = groups.starts.const_data_ptr<int32_t>();
  std::vector<int64_t> cuts = {0};
  for (int64_t s = 1; s <= groups.size(); ++s)
    if (s == groups.size() || starts[s] - starts[cuts.back()] >= entries_per_chunk) cuts.push_back(s);
  return cuts;
}

/// Sums over row groups: `sums` [S, T, d] with sums[s, t] = Σ_{entries of s} coefficient · gradients[t][bag], and the Gramian [T, T] float64 of the T
/// vectors of all rows. Undefined gradients count as zeros. Sums are in the table's type (float32 for half types), run in blocks of 256 or in float64;
/// products are in float64.
struct RowSums {
  at::Tensor sums;
  at::Tensor gramian;
};

/// The type in which sums of a table's gradients run.
inline at::ScalarType sum_type(const at::TensorOptions& table) { return table.dtype() == at::kDouble ? at::kDouble : at::kFloat; }

inline RowSums sum_rows_tensors(const RowGroups& groups, const std::vector<at::Tensor>& gradients, const Bags& bags, int64_t width,
                                const at::TensorOptions& options, bool with_gramian) {
  const auto tasks = static_cast<int64_t>(gradients.size());
  const at::ScalarType type = sum_type(options);
  RowSums result{at::zeros({groups.size(), tasks, width}, options.dtype(type)), {}};
  const at::Tensor bag = bags.bag.defined() ? bags.bag.index_select(0, groups.order) : groups.order;
  for (int64_t t = 0; t < tasks; ++t) {
    const at::Tensor& gradient = gradients[static_cast<size_t>(t)];
    if (!gradient.defined()) continue;
    at::Tensor entries = gradient.reshape({-1, width}).to(type).index_select(0, bag);
    if (bags.coefficient.defined()) entries = entries * bags.coefficient.to(type).index_select(0, groups.order).unsqueeze(1);
    result.sums.select(1, t).index_add_(0, groups.slots, entries);
  }
  result.sums.masked_fill_(groups.valid.logical_not().view({-1, 1, 1}), 0.0);
  if (with_gramian) {
    const at::Tensor flat = result.sums.transpose(0, 1).reshape({tasks, -1}).to(at::kDouble);
    result.gramian = flat.mm(flat.t());
  }
  return result;
}

/// How many blocks of entries to sum apart before they are merged; 0: sum group by group. Large batches with few distinct rows gain by reading their
/// gradients once from front to back. Depends on the sizes alone, so results don't depend on threads.
inline int64_t entry_blocks(int64_t entries, int64_t groups) {
  const int64_t blocks = entries >= 524288 ? 8 : entries >= 131072 ? 4 : 0;
  return groups * blocks * 4 <= entries ? blocks : 0;
}

/// Sums blocks of entries in float64 into sums of their own, then merges them: [S, T, d].
template <class T, class Width>
void sum_blocks(const RowGroups& groups, const std::vector<const T*>& gradients, const int64_t* bag_of, const T* factor_of, int64_t blocks, int64_t width,
                Width fixed, T* sums) {
  const auto tasks = static_cast<int64_t>(gradients.size());
  const int64_t entries = groups.slots.numel(), size = groups.size() * tasks * width;
  const int32_t* slots = groups.slots.const_data_ptr<int32_t>();
  std::vector<double> partial(static_cast<size_t>(blocks * size));
  at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    const int64_t d = fixed() ? fixed() : width;
    for (int64_t block = first; block < last; ++block)
      for (int64_t n = entries * block / blocks; n < entries * (block + 1) / blocks; ++n) {
        if (slots[n] < 0) continue;
        double* sum = partial.data() + block * size + slots[n] * tasks * d;
        const double factor = factor_of ? static_cast<double>(factor_of[n]) : 1.0;
        const int64_t at = (bag_of ? bag_of[n] : n) * d;
        for (size_t t = 0; t < gradients.size(); ++t, sum += d)
          if (const T* gradient = gradients[t])
            for (int64_t k = 0; k < d; ++k) sum[k] += factor * static_cast<double>(gradient[at + k]);
      }
  });
  at::parallel_for(0, size, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double sum = 0.0;
      for (int64_t block = 0; block < blocks; ++block) sum += partial[static_cast<size_t>(block * size + i)];
      sums[i] = static_cast<T>(sum);
    }
  });
}

inline RowSums sum_rows_loops(const RowGroups& groups, const std::vector<at::Tensor>& gradients, const Bags& bags, int64_t width,
                              const at::TensorOptions& options, bool with_gramian) {
  const auto tasks = static_cast<int64_t>(gradients.size());
  const at::ScalarType type = sum_type(options);
  RowSums result;
  result.sums = at::empty({groups.size(), tasks, width}, options.dtype(type));
  const std::vector<int64_t> cuts = group_chunks(groups);
  const auto chunks = static_cast<int64_t>(cuts.size()) - 1;
  std::vector<double> partial(static_cast<size_t>(with_gramian ? std::max<int64_t>(chunks, 0) * tasks * tasks : 0), 0.0);
  std::vector<at::Tensor> held;
  for (const at::Tensor& gradient : gradients) held.push_back(gradient.defined() ? gradient.to(type).contiguous() : gradient);
  const at::Tensor factors = bags.coefficient.defined() ? bags.coefficient.to(type) : at::Tensor();
  const int32_t* starts = groups.starts.const_data_ptr<int32_t>();
  const int32_t* order = groups.order.const_data_ptr<int32_t>();
  const int64_t* bag_of = bags.bag.defined() ? bags.bag.const_data_ptr<int64_t>() : nullptr;
  const auto ordered = static_cast<int32_t>(groups.order.numel());
  AT_DISPATCH_FLOATING_TYPES(type, "htl::sum_rows", [&] {
    scalar_t* sums = result.sums.mutable_data_ptr<scalar_t>();
    const scalar_t* factor_of = factors.defined() ? factors.const_data_ptr<scalar_t>() : nullptr;
    std::vector<const scalar_t*> from;
    for (const at::Tensor& gradient : held) from.push_back(gradient.defined() ? gradient.const_data_ptr<scalar_t>() : nullptr);
    const int64_t blocks = entry_blocks(groups.slots.numel(), groups.size());
    with_width(width, [&](auto fixed) {
      if (blocks) sum_blocks(groups, from, bag_of, factor_of, blocks, width, fixed, sums);
      if (blocks && !with_gramian) return;
      at::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
        const int64_t d = fixed() ? fixed() : width;
        std::array<scalar_t, fixed() ? fixed() : 1> fixed_block;
        std::vector<scalar_t> free_block(fixed() ? 0 : static_cast<size_t>(width));
        scalar_t* block = fixed() ? fixed_block.data() : free_block.data();
        for (int64_t chunk = first; chunk < last; ++chunk) {
          for (int64_t s = cuts[static_cast<size_t>(chunk)]; s < cuts[static_cast<size_t>(chunk) + 1]; ++s) {
            for (int64_t t = 0; t < tasks && !blocks; ++t) {
              scalar_t* sum = sums + (s * tasks + t) * d;
              for (int64_t k = 0; k < d; ++k) sum[k] = 0;
              const scalar_t* gradient = from[static_cast<size_t>(t)];
              if (!gradient) continue;
              for (int32_t start = starts[s]; start < starts[s + 1]; start += 256) {
                const int32_t stop = std::min(start + 256, starts[s + 1]);
                for (int64_t k = 0; k < d; ++k) block[k] = 0;
                for (int32_t i = start; i < stop; ++i) {
                  if (const int32_t later = i + 16; later < ordered) prefetch_row(gradient + (bag_of ? bag_of[order[later]] : order[later]) * d, d);
                  const int64_t entry = order[i];
                  const scalar_t* source = gradient + (bag_of ? bag_of[entry] : entry) * d;
                  if (factor_of) {
                    for (int64_t k = 0; k < d; ++k) block[k] += factor_of[entry] * source[k];
                  } else {
                    for (int64_t k = 0; k < d; ++k) block[k] += source[k];
                  }
                }
                for (int64_t k = 0; k < d; ++k) sum[k] += block[k];
              }
            }
            if (!with_gramian) continue;
            double* gramian = partial.data() + chunk * tasks * tasks;
            const scalar_t* row = sums + s * tasks * d;
            for (int64_t t = 0; t < tasks; ++t)
              for (int64_t u = 0; u <= t; ++u) {
                double product = 0.0;
                for (int64_t k = 0; k < d; ++k) product += static_cast<double>(row[t * d + k]) * static_cast<double>(row[u * d + k]);
                gramian[t * tasks + u] += product;
              }
          }
        }
      });
    });
  });
  if (with_gramian) {
    result.gramian = at::zeros({tasks, tasks}, at::kDouble);
    auto* gramian = result.gramian.mutable_data_ptr<double>();
    for (int64_t t = 0; t < tasks; ++t)
      for (int64_t u = 0; u <= t; ++u) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) gramian[t * tasks + u] += partial[static_cast<size_t>((chunk * tasks + t) * tasks + u)];
        gramian[u * tasks + t] = gramian[t * tasks + u];
      }
  }
  return result;
}

inline RowSums sum_rows(const RowGroups& groups, const std::vector<at::Tensor>& gradients, const Bags& bags, int64_t width, const at::TensorOptions& options,
                        bool with_gramian) {
  return options.device().is_cpu() ? sum_rows_loops(groups, gradients, bags, width, options, with_gramian)
                                   : sum_rows_tensors(groups, gradients, bags, width, options, with_gramian);
}

inline at::Tensor combine_rows_tensors(const at::Tensor& sums, const at::Tensor& weights, at::ScalarType type) {
  return (sums * weights.to(sums.scalar_type()).view({1, -1, 1})).sum(1).to(type);
}

inline at::Tensor combine_rows_loops(const at::Tensor& sums, const at::Tensor& weights, at::ScalarType type) {
  const int64_t size = sums.size(0), tasks = sums.size(1), width = sums.size(2);
  at::Tensor combined = at::empty({size, width}, sums.options());
  AT_DISPATCH_FLOATING_TYPES(sums.scalar_type(), "htl::combine_rows", [&] {
    const scalar_t* from = sums.const_data_ptr<scalar_t>();
    scalar_t* to = combined.mutable_data_ptr<scalar_t>();
    std::vector<scalar_t> weight;
    for (int64_t t = 0; t < tasks; ++t) weight.push_back(static_cast<scalar_t>(weights.const_data_ptr<double>()[t]));
    with_width(width, [&](auto fixed) {
      at::parallel_for(0, size, 1024, [&](int64_t begin, int64_t end) {
        const int64_t d = fixed() ? fixed() : width;
        for (int64_t s = begin; s < end; ++s) {
          for (int64_t k = 0; k < d; ++k) to[s * d + k] = weight[0] * from[s * tasks * d + k];
          for (int64_t t = 1; t < tasks; ++t)
            for (int64_t k = 0; k < d; ++k) to[s * d + k] += weight[static_cast<size_t>(t)] * from[(s * tasks + t) * d + k];
        }
      });
    });
  });
  return combined.to(type);
}

/// Σ_t weights[t] · sums[:, t, :] in the table's type; [S, d]. Weights are float64 on the sums' device.
inline at::Tensor combine_rows(const at::Tensor& sums, const at::Tensor& weights, at::ScalarType type) {
  return sums.is_cpu() ? combine_rows_loops(sums, weights, type) : combine_rows_tensors(sums, weights, type);
}

}  // namespace htl::detail
