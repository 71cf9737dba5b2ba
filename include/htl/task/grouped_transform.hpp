// SPDX-License-Identifier: Apache-2.0
/// @file grouped_transform.hpp
/// @brief GroupedTransform: one label transform for each bucket of a context column.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/nested_options.hpp>
#include <htl/task/quantile_transform.hpp>

#include <ATen/ops/bucketize.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// [B] int64 how many edges are below each number; all of them below NaN: bucketize() edge by edge, for devices to which a list would have to be copied, which
/// synchronises.
inline at::Tensor count_below(const std::vector<double>& edges, const at::Tensor& numbers) {
  at::Tensor count = at::zeros_like(numbers, at::kLong);
  for (const double edge : edges) count = count.add(numbers.le(edge).logical_not());
  return count;
}

}  // namespace detail

/// @brief One transform a group of rows: the groups are buckets of a context column, as the duration of a video.
///
/// Bucket g has the rows with edge_{g−1} < column ≤ edge_g, the first and last ones all below and above. Edges are given, or quantiles of the column in the
/// training rows; equal ones fall together. A bucket with fewer than `min_rows` rows has the transform of all rows. O(B · buckets). No synchronisation but the
/// inner one's.
struct GroupedTransform {
  std::string column = {};                   ///< the context column
  int64_t buckets = 10;                      ///< how many, if the edges are not given; ≥ 1
  std::vector<double> given = {};            ///< inner edges in ascending order, instead of quantiles
  AnyLabelTransform inner = {};              ///< of every bucket
  int64_t min_rows = 20;                     ///< ≥ 1
  std::vector<double> edges = {};            ///< the inner edges; fitted
  std::vector<AnyLabelTransform> fits = {};  ///< the fitted ones, a bucket each; empty = not fitted

  /// @brief "grouped"
  std::string name() const { return "grouped"; }
  /// @brief A copy with edges and a fitted transform a bucket.
  /// @throws c10::ValueError if the column is not finite in an observed row
  GroupedTransform fitted(const at::Tensor& values, const Named<at::Tensor>& columns) const {
    HTL_CHECK(!column.empty() && buckets >= 1 && min_rows >= 1 && std::is_sorted(given.begin(), given.end()),
              "htl::grouped: expected a column's name, buckets ≥ 1, min_rows ≥ 1 and edges in ascending order");
    const at::Tensor& by = columns[column];
    HTL_CHECK(by.isfinite().all().item<bool>(), "htl::grouped: expected a finite \"", column, "\" in every observed row, got NaN or infinity; mask those rows");
    GroupedTransform copy = *this;
    copy.edges = given;
    if (given.empty() && buckets > 1) {
      copy.edges = detail::quantiles_of(by, buckets + 1);
      copy.edges = {copy.edges.begin() + 1, copy.edges.end() - 1};
      copy.edges.erase(std::unique(copy.edges.begin(), copy.edges.end()), copy.edges.end());
    }
    const AnyLabelTransform of_all = inner.fitted({values}, columns);
    const at::Tensor bucket = copy.bucket_of(by);
    copy.fits.clear();
    for (size_t g = 0; g <= copy.edges.size(); ++g) {
      const at::Tensor mask = bucket.eq(static_cast<int64_t>(g));
      copy.fits.push_back(mask.sum().item<int64_t>() >= min_rows ? inner.fitted({values, mask}, columns) : of_all);
    }
    return copy;
  }
  /// @brief Whether statistics are there.
  bool is_fitted() const { return fits.size() == edges.size() + 1; }
  /// @brief The transform of the row's bucket.
  at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& columns) const {
    return by_bucket(values, columns, [&](const AnyLabelTransform& fit) { return fit.apply(values, columns); });
  }
  /// @brief The inverse of the row's bucket.
  at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& columns) const {
    return by_bucket(values, columns, [&](const AnyLabelTransform& fit) { return fit.inverse(values, columns); });
  }
  /// @brief column, buckets or edges, min_rows, inner
  Options parameters() const {
    Options options = {{"column", column}, {"min_rows", min_rows}, {"inner", detail::spec_of(inner)}};
    given.empty() ? options.set("buckets", buckets) : options.set("edges", given);
    return options;
  }
  /// @brief edges, and each bucket's under its number and a dot
  Options statistics() const {
    Options result = {{"edges", edges}};
    for (size_t g = 0; g < fits.size(); ++g) detail::add_below(result, std::to_string(g) + ".", fits[g].statistics());
    return result;
  }
  /// @brief A copy with given statistics.
  GroupedTransform with_statistics(const Options& numbers) const {
    GroupedTransform copy = *this;
    copy.edges = numbers["edges"].numbers();
    HTL_CHECK(std::is_sorted(copy.edges.begin(), copy.edges.end()), "htl::grouped: expected edges in ascending order");
    copy.fits.clear();
    for (size_t g = 0; g <= copy.edges.size(); ++g) copy.fits.push_back(inner.with_statistics(detail::options_below(numbers, std::to_string(g) + ".")));
    return copy;
  }
  /// @brief The column, and the inner one's.
  std::vector<std::string> context() const { return detail::joined({column}, inner.context()); }

 private:
  at::Tensor bucket_of(const at::Tensor& by) const {
    return by.is_cpu() ? at::bucketize(by, at::tensor(edges, by.options().dtype(at::kDouble))) : detail::count_below(edges, by);
  }
  template <class Map>
  at::Tensor by_bucket(const at::Tensor& values, const Named<at::Tensor>& columns, const Map& map) const {
    if (fits.size() == 1) return map(fits.front());
    const at::Tensor bucket = bucket_of(columns[column].to(values.device(), at::kDouble));
    at::Tensor result = map(fits.front());
    for (size_t g = 1; g < fits.size(); ++g) result = at::where(bucket.eq(static_cast<int64_t>(g)), map(fits[g]), result);
    return result;
  }
};

/// @brief One transform a bucket of a context column, with quantiles of the training rows as edges.
inline AnyLabelTransform grouped(AnyLabelTransform inner, std::string column, int64_t buckets = 10) {
  return GroupedTransform{.column = std::move(column), .buckets = buckets, .inner = std::move(inner)};
}

}  // namespace htl
