// SPDX-License-Identifier: Apache-2.0
// Which properties the methods with a solver have, and those that see the gradients themselves.
//
// A new method is one line in `methods` below: a struct with `make`, which gives the method for the given tasks, and `claims`.
#include <htl/weighting/any_weighting.hpp>
#include <htl/weighting/cagrad.hpp>
#include <htl/weighting/cr_mogm.hpp>
#include <htl/weighting/db_mtl.hpp>
#include <htl/weighting/dual_proj.hpp>
#include <htl/weighting/excess_mtl.hpp>
#include <htl/weighting/fair_grad.hpp>
#include <htl/weighting/grad_drop.hpp>
#include <htl/weighting/gradvac.hpp>
#include <htl/weighting/mgda.hpp>
#include <htl/weighting/moco.hpp>
#include <htl/weighting/modo.hpp>
#include <htl/weighting/nash_mtl.hpp>
#include <htl/weighting/pe_ltr.hpp>
#include <htl/weighting/sdmgrad.hpp>
#include <htl/weighting/trimmed_mean.hpp>
#include <htl/weighting/upgrad.hpp>

#include <support/method_properties.hpp>

namespace {

using namespace htl;
using namespace htl::test;
using enum Claim;

namespace methods {
// clang-format off
// in the order of Claims: not conflicting, any order, linear, stationary, any scale, without the inactive, alone
struct OfMGDA { static MGDA make(const Tasks&) { return {}; } static constexpr Claims claims{yes, yes, no, yes, yes, yes}; };
struct OfMGDATasks { static MGDA make(const Tasks&) { return {.scale = WeightScale::tasks}; } static constexpr Claims claims{yes, yes, no, yes, yes, yes}; };
struct OfCAGrad { static CAGrad make(const Tasks&) { return {.c = 0.5}; } static constexpr Claims claims{no, yes, no, no, yes, yes, 1.5}; };
struct OfCAGradWide { static CAGrad make(const Tasks&) { return {.c = 1.0}; } static constexpr Claims claims{yes, yes, no, yes, yes, yes, 2.0}; };
struct OfPELTR { static PELTR make(const Tasks&) { return {.bound = 0.05}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfSDMGrad { static SDMGrad make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfMoDo { static MoDo make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, no, yes}; };
struct OfUPGrad { static UPGrad make(const Tasks&) { return {}; } static constexpr Claims claims{yes, yes, yes, yes, yes, yes}; };
struct OfDualProj { static DualProj make(const Tasks&) { return {}; } static constexpr Claims claims{yes, yes, no, yes, yes, yes}; };
// both oppose tasks where no solution exists: more tasks than numbers
struct OfNashMTL {
  static NashMTL make(const Tasks&) { return {}; }
  static constexpr Claims claims{no, yes, no, no, no, yes, {1.0, -1.0}};
};
struct OfNashMTLUnbounded {
  static NashMTL make(const Tasks&) { return {.max_norm = std::numeric_limits<double>::infinity()}; }
  static constexpr Claims claims{no, yes, no, no, no, yes, {1.0, -1.0}};
};
struct OfFairGrad {
  static FairGrad make(const Tasks&) { return {}; }
  static constexpr Claims claims{no, yes, no, no, no, yes, {1.0, -1.0}};
};
struct OfFairGradTwo {
  static FairGrad make(const Tasks&) { return {.alpha = 2.0}; }
  static constexpr Claims claims{no, yes, no, no, no, yes, {1.0, -4.0 / 3.0}};
};
// in two steps with the same gradients MGDA gives the same weights twice; GradVac does not
struct OfCRMOGM { static CRMOGM<MGDA> make(const Tasks&) { return {}; } static constexpr Claims claims{yes, yes, no, yes, yes, yes}; };
struct OfCRMOGMOfAny {
  static CRMOGM<AnyWeighting> make(const Tasks&) { return {.inner = GradVac{}, .decay = 0.5}; }
  static constexpr Claims claims{no, no, yes, no, yes, yes};
};
// methods that see the gradients themselves
struct OfGradDrop { static GradDrop make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfTrimmedMean { static TrimmedMean make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfExcessMTL { static ExcessMTL make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, no, yes}; };
// its weights begin as 1/T, inactive tasks among the T
struct OfMoCo {
  static MoCo make(const Tasks&) { return {}; }
  static constexpr Claims claims{no, yes, no, no, no, no, {0.5 + 0.25 * 0.7071067811865476, -1.0, 1e-8}};
};
struct OfDBMTL { static DBMTL make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes, 0.19 / (1.0 + 1e-8)}; };
// clang-format on
}  // namespace methods

using Methods = ::testing::Types<methods::OfMGDA, methods::OfMGDATasks, methods::OfCAGrad, methods::OfCAGradWide, methods::OfPELTR, methods::OfSDMGrad,
                                 methods::OfMoDo, methods::OfUPGrad, methods::OfDualProj, methods::OfNashMTL, methods::OfNashMTLUnbounded, methods::OfFairGrad,
                                 methods::OfFairGradTwo, methods::OfCRMOGM, methods::OfCRMOGMOfAny, methods::OfGradDrop, methods::OfTrimmedMean,
                                 methods::OfExcessMTL, methods::OfMoCo, methods::OfDBMTL>;
INSTANTIATE_TYPED_TEST_SUITE_P(Solvers, PropertiesTest, Methods, NameOfMethod);

}  // namespace
