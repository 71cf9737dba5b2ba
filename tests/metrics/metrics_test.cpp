// SPDX-License-Identifier: Apache-2.0
/// @file metrics_test.cpp
/// @brief Metrics against O(n²) references, other implementations' figures and worked examples.

#include <htl/metrics/auc.hpp>
#include <htl/metrics/calibration.hpp>
#include <htl/metrics/gini.hpp>
#include <htl/metrics/grouped_auc.hpp>
#include <htl/metrics/log_loss.hpp>
#include <htl/metrics/regression_error.hpp>
#include <htl/metrics/spearman.hpp>
#include <htl/metrics/task_metrics.hpp>
#include <htl/task/tensor_operators.hpp>

#include <golden/metrics.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

using Numbers = std::vector<double>;
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

static_assert(htl::Metric<htl::Auc> && htl::Metric<htl::LogLoss> && htl::Metric<htl::Calibration> && htl::Metric<htl::RegressionError> &&
              htl::Metric<htl::Spearman> && htl::Metric<htl::NormalizedGini>);
struct WithoutMerge {
  void add(const at::Tensor&, const htl::Label&) {}
  double value() const { return 0.0; }
};
static_assert(!htl::Metric<WithoutMerge>);

at::Tensor flags(const std::vector<int64_t>& values) { return at::tensor(values).to(at::kBool); }
at::Tensor column(const Numbers& values) { return at::tensor(values, at::kDouble); }

/// Random rows with heavy ties: scores and labels from few levels, weights with zeros, a mask.
struct Rows {
  Numbers score, event, amount, weight;
  std::vector<bool> mask;
  std::vector<int64_t> group;

  Rows(std::mt19937_64& random, size_t n, int levels, bool whole_weights) {
    const auto draw = [&](int below) { return static_cast<int>(random() % static_cast<uint64_t>(below)); };
    for (size_t i = 0; i < n; ++i) {
      score.push_back(draw(levels) / static_cast<double>(levels));
      event.push_back(draw(3) == 0 ? 1.0 : 0.0);
      amount.push_back(draw(4) * 0.75);
      weight.push_back(whole_weights ? draw(4) : draw(4) * 0.37);
      mask.push_back(draw(5) != 0);
      group.push_back(draw(5) - 2);
    }
  }
  at::Tensor mask_tensor() const {
    at::Tensor t = at::empty({static_cast<int64_t>(mask.size())}, at::kBool);
    for (size_t i = 0; i < mask.size(); ++i) t.data_ptr<bool>()[i] = mask[i];
    return t;
  }
  at::Tensor groups() const { return at::tensor(group, at::kLong); }
  htl::Label label(const Numbers& values) const { return {column(values), mask_tensor(), column(weight)}; }
  double w(size_t i) const { return mask[i] ? weight[i] : 0.0; }
  size_t size() const { return score.size(); }
};

double brute_auc(const Rows& rows, int64_t group, bool all) {
  double ordered = 0.0, pairs = 0.0;
  for (size_t i = 0; i < rows.size(); ++i)
    for (size_t j = 0; j < rows.size(); ++j) {
      if (rows.event[i] < 0.5 || rows.event[j] > 0.5 || (!all && (rows.group[i] != group || rows.group[j] != group))) continue;
      const double weight = rows.w(i) * rows.w(j);
      pairs += weight;
      ordered += weight * (rows.score[i] > rows.score[j] ? 1.0 : rows.score[i] == rows.score[j] ? 0.5 : 0.0);
    }
  return pairs > 0.0 ? ordered / pairs : nan;
}

double brute_spearman(const Rows& rows) {
  const auto ranks = [&](const Numbers& x) {
    Numbers rank(x.size(), 0.0);
    for (size_t i = 0; i < x.size(); ++i)
      for (size_t j = 0; j < x.size(); ++j) rank[i] += rows.w(j) * (x[j] < x[i] ? 1.0 : x[j] == x[i] ? 0.5 : 0.0);
    return rank;
  };
  const Numbers a = ranks(rows.score), b = ranks(rows.amount);
  double total = 0.0, mean_a = 0.0, mean_b = 0.0, aa = 0.0, bb = 0.0, ab = 0.0;
  for (size_t i = 0; i < rows.size(); ++i) {
    total += rows.w(i);
    mean_a += rows.w(i) * a[i];
    mean_b += rows.w(i) * b[i];
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const double x = a[i] - mean_a / total, y = b[i] - mean_b / total;
    aa += rows.w(i) * x * x;
    bb += rows.w(i) * y * y;
    ab += rows.w(i) * x * y;
  }
  return aa > 1e-9 && bb > 1e-9 ? ab / std::sqrt(aa * bb) : nan;
}

/// The definition, on copies, averaged over `orders` random orders of the tied rows.
double shuffled_gini(const Rows& rows, const Numbers& by, std::mt19937_64& random, int orders) {
  std::vector<std::pair<double, double>> copies;
  for (size_t i = 0; i < rows.size(); ++i)
    for (int k = 0; k < static_cast<int>(rows.w(i)); ++k) copies.emplace_back(by[i], rows.amount[i]);
  const double sum = std::accumulate(copies.begin(), copies.end(), 0.0, [](double s, const auto& c) { return s + c.second; });
  double result = 0.0;
  for (int order = 0; order < orders; ++order) {
    std::shuffle(copies.begin(), copies.end(), random);
    std::stable_sort(copies.begin(), copies.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    double held = 0.0, area = 0.0;
    for (const auto& copy : copies) area += (held += copy.second) / sum;
    result += 2.0 * area / static_cast<double>(copies.size()) - 1.0;
  }
  return result / orders;
}

void expect_same(double actual, double expected, double tolerance = 1e-12) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << actual;
  } else {
    EXPECT_NEAR(actual, expected, tolerance);
  }
}

template <class Call>
std::string sentence(Call&& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST(Auc, EqualsTheMeanOverAllPairsWithTiesWeightsAndMasks) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 600; ++trial) {
    const Rows rows(random, random() % 40, 1 + static_cast<int>(random() % 6), trial % 2 == 0);
    htl::Auc auc;
    auc.add(column(rows.score), rows.label(rows.event));
    expect_same(auc.value(), brute_auc(rows, 0, true));
  }
}

TEST(Auc, KnowsTheWorkedExamples) {
  htl::Auc auc;
  auc.add(at::tensor({0.1, 0.4, 0.35, 0.8}), {at::tensor({0, 0, 1, 1})});
  EXPECT_DOUBLE_EQ(auc.value(), 0.75);
  htl::Auc ties;
  ties.add(at::tensor({0.0F, -0.0F}), {at::tensor({1.0F, 0.0F})});
  EXPECT_DOUBLE_EQ(ties.value(), 0.5) << "−0 and +0 are one score";
}

TEST(GroupedAuc, EqualsTheWeightedMeanOfGroupsAndReportsThoseLeftOut) {
  std::mt19937_64 random(2);
  for (int trial = 0; trial < 400; ++trial) {
    const Rows rows(random, random() % 50, 1 + static_cast<int>(random() % 5), trial % 2 == 0);
    double sum = 0.0, total = 0.0;
    htl::GroupedAucReport expected;
    for (int64_t group = -2; group <= 2; ++group) {
      double weight = 0.0;
      int64_t count = 0;
      for (size_t i = 0; i < rows.size(); ++i)
        if (rows.group[i] == group && rows.w(i) > 0.0) {
          weight += rows.w(i);
          ++count;
        }
      if (count == 0) continue;
      const double auc = brute_auc(rows, group, false);
      if (std::isnan(auc)) {
        ++expected.groups_left_out;
        expected.rows_left_out += count;
        continue;
      }
      ++expected.groups;
      expected.rows += count;
      sum += weight * auc;
      total += weight;
    }
    htl::GroupedAuc grouped;
    grouped.add(column(rows.score), rows.label(rows.event), rows.groups());
    const htl::GroupedAucReport report = grouped.report();
    expect_same(report.value, total > 0.0 ? sum / total : nan);
    EXPECT_EQ(report.groups, expected.groups);
    EXPECT_EQ(report.groups_left_out, expected.groups_left_out);
    EXPECT_EQ(report.rows, expected.rows);
    EXPECT_EQ(report.rows_left_out, expected.rows_left_out);
  }
}

TEST(LogLoss, OfLogitsAndOfProbabilitiesAgreesAndStaysFiniteAtTheEnds) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal(0.0, 3.0);
  for (int trial = 0; trial < 200; ++trial) {
    const Rows rows(random, 1 + random() % 30, 4, false);
    Numbers logits, probabilities;
    double sum = 0.0, total = 0.0;
    for (size_t i = 0; i < rows.size(); ++i) {
      logits.push_back(normal(random));
      probabilities.push_back(1.0 / (1.0 + std::exp(-logits.back())));
      sum -= rows.w(i) * (rows.event[i] * std::log(probabilities.back()) + (1 - rows.event[i]) * std::log(1.0 / (1.0 + std::exp(logits.back()))));
      total += rows.w(i);
    }
    htl::LogLoss from_logits, from_probabilities;
    from_logits.add_logits(column(logits), rows.label(rows.event));
    from_probabilities.add(column(probabilities), rows.label(rows.event));
    expect_same(from_logits.value(), total > 0.0 ? sum / total : nan);
    expect_same(from_probabilities.value(), from_logits.value(), 1e-11);
  }
  htl::LogLoss saturated;
  saturated.add(at::tensor({1.0F, 0.0F}), {at::tensor({0.0F, 0.0F})});
  EXPECT_NEAR(saturated.value(), -0.5 * std::log(1.1920929e-7), 1e-6) << "one hopeless float32 row costs −log of the type's resolution";
  htl::LogLoss far;
  far.add_logits(at::tensor({-1000.0, 1000.0}), {at::tensor({1.0, 1.0})});
  EXPECT_DOUBLE_EQ(far.value(), 500.0);
}

TEST(LogLoss, OfClassesPicksTheLabelsProbability) {
  htl::LogLoss loss;
  const at::Tensor p = at::tensor({0.2, 0.3, 0.5, 0.7, 0.2, 0.1, 0.1, 0.1, 0.8}).view({3, 3});
  loss.add(p, {at::tensor({2, 0, -5}), flags({true, true, false}), at::tensor({1.0, 3.0, 1.0})});
  EXPECT_NEAR(loss.value(), -(std::log(0.5) + 3.0 * std::log(0.7)) / 4.0, 1e-15);
  EXPECT_EQ(sentence([&] { loss.add(p, {at::tensor({2, 3, 0})}); }), "htl::LogLoss: expected class indices in [0, 3), got 3 in row 1 of the batch");
}

TEST(Calibration, NormalizedEntropyKnowsPublishedFigures) {
  const auto entropy = [](const at::Tensor& p, const at::Tensor& y) {
    htl::Calibration calibration;
    calibration.add(p, {y});
    return calibration.normalized_entropy();
  };
  EXPECT_NEAR(entropy(at::tensor({0.1, 0.4, 0.6, 0.9}), at::tensor({0, 0, 1, 1})), 0.44448435, 1e-7);
  EXPECT_NEAR(entropy(at::tensor({0.2, 0.5, 0.8}), at::tensor({0, 1, 1})), 0.59670544, 1e-7);
  EXPECT_NEAR(entropy(at::tensor({0.3, 0.7}), at::tensor({0, 1})), 0.51457322, 1e-7);
  EXPECT_NEAR(entropy(at::tensor({0.25, 0.25, 0.25, 0.25}), at::tensor({0, 0, 1, 0})), 1.0, 1e-14) << "the base rate itself";
  EXPECT_TRUE(std::isnan(entropy(at::tensor({0.5, 0.5}), at::tensor({1, 1}))));
}

TEST(Calibration, ReliabilityBinsHoldEveryRowOnceAndKeepTiesTogether) {
  std::mt19937_64 random(4);
  for (int trial = 0; trial < 300; ++trial) {
    const Rows rows(random, random() % 60, 1 + static_cast<int>(random() % 20), trial % 2 == 0);
    htl::Calibration calibration;
    calibration.add(column(rows.score), rows.label(rows.event));
    double total = 0.0, predicted = 0.0, events = 0.0;
    for (size_t i = 0; i < rows.size(); ++i) {
      total += rows.w(i);
      predicted += rows.w(i) * rows.score[i];
      events += rows.w(i) * rows.event[i];
    }
    expect_same(calibration.ratio(), events > 0.0 ? predicted / events : nan);
    for (const htl::Binning binning : {htl::Binning::equal_width, htl::Binning::equal_weight}) {
      double weight = 0.0, sum_predicted = 0.0, sum_events = 0.0, error = 0.0, before = -1.0;
      const std::vector<htl::ReliabilityBin> bins = calibration.reliability(7, binning);
      if (binning == htl::Binning::equal_width) {
        ASSERT_EQ(bins.size(), 7U);
      }
      for (const htl::ReliabilityBin& bin : bins) {
        if (binning == htl::Binning::equal_weight) {
          EXPECT_GT(bin.weight, 0.0);
          EXPECT_GT(bin.lower, before) << "equal predictions are never split";
          before = bin.upper;
        }
        if (bin.weight == 0.0) continue;
        Numbers inside{0.0, 0.0, 0.0};
        for (size_t i = 0; i < rows.size(); ++i) {
          const bool last = bin.upper == 1.0 || binning == htl::Binning::equal_weight;
          if (rows.score[i] < bin.lower || (last ? rows.score[i] > bin.upper : rows.score[i] >= bin.upper)) continue;
          inside[0] += rows.w(i);
          inside[1] += rows.w(i) * rows.score[i];
          inside[2] += rows.w(i) * rows.event[i];
        }
        EXPECT_NEAR(bin.weight, inside[0], 1e-12);
        EXPECT_NEAR(bin.predicted, inside[1] / inside[0], 1e-12);
        EXPECT_NEAR(bin.observed, inside[2] / inside[0], 1e-12);
        weight += bin.weight;
        sum_predicted += bin.weight * bin.predicted;
        sum_events += bin.weight * bin.observed;
        error += bin.weight * std::abs(bin.predicted - bin.observed);
      }
      EXPECT_NEAR(weight, total, 1e-12);
      EXPECT_NEAR(sum_predicted, predicted, 1e-12);
      EXPECT_NEAR(sum_events, events, 1e-12);
      expect_same(calibration.expected_calibration_error(7, binning), total > 0.0 ? error / total : nan);
    }
  }
  EXPECT_EQ(sentence([] { htl::Calibration().reliability(0); }), "htl::Calibration: expected at least 1 reliability bin, got 0");
}

TEST(RegressionError, EqualsItsFormulasOverEveryDenominator) {
  std::mt19937_64 random(5);
  for (int trial = 0; trial < 300; ++trial) {
    const Rows rows(random, random() % 30, 6, trial % 2 == 0);
    double total = 0.0, squared = 0.0, absolute = 0.0, sum = 0.0, guessed = 0.0, rms = 0.0, least = infinity, greatest = -infinity, scatter = 0.0;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows.w(i) == 0.0) continue;
      const double error = rows.score[i] - rows.amount[i];
      total += rows.w(i);
      squared += rows.w(i) * error * error;
      absolute += rows.w(i) * std::abs(error);
      sum += rows.w(i) * rows.amount[i];
      guessed += rows.w(i) * rows.score[i];
      rms += rows.w(i) * rows.amount[i] * rows.amount[i];
      least = std::min(least, rows.amount[i]);
      greatest = std::max(greatest, rows.amount[i]);
    }
    for (size_t i = 0; i < rows.size(); ++i) scatter += rows.w(i) * (rows.amount[i] - sum / total) * (rows.amount[i] - sum / total);
    htl::RegressionError error;
    error.add(column(rows.score), rows.label(rows.amount));
    const auto over = [](double a, double b) { return b > 0.0 ? a / b : nan; };
    const double rmse = std::sqrt(over(squared, total)), mae = over(absolute, total), sd = least < greatest ? std::sqrt(over(scatter, total)) : 0.0;
    expect_same(error.value(), rmse);
    expect_same(error.mae(), mae);
    expect_same(error.nrmse(), over(rmse, sd), 1e-11);
    expect_same(error.nmae(), over(mae, sum / total), 1e-11);
    expect_same(error.nrmse(htl::Denominator::range), over(rmse, greatest - least));
    expect_same(error.nmae(htl::Denominator::rms), over(mae, std::sqrt(over(rms, total))), 1e-11);
    expect_same(error.ratio(), over(guessed, sum), 1e-11);
    for (const htl::Denominator by : {htl::Denominator::std, htl::Denominator::mean, htl::Denominator::range, htl::Denominator::rms})
      if (!std::isnan(error.nrmse(by))) {
        EXPECT_GE(error.nrmse(by), error.nmae(by) * (1.0 - 1e-12)) << "one denominator: RMSE ≥ MAE";
      }
  }
}

TEST(RegressionError, KeepsTheVarianceBesideALargeOffset) {
  htl::RegressionError error;
  for (int i = 0; i < 1000; ++i) error.add(at::tensor({1e9, 1e9, 1e9}), {at::tensor({1e9 - 1.0, 1e9, 1e9 + 1.0})});
  EXPECT_NEAR(error.denominator(htl::Denominator::std), std::sqrt(2.0 / 3.0), 1e-9);
  EXPECT_NEAR(error.nrmse(), 1.0, 1e-9);
}

TEST(RegressionError, KnowsDenominatorsByName) {
  for (const htl::Denominator by : {htl::Denominator::std, htl::Denominator::mean, htl::Denominator::range, htl::Denominator::rms})
    EXPECT_EQ(htl::denominator_of(htl::to_string(by)), by);
  EXPECT_EQ(sentence([] { htl::denominator_of("rang"); }),
            "htl::denominator_of: unknown denominator \"rang\"; did you mean \"range\"? Known: \"std\", \"mean\", \"range\", \"rms\"");
}

TEST(Spearman, EqualsThePearsonCorrelationOfAverageRanks) {
  std::mt19937_64 random(6);
  for (int trial = 0; trial < 500; ++trial) {
    const Rows rows(random, random() % 40, 1 + static_cast<int>(random() % 8), trial % 2 == 0);
    htl::Spearman spearman;
    spearman.add(column(rows.score), rows.label(rows.amount));
    expect_same(spearman.value(), brute_spearman(rows), 1e-11);
  }
}

TEST(NormalizedGini, KnowsTheWorkedExample) {
  const at::Tensor y = at::tensor({5.0, 1.0, 3.0, 0.0, 2.0, 8.0, 0.0, 1.0, 4.0, 6.0});
  htl::NormalizedGini gini, perfect;
  gini.add(at::tensor({4.0, 2.0, 3.0, 1.0, 0.0, 9.0, 0.5, 1.5, 2.5, 5.0}), {y});
  EXPECT_NEAR(gini.raw(), 0.533333333333, 1e-11);
  EXPECT_NEAR(gini.perfect(), 0.58, 1e-14);
  EXPECT_NEAR(gini.value(), 0.91954, 5e-6);
  perfect.add(y * 3.0 - 1.0, {y});
  EXPECT_DOUBLE_EQ(perfect.value(), 1.0);
}

TEST(NormalizedGini, IsTheMeanOverAllOrdersOfTiedRows) {
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 20; ++trial) {
    const Rows rows(random, 12, 1 + static_cast<int>(random() % 4), true);
    htl::NormalizedGini gini;
    gini.add(column(rows.score), rows.label(rows.amount));
    if (std::isnan(gini.value())) continue;
    EXPECT_NEAR(gini.raw(), shuffled_gini(rows, rows.score, random, 20000), 0.01) << "twenty thousand random orders";
    EXPECT_NEAR(gini.perfect(), shuffled_gini(rows, rows.amount, random, 1), 1e-12);
  }
  const Numbers amounts = {3.0, 0.0, 5.0, 1.0, 0.5};  // and exactly, over all 120 orders of one tie
  std::vector<size_t> order(amounts.size());
  std::iota(order.begin(), order.end(), 0);
  double sum = 0.0;
  int orders = 0;
  do {
    double held = 0.0, area = 0.0;
    for (const size_t i : order) area += (held += amounts[i]) / 9.5;
    sum += 2.0 * area / 5.0 - 1.0;
    ++orders;
  } while (std::next_permutation(order.begin(), order.end()));
  htl::NormalizedGini tied;
  tied.add(at::zeros({5}), {column(amounts)});
  EXPECT_NEAR(tied.raw(), sum / orders, 1e-13);
}

TEST(Metrics, EqualOtherImplementations) {
  for (const htl::golden::MetricCase& data : htl::golden::metric_cases) {
    const at::Tensor p = column(data.probability);
    const htl::Label event{column(data.event)}, weighted_event{column(data.event), {}, column(data.weight)};
    const htl::Label amount{column(data.amount)}, weighted_amount{column(data.amount), {}, column(data.weight)};
    htl::Auc auc, weighted_auc;
    auc.add(p, event);
    weighted_auc.add(p, weighted_event);
    EXPECT_NEAR(auc.value(), data.auc, 1e-14);
    EXPECT_NEAR(weighted_auc.value(), data.weighted_auc, 1e-14);
    htl::LogLoss loss, weighted_loss;
    loss.add(p, event);
    weighted_loss.add(p, weighted_event);
    EXPECT_NEAR(loss.value(), data.log_loss, 1e-13);
    EXPECT_NEAR(weighted_loss.value(), data.weighted_log_loss, 1e-13);
    htl::Spearman spearman, weighted_spearman;
    spearman.add(p, amount);
    weighted_spearman.add(p, weighted_amount);
    EXPECT_NEAR(spearman.value(), data.spearman, 1e-13);
    EXPECT_NEAR(weighted_spearman.value(), data.weighted_spearman, 1e-13);
    htl::RegressionError error;
    error.add(p, weighted_amount);
    EXPECT_NEAR(error.rmse(), data.weighted_rmse, 1e-13);
    EXPECT_NEAR(error.mae(), data.weighted_mae, 1e-13);
  }
}

/// One metric's value over rows [first, last) of the data, in one batch.
template <class M>
M over(const Rows& rows, const Numbers& labels, int64_t first, int64_t last) {
  const htl::Label label = rows.label(labels);
  M metric;
  metric.add(column(rows.score).slice(0, first, last),
             {label.value.slice(0, first, last), label.mask.slice(0, first, last), label.weight.slice(0, first, last)});
  return metric;
}

template <class M>
void expect_independent_of_batches(const Numbers Rows::*labels, double tolerance) {
  std::mt19937_64 random(8);
  for (int trial = 0; trial < 60; ++trial) {
    Rows rows(random, 1 + random() % 60, 5, trial % 2 == 0);
    const auto n = static_cast<int64_t>(rows.size());
    const double whole = over<M>(rows, rows.*labels, 0, n).value();
    M streamed, merged;
    for (int64_t first = 0; first < n; first += 7) {
      const htl::Label label = rows.label(rows.*labels).index_select(at::arange(first, std::min(n, first + 7)));
      streamed.add(column(rows.score).slice(0, first, std::min(n, first + 7)), label);
      M part = over<M>(rows, rows.*labels, first, std::min(n, first + 7));
      part.merge(merged);
      merged = part;
    }
    streamed.add(at::empty({0}), {at::empty({0})});
    expect_same(streamed.value(), whole, tolerance);
    expect_same(merged.value(), whole, tolerance);
    const at::Tensor order = at::randperm(n);
    M shuffled;
    shuffled.add(column(rows.score).index_select(0, order), rows.label(rows.*labels).index_select(order));
    expect_same(shuffled.value(), whole, tolerance);
    for (size_t i = 0; i < rows.size(); ++i)
      if (!rows.mask[i]) {
        rows.score[i] = nan;  // a row without a label is not read
        (rows.*const_cast<Numbers Rows::*>(labels))[i] = nan;
      }
    expect_same(over<M>(rows, rows.*labels, 0, n).value(), whole, 0.0);
  }
}

TEST(Metrics, DoNotDependOnBatchesOrderOrUnlabelledRows) {
  expect_independent_of_batches<htl::Auc>(&Rows::event, 0.0);
  expect_independent_of_batches<htl::Calibration>(&Rows::event, 0.0);
  expect_independent_of_batches<htl::Spearman>(&Rows::amount, 0.0);
  expect_independent_of_batches<htl::NormalizedGini>(&Rows::amount, 0.0);
  expect_independent_of_batches<htl::LogLoss>(&Rows::event, 1e-12);
  expect_independent_of_batches<htl::RegressionError>(&Rows::amount, 1e-12);
}

TEST(GroupedAuc, DoesNotDependOnBatchesOrderOrUnlabelledRows) {
  std::mt19937_64 random(10);
  for (int trial = 0; trial < 60; ++trial) {
    Rows rows(random, 1 + random() % 60, 5, trial % 2 == 0);
    const auto n = static_cast<int64_t>(rows.size());
    const auto of_rows = [&](const at::Tensor& index) {
      htl::GroupedAuc grouped;
      grouped.add(column(rows.score).index_select(0, index), rows.label(rows.event).index_select(index), rows.groups().index_select(0, index));
      return grouped;
    };
    const htl::GroupedAucReport whole = of_rows(at::arange(n)).report();
    const auto expect_whole = [&](const htl::GroupedAuc& grouped) {
      const htl::GroupedAucReport report = grouped.report();
      expect_same(report.value, whole.value, 0.0);
      EXPECT_EQ(report.groups, whole.groups);
      EXPECT_EQ(report.groups_left_out, whole.groups_left_out);
      EXPECT_EQ(report.rows, whole.rows);
      EXPECT_EQ(report.rows_left_out, whole.rows_left_out);
    };
    htl::GroupedAuc streamed, merged;
    for (int64_t first = 0; first < n; first += 7) {
      const at::Tensor index = at::arange(first, std::min(n, first + 7));
      streamed.add(column(rows.score).index_select(0, index), rows.label(rows.event).index_select(index), rows.groups().index_select(0, index));
      htl::GroupedAuc part = of_rows(index);
      part.merge(merged);
      merged = part;
    }
    expect_whole(streamed);
    expect_whole(merged);
    expect_whole(of_rows(at::randperm(n)));
    for (size_t i = 0; i < rows.size(); ++i)
      if (!rows.mask[i]) rows.score[i] = rows.event[i] = nan;  // a row without a label is not read
    expect_whole(of_rows(at::arange(n)));
  }
}

template <class M>
void expect_weights_are_copies(const Numbers Rows::*labels, const Numbers& score_shift) {
  std::mt19937_64 random(9);
  for (int trial = 0; trial < 60; ++trial) {
    const Rows rows(random, 1 + random() % 30, 5, true);
    M weighted, copied;
    weighted.add(column(rows.score) + score_shift[0], rows.label(rows.*labels));
    Numbers score, label;
    for (size_t i = 0; i < rows.size(); ++i)
      for (int k = 0; k < static_cast<int>(rows.w(i)); ++k) {
        score.push_back(rows.score[i] + score_shift[0]);
        label.push_back((rows.*labels)[i]);
      }
    copied.add(column(score), {column(label)});
    expect_same(weighted.value(), copied.value());
  }
}

TEST(Metrics, TreatAWholeWeightAsThatManyCopies) {
  expect_weights_are_copies<htl::Auc>(&Rows::event, {0.0});
  expect_weights_are_copies<htl::LogLoss>(&Rows::event, {0.1});
  expect_weights_are_copies<htl::Calibration>(&Rows::event, {0.1});
  expect_weights_are_copies<htl::RegressionError>(&Rows::amount, {0.0});
  expect_weights_are_copies<htl::Spearman>(&Rows::amount, {0.0});
  expect_weights_are_copies<htl::NormalizedGini>(&Rows::amount, {0.0});
}

template <class M>
void expect_degenerate_is_nan() {
  EXPECT_TRUE(std::isnan(M().value())) << "nothing added";
  M masked;
  masked.add(at::tensor({0.5, 0.6}), {at::tensor({1.0, 0.0}), flags({false, false})});
  EXPECT_TRUE(std::isnan(masked.value())) << "nothing observed";
  M weightless;
  weightless.add(at::tensor({0.5, 0.6}), {at::tensor({1.0, 0.0}), {}, at::tensor({0.0, 0.0})});
  EXPECT_TRUE(std::isnan(weightless.value())) << "no weight";
}

TEST(Metrics, AreNaNWhereTheyAreNotDefined) {
  expect_degenerate_is_nan<htl::Auc>();
  expect_degenerate_is_nan<htl::LogLoss>();
  expect_degenerate_is_nan<htl::Calibration>();
  expect_degenerate_is_nan<htl::RegressionError>();
  expect_degenerate_is_nan<htl::Spearman>();
  expect_degenerate_is_nan<htl::NormalizedGini>();
  EXPECT_TRUE(std::isnan(htl::Calibration().ratio()));
  EXPECT_TRUE(std::isnan(htl::Calibration().expected_calibration_error()));
  EXPECT_TRUE(std::isnan(htl::GroupedAuc().value()));
  const at::Tensor p = at::tensor({0.1, 0.2, 0.3});
  const htl::Label constant{at::tensor({1.0, 1.0, 1.0})};
  htl::Auc auc;
  auc.add(p, constant);
  EXPECT_TRUE(std::isnan(auc.value()));
  htl::Spearman spearman, flat;
  spearman.add(p, constant);
  flat.add(at::zeros({3}), {p});
  EXPECT_TRUE(std::isnan(spearman.value()));
  EXPECT_TRUE(std::isnan(flat.value()));
  htl::NormalizedGini gini, zero;
  gini.add(p, constant);
  zero.add(p, {at::zeros({3})});
  EXPECT_TRUE(std::isnan(gini.value()));
  EXPECT_TRUE(std::isnan(zero.value()));
  EXPECT_TRUE(std::isnan(zero.raw()));
  htl::RegressionError error;
  error.add(p, constant);
  EXPECT_TRUE(std::isnan(error.nrmse()));
  EXPECT_NEAR(error.nmae(), 0.8, 1e-15);
}

template <class M>
void expect_refusals(const std::string& who) {
  const at::Tensor p = at::tensor({0.5, 0.25}), y = at::tensor({1.0, 0.0});
  M metric;
  EXPECT_EQ(sentence([&] {
              metric.add(at::tensor({0.5, nan}), {y});
            }),
            who + ": expected finite predictions, got nan in row 1 of the batch; the model has diverged or was fed a value that is not finite");
  EXPECT_EQ(sentence([&] {
              metric.add(at::tensor({-infinity, 0.5}), {y});
            }),
            who + ": expected finite predictions, got -inf in row 0 of the batch; the model has diverged or was fed a value that is not finite");
  EXPECT_EQ(sentence([&] {
              metric.add(p, {at::tensor({1.0, infinity})});
            }),
            who + ": expected finite labels, got inf in row 1 of the batch; mask rows without a label");
  EXPECT_EQ(sentence([&] {
              M(metric).add(at::tensor({0.5, nan}), {at::tensor({1.0, infinity}), {}, at::tensor({1.0, 0.0})});
            }),
            "no error")
      << "a row of weight 0 is none";
  EXPECT_EQ(sentence([&] { metric.add(p, {y, {}, at::tensor({1.0, -1.0})}); }), who + ": expected finite weights ≥ 0, got -1 in row 1 of the batch");
  EXPECT_EQ(sentence([&] { metric.add(p, {y, {}, at::tensor({nan, 1.0})}); }), who + ": expected finite weights ≥ 0, got nan in row 0 of the batch");
  EXPECT_EQ(sentence([&] { metric.add(p, {y, at::ones({3}, at::kBool)}); }), who + ": expected the mask of shape [2], got [3]");
  EXPECT_EQ(sentence([&] { metric.add(p, {y, at::ones({2})}); }), who + ": expected a bool mask, got Float; a floating-point factor per row is a weight");
  EXPECT_EQ(sentence([&] { metric.add(p.view({1, 2, 1}), {y}); }), who + ": expected predictions of shape [2], got [1, 2, 1]");
  EXPECT_EQ(sentence([&] { metric.add(at::Tensor(), {y}); }), who + ": expected predictions of shape [2], got undefined");
  EXPECT_EQ(sentence([&] { metric.add(p, {y.view({2, 1})}); }), who + ": expected labels of shape [any], got [2, 1]");
  EXPECT_TRUE(std::isnan(metric.value())) << "a refused batch leaves no trace";
}

TEST(Metrics, RefuseBadDataNamingTheRowAndKeepNothingOfIt) {
  expect_refusals<htl::Auc>("htl::Auc");
  expect_refusals<htl::LogLoss>("htl::LogLoss");
  expect_refusals<htl::Calibration>("htl::Calibration");
  expect_refusals<htl::RegressionError>("htl::RegressionError");
  expect_refusals<htl::Spearman>("htl::Spearman");
  expect_refusals<htl::NormalizedGini>("htl::NormalizedGini");
  const at::Tensor p = at::tensor({0.5, 1.5}), y = at::tensor({1.0, 2.0});
  EXPECT_EQ(sentence([&] { htl::Auc().add(p, {y}); }), "htl::Auc: expected labels 0 or 1, got 2 in row 1 of the batch");
  EXPECT_EQ(sentence([&] { htl::LogLoss().add(p, {p - 0.5}); }),
            "htl::LogLoss: expected probabilities in [0, 1], got 1.5 in row 1 of the batch; "
            "apply a sigmoid (tasks.predict does), or use LogLoss::add_logits");
  EXPECT_EQ(sentence([&] { htl::NormalizedGini().add(p, {-y}); }), "htl::NormalizedGini: expected labels ≥ 0, shares of a total, got -1 in row 0 of the batch");
  EXPECT_EQ(sentence([&] { htl::GroupedAuc().add(p, {y - 1.0}, p); }), "htl::GroupedAuc: expected integer groups, got Double");
  EXPECT_EQ(sentence([&] { htl::GroupedAuc().add(p, {y - 1.0}, at::arange(3)); }), "htl::GroupedAuc: expected groups of shape [2], got [3]");
}

TEST(Metrics, ReadEveryElementTypeAndStride) {
  const at::Tensor y = at::tensor({1, 0, 1, 0, 0, 1});
  const at::Tensor wide = at::tensor({0.875, 0.125, 0.5, 0.25, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0, 0.5, 0.125}).view({6, 2}).t()[0];
  double expected = nan;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16})
    for (const at::ScalarType label_type : {at::kBool, at::kInt, at::kLong, at::kFloat, at::kByte}) {
      htl::Auc auc;
      auc.add(wide.to(type).requires_grad_(), {y.to(label_type)});
      if (std::isnan(expected)) expected = auc.value();
      EXPECT_EQ(auc.value(), expected);
    }
  EXPECT_FALSE(std::isnan(expected));
}

TEST(TaskMetrics, ReportEachKindOverTheRowsItIsObservedIn) {
  const htl::TaskSet tasks{htl::binary("click"), htl::multiclass("reason", 3), htl::regression("amount").observed_when("click"), htl::regression("change")};
  htl::Labels labels;
  labels.set("click", {at::tensor({1.0, 0.0, 1.0, 1.0})}).set("reason", {at::tensor({0, 1, 2, 1})});
  labels.set("amount", {at::tensor({3.0, nan, 1.0, 2.0}), flags({true, true, true, false})}).set("change", {at::tensor({-1.0, 1.0, 2.0, 0.0})});
  htl::Predictions predictions;
  predictions.set("click", at::tensor({0.9, 0.4, 0.3, 0.5}));
  predictions.set("reason", at::tensor({0.5, 0.3, 0.2, 0.1, 0.8, 0.1, 0.4, 0.4, 0.2, 0.2, 0.2, 0.6}).view({4, 3}));
  predictions.set("amount", at::tensor({2.0, nan, 1.5, nan}));
  predictions.set("change", at::tensor({0.0, 0.0, 1.0, 0.0}));
  htl::TaskMetrics metrics(tasks, {.nrmse = htl::Denominator::range}), other(tasks);
  metrics.add(predictions, labels);
  const auto values = metrics.values();
  EXPECT_NEAR(values["click"]["auc"], 2.0 / 3.0, 1e-15);
  EXPECT_NEAR(values["reason"]["accuracy"], 0.5, 1e-15);
  EXPECT_NEAR(values["reason"]["log_loss"], -(std::log(0.5) + std::log(0.8) + 2.0 * std::log(0.2)) / 4.0, 1e-12);
  EXPECT_EQ(values["amount"]["rows"], 2.0) << "neither the row without a click nor the masked one";
  EXPECT_NEAR(values["amount"]["rmse"], std::sqrt(0.625), 1e-15);
  EXPECT_NEAR(values["amount"]["nrmse"], std::sqrt(0.625) / 2.0, 1e-15);
  EXPECT_NEAR(values["amount"]["normalized_gini"], 1.0, 1e-15);
  EXPECT_TRUE(std::isnan(values["change"]["normalized_gini"])) << "labels below 0 have no shares";
  EXPECT_EQ(values["change"].names(), (std::vector<std::string>{"rmse", "mae", "nrmse", "nmae", "spearman", "normalized_gini", "calibration_ratio", "rows"}));
  other.add(predictions, labels);
  other.merge(metrics);
  for (const auto& [task, of] : other.values())
    for (const auto& [name, value] : of)
      if (name != "rows" && name != "nrmse" && name != "normalized_gini") expect_same(value, values[task][name]);
  EXPECT_TRUE(htl::TaskMetrics::greater_is_better("auc"));
  EXPECT_FALSE(htl::TaskMetrics::greater_is_better("nrmse"));
  predictions.set("click", at::tensor({0.9, nan, 0.3, 0.5}));
  EXPECT_EQ(sentence([&] { metrics.add(predictions, labels); }),
            "htl::TaskMetrics: task \"click\": htl::Auc: expected finite predictions, got nan in row 1 "
            "of the batch; the model has diverged or was fed a value that is not finite");
  predictions.set("click", at::tensor({0.9, 0.4, 0.3, 0.5}));
  htl::Predictions flat = predictions;
  flat.set("reason", at::tensor({0.5, 0.3, 0.2, 0.1}));
  EXPECT_EQ(sentence([&] { metrics.add(flat, labels); }),
            "htl::TaskMetrics: task \"reason\": htl::LogLoss: expected probabilities of each class of shape [4, any], got [4]");
  predictions.set("change", at::tensor({0.0, nan, 1.0, 0.0}));
  EXPECT_NE(sentence([&] { metrics.add(predictions, labels); }), "no error");
  for (const auto& [task, of] : metrics.values())
    for (const auto& [name, value] : of) expect_same(value, values[task][name], 0.0);  // the tasks before the refused one have nothing of the batch either
}

}  // namespace
