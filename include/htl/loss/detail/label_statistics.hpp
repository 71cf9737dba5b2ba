// SPDX-License-Identifier: Apache-2.0
/// @file label_statistics.hpp
/// @brief Statistics of training labels that losses are fitted to: quantiles, buckets of equal counts, means of buckets.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/task/option.hpp>
#include <htl/task/sorted_quantile.hpp>

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// A list of numbers as an fp64 tensor on the device of another. On other devices than the CPU: a copy to it, which synchronises.
inline at::Tensor list_like(const std::vector<double>& numbers, const at::Tensor& like) {
  return at::tensor(numbers, at::TensorOptions(at::kDouble)).to(like.device());
}

/// A number as float32 holds it: labels are compared so where they may equal a training label, for batches in float32 must find the same ties.
inline double in_single(double value) { return static_cast<double>(static_cast<float>(value)); }

/// The finite numbers [n ≥ 1] of a column, in fp64 on the CPU.
inline std::vector<double> column_numbers(std::string_view who, std::string_view what, const at::Tensor& column) {
  HTL_CHECK(column.defined() && column.dim() == 1 && column.size(0) > 0, who, ": expected at least one ", what, ", got shape ", shape_of(column));
  const at::Tensor values = column.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* const data = values.const_data_ptr<double>();
  for (int64_t row = 0; row < values.size(0); ++row)
    HTL_CHECK(std::isfinite(data[row]), who, ": expected finite numbers as ", what, ", got ", data[row], " in observed row ", row);
  return {data, data + values.size(0)};
}

/// At most `buckets` − 1 edges between distinct values, so that the buckets hold about the same number of them: each bucket takes its share of what the
/// earlier ones left. Fewer only where there are fewer distinct values than buckets.
inline std::vector<double> equal_count_edges(const std::vector<double>& sorted, int64_t buckets) {
  size_t distinct = 1;
  for (size_t i = 1; i < sorted.size(); ++i) distinct += sorted[i] != sorted[i - 1];
  const size_t count = std::min(static_cast<size_t>(buckets), distinct);
  std::vector<double> edges;
  size_t begin = 0;
  while (edges.size() + 1 < count) {
    const size_t open = count - edges.size();  // buckets that are still to come, this one included
    const double share = static_cast<double>(sorted.size() - begin) / static_cast<double>(open);
    size_t end = begin;  // one behind this bucket
    do {
      while (++end < sorted.size() && sorted[end] == sorted[end - 1]) {
      }
      --distinct;
    } while (distinct > open - 1 && static_cast<double>(end - begin) < share);
    edges.push_back(sorted[end - 1] + 0.5 * (sorted[end] - sorted[end - 1]));
    begin = end;
  }
  return edges;
}

/// The bucket of a number: the count of edges below it. Edge b is the last number of bucket b.
inline size_t bucket_of(const double* edges, size_t count, double value) {  // without branches, which random labels would mispredict
  size_t first = 0;
  while (count > 1) {
    const size_t half = count / 2;
    first += half * static_cast<size_t>(edges[first + half - 1] < value);
    count -= half;
  }
  return first + (count == 1 ? static_cast<size_t>(edges[first] < value) : 0);
}
inline size_t bucket_of(const std::vector<double>& edges, double value) { return bucket_of(edges.data(), edges.size(), value); }

/// Each bucket's mean of the numbers; where a bucket has none, the middle of its edges, or its only edge.
inline std::vector<double> bucket_means(const std::vector<double>& numbers, const std::vector<double>& edges) {
  std::vector<double> sums(edges.size() + 1, 0.0), counts(edges.size() + 1, 0.0);
  for (const double number : numbers) {
    const size_t bucket = bucket_of(edges, number);
    counts[bucket] += 1.0;
    sums[bucket] += number;
  }
  for (size_t b = 0; b < sums.size(); ++b) {
    const double low = edges[b == 0 ? 0 : b - 1], high = edges[std::min(b, edges.size() - 1)];
    sums[b] = counts[b] > 0.0 ? sums[b] / counts[b] : low + 0.5 * (high - low);
  }
  return sums;
}

/// Whether statistics were given, so that a fit leaves them alone; else a fit makes them, and notes it.
inline bool are_given(const std::vector<double>& numbers, bool& fitted) {
  fitted = fitted || numbers.empty();
  return !fitted;
}

/// Writes statistics that are there, and whether a fit made them.
inline void add_fitted(Options& options, const std::string& name, const std::vector<double>& numbers, bool fitted) {
  if (numbers.empty()) return;
  options.set(name, numbers);
  if (fitted) options.set("fitted_" + name, true);
}

/// Refuses numbers that are not finite and ascending.
inline void check_ascending(std::string_view who, std::string_view what, const std::vector<double>& numbers, bool strictly) {
  for (size_t i = 0; i < numbers.size(); ++i)
    HTL_CHECK(std::isfinite(numbers[i]) && (i == 0 || (strictly ? numbers[i] > numbers[i - 1] : numbers[i] >= numbers[i - 1])), who,
              ": expected finite ascending ", what, ", got ", numbers[i], i == 0 ? "" : " after ", i == 0 ? "" : std::to_string(numbers[i - 1]));
}

}  // namespace htl
