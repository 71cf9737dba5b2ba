// SPDX-License-Identifier: Apache-2.0
// Methods that never wait for CUDA by their documentation, shown without CUDA: on the CPU no operator of their tensors' way brings a number to the host, and
// those that do something else on the CPU run through on LibTorch's meta device, whose tensors are shapes without numbers.
#include <htl/weighting/apply.hpp>
#include <htl/weighting/constant.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/cr_mogm.hpp>
#include <htl/weighting/db_mtl.hpp>
#include <htl/weighting/excess_mtl.hpp>
#include <htl/weighting/famo.hpp>
#include <htl/weighting/grad_drop.hpp>
#include <htl/weighting/gradnorm.hpp>
#include <htl/weighting/mean.hpp>
#include <htl/weighting/metabalance.hpp>
#include <htl/weighting/mgda.hpp>
#include <htl/weighting/moco.hpp>
#include <htl/weighting/random_weighting.hpp>
#include <htl/weighting/sum.hpp>
#include <htl/weighting/trimmed_mean.hpp>

#include <support/meta_operators.hpp>
#include <support/seeded.hpp>

#include <ATen/record_function.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;
using Names = std::set<std::string>;

/// What CUDA would wait in: its result, or the shape of its result, is made of numbers.
bool waits(const std::string& name) {
  static const Names all = {"aten::item",     "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal",
                            "aten::allclose", "aten::masked_select",       "aten::_unique2",   "aten::bincount"};
  return all.contains(name);
}

/// Watches the operators of this thread.
class Watch {
 public:
  Watch() {
    watching = this;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&Watch::see).scopes({at::RecordScope::FUNCTION}));
  }
  Watch(const Watch&) = delete;
  Watch(Watch&&) = delete;
  Watch& operator=(const Watch&) = delete;
  Watch& operator=(Watch&&) = delete;
  ~Watch() {
    at::removeCallback(handle_);
    watching = nullptr;
  }
  Names waiting;     // those that CUDA would wait in
  int64_t seen = 0;  // how many there were of any kind

 private:
  static std::unique_ptr<at::ObserverContext> see(const at::RecordFunction& function) {
    ++watching->seen;
    if (const std::string name = function.name(); waits(name)) watching->waiting.insert(name);
    return nullptr;
  }
  static thread_local Watch* watching;
  at::CallbackHandle handle_ = 0;
};
thread_local Watch* Watch::watching = nullptr;

/// Three tasks, their gradients of a parameter and of some rows of a table.
TaskGradients gradients_on(const at::Device& device, bool some_inactive, bool table = true) {
  Random random(91);
  const auto there = [&](const Tensor& tensor) { return tensor.to(device); };
  const Tensor j = random.normal({3, 6});
  TaskGradients result;
  result.gramian.matrix = there(j.mm(j.t()));
  result.gramian.losses = there(random.uniform({3}, 0.5, 2.0));
  result.gramian.cores = {0};
  if (some_inactive) result.gramian.active = there(at::arange(3).ne(1));
  result.parts.push_back({.name = "parameter", .values = there(random.normal({1, 3, 5}))});
  if (table) result.parts.push_back({.name = "table", .values = there(random.normal({4, 3, 2})), .rows = there(at::arange(4) * 2), .total_rows = 9});
  return result;
}

/// The methods whose documentation says so. Those with a branch for the CPU give it another way than CUDA, or fill numbers in; none looks at one.
template <class Call>
void each_method_with_a_branch(Call&& call) {
  call("Constant", Constant{{1.0, 2.0, 0.5}});
  call("CoreTask", CoreTask{});
  call("CoreTask after", CoreTask{.norm = NormReference::after_projection});
  call("CoreTask average", CoreTask{.norm = NormReference::moving_average});
  call("MetaBalance", MetaBalance{});
  call("GradNorm", GradNorm{});
}
template <class Call>
void each_method_without_branches(Call&& call) {
  call("Sum", Sum{});
  call("Mean", Mean{});
  call("RandomWeighting", RandomWeighting{});
  call("FAMO", FAMO{.max_norm = 1.0, .min_losses = {0.1, 0.0, 0.2}});
  call("GradDrop", GradDrop{.leak = 0.1});
  call("TrimmedMean", TrimmedMean{});
  call("ExcessMTL", ExcessMTL{});
  call("ExcessMTL at once", ExcessMTL{.warmup = 0, .scale = WeightScale::one});
}
/// Those that look for wrong losses and weights where these are the CPU's, and never else; MoCo without tables, as it says.
template <class Call>
void each_method_that_looks_on_the_cpu(Call&& call) {
  call("MoCo", MoCo{});
  call("CRMOGM<Mean>", CRMOGM<Mean>{.inner = {}, .initial = {1.0, 0.0, 0.0}});
}

/// A step with all that it tells the method.
template <class M>
void step(const M& method, const TaskGradients& gradients, MethodMemory<M>& memory) {
  (void)htl::aggregate(method, gradients, memory);
  if constexpr (LossObserver<M>) method.observe(gradients.gramian.losses * 0.5, memory);
}

class SynchronisationTest : public Seeded {};

TEST_F(SynchronisationTest, NoOperatorOfTheTensorsWayBringsANumberToTheHost) {
  for (const bool some_inactive : {false, true}) {
    const auto expect_none = [&](const char* name, const auto& method) {
      const TaskGradients gradients = gradients_on(at::kCPU, some_inactive);
      auto memory = htl::detail::initial_state(method);
      step(method, gradients, memory);  // makes the memory
      const Watch watch;
      if constexpr (requires { method.weights_by_tensors(gradients.gramian, memory); }) {
        (void)method.weights_by_tensors(gradients.gramian, memory);  // the CPU has loops for it
      } else {
        step(method, gradients, memory);
      }
      EXPECT_GT(watch.seen, 0) << name;
      EXPECT_EQ(watch.waiting, Names()) << name;
    };
    each_method_with_a_branch(expect_none);
    each_method_without_branches(expect_none);
  }
}

TEST_F(SynchronisationTest, MethodsWithABranchForTheCpuRunWhereTensorsHaveNoNumbers) {
  for (const bool some_inactive : {false, true}) {
    const auto expect_through = [&](const char* name, const auto& method) {
      const TaskGradients gradients = gradients_on(at::kMeta, some_inactive, /*table=*/false);
      auto memory = htl::detail::initial_state(method);
      const Watch watch;
      for (int call = 0; call < 3; ++call) ASSERT_EQ(sentence_of([&] { step(method, gradients, memory); }), "no error") << name << ", call " << call;
      EXPECT_GT(watch.seen, 0) << name;
      EXPECT_EQ(watch.waiting, Names()) << name;
    };
    each_method_with_a_branch(expect_through);
    each_method_that_looks_on_the_cpu(expect_through);
  }
}

TEST_F(SynchronisationTest, WhoWaitsIsSeen) {
  const TaskGradients here = gradients_on(at::kCPU, true), nowhere = gradients_on(at::kMeta, true);
  const auto waiting = [&](const auto& method) {
    auto memory = htl::detail::initial_state(method);
    const Watch watch;
    step(method, here, memory);
    return watch.waiting;
  };
  EXPECT_TRUE(waiting(DBMTL{}).contains("aten::item")) << "as it says";
  each_method_that_looks_on_the_cpu([&](const char* name, const auto& method) { EXPECT_TRUE(waiting(method).contains("aten::item")) << name; });
  EXPECT_NE(sentence_of([&] { (void)htl::weights(MGDA{}, nowhere.gramian); }), "no error") << "it copies the Gramian to the host";
  DBMTL::State memory;
  EXPECT_NE(sentence_of([&] { (void)DBMTL{}.aggregate(nowhere, memory); }), "no error");
}

}  // namespace
