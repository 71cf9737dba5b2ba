// SPDX-License-Identifier: Apache-2.0
/// @file warm_start_test.cpp
/// @brief Yesterday's model in today's: what is carried over by name, what is not, and that the report says so.

#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/io/warm_start_maps.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/weighting/sum.hpp>

#include <support/seeded.hpp>

#include <ATen/ops/allclose.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <map>

namespace {

using htl::test::contains;
using htl::test::same_bits;
using Outcome = htl::WarmStartEntry::Outcome;
constexpr int64_t dim = 4;

/// What the model is made from.
struct Plan {
  htl::FeatureMap features;
  htl::TaskSet tasks;
  htl::FusionKind fusion = htl::FusionKind::attention;
  std::vector<int64_t> tower = {8, 6};

  htl::TaskGraphParts parts() const {
    const auto numbers = static_cast<int64_t>(features.numeric().size());
    return {tasks, htl::TaskGraphOptions(features.size() * dim).numeric_width(numbers).tower(tower).fusion(fusion), htl::input_blocks(features, dim)};
  }
};

struct NetImpl : torch::nn::Module {
  explicit NetImpl(const Plan& plan)
      : embedding(register_module("embedding", htl::FieldEmbedding(htl::FieldEmbeddingOptions(plan.features, dim).initial_sd(1)))),
        fork(register_module("fork", htl::GradientFork<htl::Sum>(plan.tasks))),
        graph(register_module("graph", htl::TaskGraph<>(plan.tasks, plan.parts().options))) {}
  htl::TaskOutputs forward(const htl::FieldBatch& ids, const at::Tensor& numeric) { return graph->forward(fork->split(embedding->lookup(ids)), numeric); }
  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::Sum> fork{nullptr};
  htl::TaskGraph<> graph{nullptr};
};
TORCH_MODULE(Net);

htl::FeatureMap::Field texts(const std::string& name, std::vector<std::string> vocabulary) {
  return {name, htl::FieldKind::categorical, '\0', std::move(vocabulary)};
}
htl::FeatureMap::Field buckets(const std::string& name, std::vector<double> edges) { return {name, htl::FieldKind::bucketised, '\0', {}, std::move(edges)}; }

Plan yesterday() {
  return {htl::FeatureMap({texts("user", {"ann", "bob", "cyd"}), texts("item", {"x", "y"}), buckets("age", {20, 40})}, {{"price", 1.5}}),
          htl::TaskSet{htl::binary("click"), htl::binary("like").after("click"),
                       htl::regression("time").after("click", "like").core().transform(htl::z_score().with_statistics({{"mean", 3}, {"sd", 2}}))}};
}

/// A raw row, mapped by whichever model.
struct Row {
  std::string user, item;
  double age = 0;
  float price = 0;
};
const std::vector<Row> rows_of_both = {{"ann", "x", 10, 1}, {"bob", "y", 30, 2}, {"cyd", "x", 50, -1}, {"", "y", 25, 0}, {"nobody", "nothing", 70, 3}};

at::Tensor ids_of(const htl::FeatureMap& features, const std::vector<Row>& rows) {
  at::Tensor ids = at::zeros({static_cast<int64_t>(rows.size()), features.size()}, at::kInt);
  for (size_t r = 0; r < rows.size(); ++r)
    for (int64_t f = 0; f < features.size(); ++f) {
      const std::string& name = features.fields()[static_cast<size_t>(f)].name;
      ids[static_cast<int64_t>(r)][f] = name == "user"   ? features.id(f, rows[r].user)
                                        : name == "item" ? features.id(f, rows[r].item)
                                        : name == "age"  ? features.bucket(f, rows[r].age)
                                                         : static_cast<int32_t>(r % 2);
    }
  return ids;
}
htl::Predictions predictions(Net& net, const Plan& plan, const std::vector<Row>& rows) {
  net->eval();
  const at::NoGradGuard no_grad;
  at::Tensor numbers = at::full({static_cast<int64_t>(rows.size()), static_cast<int64_t>(plan.features.numeric().size())}, 7.0);
  for (size_t n = 0; n < plan.features.numeric().size(); ++n)
    if (plan.features.numeric()[n].name == "price")
      for (size_t r = 0; r < rows.size(); ++r) numbers[static_cast<int64_t>(r)][static_cast<int64_t>(n)] = rows[r].price;
  return plan.tasks.predict(net->forward(htl::FieldBatch::of(ids_of(plan.features, rows)), numbers));
}
void expect_same_predictions(Net& old, const Plan& before, Net& net, const Plan& now, const std::vector<Row>& rows, const std::vector<std::string>& tasks) {
  const htl::Predictions expected = predictions(old, before, rows), found = predictions(net, now, rows);
  for (const std::string& task : tasks) EXPECT_TRUE(at::allclose(found[task], expected[task], 1e-5, 1e-6)) << task << "\n" << found[task] << expected[task];
}

htl::WarmStart warm(const Plan& before, const Plan& now) {
  htl::WarmStart start;
  htl::map_vocabularies(start, "embedding.weight", before.features, now.features);
  htl::map_task_graph(start, "graph", before.parts(), now.parts());
  return start;
}
std::map<std::string, htl::WarmStartEntry> by_name(const htl::WarmStartReport& report) {
  std::map<std::string, htl::WarmStartEntry> entries;
  for (const htl::WarmStartEntry& entry : report.entries) EXPECT_TRUE(entries.emplace(entry.name, entry).second) << entry.name << " is listed twice";
  return entries;
}
std::string all_lines(const htl::WarmStartReport& report) {
  std::string text;
  for (const std::string& line : report.lines()) text += line + "\n";
  return text;
}

class WarmStart : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(5); }
};

TEST_F(WarmStart, OfTheSameModelCarriesEverythingWhole) {
  const Plan plan = yesterday();
  Net old(plan), net(plan);
  htl::WarmStart start = warm(plan, plan);
  start.load(*net, htl::module_state(*old));
  for (const auto& [name, tensor] : htl::module_state(*net)) EXPECT_TRUE(same_bits(tensor, htl::module_state(*old)[name])) << name;
  EXPECT_EQ(start.report().of(Outcome::whole).size(), start.report().entries.size());
  EXPECT_TRUE(start.report().notes.empty());
  EXPECT_EQ(start.report().lines().size(), 1U);
}

TEST_F(WarmStart, IntoAGrownShrunkAndReorderedVocabularyCarriesRowsByText) {
  const Plan before = yesterday();
  Plan now = before;
  now.features = htl::FeatureMap({buckets("age", {20, 40}), texts("item", {"y", "z", "x"}), texts("user", {"dan", "cyd", "ann", "eve"})}, {{"price", 1.5}});
  Net old(before), net(now);
  const at::Tensor was = old->embedding->weight.detach().clone();
  htl::WarmStart start = warm(before, now);
  start.load(*net, htl::module_state(*old));
  // yesterday: user 0–3 (ann, bob, cyd), item 4–6 (x, y), age 7–10; a text that is new starts as its field's id 0
  const std::vector<int64_t> from = {7, 8, 9, 10, 4, 6, 4, 5, 0, 0, 3, 1, 0};
  ASSERT_EQ(net->embedding->weight.size(0), static_cast<int64_t>(from.size()));
  for (size_t row = 0; row < from.size(); ++row) EXPECT_TRUE(same_bits(net->embedding->weight.detach()[static_cast<int64_t>(row)], was[from[row]])) << row;
  const auto entries = by_name(start.report());
  const htl::WarmStartEntry &user = entries.at("embedding.weight, field \"user\""), &item = entries.at("embedding.weight, field \"item\"");
  EXPECT_EQ(std::make_tuple(user.carried, user.before, user.now), std::make_tuple(3, 4, 5));  // id 0, cyd, ann
  EXPECT_EQ(std::make_tuple(item.carried, item.before, item.now), std::make_tuple(3, 3, 4));
  EXPECT_EQ(entries.at("embedding.weight, field \"age\"").outcome(), Outcome::whole);
  EXPECT_EQ(entries.at("embedding.weight").carried, 10);
  EXPECT_TRUE(contains(all_lines(start.report()), "carried in part: embedding.weight, field \"user\": 3 rows; 2 new, 1 left behind"));
  // ann and cyd are known to both; whom yesterday's model did not know, today's does not know better yet
  std::vector<Row> rows = rows_of_both;
  rows.erase(rows.begin() + 1);  // bob is gone
  rows.push_back({"dan", "z", 30, 1});
  expect_same_predictions(old, before, net, now, rows, {"click", "like", "time"});
}

TEST_F(WarmStart, WithNewFieldsNumbersAndTasksPredictsAsBefore) {
  for (const htl::FusionKind fusion : {htl::FusionKind::attention, htl::FusionKind::concat, htl::FusionKind::mean, htl::FusionKind::gate}) {
    Plan before = yesterday();
    before.fusion = fusion;
    Plan now = before;
    now.features = htl::FeatureMap({texts("city", {"rome"}), texts("user", {"ann", "bob", "cyd", "dan"}), buckets("age", {20, 40}), texts("item", {"x", "y"})},
                                   {{"duration", 2}, {"price", 1.5}});
    std::vector<htl::TaskSpec> tasks = {htl::binary("follow").after(std::vector<std::string>())};
    for (const htl::TaskSpec& task : before.tasks) tasks.push_back(task.after(task.parents().value_or(std::vector<std::string>())));
    now.tasks = htl::TaskSet(tasks);
    Net old(before), net(now);
    const at::Tensor new_field = net->embedding->weight.detach().slice(0, 0, 2).clone(),
                     new_bias = net->graph->tower("follow")->named_parameters()["output.bias"].clone();
    htl::WarmStart start = warm(before, now);
    start.load(*net, htl::module_state(*old));
    expect_same_predictions(old, before, net, now, rows_of_both, {"click", "like", "time"});
    EXPECT_TRUE(same_bits(net->embedding->weight.detach().slice(0, 0, 2), new_field)) << "a new field's rows stay as initialised, or it would never learn";
    EXPECT_TRUE(same_bits(net->graph->tower("follow")->named_parameters()["output.bias"], new_bias));
    const auto entries = by_name(start.report());
    EXPECT_EQ(entries.at("embedding.weight, field \"city\"").outcome(), Outcome::new_here);
    EXPECT_EQ(entries.at("graph.towers.follow.layers.0.weight").outcome(), Outcome::new_here);
    const htl::WarmStartEntry& first = entries.at("graph.towers.click.layers.0.weight");
    EXPECT_EQ(first.unit, "columns");
    EXPECT_EQ(std::make_tuple(first.carried, first.before, first.now), std::make_tuple(13, 13, 18));
    EXPECT_TRUE(start.report().of(Outcome::not_carried).empty());
    EXPECT_TRUE(start.report().notes.empty()) << start.report().notes.front();
  }
}

TEST_F(WarmStart, ListsAFieldThatIsGoneAndBucketsWithOtherEdges) {
  const Plan before = yesterday();
  Plan now = before;
  now.features = htl::FeatureMap({buckets("age", {20, 41}), texts("user", {"ann"})}, {{"price", 1.75}});
  Net old(before), net(now);
  const at::Tensor fresh = net->embedding->weight.detach().clone();
  htl::WarmStart start = warm(before, now);
  start.load(*net, htl::module_state(*old));
  EXPECT_TRUE(same_bits(net->embedding->weight.detach()[0], old->embedding->weight.detach()[7])) << "id 0 means the same whatever the edges";
  EXPECT_TRUE(same_bits(net->embedding->weight.detach().slice(0, 1, 4), fresh.slice(0, 1, 4)));
  const std::string lines = all_lines(start.report());
  EXPECT_TRUE(contains(lines, "carried in part: embedding.weight, field \"age\": 1 rows; 3 new, 3 left behind: its bucket edges are others",
                       "not carried: embedding.weight, field \"item\": the field is not in this model"));
  EXPECT_TRUE(contains(lines, "note: numeric column \"price\": a missing value stands for 1.75, and stood for 1.5"));
  // the columns of the fields that stayed are at their new places
  const at::Tensor is = net->graph->tower("click")->named_parameters()["layers.0.weight"],
                   was = old->graph->tower("click")->named_parameters()["layers.0.weight"];
  EXPECT_TRUE(same_bits(is.slice(1, 0, 4).contiguous(), was.slice(1, 8, 12).contiguous()));
  EXPECT_TRUE(same_bits(is.slice(1, 4, 8).contiguous(), was.slice(1, 0, 4).contiguous()));
  EXPECT_TRUE(same_bits(is.slice(1, 8, 9).contiguous(), was.slice(1, 12, 13).contiguous()));
  now.features = htl::FeatureMap({texts("age", {"20"})}, {});
  htl::WarmStart other;
  htl::map_vocabularies(other, "embedding.weight", before.features, now.features);
  EXPECT_TRUE(contains(all_lines(other.report()), "field \"age\": 1 rows; 1 new, 3 left behind: it was bucketised and is categorical"));
}

TEST_F(WarmStart, ListsWhatANewParentAnotherKindAndOtherStatisticsChange) {
  const Plan before = yesterday();
  Plan now = before;
  now.tasks = htl::TaskSet{htl::binary("click"), htl::regression("like").after("click"), htl::binary("follow").after("click"),
                           htl::regression("time").after("click", "follow").core().transform(htl::z_score().with_statistics({{"mean", 4}, {"sd", 2}}))};
  Net old(before), net(now);
  const at::Tensor fresh = net->graph->tower("like")->named_parameters()["output.weight"].detach().clone();
  htl::WarmStart start = warm(before, now);
  start.load(*net, htl::module_state(*old));
  const std::string lines = all_lines(start.report());
  EXPECT_TRUE(contains(lines, "note: task \"time\" follows \"click\", \"follow\", and followed \"click\", \"like\"; what flows into it is not the same"));
  EXPECT_TRUE(contains(lines, "note: task \"time\" has the label transform z_score (mean 4, sd 2), and learned in that of z_score (mean 3, sd 2)"));
  EXPECT_TRUE(contains(lines, "not carried: graph.towers.like.output.weight: the task was binary and is regression"));
  EXPECT_TRUE(contains(lines, "not carried: graph.label_embeddings.like.weight: it is not in this model"));
  EXPECT_TRUE(same_bits(net->graph->tower("like")->named_parameters()["output.weight"].detach(), fresh));
  const htl::TaskSet kept = htl::with_statistics_of(before.tasks, now.tasks);
  EXPECT_EQ(kept["time"].transform().statistics()["mean"].number(), 3.0);
  EXPECT_EQ(kept["time"].parents(), now.tasks["time"].parents());
  EXPECT_EQ(kept["like"].transform().name(), "none");
  expect_same_predictions(old, before, net, now, rows_of_both, {"click"});
}

TEST_F(WarmStart, AConcatenatingFusionKeepsItsColumnsByParent) {
  Plan before = yesterday(), now = before;
  before.fusion = now.fusion = htl::FusionKind::concat;
  now.tasks = htl::TaskSet{htl::binary("click"), htl::binary("follow").after("click"), htl::binary("like").after("click"),
                           htl::regression("time").after("click", "follow", "like").core().transform(before.tasks["time"].transform())};
  Net old(before), net(now);
  htl::WarmStart start = warm(before, now);
  start.load(*net, htl::module_state(*old));
  EXPECT_EQ(by_name(start.report()).at("graph.fusions.time.representation.value.weight").carried, 16);
  expect_same_predictions(old, before, net, now, rows_of_both, {"click", "like", "time"});  // the new parent's columns are zero
}

TEST_F(WarmStart, OfAnotherWidthIsListedAndLeftAsInitialised) {
  const Plan before = yesterday();
  Plan now = before;
  now.tower = {8, 5};
  Net old(before), net(now);
  const at::Tensor fresh = net->graph->tower("click")->named_parameters()["layers.1.weight"].detach().clone();
  htl::WarmStart start = warm(before, now);
  start.load(*net, htl::module_state(*old));
  EXPECT_TRUE(same_bits(net->graph->tower("click")->named_parameters()["layers.1.weight"].detach(), fresh));
  EXPECT_TRUE(contains(all_lines(start.report()), "not carried: graph.towers.click.layers.1.weight: expected [5, 8] Float, it was [6, 8] Float"));
  torch::nn::Sequential doubles(torch::nn::Linear(3, 2)), floats(torch::nn::Linear(3, 2));
  doubles->to(at::kDouble);
  htl::WarmStart other;
  other.load(*floats, htl::module_state(*doubles));
  EXPECT_TRUE(contains(all_lines(other.report()), "not carried: 0.weight: expected [2, 3] Float, it was [2, 3] Double"));
}

/// Trains old for some steps, and gives back what its optimizers remember.
template <class Rows>
htl::Named<at::Tensor> trained(Net& net, const Plan& plan, Rows& rows, htl::FusedAdam& dense) {
  const htl::HybridLoss loss(plan.tasks);
  for (int step = 0; step < 4; ++step) {
    at::Tensor ids = at::zeros({16, plan.features.size()}, at::kInt);
    for (int64_t f = 0; f < plan.features.size(); ++f) ids.select(1, f).copy_(at::randint(0, plan.features.sizes()[static_cast<size_t>(f)], {16}));
    htl::Labels labels;
    for (const htl::TaskSpec& task : plan.tasks) labels.set(task.name(), {at::randint(0, 2, {16}).to(at::kFloat)});
    net->train();
    dense.zero_grad();
    htl::backward(loss(net->forward(htl::FieldBatch::of(ids), at::rand({16, 1})), labels), net->fork);
    rows.step();
    dense.step();
  }
  std::vector<std::pair<std::string, at::Tensor>> state;
  for (const auto& [name, tensor] : htl::optimizer_state(*net, rows)) state.emplace_back(name, tensor.clone());
  for (const auto& [name, tensor] : htl::optimizer_state(*net, dense)) state.emplace_back(name, tensor.clone());
  return htl::Named<at::Tensor>(std::move(state));
}

template <class Rows>
void expect_state_by_the_rows_of_the_weights(const std::function<Rows(const Net&)>& make, const std::vector<std::string>& fields) {
  const Plan before = yesterday();
  Plan now = before;
  now.features = htl::FeatureMap({texts("city", {"rome"}), texts("item", {"y", "z", "x"}), texts("user", {"dan", "cyd", "ann"}), buckets("age", {20, 40})},
                                 {{"price", 1.5}});
  const std::vector<int64_t> from = {-1, -1, 4, 6, -1, 5, 0, -1, 3, 1, 7, 8, 9, 10};  // brute force: today's rows by yesterday's
  Net old(before), net(now);
  Rows old_rows = make(old), rows = make(net);
  htl::FusedAdam old_dense(htl::dense_parameters(old)), dense(htl::dense_parameters(net));
  const htl::Named<at::Tensor> state = trained(old, before, old_rows, old_dense);
  htl::WarmStart start = warm(before, now);
  start.load(*net, htl::module_state(*old));
  start.load_optimizer(*net, rows, state);
  start.load_optimizer(*net, dense, state);
  const htl::Named<at::Tensor> row_state = htl::optimizer_state(*net, rows), dense_state = htl::optimizer_state(*net, dense);
  for (const std::string& field : fields) {
    const at::Tensor is = row_state["embedding.weight." + field], was = state["embedding.weight." + field];
    if (was.dim() == 0) {
      EXPECT_EQ(is.item<int64_t>(), 4) << field;
      continue;
    }
    EXPECT_GT(was.count_nonzero().item<int64_t>(), 0) << field;
    ASSERT_EQ(is.size(0), static_cast<int64_t>(from.size()));
    for (size_t row = 0; row < from.size(); ++row)
      EXPECT_TRUE(same_bits(is[static_cast<int64_t>(row)], from[row] < 0 ? at::zeros_like(was[0]) : was[from[row]])) << field << " of row " << row;
  }
  EXPECT_EQ(row_state.size(), fields.size());
  // dense moments by parameter, in the first layers by column: city 0–3 is new, then item, user, age, price
  for (const std::string field : {"exp_avg", "exp_avg_sq"}) {
    const std::string first = "graph.towers.like.layers.0.weight." + field;
    const at::Tensor is = dense_state[first], was = state[first];
    EXPECT_EQ(is.slice(1, 0, 4).count_nonzero().item<int64_t>(), 0);
    EXPECT_TRUE(same_bits(is.slice(1, 4, 8).contiguous(), was.slice(1, 4, 8).contiguous()));
    EXPECT_TRUE(same_bits(is.slice(1, 8, 12).contiguous(), was.slice(1, 0, 4).contiguous()));
    EXPECT_TRUE(same_bits(is.slice(1, 12).contiguous(), was.slice(1, 8).contiguous()));
    EXPECT_GT(was.count_nonzero().item<int64_t>(), 0);
    EXPECT_TRUE(same_bits(dense_state["graph.towers.time.output.weight." + field], state["graph.towers.time.output.weight." + field]));
  }
  EXPECT_EQ(dense_state["graph.towers.time.output.weight.step"].item<float>(), 4);
  EXPECT_TRUE(start.report().of(Outcome::not_carried).empty()) << all_lines(start.report());
}

TEST_F(WarmStart, CarriesTheRowsOfRowAdagrad) {
  expect_state_by_the_rows_of_the_weights<htl::RowAdagrad>([](const Net& net) { return htl::RowAdagrad(net->embedding, {.lr = 0.1}); }, {"accumulator"});
  expect_state_by_the_rows_of_the_weights<htl::RowAdagrad>([](const Net& net) { return htl::RowAdagrad(net->embedding, {.lr = 0.1, .elementwise = true}); },
                                                           {"accumulator"});
}
TEST_F(WarmStart, CarriesTheRowsOfLazyAdam) {
  expect_state_by_the_rows_of_the_weights<htl::LazyAdam>(
      [](const Net& net) { return htl::LazyAdam(net->embedding, {.lr = 0.1, .bias_correction = htl::BiasCorrection::per_row}); },
      {"step", "exp_avg", "exp_avg_sq", "row_step"});
}

TEST_F(WarmStart, ListsTheStateOfAnotherOptimizerAndOfParametersThatWereNotCarried) {
  const Plan before = yesterday();
  Plan now = before;
  now.tower = {7, 6};
  Net old(before), net(now);
  htl::RowAdagrad old_rows(old->embedding);
  htl::LazyAdam rows(net->embedding);
  htl::FusedAdam old_dense(htl::dense_parameters(old)), dense(htl::dense_parameters(net));
  const htl::Named<at::Tensor> state = trained(old, before, old_rows, old_dense);
  htl::WarmStart start = warm(before, now);
  EXPECT_TRUE(contains(htl::test::sentence_of([&] { start.load_optimizer(*net, rows, state); }), "htl::WarmStart: expected load() before load_optimizer()"));
  start.load(*net, htl::module_state(*old));
  start.load_optimizer(*net, rows, state);
  start.load_optimizer(*net, dense, state);
  const std::string lines = all_lines(start.report());
  EXPECT_TRUE(contains(lines, "not carried: embedding.weight.accumulator: it is not in this model", "new here: embedding.weight.exp_avg"));
  EXPECT_EQ(by_name(start.report()).at("graph.towers.click.layers.0.weight.step").reason, "its parameter was not carried");
  EXPECT_EQ(lines.find("graph.towers.click.layers.0.weight.step"), std::string::npos) << "its parameter has its line";
  EXPECT_EQ(htl::optimizer_state(*net, dense)["graph.towers.click.layers.0.weight.step"].item<float>(), 0);
  // a parameter that the module does not know has no name
  EXPECT_TRUE(
      contains(htl::test::sentence_of([&] { htl::optimizer_state(*old, dense); }), "htl::optimizer_state: expected an optimizer of the module's parameters"));
}

TEST_F(WarmStart, RefusesMapsThatDoNotFitAndChangesNothing) {
  const Plan plan = yesterday();
  Net old(plan), net(plan);
  const at::Tensor fresh = net->embedding->weight.detach().clone();
  const auto sentence = [&](const std::string& name, int64_t dimension, htl::IndexMap map) {
    return htl::test::sentence_of([&] { htl::WarmStart().map(name, dimension, std::move(map)).load(*net, htl::module_state(*old)); });
  };
  EXPECT_TRUE(
      contains(sentence("embedding.weight", 0, {3, {0, 1}}), "the map of dimension 0 of \"embedding.weight\" is for 2 indices, got a tensor of shape [11, 4]"));
  EXPECT_TRUE(contains(sentence("embedding.weight", 2, {3, {0, 1}}), "the map of dimension 2"));
  EXPECT_TRUE(contains(sentence("embedding.weight", 0, {3, {0, 3}}), "names index 3, expected −1 or one in [0, 3)"));
  EXPECT_TRUE(contains(sentence("embedding.weight", 0, {3, {0, 1}, {}, {0}}), "2 indices and stand-ins for 1"));
  EXPECT_TRUE(contains(sentence("embeding.weight", 0, {3, {0, 1}}), "did you mean \"embedding.weight\""));
  EXPECT_TRUE(contains(htl::test::sentence_of([&] { htl::map_blocks({{"a", 1}, {"a", 2}}, {}); }), "the block \"a\" is there twice"));
  htl::WarmStart start;
  EXPECT_TRUE(contains(htl::test::sentence_of([&] { start.map("x", 0, {1, {0}}).map("x", 0, {1, {0}}); }), "dimension 0 of \"x\" is mapped already"));
  htl::TaskGraphParts parts = plan.parts();
  parts.inputs.pop_back();
  EXPECT_TRUE(
      contains(htl::test::sentence_of([&] { htl::map_task_graph(start, "graph", parts, plan.parts()); }), "expected blocks of 13 columns in all, got 12"));
  EXPECT_TRUE(same_bits(net->embedding->weight.detach(), fresh));
}

TEST_F(WarmStart, TheReportIsJson) {
  const Plan before = yesterday();
  Plan now = before;
  now.features = htl::FeatureMap({texts("user", {"ann", "dan"}), texts("\xff", {"x"})}, {{"price", 1.5}});
  Net old(before), net(now);
  htl::WarmStart start = warm(before, now);
  start.load(*net, htl::module_state(*old));
  const nlohmann::json json = nlohmann::json::parse(htl::to_json(start.report()).dump());
  EXPECT_EQ(json["format"], "htl.warm_start");
  const auto user =
      std::find_if(json["in_part"].begin(), json["in_part"].end(), [](const auto& entry) { return entry["name"] == "embedding.weight, field \"user\""; });
  ASSERT_NE(user, json["in_part"].end());
  EXPECT_EQ((*user)["carried"], 2);
  EXPECT_EQ((*user)["new"], 1);
  EXPECT_EQ((*user)["left"], 2);
  EXPECT_EQ(json["not_carried"][0]["reason"], "the field is not in this model");
  EXPECT_EQ(json["whole"].size() + json["in_part"].size() + json["new_here"].size() + json["not_carried"].size(), start.report().entries.size());
}

}  // namespace
