// SPDX-License-Identifier: Apache-2.0
// Ranker and FoldedGraph against the modules' own forward: every option, both precisions, any split into user and candidates.
#include <htl/loss/entire_space.hpp>
#include <htl/loss/ziln.hpp>
#include <htl/serve/live_ranker.hpp>
#include <htl/task/scale_calibration.hpp>

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <thread>

#include "support/seeded.hpp"

namespace {

using namespace htl;
using htl::test::close;
using htl::test::contains;
using htl::test::Random;
using htl::test::same_bits;
using htl::test::sentence_of;

/// A loss of a user's own: predicts with a context column.
struct ScaledByDuration {
  std::string name() const { return "scaled_by_duration"; }
  int64_t output_width() const { return 2; }
  at::Tensor per_row(const LossInput& input) const { return input.output.select(1, 0); }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>& context) const {
    return (output.select(1, 0) + output.select(1, 1)) * context["duration"].to(output.scalar_type());
  }
};

struct Case {
  std::vector<int64_t> sizes;
  std::vector<std::string> names;
  std::vector<bool> is_shared;
  int64_t numeric = 0;
  std::vector<int64_t> shared_numeric;
  TaskSet tasks{binary("click")};
  FieldEmbedding embedding{nullptr};
  TaskGraph<> graph{nullptr};
  RankerOptions options;

  Case(Random& random, at::ScalarType type) {
    const int64_t fields = random.integer(1, 7);
    std::vector<std::string> shared;
    for (int64_t f = 0; f < fields; ++f) {
      sizes.push_back(random.integer(1, 40));
      names.push_back("field" + std::to_string(f));
      is_shared.push_back(random.chance(0.5));
      if (is_shared.back()) shared.push_back(names.back());
    }
    numeric = random.chance(0.5) ? random.integer(1, 4) : 0;
    for (int64_t n = 0; n < numeric; ++n)
      if (random.chance(0.4)) shared_numeric.push_back(n);
    const int64_t classes = random.pick<int64_t>({3, 3, 3, 3, 4, 4, 5, 18});
    std::vector<TaskSpec> specs{
        binary("click"), multiclass("rating", classes), binary("buy"),
        random.pick<TaskSpec>({regression("watch_time").transform(ZScoreTransform{3.0, 7.0}), regression("watch_time").transform(log1p()),
                               regression("watch_time").loss(Huber(0.5)), regression("watch_time").loss(ScaledByDuration()),
                               regression("watch_time").loss(ZILN()), regression("watch_time").calibration(ScaleCalibration{2.0})})};
    if (random.chance(0.3)) specs[2] = specs[2].loss(EntireSpace({.given = {"click"}}));  // reads another task's output
    if (random.chance(0.3)) specs = {specs[0].after(), specs[1].after("click"), specs[2].after("click"), specs[3].after("rating", "buy")};
    if (random.chance(0.3)) std::swap(specs[0], specs[2]);
    tasks = TaskSet(specs);
    embedding = FieldEmbedding(FieldEmbeddingOptions(sizes, random.integer(1, 5))
                                   .names(names)
                                   .initial_sd(1.0)
                                   .frozen_zero(random.chance(0.5))
                                   .pooling(random.pick<Pooling>({Pooling::sum, Pooling::mean}))
                                   .unknown_ids(UnknownIds::map_to_zero));
    LabelEmbeddingOptions label(2, random.integer(1, 4));
    label.temperature(random.pick<Temperature>({Temperature(), Temperature::constant(0.4), Temperature::exponential(5, 0.9, 10, 0.5)}));
    if (random.chance(0.6))
      label.evaluation(
          random.pick<LabelEvaluation>({LabelEvaluation::expected_soft, LabelEvaluation::plain, LabelEvaluation::tempered, LabelEvaluation::argmax}));
    const auto hidden = random.pick<std::vector<int64_t>>({{24, 18, 6}, {7}, {17, 5}});
    graph = TaskGraph<>(tasks, TaskGraphOptions(embedding->width())
                                   .numeric_width(numeric)
                                   .tower(hidden)
                                   .representation(random.pick<int64_t>({first_hidden, last_hidden}))
                                   .dropout(0.3)
                                   .transfer(random.pick<Transfer>({Transfer::both, Transfer::both, Transfer::representation, Transfer::label, Transfer::none}))
                                   .fusion(random.pick<FusionKind>({FusionKind::attention, FusionKind::concat, FusionKind::mean, FusionKind::gate}))
                                   .fusion_width(random.pick<int64_t>({0, 9}))
                                   .label_fusion_width(random.pick<int64_t>({0, 3}))
                                   .label(label));
    embedding->to(type);
    graph->to(type);
    graph->eval();
    options.shared_fields(shared).shared_numeric(shared_numeric).projected_rows(random.pick<int64_t>({0, 10, 512}));
  }
};

/// Ids of some rows: of shared fields the same in each; now and then one outside its field.
Batch batch_of(Case& c, Random& random, int64_t rows, bool in_bags, at::ScalarType type) {
  Batch batch;
  if (in_bags) {
    std::vector<int64_t> ids, offsets{0};
    std::vector<double> weights;
    std::vector<std::vector<int64_t>> shared(c.sizes.size());
    std::vector<std::vector<double>> shared_weights(c.sizes.size());
    for (int64_t row = 0; row < rows; ++row)
      for (size_t f = 0; f < c.sizes.size(); ++f) {
        if (row == 0 || !c.is_shared[f]) {
          shared[f].clear();
          shared_weights[f].clear();
          for (int64_t n = random.integer(0, 3); n > 0; --n) {
            shared[f].push_back(random.integer(0, c.sizes[f] - 1));
            shared_weights[f].push_back(random.real(0.1, 2.0));
          }
        }
        ids.insert(ids.end(), shared[f].begin(), shared[f].end());
        weights.insert(weights.end(), shared_weights[f].begin(), shared_weights[f].end());
        offsets.push_back(static_cast<int64_t>(ids.size()));
      }
    batch.fields = FieldBatch::bags(at::tensor(ids, at::kLong), at::tensor(offsets, at::kLong), static_cast<int64_t>(c.sizes.size()),
                                    random.chance(0.5) ? at::tensor(weights, type) : at::Tensor());
  } else {
    std::vector<at::Tensor> columns;
    for (size_t f = 0; f < c.sizes.size(); ++f) columns.push_back(random.ids({c.is_shared[f] ? 1 : rows}, c.sizes[f] + 1).expand({rows}));
    batch.fields = FieldBatch::of(at::stack(columns, 1).to(random.pick<at::ScalarType>({at::kInt, at::kLong})));
  }
  if (c.numeric > 0) {
    batch.numeric = random.normal({rows, c.numeric}, 1.0, type);
    for (const int64_t column : c.shared_numeric) batch.numeric.select(1, column).fill_(random.real(-1.0, 1.0));
  }
  return batch;
}

/// The same rows as a request: the fields of one side, in order.
RankRequest request_of(const Case& c, const Batch& batch) {
  RankRequest request;
  const int64_t rows = batch.rows();
  const auto side = [&](bool wanted, int64_t of_rows) {
    std::vector<int64_t> positions;
    for (size_t f = 0; f < c.sizes.size(); ++f)
      if (c.is_shared[f] == wanted) positions.push_back(static_cast<int64_t>(f));
    if (batch.fields.is_short()) return FieldBatch::of(batch.fields.ids.narrow(0, 0, of_rows).index_select(1, at::tensor(positions, at::kLong)));
    if (positions.empty()) return FieldBatch::of(at::zeros({of_rows, 0}, at::kLong));
    std::vector<at::Tensor> ids{batch.fields.ids.narrow(0, 0, 0)}, weights;
    if (batch.fields.weights.defined()) weights.push_back(batch.fields.weights.narrow(0, 0, 0));
    std::vector<int64_t> offsets{0};
    const auto* const bounds = batch.fields.offsets.const_data_ptr<int64_t>();
    for (int64_t row = 0; row < of_rows; ++row)
      for (const int64_t f : positions) {
        const int64_t bag = row * static_cast<int64_t>(c.sizes.size()) + f, length = bounds[bag + 1] - bounds[bag];
        ids.push_back(batch.fields.ids.narrow(0, bounds[bag], length));
        if (!weights.empty()) weights.push_back(batch.fields.weights.narrow(0, bounds[bag], length));
        offsets.push_back(offsets.back() + length);
      }
    return FieldBatch::bags(at::cat(ids), at::tensor(offsets, at::kLong), static_cast<int64_t>(positions.size()),
                            weights.empty() ? at::Tensor() : at::cat(weights));
  };
  request.shared = side(true, 1);
  request.candidates = side(false, rows);
  if (c.numeric > 0) {
    std::vector<int64_t> others;
    for (int64_t n = 0; n < c.numeric; ++n)
      if (std::find(c.shared_numeric.begin(), c.shared_numeric.end(), n) == c.shared_numeric.end()) others.push_back(n);
    request.shared_numeric = batch.numeric.narrow(0, 0, 1).index_select(1, at::tensor(c.shared_numeric, at::kLong));
    request.candidate_numeric = batch.numeric.index_select(1, at::tensor(others, at::kLong));
  }
  return request;
}

Predictions forward_of(Case& c, const Batch& batch, const Named<at::Tensor>& context) {
  const c10::InferenceMode inference;
  return c.tasks.predict(c.graph->forward(c.embedding->lookup(batch).values(), batch.numeric), context);
}

TEST(Ranker, PredictsWhatTheModulesPredict) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat})
    for (uint64_t seed = 0; seed < 80; ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      Random random(seed);
      at::manual_seed(seed);
      Case c(random, type);
      const Ranker ranker(c.embedding, c.graph, c.options);
      RankerBuffers buffers;
      for (const int64_t rows : {int64_t{1}, random.integer(2, 40), random.pick<int64_t>({256, 257, 300})}) {
        const Batch batch = batch_of(c, random, rows, random.chance(0.4), type);
        RankRequest request = request_of(c, batch);
        request.context.set("duration", random.uniform({rows}, 1.0, 2.0));
        const Predictions expected = forward_of(c, batch, request.context);
        const Predictions& found = ranker.rank(request, buffers);
        ASSERT_EQ(found.names(), expected.names());
        for (const auto& [name, value] : expected) {
          ASSERT_EQ(found[name].scalar_type(), type);
          // A class that wins by a rounding may be another one
          if (c.graph->options.label().evaluation() == LabelEvaluation::argmax && type == at::kFloat) continue;
          EXPECT_TRUE(type == at::kDouble ? close(found[name], value, 1e-6, 1e-6) : close(found[name], value, 1e-5, 1e-5)) << name << " of " << rows << " rows";
        }
      }
    }
}

TEST(LabelCurve, IsTheLabelEmbeddingsOwnEvaluation) {
  Random random(2);
  for (const int64_t classes : {2, 3, 7, 40})
    for (const double temperature : {0.1, 0.5, 1.0, 3.0})
      for (const LabelEvaluation evaluation : {LabelEvaluation::expected_soft, LabelEvaluation::plain, LabelEvaluation::tempered, LabelEvaluation::argmax}) {
        LabelEmbedding unit(LabelEmbeddingOptions(classes, 2).temperature(Temperature::constant(temperature)).evaluation(evaluation));
        unit->to(at::kDouble);
        unit->eval();
        const at::Tensor logits = at::cat({random.normal({60, classes == 2 ? 1 : classes}, 3.0), random.normal({20, classes == 2 ? 1 : classes}, 40.0)});
        const at::Tensor expected = unit->weights(logits).detach();
        at::Tensor found = at::empty({80, classes}, at::kDouble);
        const htl::detail::LabelCurve curve(*unit);
        for (int64_t row = 0; row < 80; ++row) curve.weights(logits[row].const_data_ptr<double>(), found[row].data_ptr<double>());
        const double tolerance = evaluation != LabelEvaluation::expected_soft ? 1e-13 : classes == 2 ? 1e-9 : 1e-6;
        EXPECT_TRUE(close(found, expected, 0.0, tolerance)) << classes << " classes, temperature " << temperature << ", " << to_string(evaluation);
      }
}

TEST(Ranker, AnswersNoCandidates) {
  Random random(3);
  Case c(random, at::kFloat);
  const Ranker ranker(c.embedding, c.graph, c.options);
  Batch batch = batch_of(c, random, 1, false, at::kFloat);
  RankRequest request = request_of(c, batch);
  request.candidates.ids = request.candidates.ids.narrow(0, 0, 0);
  if (request.candidate_numeric.defined()) request.candidate_numeric = request.candidate_numeric.narrow(0, 0, 0);
  request.context.set("duration", at::ones({0}));
  for (const auto& [name, value] : ranker.rank(request)) EXPECT_EQ(value.size(0), 0) << name;
}

TEST(Ranker, ReadsHalfPrecisionTables) {
  const TaskSet tasks{binary("click"), regression("watch_time")};
  FieldEmbedding embedding(FieldEmbeddingOptions({30, 20}, 4).initial_sd(1.0));
  TaskGraph<> graph(tasks, TaskGraphOptions(8).tower({8, 4}));
  graph->eval();
  Random random(7);
  const FieldBatch user = FieldBatch::of(random.ids({1, 1}, 30)), items = FieldBatch::of(random.ids({9, 1}, 20));
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    RankerTable small(embedding), rounded(embedding);
    small.weight = embedding->weight.detach().to(type);
    rounded.weight = small.weight.to(at::kFloat);
    const RankerOptions options = RankerOptions().shared_fields({"0"}).projected_rows(0);
    const Predictions found = Ranker(small, graph, options).rank({user, items}), expected = Ranker(rounded, graph, options).rank({user, items});
    for (const auto& [name, value] : expected) EXPECT_TRUE(same_bits(found[name], value)) << name << " " << type;
  }
}

/// Counts what is allocated for tensors on this thread.
struct Counter : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override { allocations += size > 0; }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t allocations = 0;
};

TEST(Ranker, AllocatesNoTensorStorageAfterItsFirstRequest) {
  at::manual_seed(1);
  const TaskSet tasks{binary("click"), multiclass("rating", 4), multiclass("topic", 20), regression("watch_time").transform(ZScoreTransform{1.0, 2.0})};
  for (const FusionKind kind : {FusionKind::attention, FusionKind::concat, FusionKind::mean, FusionKind::gate}) {
    FieldEmbedding embedding(FieldEmbeddingOptions({1000, 20, 700, 9}, 8));
    TaskGraph<> graph(tasks, TaskGraphOptions(32).numeric_width(2).tower({32, 24}).fusion(kind));
    const Ranker ranker(embedding, graph, RankerOptions().shared_fields({"0", "1"}).shared_numeric({0}));
    const auto request_of_rows = [&](int64_t rows) {
      return RankRequest{FieldBatch::of(at::zeros({1, 2}, at::kInt)), FieldBatch::of(at::zeros({rows, 2}, at::kInt)), at::zeros({1, 1}), at::zeros({rows, 1})};
    };
    std::vector<RankRequest> requests;
    for (const int64_t rows : {700, 1, 300, 699, 256, 513}) requests.push_back(request_of_rows(rows));
    RankerBuffers buffers;
    ranker.rank(requests[0], buffers);
    const auto counter = std::make_shared<Counter>();
    {
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
      for (const RankRequest& request : requests) ranker.rank(request, buffers);
      EXPECT_EQ(counter->allocations, 0) << to_string(kind);
      ranker.rank(request_of_rows(701), buffers);  // more than before: the counter sees it
      EXPECT_GT(counter->allocations, 0);
    }
  }
}

TEST(Ranker, KeepsItsAnswersWhenTheGraphIsTrainedOn) {
  at::manual_seed(1);
  const TaskSet tasks{binary("click"), regression("watch_time")};
  FieldEmbedding embedding(FieldEmbeddingOptions({30, 20}, 4));
  TaskGraph<> graph(tasks, TaskGraphOptions(8).tower({8, 4}));
  const Ranker ranker(embedding, graph, RankerOptions().shared_fields({"0"}));
  const RankRequest request{FieldBatch::of(at::ones({1, 1}, at::kInt)), FieldBatch::of(at::ones({3, 1}, at::kInt))};
  const Predictions before = ranker.rank(request);
  {
    const at::NoGradGuard no_grad;
    for (at::Tensor& parameter : graph->parameters()) parameter.add_(1.0);
  }
  for (const auto& [name, value] : ranker.rank(request)) EXPECT_TRUE(same_bits(value, before[name])) << name;
}

TEST(Ranker, GivesEveryThreadTheSameBitsAndSharesNothing) {
  Random random(11);
  at::manual_seed(11);
  Case c(random, at::kFloat);
  const Ranker first(c.embedding, c.graph, c.options), second(c.embedding, c.graph, RankerOptions(c.options).projected_rows(0));
  std::vector<RankRequest> requests;
  std::vector<Predictions> alone;
  for (int64_t i = 0; i < 6; ++i) {
    const Batch batch = batch_of(c, random, 40 * i + 1, i % 2 == 0, at::kFloat);
    requests.push_back(request_of(c, batch));
    requests.back().context.set("duration", at::ones({batch.rows()}));
    for (const Ranker* ranker : {&first, &second}) alone.push_back(ranker->rank(requests.back()));
  }
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      RankerBuffers buffers;  // one for both rankers
      for (size_t round = 0; round < 60; ++round) {
        const size_t i = (t + round) % alone.size();
        const Predictions& found = (i % 2 == 0 ? first : second).rank(requests[i / 2], buffers);
        for (const std::string& name : c.tasks.names()) wrong[t] += !same_bits(found[name], alone[i][name]);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Ranker, SaysWhatIsWrong) {
  const TaskSet tasks{binary("click"), regression("watch_time")};
  FieldEmbedding embedding(FieldEmbeddingOptions({30, 20}, 4).names({"user", "item"}));
  TaskGraph<> graph(tasks, TaskGraphOptions(8).tower({8, 4})), wide(tasks, TaskGraphOptions(10).tower({8, 4}));
  const auto made = [&](const RankerTable& table, const TaskGraph<>& of, const RankerOptions& options) {
    return sentence_of([&] { Ranker(table, of, options); });
  };
  EXPECT_TRUE(contains(made(embedding, graph, RankerOptions().shared_fields({"usr"})), "there is no field \"usr\"", "did you mean \"user\""));
  EXPECT_TRUE(contains(made(embedding, graph, RankerOptions().shared_fields({"user", "user"})), "\"user\" is named twice"));
  EXPECT_TRUE(contains(made(embedding, graph, RankerOptions().shared_numeric({0})), "expected shared numeric columns in [0, 0), got 0"));
  EXPECT_TRUE(contains(made(embedding, wide, {}), "the graph reads 10 columns, but 2 fields of 4 are 8"));
  EXPECT_TRUE(contains(made(embedding, TaskGraph<>(nullptr), {}), "empty holder"));
  RankerTable short_table(embedding);
  short_table.weight = short_table.weight.narrow(0, 0, 40);
  EXPECT_TRUE(contains(made(short_table, graph, {}), "the fields have 50 rows, but the table has 40"));
  TaskGraph<> half(tasks, TaskGraphOptions(8).tower({8, 4}));
  half->to(at::kHalf);
  EXPECT_TRUE(contains(made(embedding, half, {}), "on the CPU in fp32 or fp64, got Half"));

  const Ranker ranker(embedding, graph, RankerOptions().shared_fields({"user"}));
  const FieldBatch user = FieldBatch::of(at::zeros({1, 1}, at::kInt)), items = FieldBatch::of(at::zeros({3, 1}, at::kInt));
  const auto ranked = [&](const RankRequest& request) { return sentence_of([&] { ranker.rank(request); }); };
  EXPECT_TRUE(contains(ranked({items, items}), "expected one row of shared fields, got 3"));
  EXPECT_TRUE(contains(ranked({{}, items}), "expected the shared fields with ids on the CPU, got none"));
  EXPECT_TRUE(contains(ranked({user, {}}), "expected the candidates with ids on the CPU, got none"));
  EXPECT_TRUE(contains(ranked({user, FieldBatch::of(at::zeros({3, 2}, at::kInt))}), "expected ids of shape [any, 1], got [3, 2]"));
  EXPECT_TRUE(contains(ranked({user, {at::zeros({3, 1})}}), "expected int32 or int64 ids in the candidates, got Float"));
  EXPECT_TRUE(contains(ranked({user, items, at::zeros({1, 1})}), "got the shared numbers of shape [1, 1], but the model has none there"));
  EXPECT_TRUE(contains(ranked({user, FieldBatch::of(at::full({3, 1}, 20, at::kInt))}), "id 20 of field \"item\" (row 0) is outside [0, 20)"));
  EXPECT_TRUE(contains(ranked({user, {at::zeros({3}, at::kInt), at::tensor({0, 2, 1, 3}, at::kLong), {}, 1}}), "do not decrease"));

  FoldedGraph folded(graph, {0, 1});
  FoldedGraphBuffers buffers;
  EXPECT_TRUE(contains(sentence_of([&] { folded.run(buffers); }), "expects start() and candidates()"));
  EXPECT_TRUE(contains(sentence_of([&] { folded.candidates(257, buffers); }), "expected 1 to 256 rows at a time, got 257"));
  EXPECT_TRUE(contains(sentence_of([&] { folded.start(at::zeros({1, 3}), buffers); }), "expected the shared columns of shape [1, 2], got [1, 3]"));
  EXPECT_TRUE(contains(sentence_of([&] { FoldedGraph(graph, {1, 0}); }), "expected shared columns that rise in [0, 8)"));
  EXPECT_TRUE(contains(sentence_of([&] { FoldedGraph(graph, {1}, {1}); }), "expected projected columns"));
}

/// A small model whose parameters are drawn from a seed, its ranker, and a request.
struct Small {
  explicit Small(uint64_t seed) {
    at::manual_seed(seed);
    embedding = FieldEmbedding(FieldEmbeddingOptions({30, 600}, 4).names({"user", "item"}).initial_sd(1.0));
    graph = TaskGraph<>(tasks, TaskGraphOptions(8).numeric_width(1).tower({8, 4}));
    graph->eval();
    ranker = std::make_shared<const Ranker>(embedding, graph, RankerOptions().shared_fields({"user"}));
    Random random(4);
    request = {FieldBatch::of(random.ids({1, 1}, 30)), FieldBatch::of(random.ids({20, 1}, 600)), {}, random.normal({20, 1}, 1.0, at::kFloat)};
  }
  TaskSet tasks{binary("click"), multiclass("rating", 3), regression("watch_time")};
  FieldEmbedding embedding{nullptr};
  TaskGraph<> graph{nullptr};
  std::shared_ptr<const Ranker> ranker;
  RankRequest request;
};

TEST(GoldenRequests, PassTheirOwnModelAndNoOther) {
  const Small own(1), other(2);
  GoldenRequests golden;
  golden.add(own.request, own.ranker->rank(own.request));
  RankRequest bags = own.request;
  bags.candidates = FieldBatch::bags(at::tensor({5, 599}, at::kInt), at::tensor({0, 2, 2}, at::kLong), 1, at::tensor({0.5, 2.0}, at::kFloat));
  bags.candidate_numeric = at::ones({2, 1});
  golden.add(bags, own.ranker->rank(bags));
  GoldenRequests().check(*other.ranker);
  golden.check(*own.ranker);
  const Named<at::Tensor> saved = golden.tensors();
  GoldenRequests read(saved);
  EXPECT_EQ(read.size(), 2U);
  read.check(*own.ranker);
  EXPECT_EQ(read.tensors().names(), saved.names());
  EXPECT_TRUE(contains(sentence_of([&] { read.check(*other.ranker); }), "request 0: task \"click\" is ", "for candidate 0, expected ", "within 1e-05",
                       "don't serve them"));

  Named<at::Tensor> wrong = saved;
  wrong.set("1.predictions.rating", saved["1.predictions.rating"] + at::tensor({0.0, 0.0, 0.0, 0.0, 2e-5, 0.0}).view({2, 3}));
  EXPECT_TRUE(contains(sentence_of([&] { GoldenRequests(wrong).check(*own.ranker); }), "request 1: task \"rating\"", "for candidate 1"));
  wrong.set("1.predictions.rating", at::zeros({2}));
  EXPECT_TRUE(contains(sentence_of([&] { GoldenRequests(wrong).check(*own.ranker); }), "of shape [2], got [2, 3]"));
  wrong = saved;
  wrong.set("0.predictions.buy", at::zeros({20}));
  EXPECT_TRUE(contains(sentence_of([&] { GoldenRequests(wrong).check(*own.ranker); }), "task \"buy\", which the model does not have"));
  for (const auto& [name, part] : std::vector<std::pair<std::string, std::string>>{{"weight", "expected names such as"},
                                                                                   {"0.weight", "\"0.weight\" is no part of a request"},
                                                                                   {"999999.predictions.click", "expected names such as"},
                                                                                   {"3.predictions.click", "request 2 has no candidates"}}) {
    wrong = saved;
    wrong.set(name, at::zeros({1}));
    EXPECT_TRUE(contains(sentence_of([&] { GoldenRequests read_again(wrong); }), part)) << name;
  }
}

TEST(LiveRanker, SwapsWholeRankersUnderTraffic) {
  const Small first(1), second(2);
  const Predictions of_first = first.ranker->rank(first.request), of_second = second.ranker->rank(first.request);
  ASSERT_FALSE(same_bits(of_first["click"], of_second["click"]));
  LiveRanker live(first.ranker);
  std::atomic<bool> stop{false};
  std::vector<int> mixed(3, 0), seen_first(3, 0), seen_second(3, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < mixed.size(); ++t)
    threads.emplace_back([&, t] {
      RankerBuffers buffers;
      while (!stop || seen_second[t] == 0) {
        const Predictions& found = live.rank(first.request, buffers);
        const auto is = [&](const Predictions& expected) {
          return std::all_of(expected.begin(), expected.end(),
                             [&](const auto& of_task) { return static_cast<bool>(same_bits(found[of_task.first], of_task.second)); });
        };
        const bool by_first = is(of_first), by_second = is(of_second);
        seen_first[t] += by_first;
        seen_second[t] += by_second;
        mixed[t] += !by_first && !by_second;
      }
    });
  for (int i = 0; i < 200; ++i) {
    live.swap(i % 2 == 0 ? second.ranker : first.ranker);
    std::this_thread::yield();
  }
  live.swap(second.ranker);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(mixed, std::vector<int>(3, 0));
  EXPECT_EQ(live.current(), second.ranker);
}

TEST(LiveRanker, KeepsServingWhatPassesItsGoldenRequests) {
  const Small own(1), other(2);
  GoldenRequests golden;
  golden.add(own.request, own.ranker->rank(own.request));
  LiveRanker live(own.ranker, golden);
  EXPECT_TRUE(contains(sentence_of([&] { live.swap(other.ranker, golden); }), "don't serve them"));
  EXPECT_EQ(live.current(), own.ranker);
  EXPECT_TRUE(contains(sentence_of([&] { live.swap(nullptr); }), "expected a ranker, got none"));
  EXPECT_TRUE(contains(sentence_of([&] { LiveRanker wrong(other.ranker, golden); }), "don't serve them"));
}

TEST(Ranker, ShowsNaN) {
  at::manual_seed(1);
  const TaskSet tasks{multiclass("rating", 3), regression("watch_time")};
  TaskGraph<> graph(tasks, TaskGraphOptions(2).numeric_width(1).tower({4}));
  FieldEmbedding embedding(FieldEmbeddingOptions({3, 3}, 1));
  const Ranker ranker(embedding, graph);
  at::Tensor numbers = at::zeros({2, 1});
  numbers[1] = std::numeric_limits<float>::quiet_NaN();
  const Predictions found = ranker.rank({{}, FieldBatch::of(at::zeros({2, 2}, at::kInt)), {}, numbers});
  for (const auto& [name, value] : found) {
    EXPECT_TRUE(value[0].isfinite().all().item<bool>()) << name;
    EXPECT_TRUE(value[1].isnan().all().item<bool>()) << name;
  }
}

}  // namespace
