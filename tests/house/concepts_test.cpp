// SPDX-License-Identifier: Apache-2.0
// For each concept one archetype that just satisfies it, and per requirement one near-miss that is refused. All of it is checked while compiling.
#include <htl/data/batch.hpp>
#include <htl/embedding/field_embedding.hpp>
#include <htl/io/warm_start.hpp>
#include <htl/loss/one_pass.hpp>
#include <htl/metrics/metric.hpp>
#include <htl/nn/tower.hpp>
#include <htl/optim/schedule.hpp>
#include <htl/task/label_transform.hpp>
#include <htl/task/task_loss.hpp>
#include <htl/transfer/information_fusion.hpp>
#include <htl/transfer/label_embedding.hpp>
#include <htl/weighting/any_weighting.hpp>

#include <gtest/gtest.h>

#include <array>
#include <concepts>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using htl::Named;

struct Uncopyable {
  Uncopyable() = default;
  Uncopyable(const Uncopyable&) = delete;
  Uncopyable(Uncopyable&&) = default;
};

// --- TaskLoss --------------------------------------------------------------------------------------------------------------------------------------------
struct ALoss {
  std::string name() const { return "a"; }
  int64_t output_width() const { return 1; }
  at::Tensor per_row(const htl::LossInput& input) const { return input.output; }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output; }
};
struct LossWithoutName : ALoss {
  void name() const = delete;
};
struct LossWithoutWidth : ALoss {
  void output_width() const = delete;
};
struct LossWithoutRows : ALoss {
  void per_row(const htl::LossInput&) const = delete;
};
struct LossThatReduces : ALoss {
  double per_row(const htl::LossInput&) const { return 0.0; }
};
struct LossThatChangesItself : ALoss {
  at::Tensor per_row(const htl::LossInput& input) { return input.output; }
};
struct LossWithoutPrediction : ALoss {
  void predict(const at::Tensor&, const Named<at::Tensor>&) const = delete;
};
struct LossThatPredictsWithoutContext : ALoss {
  at::Tensor predict(const at::Tensor& output) const { return output; }
};
struct LossThatStaysHome : ALoss, Uncopyable {};

static_assert(htl::TaskLoss<ALoss> && htl::TaskLoss<htl::AnyLoss>);
static_assert(!htl::TaskLoss<LossWithoutName>);
static_assert(!htl::TaskLoss<LossWithoutWidth>);
static_assert(!htl::TaskLoss<LossWithoutRows>);
static_assert(!htl::TaskLoss<LossThatReduces>);
static_assert(!htl::TaskLoss<LossThatChangesItself>);
static_assert(!htl::TaskLoss<LossWithoutPrediction>);
static_assert(!htl::TaskLoss<LossThatPredictsWithoutContext>);
static_assert(!htl::TaskLoss<LossThatStaysHome>);
static_assert(std::is_constructible_v<htl::AnyLoss, ALoss>);
static_assert(!std::is_constructible_v<htl::AnyLoss, LossWithoutRows>);
static_assert(!std::is_constructible_v<htl::AnyLoss, int>);

// --- RowLoss ---------------------------------------------------------------------------------------------------------------------------------------------
struct ARowLoss {
  double row(const double* output, double target, double* slope) const { return *slope = *output - target; }
};
struct RowLossWithoutSlope {
  double row(const double* output, double target) const { return *output - target; }
};
struct RowLossInSinglePrecision {
  float row(const double*, double, double*) const { return 0.0F; }
};
static_assert(htl::RowLoss<ARowLoss>);
static_assert(!htl::RowLoss<RowLossWithoutSlope>);
static_assert(!htl::RowLoss<RowLossInSinglePrecision>);

// --- LabelTransform --------------------------------------------------------------------------------------------------------------------------------------
template <class Self>
struct TransformParts {
  std::string name() const { return "a"; }
  Self fitted(const at::Tensor&) const { return {}; }
  bool is_fitted() const { return true; }
  at::Tensor apply(const at::Tensor& values) const { return values; }
  at::Tensor inverse(const at::Tensor& values) const { return values; }
  htl::Options statistics() const { return {}; }
  Self with_statistics(const htl::Options&) const { return {}; }
};
struct ATransform : TransformParts<ATransform> {};
struct TransformWithoutName : TransformParts<TransformWithoutName> {
  void name() const = delete;
};
struct TransformThatFitsItself : TransformParts<TransformThatFitsItself> {
  void fitted(const at::Tensor&) {}
};
struct TransformThatHidesItsState : TransformParts<TransformThatHidesItsState> {
  void is_fitted() const = delete;
};
struct TransformWithoutApply : TransformParts<TransformWithoutApply> {
  void apply(const at::Tensor&) const = delete;
};
struct TransformWithoutInverse : TransformParts<TransformWithoutInverse> {
  void inverse(const at::Tensor&) const = delete;
};
struct TransformOfNumbers : TransformParts<TransformOfNumbers> {
  double inverse(double value) const { return value; }
};
struct TransformWithoutStatistics : TransformParts<TransformWithoutStatistics> {
  void statistics() const = delete;
};
struct TransformThatCannotBeRead : TransformParts<TransformThatCannotBeRead> {
  void with_statistics(const htl::Options&) const = delete;
};
static_assert(htl::LabelTransform<ATransform>);
static_assert(htl::LabelTransform<htl::IdentityTransform> && htl::LabelTransform<htl::ZScoreTransform> && htl::LabelTransform<htl::Log1pTransform>);
static_assert(!htl::LabelTransform<TransformWithoutName>);
static_assert(!htl::LabelTransform<TransformThatFitsItself>);
static_assert(!htl::LabelTransform<TransformThatHidesItsState>);
static_assert(!htl::LabelTransform<TransformWithoutApply>);
static_assert(!htl::LabelTransform<TransformWithoutInverse>);
static_assert(!htl::LabelTransform<TransformOfNumbers>);
static_assert(!htl::LabelTransform<TransformWithoutStatistics>);
static_assert(!htl::LabelTransform<TransformThatCannotBeRead>);

// --- GramianWeighting ------------------------------------------------------------------------------------------------------------------------------------
struct AMethod {
  at::Tensor weights(const htl::TaskGramian& gramian) const { return gramian.matrix; }
};
struct MethodOfATensor {
  at::Tensor weights(const at::Tensor& matrix) const { return matrix.clone(); }
};
struct MethodThatChangesItself {
  at::Tensor weights(const htl::TaskGramian& gramian) { return gramian.matrix; }
};
struct MethodThatReturnsNumbers {
  std::vector<double> weights(const htl::TaskGramian&) const { return {}; }
};
struct MethodThatStaysHome : AMethod, Uncopyable {};

struct AMethodWithMemory {
  struct State {
    at::Tensor mean;
    void fields(auto visit) { visit("mean", mean); }
  };
  at::Tensor weights(const htl::TaskGramian& gramian, State&) const { return gramian.matrix; }
};
struct MethodWithoutState {
  at::Tensor weights(const htl::TaskGramian& gramian, at::Tensor&) const { return gramian.matrix; }
};
struct MethodWhoseStateIsSecret {
  struct State {};
  at::Tensor weights(const htl::TaskGramian& gramian, State&) const { return gramian.matrix; }
};
struct MethodWhoseStateNeedsASize {
  struct State : AMethodWithMemory::State {
    explicit State(int64_t) {}
  };
  at::Tensor weights(const htl::TaskGramian& gramian, State&) const { return gramian.matrix; }
};
static_assert(htl::StatelessWeighting<AMethod> && htl::GramianWeighting<AMethod>);
static_assert(!htl::GramianWeighting<MethodOfATensor>);
static_assert(!htl::GramianWeighting<MethodThatChangesItself>);
static_assert(!htl::GramianWeighting<MethodThatReturnsNumbers>);
static_assert(!htl::GramianWeighting<MethodThatStaysHome>);
static_assert(htl::StatefulWeighting<AMethodWithMemory> && htl::GramianWeighting<AMethodWithMemory> && !htl::StatelessWeighting<AMethodWithMemory>);
static_assert(!htl::GramianWeighting<MethodWithoutState>);
static_assert(!htl::GramianWeighting<MethodWhoseStateIsSecret>);
static_assert(!htl::GramianWeighting<MethodWhoseStateNeedsASize>);

// --- methods that see the task gradients -----------------------------------------------------------------------------------------------------------------
struct AnAggregator {
  htl::SharedGradient aggregate(const htl::TaskGradients&) const { return {}; }
};
struct AggregatorOfATensor {
  htl::SharedGradient aggregate(const at::Tensor&) const { return {}; }
};
struct AggregatorThatChangesItself {
  htl::SharedGradient aggregate(const htl::TaskGradients&) { return {}; }
};
struct AggregatorThatReturnsATensor {
  at::Tensor aggregate(const htl::TaskGradients& gradients) const { return gradients.parts.front().values; }
};
struct AggregatorThatStaysHome : AnAggregator, Uncopyable {};
static_assert(htl::StatelessAggregator<AnAggregator> && !htl::StatefulAggregator<AnAggregator> && htl::GradientAggregator<AnAggregator>);
static_assert(!htl::GradientAggregator<AggregatorOfATensor>);
static_assert(!htl::GradientAggregator<AggregatorThatChangesItself>);
static_assert(!htl::GradientAggregator<AggregatorThatReturnsATensor>);
static_assert(!htl::GradientAggregator<AggregatorThatStaysHome>);
static_assert(!htl::GradientAggregator<AMethod>);

struct AnAggregatorWithMemory {
  using State = AMethodWithMemory::State;
  htl::SharedGradient aggregate(const htl::TaskGradients&, State&) const { return {}; }
};
struct AggregatorWithoutState {
  htl::SharedGradient aggregate(const htl::TaskGradients&, at::Tensor&) const { return {}; }
};
struct AggregatorThatTakesItsStateAway {  // what it learned would be gone
  using State = AMethodWithMemory::State;
  htl::SharedGradient aggregate(const htl::TaskGradients&, State&&) const { return {}; }
};
struct AggregatorWithMemoryThatChangesItself {
  using State = AMethodWithMemory::State;
  htl::SharedGradient aggregate(const htl::TaskGradients&, State&) { return {}; }
};
struct AggregatorWithMemoryThatReturnsATensor {
  using State = AMethodWithMemory::State;
  at::Tensor aggregate(const htl::TaskGradients&, State& state) const { return state.mean; }
};
struct AggregatorWhoseStateIsSecret {
  using State = MethodWhoseStateIsSecret::State;
  htl::SharedGradient aggregate(const htl::TaskGradients&, State&) const { return {}; }
};
struct AggregatorWhoseStateNeedsASize {
  using State = MethodWhoseStateNeedsASize::State;
  htl::SharedGradient aggregate(const htl::TaskGradients&, State&) const { return {}; }
};
struct AggregatorWithMemoryThatStaysHome : AnAggregatorWithMemory, Uncopyable {};
static_assert(htl::StatefulAggregator<AnAggregatorWithMemory> && !htl::StatelessAggregator<AnAggregatorWithMemory>);
static_assert(htl::GradientAggregator<AnAggregatorWithMemory>);
static_assert(!htl::GradientAggregator<AggregatorWithoutState>);
static_assert(!htl::GradientAggregator<AggregatorThatTakesItsStateAway>);
static_assert(!htl::GradientAggregator<AggregatorWithMemoryThatChangesItself>);
static_assert(!htl::GradientAggregator<AggregatorWithMemoryThatReturnsATensor>);
static_assert(!htl::GradientAggregator<AggregatorWhoseStateIsSecret>);
static_assert(!htl::GradientAggregator<AggregatorWhoseStateNeedsASize>);
static_assert(!htl::GradientAggregator<AggregatorWithMemoryThatStaysHome>);

// --- GradientMethod: an aggregator if it has a member `aggregate`, else a weighting -----------------------------------------------------------------------
struct MethodOfNothing {};
struct WeightingWithAWrongAggregate : AMethod {
  htl::SharedGradient aggregate(const at::Tensor&) const { return {}; }
};
struct WeightingThatForgotItsState : AMethod {  // has a State, so weights(gramian, state) is asked
  using State = AMethodWithMemory::State;
};
struct WeightingThatAggregatesToo : MethodOfATensor, AnAggregator {};
static_assert(htl::GradientMethod<AMethod> && htl::GradientMethod<AMethodWithMemory>);
static_assert(htl::GradientMethod<AnAggregator> && htl::GradientMethod<AnAggregatorWithMemory> && htl::GradientMethod<WeightingThatAggregatesToo>);
static_assert(!htl::GradientMethod<MethodOfNothing>);
static_assert(!htl::GradientMethod<MethodOfATensor>);
static_assert(!htl::GradientMethod<MethodThatStaysHome>);
static_assert(!htl::GradientMethod<MethodWhoseStateIsSecret>);
static_assert(!htl::GradientMethod<WeightingThatForgotItsState>);
static_assert(!htl::GradientMethod<AggregatorOfATensor>);
static_assert(!htl::GradientMethod<AggregatorWithMemoryThatStaysHome>);
static_assert(htl::GramianWeighting<WeightingWithAWrongAggregate> && !htl::GradientMethod<WeightingWithAWrongAggregate>);

// --- LossObserver ----------------------------------------------------------------------------------------------------------------------------------------
struct AnObserver : AMethodWithMemory {
  void observe(const at::Tensor& losses, State& state) const { state.mean = losses; }
};
struct ObserverWithoutMemory : AMethod {
  void observe(const at::Tensor&) const {}
};
struct ObserverOfLossesAlone : AMethodWithMemory {
  void observe(const at::Tensor&) const {}
};
struct ObserverThatChangesItself : AMethodWithMemory {
  void observe(const at::Tensor&, State&) {}
};
struct ObserverOfOneNumber : AMethodWithMemory {
  void observe(double, State&) const {}
};
struct ObserverWithoutWeights : AnAggregatorWithMemory {
  void observe(const at::Tensor&, State&) const {}
};
static_assert(htl::LossObserver<AnObserver>);
static_assert(!htl::LossObserver<AMethodWithMemory>);
static_assert(!htl::LossObserver<ObserverWithoutMemory>);
static_assert(!htl::LossObserver<ObserverOfLossesAlone>);
static_assert(!htl::LossObserver<ObserverThatChangesItself>);
static_assert(!htl::LossObserver<ObserverOfOneNumber>);
static_assert(!htl::LossObserver<ObserverWithoutWeights>);

// --- BatchesWeighting ------------------------------------------------------------------------------------------------------------------------------------
struct AMethodOfBatches : AMethod {
  int32_t batches() const { return 3; }
};
struct AMethodOfBatchesWithMemory : AMethodWithMemory {
  static constexpr int64_t batches() { return 2; }
};
struct BatchesAsAField : AMethod {
  int64_t batches = 3;
};
struct BatchesThatCount : AMethod {
  int64_t batches() { return 3; }
};
struct BatchesInWords : AMethod {
  std::string batches() const { return "three"; }
};
struct BatchesOfAnAggregator : AnAggregator {
  int64_t batches() const { return 3; }
};
static_assert(htl::BatchesWeighting<AMethodOfBatches> && htl::BatchesWeighting<AMethodOfBatchesWithMemory>);
static_assert(!htl::BatchesWeighting<AMethod>);
static_assert(!htl::BatchesWeighting<BatchesAsAField>);
static_assert(!htl::BatchesWeighting<BatchesThatCount>);
static_assert(!htl::BatchesWeighting<BatchesInWords>);
static_assert(!htl::BatchesWeighting<BatchesOfAnAggregator>);

// --- BatchSource -----------------------------------------------------------------------------------------------------------------------------------------
struct SourceWithoutEnd {
  const htl::Batch* begin() const { return nullptr; }
};
static_assert(htl::BatchSource<std::vector<htl::Batch>> && htl::BatchSource<const std::list<htl::Batch>&>);
static_assert(!htl::BatchSource<htl::Batch>);
static_assert(!htl::BatchSource<std::vector<at::Tensor>>);
static_assert(!htl::BatchSource<std::vector<std::shared_ptr<htl::Batch>>>);
static_assert(!htl::BatchSource<SourceWithoutEnd>);

// --- FieldVocabulary -------------------------------------------------------------------------------------------------------------------------------------
struct AVocabulary {
  std::vector<std::string> names() const { return {}; }
  std::vector<int64_t> sizes() const { return {}; }
};
struct VocabularyWithoutNames : AVocabulary {
  void names() const = delete;
};
struct VocabularyOfOneField : AVocabulary {
  int64_t sizes() const { return 1; }
};
static_assert(htl::FieldVocabulary<AVocabulary>);
static_assert(!htl::FieldVocabulary<VocabularyWithoutNames>);
static_assert(!htl::FieldVocabulary<VocabularyOfOneField>);

// --- Metric ----------------------------------------------------------------------------------------------------------------------------------------------
struct AMetric {
  void add(const at::Tensor&, const htl::Label&) {}
  double value() const { return 0.0; }
  void merge(const AMetric&) {}
};
struct MetricWithoutMask : AMetric {
  void add(const at::Tensor&, const at::Tensor&) {}
};
struct MetricThatChangesWhenRead : AMetric {
  double value() { return 0.0; }
};
struct MetricWithoutMerge : AMetric {
  void merge(const MetricWithoutMerge&) = delete;
};
static_assert(htl::Metric<AMetric>);
static_assert(!htl::Metric<MetricWithoutMask>);
static_assert(!htl::Metric<MetricThatChangesWhenRead>);
static_assert(!htl::Metric<MetricWithoutMerge>);

// --- LearningRateSchedule --------------------------------------------------------------------------------------------------------------------------------
struct ASchedule {
  double operator()(int64_t) const { return 0.0; }
};
struct ScheduleThatCounts {
  double operator()(int64_t) { return 0.0; }
};
struct ScheduleOfNothing {
  double operator()() const { return 0.0; }
};
static_assert(htl::LearningRateSchedule<ASchedule> && htl::LearningRateSchedule<htl::AnySchedule>);
static_assert(!htl::LearningRateSchedule<ScheduleThatCounts>);
static_assert(!htl::LearningRateSchedule<ScheduleOfNothing>);

// --- the parts of a task graph: module holders, so `part->forward(…)` ---------------------------------------------------------------------------------------
template <class Impl, class Options>
struct HolderOf {
  explicit HolderOf(const Options&) {}
  Impl* operator->() const { return nullptr; }
};
template <class Impl>
struct HolderWithoutOptions {
  Impl* operator->() const { return nullptr; }
};

struct ATower {
  htl::TowerOutput forward(const std::vector<at::Tensor>&) { return {}; }
  int64_t representation_width() const { return 1; }
};
struct TowerOfOneInput : ATower {
  htl::TowerOutput forward(const at::Tensor&) { return {}; }
};
struct TowerWithoutRepresentation : ATower {
  at::Tensor forward(const std::vector<at::Tensor>&) { return {}; }
};
struct TowerWithoutWidth : ATower {
  void representation_width() const = delete;
};
static_assert(htl::TaskTower<HolderOf<ATower, htl::TowerOptions>> && htl::TaskTower<htl::Tower>);
static_assert(!htl::TaskTower<HolderWithoutOptions<ATower>>);
static_assert(!htl::TaskTower<HolderOf<TowerOfOneInput, htl::TowerOptions>>);
static_assert(!htl::TaskTower<HolderOf<TowerWithoutRepresentation, htl::TowerOptions>>);
static_assert(!htl::TaskTower<HolderOf<TowerWithoutWidth, htl::TowerOptions>>);

struct ALabelUnit {
  at::Tensor forward(const at::Tensor& logits) { return logits; }
};
struct LabelUnitOfTwo {
  at::Tensor forward(const at::Tensor& logits, const at::Tensor&) { return logits; }
};
struct LabelUnitWithoutResult {
  void forward(const at::Tensor&) {}
};
static_assert(htl::TaskLabelEmbedding<HolderOf<ALabelUnit, htl::LabelEmbeddingOptions>> && htl::TaskLabelEmbedding<htl::LabelEmbedding>);
static_assert(!htl::TaskLabelEmbedding<HolderWithoutOptions<ALabelUnit>>);
static_assert(!htl::TaskLabelEmbedding<HolderOf<LabelUnitOfTwo, htl::LabelEmbeddingOptions>>);
static_assert(!htl::TaskLabelEmbedding<HolderOf<LabelUnitWithoutResult, htl::LabelEmbeddingOptions>>);

struct AFusion {
  at::Tensor forward(const std::vector<at::Tensor>& sources) { return sources.front(); }
};
struct FusionOfOne {
  at::Tensor forward(const at::Tensor& source) { return source; }
};
struct FusionThatKeepsAll {
  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& sources) { return sources; }
};
static_assert(htl::TaskFusion<HolderOf<AFusion, htl::InformationFusionOptions>> && htl::TaskFusion<htl::InformationFusion>);
static_assert(!htl::TaskFusion<HolderWithoutOptions<AFusion>>);
static_assert(!htl::TaskFusion<HolderOf<FusionOfOne, htl::InformationFusionOptions>>);
static_assert(!htl::TaskFusion<HolderOf<FusionThatKeepsAll, htl::InformationFusionOptions>>);

// --- MadeFrom: a holder of LibTorch's claims to be made of anything, its module does not ---------------------------------------------------------------------
static_assert(htl::MadeFrom<htl::Tower, htl::TowerOptions> && htl::MadeFrom<HolderOf<ATower, htl::TowerOptions>, htl::TowerOptions>);
static_assert(std::constructible_from<htl::Tower, std::string> && !htl::MadeFrom<htl::Tower, std::string>);
static_assert(!htl::MadeFrom<HolderWithoutOptions<ATower>, htl::TowerOptions>);

// --- HasFields, OptimizerOfParameters --------------------------------------------------------------------------------------------------------------------
struct FieldsOfNothing {
  void fields() {}
};
struct FieldsWithoutNames {
  void fields(const std::function<void(at::Tensor&)>&) {}
};
struct FieldsOfNumbers {
  void fields(const std::function<void(const char*, double&)>&) {}
};
static_assert(htl::HasFields<AMethodWithMemory::State>);
static_assert(!htl::HasFields<FieldsOfNothing>);
static_assert(!htl::HasFields<FieldsWithoutNames>);
static_assert(!htl::HasFields<FieldsOfNumbers>);

struct AnOptimizer : AMethodWithMemory::State {
  std::vector<at::Tensor> parameters() const { return {}; }
};
struct AnOptimizerOfRows : AMethodWithMemory::State {
  std::vector<htl::RowTable> tables() const { return {}; }
};
struct OptimizerWithoutState {
  std::vector<at::Tensor> parameters() const { return {}; }
};
struct OptimizerThatCollects : AMethodWithMemory::State {
  std::vector<at::Tensor> parameters() { return {}; }
};
static_assert(htl::OptimizerOfParameters<AnOptimizer> && htl::OptimizerOfParameters<AnOptimizerOfRows>);
static_assert(!htl::OptimizerOfParameters<AMethodWithMemory::State>);
static_assert(!htl::OptimizerOfParameters<OptimizerWithoutState>);
static_assert(!htl::OptimizerOfParameters<OptimizerThatCollects>);

// An archetype is also enough at run time: nothing beyond the concept is asked for
TEST(Concepts, AnArchetypeOfALossWorksAsAnyLoss) {
  const htl::AnyLoss loss = ALoss{};
  EXPECT_EQ(loss.name(), "a");
  EXPECT_EQ(loss.output_width(), 1);
  EXPECT_FALSE(loss.in_label_unit());
}

TEST(Concepts, AnArchetypeOfATransformWorksAsAnyLabelTransform) {
  const htl::AnyLabelTransform transform = ATransform{};
  EXPECT_EQ(transform.name(), "a");
  EXPECT_TRUE(transform.is_fitted());
  EXPECT_TRUE(transform.statistics().empty());
}

TEST(Concepts, ArchetypesOfMethodsWorkAsAnyWeighting) {
  const htl::TaskGramian gramian{.matrix = at::ones({1, 1}, at::kDouble)};
  const htl::AnyWeighting plain = AMethod{}, of_batches = AMethodOfBatches{}, observer = AnObserver{}, aggregator = AnAggregatorWithMemory{};
  htl::AnyWeighting::State none = plain.initial_state(), memory = observer.initial_state(), other = aggregator.initial_state();
  EXPECT_TRUE(plain.weights(gramian, none).is_same(gramian.matrix));
  EXPECT_EQ(plain.batches(), 1);
  EXPECT_EQ(of_batches.batches(), 3);
  EXPECT_FALSE(observer.sees_gradients());
  EXPECT_TRUE(aggregator.sees_gradients());
  EXPECT_TRUE(aggregator.aggregate({}, other).parts.empty());
  observer.observe(gramian.matrix, memory);
  memory.fields([&](const char* name, at::Tensor& field) {
    EXPECT_STREQ(name, "mean");
    EXPECT_TRUE(field.is_same(gramian.matrix));
  });
}

}  // namespace
