// SPDX-License-Identifier: Apache-2.0
/// @file d2q.hpp
/// @brief D2Q: watch time as its quantile among videos of about the same duration.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/loss/detail/label_statistics.hpp>
#include <htl/loss/detail/other_tasks.hpp>
#include <htl/loss/one_pass.hpp>

#include <ATen/ops/bucketize.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/where.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Choices and statistics of D2Q.
struct D2QOptions {
  /// The context column of the duration.
  std::string duration;
  /// How many buckets of duration fitted() makes, of about equal counts; fewer where there are fewer distinct durations.
  int64_t buckets = 30;
  /// How many quantiles a bucket's table has, at the levels 0, 1/(points − 1), …, 1.
  int64_t points = 101;
  /// The statistics: ascending edges between the buckets; a row's bucket is the count of edges below its duration.
  std::vector<double> edges = {};
  /// The statistics: the buckets' tables, one after the other, each ascending. Empty = not fitted.
  std::vector<double> tables = {};
};

/// @brief l = (x − F_b(t))² for an output x, where F_b is the distribution of watch times in the row's bucket b of duration, by linear interpolation in the
/// bucket's table of quantiles.
///
/// Width 1. Labels: any finite number; the context column of the duration is read, here and by predict(). dl/dx = 2(x − F_b(t)). The prediction is
/// F_b^{−1}(x) in the label's unit, by linear interpolation in the same table; x outside [0, 1] counts as 0 or 1, with gradient 0. A duration outside
/// those of the training rows belongs to the nearest bucket. A label that several quantiles equal gets the middle of their levels; labels are compared in
/// float32, so that ties stay ties in every type. Convex; finite for outputs up to 1.8e19. O(B·log(points)) on the CPU, O(B·points) memory for per_row and
/// predict. On other devices than the CPU the tables are copied there in each call, which synchronises.
///
/// Source: Zhan et al., Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation, KDD 2022.
struct D2Q {
  /// @brief With its options.
  /// @throws c10::ValueError for an empty duration, buckets < 1, points < 2, edges or tables that are not ascending, or whose sizes don't go together
  explicit D2Q(D2QOptions choices) : options(std::move(choices)) {
    HTL_CHECK(!options.duration.empty(), "htl::D2Q: expected the name of the duration's context column, got an empty one");
    HTL_CHECK(options.buckets >= 1, "htl::D2Q: expected at least 1 bucket of duration, got ", options.buckets);
    HTL_CHECK(options.points >= 2, "htl::D2Q: expected at least 2 points of each table, got ", options.points);
    const size_t size = options.tables.size(), wanted = (options.edges.size() + 1) * static_cast<size_t>(options.points);
    HTL_CHECK(size == wanted || (size == 0 && options.edges.empty()), "htl::D2Q: expected tables of ", options.points, " points for each of ",
              options.edges.size() + 1, " buckets, ", wanted, " numbers, got ", size);
    detail::check_ascending("htl::D2Q", "edges", options.edges, true);
    for (auto table = options.tables.begin(); table != options.tables.end(); table += options.points)
      detail::check_ascending("htl::D2Q", "quantiles", {table, table + options.points}, false);
  }
  /// What it was made with, and its statistics.
  D2QOptions options;

  /// The label's own unit.
  static constexpr bool in_label_unit = true;
  /// @brief "d2q"
  std::string name() const { return "d2q"; }
  /// @brief 1
  int64_t output_width() const { return 1; }
  /// @brief duration, buckets, points, and the statistics edges and tables
  Options parameters() const {
    Options result = {{"duration", options.duration}, {"buckets", options.buckets}, {"points", options.points}};
    if (!options.edges.empty()) result.set("edges", options.edges);
    if (is_fitted()) result.set("tables", options.tables);
    return result;
  }
  /// @brief The duration's column.
  std::vector<std::string> context() const { return {options.duration}; }
  /// @brief Whether the tables are there.
  bool is_fitted() const { return !options.tables.empty(); }
  /// @brief Regression tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }

  /// @brief A copy with the tables of training labels.
  /// @param label watch times [n]; all rows count
  /// @param context with the duration's column [n]
  /// @throws c10::IndexError without that column; c10::ValueError without rows, or for numbers that are not finite
  D2Q fitted(const Label& label, const Named<at::Tensor>& context) const {
    const auto times = detail::column_numbers("htl::D2Q", "watch time", label.value);
    const auto durations = detail::column_numbers("htl::D2Q", "duration", detail::column_of("htl::D2Q", context, options.duration, at::kDouble));
    HTL_CHECK(times.size() == durations.size(), "htl::D2Q: expected a duration for each of ", times.size(), " labels, got ", durations.size());
    std::vector<double> sorted = durations;
    std::sort(sorted.begin(), sorted.end());
    D2QOptions changed = options;
    changed.edges = detail::equal_count_edges(sorted, options.buckets);
    std::vector<std::vector<double>> buckets(changed.edges.size() + 1);
    for (size_t row = 0; row < times.size(); ++row) buckets[detail::bucket_of(changed.edges, durations[row])].push_back(detail::in_single(times[row]));
    changed.tables.clear();
    for (std::vector<double>& bucket : buckets) {
      std::sort(bucket.begin(), bucket.end());
      for (int64_t i = 0; i < options.points; ++i)
        changed.tables.push_back(detail::quantile_of(bucket, static_cast<double>(i) / static_cast<double>(options.points - 1)));
    }
    return D2Q(std::move(changed));
  }

  /// @brief [B] from outputs [B] or [B, 1], watch times [B] and durations [B].
  /// @throws c10::ValueError on other shapes; c10::Error if it is not fitted
  at::Tensor operator()(const at::Tensor& outputs, const at::Tensor& labels, const at::Tensor& durations) const {
    const at::Tensor x = detail::column("htl::D2Q", outputs, labels);
    return x.sub(levels(labels, durations).to(x.scalar_type())).square();
  }
  /// @brief [B] of a task's output.
  at::Tensor per_row(const LossInput& input) const { return (*this)(input.output, input.label, durations(input.context)); }
  /// @brief Σ share·l in one pass.
  at::Tensor reduced(const LossInput& input, const at::Tensor& share) const {
    check_fitted();
    const at::Tensor bucket = buckets(durations(input.context)).to(input.output.scalar_type());  // a duration itself may need float64
    return one_pass(*this, input, at::stack({input.label, bucket}).t(), share);
  }
  /// @brief F_b^{−1}(x) [B], in the label's unit.
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>& context) const {
    const at::Tensor table = rows_of_tables(durations(context)).to(output.scalar_type());  // [B, points]
    const at::Tensor at = detail::column("htl::D2Q", output).clamp(0, 1).mul(options.points - 1);
    const at::Tensor below = at.detach().nan_to_num().floor().clamp_max(options.points - 2);
    const at::Tensor index = below.to(at::kLong).unsqueeze(1);
    const at::Tensor low = table.gather(1, index).squeeze(1), high = table.gather(1, index.add(1)).squeeze(1);
    return low.add(at.sub(below).mul(high.sub(low)));
  }
  /// @brief F_b(t) [B] in fp64 of watch times [B] and durations [B].
  at::Tensor levels(const at::Tensor& labels, const at::Tensor& durations) const {
    check_shape("htl::D2Q", "durations", durations, {labels.size(0)});
    const at::Tensor table = rows_of_tables(durations);
    const at::Tensor time = labels.detach().to(at::kFloat).to(at::kDouble).unsqueeze(1);
    const at::Tensor first = at::searchsorted(table, time), behind = at::searchsorted(table, time, /*out_int32=*/false, /*right=*/true);
    const at::Tensor low = first.sub(1).clamp_min(0), high = first.clamp_max(options.points - 1);
    const at::Tensor from = table.gather(1, low), to = table.gather(1, high);
    const at::Tensor part = time.sub(from).div(to.sub(from).clamp_min(std::numeric_limits<double>::min())).clamp(0, 1);
    const at::Tensor between = low.add(part), tied = first.add(behind).sub(1).to(at::kDouble).mul(0.5);
    return at::where(first.lt(behind), tied, between).clamp(0, options.points - 1).div(options.points - 1).squeeze(1);
  }

  /// @brief One row in fp64 from its watch time and the bucket of its duration.
  double row(const double* output, const double* columns, double* slope) const {
    const double error = *output - level(columns[0], columns[1]);
    *slope = 2.0 * error;
    return error * error;
  }

 private:
  void check_fitted() const {
    HTL_CHECK_STATE(is_fitted(), "htl::D2Q: the tables of watch times are not there; call tasks.fitted(training_labels), or fitted(label, context)");
  }

  at::Tensor durations(const Named<at::Tensor>& context) const { return detail::column_of("htl::D2Q", context, options.duration, at::kDouble); }

  /// [B] int64 of durations [B] in fp64.
  at::Tensor buckets(const at::Tensor& durations) const { return at::bucketize(durations.to(at::kDouble), detail::list_like(options.edges, durations)); }

  at::Tensor rows_of_tables(const at::Tensor& durations) const {
    check_fitted();
    const at::Tensor tables = detail::list_like(options.tables, durations).view({-1, options.points});
    if (options.edges.empty()) return tables.expand({durations.size(0), options.points}).contiguous();
    return tables.index_select(0, buckets(durations));
  }

  double level(double label, double bucket) const {
    const double time = detail::in_single(label), last = static_cast<double>(options.points - 1);
    const double* const table = options.tables.data() + static_cast<size_t>(bucket) * static_cast<size_t>(options.points);
    const double* const end = table + options.points;
    const double* const first = table + detail::bucket_of(table, static_cast<size_t>(options.points), time);  // the first that is not below
    if (std::isnan(time)) return time;
    if (first == end) return 1.0;
    if (*first == time) return 0.5 * static_cast<double>((first - table) + (std::upper_bound(first, end, time) - table) - 1) / last;
    if (first == table) return 0.0;
    return (static_cast<double>(first - table) - 1.0 + (time - first[-1]) / (first[0] - first[-1])) / last;
  }
};

}  // namespace htl
