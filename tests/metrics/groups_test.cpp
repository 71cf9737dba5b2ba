// SPDX-License-Identifier: Apache-2.0
// Metrics by group and segment against their definitions: NDCG by all orders of ties, and any metric for each segment apart.
#include <htl/metrics/auc.hpp>
#include <htl/metrics/by_segment.hpp>
#include <htl/metrics/calibration.hpp>
#include <htl/metrics/ndcg.hpp>
#include <htl/metrics/regression_error.hpp>

#include <torch/torch.h>

#include <support/seeded.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace {

using htl::test::Random;
using htl::test::sentence_of;

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }
at::Tensor integers(const std::vector<int64_t>& values) { return torch::tensor(values, at::kLong); }

/// The mean DCG over all orders of the rows that sort by falling score.
double mean_dcg(const std::vector<double>& score, const std::vector<double>& gain, int64_t top) {
  std::vector<size_t> order(score.size());
  std::iota(order.begin(), order.end(), size_t{0});
  double sum = 0.0, count = 0.0;
  do {
    if (!std::is_sorted(order.begin(), order.end(), [&](size_t a, size_t b) { return score[a] > score[b]; })) continue;
    for (size_t i = 0; i < order.size() && (top == 0 || static_cast<int64_t>(i) < top); ++i) sum += gain[order[i]] / std::log2(static_cast<double>(i) + 2.0);
    count += 1.0;
  } while (std::next_permutation(order.begin(), order.end()));
  return sum / count;
}

TEST(Ndcg, is_the_mean_over_all_orders_of_ties) {
  Random random(1);
  for (int round = 0; round < 150; ++round) {
    const bool exponential = random.chance(.3);
    const int64_t rows = random.integer(0, 12), groups = random.integer(1, 3), top = random.integer(0, 4);
    const at::Tensor score = random.ids({rows}, 4).to(at::kDouble), y = random.ids({rows}, 3).to(at::kDouble), group = random.ids({rows}, groups),
                     mask = random.mask({rows}, .8);
    double sum = 0.0;
    int64_t entered = 0, left_out = 0;
    for (int64_t g = 0; g < groups; ++g) {
      std::vector<double> scores, gains;
      for (int64_t row = 0; row < rows; ++row) {
        if (group[row].item<int64_t>() != g || !mask[row].item<bool>() || scores.size() == 6) continue;
        scores.push_back(score[row].item<double>());
        gains.push_back(exponential ? std::exp2(y[row].item<double>()) - 1 : y[row].item<double>());
      }
      if (scores.size() == 6) goto next;  // 720 orders are enough
      if (scores.empty()) continue;
      if (const double best = mean_dcg(gains, gains, top); best > 0 && gains.size() > 1) {
        sum += mean_dcg(scores, gains, top) / best;
        ++entered;
      } else {
        ++left_out;
      }
    }
    {
      htl::Ndcg ndcg({.top = top, .exponential = exponential}), other = ndcg;
      const int64_t half = rows / 2;
      ndcg.add(score.slice(0, half), {y.slice(0, half), mask.slice(0, half)}, group.slice(0, half));
      other.add(score.slice(0, 0, half), {y.slice(0, 0, half), mask.slice(0, 0, half)}, group.slice(0, 0, half));
      ndcg.merge(other);
      const htl::NdcgReport report = ndcg.report();
      EXPECT_EQ(report.groups, entered);
      EXPECT_EQ(report.groups_left_out, left_out);
      if (entered > 0) {
        EXPECT_NEAR(report.value, sum / static_cast<double>(entered), 1e-12);
      } else {
        EXPECT_TRUE(std::isnan(report.value));
      }
    }
  next:;
  }
}

TEST(Ndcg, of_a_perfect_list_is_one_and_of_a_known_one_known) {
  htl::Ndcg perfect;
  perfect.add(doubles({3, 2, 1}), {doubles({30, 20, 0})}, integers({7, 7, 7}));
  EXPECT_DOUBLE_EQ(perfect.value(), 1.0);
  htl::Ndcg turned;  // gains 0, 1 in the places 1, 2: 1 / log₂ 3
  turned.add(doubles({3, 2}), {doubles({0, 1})}, integers({7, 7}));
  EXPECT_NEAR(turned.value(), 0.6309297535714574, 1e-15);
  htl::Ndcg first({.top = 1});
  first.add(doubles({3, 2}), {doubles({0, 1})}, integers({7, 7}));
  EXPECT_EQ(first.value(), 0.0);
  EXPECT_EQ(sentence_of([] { htl::Ndcg({.top = -1}); }), "htl::Ndcg: expected top ≥ 1, or 0 for all positions, got -1");
  EXPECT_EQ(sentence_of([] { htl::Ndcg{}.add(doubles({1}), {doubles({-2})}, integers({1})); }),
            "htl::Ndcg: expected labels ≥ 0 of finite gain, got -2 in row 0 of the batch");
  EXPECT_EQ(sentence_of([] {
              htl::Ndcg{}.add(doubles({1}), {doubles({2}), {}, doubles({.5})}, integers({1}));
            }),
            "htl::Ndcg: expected weights 0 or 1, got 0.5 in row 0 of the batch");
  EXPECT_EQ(sentence_of([] { htl::Ndcg{}.add(doubles({1}), {doubles({2})}, doubles({1})); }), "htl::Ndcg: expected integer groups, got Double");
}

TEST(BySegment, is_the_metric_of_each_segments_rows) {
  Random random(2);
  const at::Tensor score = random.normal({300}), y = random.events({300}), segment = random.ids({300}, 4) - 1, mask = random.mask({300}, .9);
  htl::BySegment<htl::Auc> whole, part;
  whole.add(score.slice(0, 0, 170), {y.slice(0, 0, 170), mask.slice(0, 0, 170)}, segment.slice(0, 0, 170));
  part.add(score.slice(0, 170), {y.slice(0, 170), mask.slice(0, 170)}, segment.slice(0, 170));
  whole.merge(part);
  ASSERT_EQ(whole.segments().size(), 4U);
  for (const auto& [number, auc] : whole.segments()) {
    htl::Auc alone;
    alone.add(score, {y, mask.logical_and(segment.eq(number))});
    EXPECT_EQ(auc.value(), alone.value()) << number;
  }
  htl::BySegment<htl::Calibration> calibration;
  calibration.add(score.sigmoid(), {y, mask}, segment);
  for (const auto& [number, of] : calibration.segments()) {
    const at::Tensor own = mask.logical_and(segment.eq(number));
    EXPECT_NEAR(of.ratio(), (score.sigmoid().masked_select(own).sum() / y.masked_select(own).sum()).item<double>(), 1e-12) << number;
  }
  EXPECT_EQ(sentence_of([&] { whole.add(score, {y}, y); }), "htl::BySegment: expected integer segments, got Double");
  EXPECT_EQ(sentence_of([&] { whole.add(torch::zeros({301}, at::kDouble), {y}, segment); }),
            "htl::BySegment: expected predictions of 300 rows, got shape [301]");
  at::Tensor broken = score.clone();
  broken[299] = std::nan("");
  const double before = whole.segments().begin()->second.value();
  EXPECT_NE(sentence_of([&] { whole.add(broken, {y}, segment); }), "no error");
  EXPECT_EQ(whole.segments().begin()->second.value(), before) << "a batch is added whole or not at all";
  EXPECT_EQ(sentence_of([&] { whole.add(score, {y}, segment.slice(0, 1)); }), "htl::BySegment: expected segments of shape [300], got [299]");
}

}  // namespace
