// SPDX-License-Identifier: Apache-2.0
// Which properties the methods of weights, angles, cores and losses have.
//
// A new method is one line in `methods` below: a struct with `make`, which gives the method for the given tasks, and `claims`.
#include <htl/weighting/aligned_mtl.hpp>
#include <htl/weighting/config.hpp>
#include <htl/weighting/constant.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/famo.hpp>
#include <htl/weighting/gradnorm.hpp>
#include <htl/weighting/gradvac.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/krum.hpp>
#include <htl/weighting/mean.hpp>
#include <htl/weighting/metabalance.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/random_weighting.hpp>
#include <htl/weighting/sum.hpp>

#include <support/method_properties.hpp>

namespace {

using namespace htl;
using namespace htl::test;
using enum Claim;

std::vector<double> constants(const Tasks& tasks) {
  std::vector<double> result;
  for (const int64_t t : tasks) result.push_back(0.5 + static_cast<double>(t));
  return result;
}

namespace methods {
// clang-format off
// in the order of Claims: not conflicting, any order, linear, stationary, any scale, without the inactive
struct OfSum { static Sum make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
struct OfMean { static Mean make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
struct OfConstant { static Constant make(const Tasks& tasks) { return {constants(tasks)}; } static constexpr Claims claims{no, no, yes, no, yes, yes, 0.5}; };
struct OfRandomWeighting { static RandomWeighting make(const Tasks&) { return {}; } static constexpr Claims claims{no, no, yes, no, yes, no}; };
struct OfCoreTask { static CoreTask make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfCoreTaskAfter {
  static CoreTask make(const Tasks&) { return {.norm = NormReference::after_projection}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
struct OfCoreTaskAverage {
  static CoreTask make(const Tasks&) { return {.norm = NormReference::moving_average}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
// without a clip of the ratio every task has r ‖g_core‖ of its own direction, and 1 − r of itself
struct OfMetaBalance { static MetaBalance make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
// each projection scales with its own gradient alone, so a fixed order, or a known draw, is linear
struct OfPCGrad { static PCGrad make(const Tasks&) { return {}; } static constexpr Claims claims{no, no, yes, no, yes, yes}; };
struct OfPCGradAscending {
  static PCGrad make(const Tasks&) { return {.order = Order::ascending}; }
  static constexpr Claims claims{no, no, yes, no, yes, yes};
};
struct OfPCGradMean {
  static PCGrad make(const Tasks&) { return {.order = Order::descending, .reduction = Reduction::mean}; }
  static constexpr Claims claims{no, no, yes, no, yes, yes};
};
struct OfGradVac { static GradVac make(const Tasks&) { return {}; } static constexpr Claims claims{no, no, yes, no, yes, yes}; };
struct OfIMTLG { static IMTLG make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfAlignedMTL { static AlignedMTL make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfAlignedMTLMedian {
  static AlignedMTL make(const Tasks&) { return {.scale = AlignedScale::median}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
struct OfAlignedMTLMean {
  static AlignedMTL make(const Tasks&) { return {.scale = AlignedScale::rmse, .preference = Preference::mean}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
// opposes a task only where gradients depend on each other
struct OfConFIG { static ConFIG make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
struct OfKrum { static Krum make(const Tasks&) { return {.selected = 2}; } static constexpr Claims claims{no, yes, no, no, yes, yes, 1.0, 3}; };
struct OfGradNorm { static GradNorm make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, no, yes}; };
// sees losses only, so its weights are constants to these tests
struct OfFAMO { static FAMO make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
// clang-format on
}  // namespace methods

using Methods = ::testing::Types<methods::OfSum, methods::OfMean, methods::OfConstant, methods::OfRandomWeighting, methods::OfCoreTask,
                                 methods::OfCoreTaskAfter, methods::OfCoreTaskAverage, methods::OfMetaBalance, methods::OfPCGrad, methods::OfPCGradAscending,
                                 methods::OfPCGradMean, methods::OfGradVac, methods::OfIMTLG, methods::OfAlignedMTL, methods::OfAlignedMTLMedian,
                                 methods::OfAlignedMTLMean, methods::OfConFIG, methods::OfKrum, methods::OfGradNorm, methods::OfFAMO>;
INSTANTIATE_TYPED_TEST_SUITE_P(Methods, PropertiesTest, Methods, NameOfMethod);

}  // namespace
