// SPDX-License-Identifier: Apache-2.0
// Behaviour on the toy problem with two valleys: which methods come out of the valleys, and where they end.
#include <two_valleys.hpp>

#include <htl/weighting/aligned_mtl.hpp>
#include <htl/weighting/cagrad.hpp>
#include <htl/weighting/fair_grad.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/mean.hpp>
#include <htl/weighting/mgda.hpp>
#include <htl/weighting/nash_mtl.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/upgrad.hpp>

#include <support/seeded.hpp>

namespace {

using namespace htl;
using namespace htl::test;
using two_valleys::Point;

TEST(TwoValleys, HaveTheGradientsOfTheirLosses) {
  Random random(121);
  for (int repetition = 0; repetition < 1000; ++repetition) {
    const Point at = {random.real(-10.0, 10.0), random.real(-10.0, 10.0)};
    const auto here = two_valleys::losses_at(at);
    for (size_t i = 0; i < 2; ++i)
      for (size_t k = 0; k < 2; ++k) {
        Point low = at, high = at;
        low[k] -= 1e-7;
        high[k] += 1e-7;
        const double difference = (two_valleys::losses_at(high).values[i] - two_valleys::losses_at(low).values[i]) / 2e-7;
        EXPECT_NEAR(here.gradients[i][k], difference, 1e-6 * std::max(1.0, std::pow(here.gradients[i][k], 2.0)));  // steep at the bottom of a valley
      }
  }
}

/// Of the five starts, from how many a method leaves the valleys, and from how many it comes to where no step helps both losses.
struct Ends {
  int64_t left = 0, arrived = 0;
};
Ends ends_of(const AnyWeighting& method) {
  Ends result;
  for (const Point& start : two_valleys::starts) {
    const Point end = two_valleys::descend(method, start, 40'000, 2e-3, 40'000).back();
    EXPECT_TRUE(std::isfinite(end[0]) && std::isfinite(end[1]));
    result.left += end[1] < 0.0;
    result.arrived += end[1] < -5.0 && two_valleys::pareto_distance(end) < 1e-3;
  }
  return result;
}

TEST(TwoValleys, AreLeftByMethodsThatSolveConflictsAndHoldThePlainMean) {
  EXPECT_EQ(ends_of(Mean{}).left, 3);
  for (const AnyWeighting& method : {AnyWeighting(MGDA{}), AnyWeighting(IMTLG{}), AnyWeighting(NashMTL{}), AnyWeighting(FairGrad{}), AnyWeighting(AlignedMTL{}),
                                     AnyWeighting(UPGrad{}), AnyWeighting(PCGrad{.order = Order::ascending})})
    EXPECT_EQ(ends_of(method).arrived, 5) << method.name();
  const Ends ends = ends_of(CAGrad{.c = 0.4});  // it keeps sizes, so the flat side of a valley takes it longer
  EXPECT_EQ(ends.left, 5);
  EXPECT_GE(ends.arrived, 4);
}

TEST(TwoValleys, EndWhereEachMethodsFixedPointsAre) {
  // Fair methods end in the middle of the Pareto front, where both gradients are equally long; CAGrad at the mean's minimum, which is there too.
  for (const AnyWeighting& method : {AnyWeighting(FairGrad{}), AnyWeighting(CAGrad{.c = 0.4}), AnyWeighting(Mean{})}) {
    const Point end = two_valleys::descend(method, {-7.5, -0.5}, 40'000, 2e-3, 40'000).back();
    EXPECT_NEAR(end[0], 0.0, 0.05) << method.name();
  }
  // MGDA stops at the first point of the front that it meets, near to where it came from.
  EXPECT_LT(two_valleys::descend(MGDA{}, {-7.5, -0.5}, 40'000, 2e-3, 40'000).back()[0], -3.0);
  EXPECT_GT(two_valleys::descend(MGDA{}, {9.0, -1.0}, 40'000, 2e-3, 40'000).back()[0], 3.0);
}

TEST(TwoValleys, GiveTheSamePathTwice) {
  const auto once = two_valleys::descend(NashMTL{}, {9.0, 9.0}, 2000), again = two_valleys::descend(NashMTL{}, {9.0, 9.0}, 2000);
  ASSERT_EQ(once.size(), 21U);
  EXPECT_EQ(once, again);
}

}  // namespace
