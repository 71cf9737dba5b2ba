// SPDX-License-Identifier: Apache-2.0
// Whole steps on a CUDA device: equal to the CPU's in float64, and without a wait for the device. Skipped where there is none.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/clip.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/transfer/task_graph.hpp>
#include <htl/weighting/core_task.hpp>

#include <support/seeded.hpp>

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <optional>

#ifdef HTL_TEST_WITH_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

/// Without noise and dropout: the two devices' generators don't draw the same numbers.
struct Training {
  Training(const at::Device& where, at::ScalarType type, FusionKind fusion, bool lazy_adam) : device(where) {
    const TaskSet all{binary("click"), multiclass("rating", 3), regression("watch_time").observed_when("click").transform(ZScoreTransform{2.0, 1.5}).core()};
    at::manual_seed(17);
    embedding = FieldEmbedding(FieldEmbeddingOptions({300, 40, 12}, 4).frozen_zero(true).initial_sd(1.0));
    graph = TaskGraph<>(all, TaskGraphOptions(12).tower({9, 6}).label(LabelEmbeddingOptions().dim(3).noise(LabelNoise::none)).fusion(fusion));
    fork = GradientFork<CoreTask>(all, CoreTask{.norm = NormReference::moving_average});
    loss = HybridLoss(all);
    embedding->to(device, type);
    graph->to(device, type);
    fork->to(device);
    dense.emplace(dense_parameters(*graph), FusedAdamOptions{.lr = 0.01});
    if (lazy_adam) {
      adam.emplace(embedding, LazyAdamOptions{.lr = 0.05});
    } else {
      adagrad.emplace(embedding, RowAdagradOptions{.lr = 0.05});
    }
  }

  /// A step on a batch of this device: what a loop does, with nothing read back.
  GradientReport step(const Batch& batch) {
    dense->zero_grad();
    const TaskLosses losses = loss(graph->forward(fork->split(embedding->lookup(batch))), batch.labels);
    GradientReport report = backward(losses, fork);
    clip_grad_norm(embedding, dense_parameters(*graph), 1.0);
    const Tensor active = device.is_cpu() ? Tensor() : report.gramian.diagonal().isfinite().all();
    if (adam) {
      adam->step(active);
    } else {
      adagrad->step(active);
    }
    dense->step(active);
    return report;
  }
  std::vector<Tensor> weights() const {
    std::vector<Tensor> all{embedding->weight.detach().to(at::kCPU, /*non_blocking=*/false, /*copy=*/true)};
    for (const Tensor& parameter : graph->parameters()) all.push_back(parameter.detach().to(at::kCPU, false, true));
    return all;
  }

  at::Device device;
  FieldEmbedding embedding{nullptr};
  TaskGraph<> graph{nullptr};
  GradientFork<CoreTask> fork{nullptr};
  HybridLoss loss{TaskSet{binary("click")}};
  std::optional<FusedAdam> dense;
  std::optional<LazyAdam> adam;
  std::optional<RowAdagrad> adagrad;
};

Batch random_batch(Random& random, int64_t rows, at::ScalarType type) {
  Batch batch;
  batch.fields = FieldBatch::of(at::stack({random.ids({rows}, 300), random.ids({rows}, 40), random.ids({rows}, 12)}, 1).to(at::kInt));
  batch.labels = Labels()
                     .set("click", {random.events({rows}, 0.5, type), random.mask({rows}, 0.9)})
                     .set("rating", {random.ids({rows}, 3), random.mask({rows}, 0.6), random.uniform({rows}, 0.1, 2.0, type)})
                     .set("watch_time", {random.uniform({rows}, 0.0, 5.0, at::kFloat)});
  return batch;
}

void expect_equal_steps(const at::Device& device, FusionKind fusion, bool lazy_adam, int steps) {
  SCOPED_TRACE(to_string(fusion) + (lazy_adam ? ", LazyAdam" : ", RowAdagrad"));
  Random random(71);
  Training host(at::kCPU, at::kDouble, fusion, lazy_adam), there(device, at::kDouble, fusion, lazy_adam);
  const std::vector<Tensor> start = host.weights();
  for (int step = 0; step < steps; ++step) {
    const Batch batch = random_batch(random, 64, at::kDouble);
    const GradientReport a = host.step(batch), b = there.step(batch.to(device));
    ASSERT_TRUE(close(b.gramian.cpu(), a.gramian, 1e-10, 1e-10)) << step;
    ASSERT_TRUE(close(b.weights.cpu(), a.weights, 1e-10, 1e-10)) << step;
    const std::vector<Tensor> x = dense_parameters(*host.graph), y = dense_parameters(*there.graph);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_TRUE(close(y[i].grad().cpu(), x[i].grad(), 1e-10, 1e-10)) << step << ", parameter " << i;
  }
  const std::vector<Tensor> a = host.weights(), b = there.weights();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(close(b[i], a[i], 1e-10, 1e-10)) << i;
    EXPECT_FALSE(same_bits(a[i], start[i])) << "every weight is trained";
  }
}

class CudaStep : public Seeded {
 protected:
  void SetUp() override {
    Seeded::SetUp();
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(CudaStep, EqualsTheCpusGradientsInAHundredStepsInFloat64) {
  for (const FusionKind fusion : {FusionKind::attention, FusionKind::concat})
    for (const bool lazy_adam : {false, true}) expect_equal_steps(at::kCUDA, fusion, lazy_adam, 100);
}

TEST(CudaStepItself, HoldsOnTheCpu) { expect_equal_steps(at::kCPU, FusionKind::attention, true, 3); }

TEST_F(CudaStep, WaitsForNothing) {
#ifdef HTL_TEST_WITH_CUDA
  Random random(72);
  Training there(at::kCUDA, at::kFloat, FusionKind::attention, false);
  const Batch batch = random_batch(random, 256, at::kFloat).to(at::kCUDA);
  for (int step = 0; step < 3; ++step) there.step(batch);  // what is copied once is copied here
  c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_ERROR);
  EXPECT_NO_THROW({
    for (int step = 0; step < 3; ++step) there.step(batch);
  });
  c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_DISABLED);
#else
  GTEST_SKIP() << "built without HTL_ENABLE_CUDA";
#endif
}

}  // namespace
