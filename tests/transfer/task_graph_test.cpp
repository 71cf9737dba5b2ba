// SPDX-License-Identifier: Apache-2.0
/// @file task_graph_test.cpp
/// @brief InformationFusion and TaskGraph: formulas, random graphs against op-by-op references in fp64, who trains whom, state, sentences.
#include <htl/transfer/task_graph.hpp>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/serialize.h>
#include <support/gradcheck.hpp>
#include <support/seeded.hpp>

#include <map>
#include <set>
#include <sstream>

namespace htl {
namespace {

using test::close;
using test::close_to_reference;
using test::same_bits;
using test::sentence_of;

const std::vector<FusionKind> all_kinds{FusionKind::attention, FusionKind::concat, FusionKind::mean, FusionKind::gate};

using Parameters = torch::OrderedDict<std::string, at::Tensor>;

/// Fresh leaves with the names and shapes of a module's parameters, and the module made to use them.
template <class Module>
void randomize(Module& module, test::Random& random, double sd = .4) {
  const at::NoGradGuard no_grad;
  for (at::Tensor& parameter : module->parameters()) parameter.copy_(random.normal(parameter.sizes(), sd));
}

/// A module's parameters in fp64, so that a reference has no rounding of its own; gradients go through to the parameters.
template <class Module>
Parameters parameters_in_double(Module& module) {
  Parameters result;
  for (const auto& item : module->named_parameters()) result.insert(item.key(), item.value().to(at::kDouble));
  return result;
}

std::vector<at::Tensor> in_double(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> result;
  for (const at::Tensor& tensor : tensors) result.push_back(tensor.to(at::kDouble));
  return result;
}

at::Tensor map_of(const at::Tensor& x, const Parameters& p, const std::string& name) { return at::linear(x, p[name + ".weight"], p[name + ".bias"]); }

/// Eq. 13 and 14 and the other kinds, term by term: every source has its own h1, and its own columns where widths differ.
at::Tensor naive_fusion(const std::vector<at::Tensor>& u, const Parameters& p, const std::string& prefix, FusionKind kind, at::Tensor* weights = nullptr) {
  const auto h = [&](const std::string& name, size_t j) {
    at::Tensor weight = p[prefix + name + ".weight"];
    if (weight.size(1) != u[j].size(1)) {
      int64_t column = 0;
      for (size_t i = 0; i < j; ++i) column += u[i].size(1);
      weight = weight.slice(1, column, column + u[j].size(1));
    }
    return at::linear(u[j], weight, p[prefix + name + ".bias"]);
  };
  if (u.size() == 1) return h("value", 0);
  if (kind == FusionKind::concat) return map_of(at::cat(u, 1), p, prefix + "value");
  std::vector<at::Tensor> scores;
  for (size_t j = 0; j < u.size(); ++j) {
    if (kind == FusionKind::attention) {
      const at::Tensor query = h("query", j);
      scores.push_back((query * h("key", j)).sum(1) / std::sqrt(static_cast<double>(query.size(1))));
    } else {
      scores.push_back(at::zeros({u[j].size(0)}, u[j].options()));
    }
  }
  at::Tensor w = (kind == FusionKind::gate ? map_of(at::cat(u, 1), p, prefix + "gate") : at::stack(scores, 1)).softmax(1);
  if (weights) *weights = w.detach();
  at::Tensor out;
  for (size_t j = 0; j < u.size(); ++j) {
    const at::Tensor term = h("value", j) * w.slice(1, static_cast<int64_t>(j), static_cast<int64_t>(j) + 1);
    out = out.defined() ? out + term : term;
  }
  return out;
}

at::Tensor row(const std::vector<double>& values) { return at::tensor(values, at::kDouble).unsqueeze(0); }

TEST(InformationFusion, HasTheGoldenValuesOfIdentityMaps) {
  for (const auto type : {at::kFloat, at::kDouble}) {
    InformationFusion unit(InformationFusionOptions({2, 2}, 2));
    unit->to(type);
    {
      const at::NoGradGuard no_grad;
      for (auto& item : unit->named_parameters()) item.value().copy_(item.value().dim() == 2 ? at::eye(2) : at::zeros({2}));
    }
    const std::vector<at::Tensor> u{row({1.0, 0.0}).to(type), row({.5, 2.0}).to(type)};
    unit->keep_weights();
    EXPECT_TRUE(close(unit->forward(u), row({.54564, 1.817439}), 0, 2e-6));
    EXPECT_TRUE(close(unit->kept_weights(), row({.091281, .908719}), 0, 2e-6));
    EXPECT_TRUE(close(unit->weights(u), row({.091281, .908719}), 0, 2e-6));
  }
}

TEST(InformationFusion, OfOneSourceIsItsValueMapAndHasNoOther) {
  test::Random random(1);
  for (const FusionKind kind : all_kinds) {
    InformationFusion unit(InformationFusionOptions({5}, 3).kind(kind));
    unit->to(at::kDouble);
    const at::Tensor u = random.normal({4, 5});
    EXPECT_EQ(unit->named_parameters().keys(), (std::vector<std::string>{"value.weight", "value.bias"}));
    EXPECT_TRUE(close(unit->forward({u}), map_of(u, unit->named_parameters(), "value")));
    if (kind == FusionKind::concat) continue;
    EXPECT_TRUE(same_bits(unit->weights({u}), at::ones({4, 1}, at::kDouble)));
  }
}

TEST(InformationFusion, EqualsItsFormulaAndGradientsForAnySources) {
  test::Random random(2);
  for (int trial = 0; trial < 240; ++trial) {
    const FusionKind kind = all_kinds[static_cast<size_t>(trial) % 4];
    const at::ScalarType type = trial < 160 ? at::kDouble : at::kFloat;
    const int64_t rows = random.pick<int64_t>({0, 1, 3, 70, 900}), outputs = random.integer(1, 20), width = random.integer(1, 24);
    std::vector<int64_t> widths;
    const bool equal = random.chance(.6);
    for (int64_t j = random.integer(1, 5); j > 0; --j) widths.push_back(equal ? width : random.integer(1, 24));
    InformationFusion unit(InformationFusionOptions(widths, outputs).kind(kind));
    unit->to(type);
    randomize(unit, random);
    unit->keep_weights();
    std::vector<at::Tensor> u, leaves;
    for (const int64_t w : widths) {
      u.push_back(random.normal({rows, w}, 1.0, type));
      if (random.chance(.7)) leaves.push_back(u.back().requires_grad_());
    }
    for (const at::Tensor& parameter : unit->parameters()) leaves.push_back(parameter);
    const at::Tensor cotangent = random.normal({rows, outputs}, 1.0, type);
    const at::Tensor ours = unit->forward(u);
    at::Tensor weights;
    const at::Tensor theirs = naive_fusion(in_double(u), parameters_in_double(unit), "", kind, &weights);
    ASSERT_TRUE(close_to_reference(ours, theirs)) << "trial " << trial << " " << to_string(kind) << " " << type;
    if (weights.defined()) {
      EXPECT_TRUE(close_to_reference(unit->kept_weights(), weights));
      EXPECT_TRUE(close_to_reference(unit->weights(u), weights));
      EXPECT_TRUE(close(weights.sum(1), at::ones({rows}, at::kDouble)));
    }
    const auto by_us = torch::autograd::grad({ours}, leaves, {cotangent}, {}, false, true),
               by_them = torch::autograd::grad({theirs}, leaves, {cotangent.to(at::kDouble)}, {}, false, true);
    for (size_t i = 0; i < leaves.size(); ++i) {
      ASSERT_EQ(by_us[i].defined(), by_them[i].defined());
      // a bias that only shifts all scores alike has gradient 0 up to rounding in both
      if (!by_us[i].defined()) continue;
      EXPECT_TRUE(close_to_reference(by_us[i], by_them[i], 1e-11)) << "trial " << trial << " " << to_string(kind) << " leaf " << i << " " << type;
    }
  }
}

TEST(InformationFusion, AgreesWithFiniteDifferencesInSourcesAndParameters) {
  test::Random random(3);
  for (const FusionKind kind : all_kinds)
    for (const auto& widths : {std::vector<int64_t>{3, 3, 3}, std::vector<int64_t>{3, 2, 4}, std::vector<int64_t>{4, 4}, std::vector<int64_t>{4}})
      for (const int64_t outputs : {2, 6}) {
        InformationFusion unit(InformationFusionOptions(widths, outputs).kind(kind));
        unit->to(at::kDouble);
        randomize(unit, random);
        std::vector<at::Tensor> u;
        for (const int64_t width : widths) u.push_back(random.normal({4, width}));
        const std::string where = c10::str(to_string(kind), ", widths ", at::IntArrayRef(widths), ", ", outputs, " outputs");
        EXPECT_TRUE(test::gradcheck_module([&](const auto& x) { return unit->forward(x); }, *unit, u)) << where;
        const bool has_scores = widths.size() > 1 && (kind == FusionKind::attention || kind == FusionKind::gate);
        if (!has_scores) continue;
        EXPECT_TRUE(test::gradcheck_module([&](const auto& x) { return unit->weights(x); }, *unit, u)) << "weights of " << where;
      }
}

TEST(InformationFusion, SurvivesHugeScores) {
  InformationFusion unit(InformationFusionOptions({4, 4, 4}, 4));
  const std::vector<at::Tensor> u{at::randn({6, 4}) * 1e6, at::randn({6, 4}) * 1e6, at::zeros({6, 4})};
  u[0].requires_grad_();
  const at::Tensor out = unit->forward(u);
  EXPECT_TRUE(out.isfinite().all().item<bool>());
  out.sum().backward();
  for (const at::Tensor& parameter : unit->parameters()) EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>());
  EXPECT_TRUE(u[0].grad().isfinite().all().item<bool>());
}

TEST(InformationFusion, ClonesPrintsAndSaysWhatIsWrong) {
  InformationFusion unit(InformationFusionOptions({3, 3}, 2).kind(FusionKind::gate));
  const std::vector<at::Tensor> u{at::randn({4, 3}), at::randn({4, 3})};
  const auto copy = std::dynamic_pointer_cast<InformationFusionImpl>(unit->clone());
  EXPECT_TRUE(same_bits(copy->forward(u), unit->forward(u)));
  std::ostringstream text;
  text << *unit;
  EXPECT_EQ(text.str(),
            "htl::InformationFusion(sources=[3, 3], outputs=2, kind=gate)(\n"
            "  (value): htl::Dense(inputs=[3], outputs=2)\n"
            "  (gate): htl::Dense(inputs=[3, 3], outputs=2)\n"
            ")");
  EXPECT_FALSE(unit->kept_weights().defined()) << "weights are kept on request only";
  EXPECT_EQ(sentence_of([] { InformationFusion(InformationFusionOptions({}, 2)); }), "htl::InformationFusion: expected at least one source, got none");
  EXPECT_EQ(sentence_of([] { InformationFusion(InformationFusionOptions({3, 0}, 2)); }), "htl::InformationFusion: expected source widths ≥ 1, got [3, 0]");
  EXPECT_EQ(sentence_of([] { InformationFusion(InformationFusionOptions({3}, 0)); }), "htl::InformationFusion: expected at least one output, got 0");
  EXPECT_EQ(sentence_of([&] { unit->forward({u[0]}); }), "htl::InformationFusion: expected 2 sources of widths [3, 3], got 1");
  EXPECT_EQ(sentence_of([&] { unit->forward({u[0], at::ones({3, 3})}); }), "htl::InformationFusion: expected source 1 of shape [4, 3], got [3, 3]");
  EXPECT_EQ(sentence_of([&] {
              InformationFusion(InformationFusionOptions({3, 3}, 2).kind(FusionKind::concat))->weights(u);
            }),
            "htl::InformationFusion: concat has no weights; use attention, mean or gate");
  EXPECT_EQ(sentence_of([] { fusion_kind("atention"); }),
            "htl::fusion_kind: unknown value \"atention\"; did you mean \"attention\"? Known: \"attention\", \"concat\", \"mean\", \"gate\"");
}

/// click → long_view → watch_time with all edges.
TaskSet video() { return TaskSet{binary("click"), binary("long_view").after("click"), regression("watch_time").after("click", "long_view").core()}; }

/// The label weights without noise, in training and evaluation alike, or else in evaluation; written down again.
at::Tensor naive_label(const at::Tensor& logits, const LabelEmbeddingOptions& options, const at::Tensor& table) {
  const bool is_binary = logits.size(1) == 1;
  const at::Tensor tau = at::full({}, options.temperature().at(0), at::kDouble);
  const auto both = [](const at::Tensor& q) { return at::cat({q, 1 - q}, 1); };
  if (options.noise() == LabelNoise::none) return (is_binary ? both((logits / tau).sigmoid()) : (logits / tau).softmax(1)).mm(table);
  return (is_binary ? both(detail::mean_weight(logits, tau)) : detail::mean_weights_of_classes(logits, tau)).mm(table);
}

/// A task graph without dropout and label noise by LibTorch's operators alone, from the documented parameter names.
/// @param nearest gets the least distance of any ReLU's input from its kink
std::map<std::string, at::Tensor> naive_graph(const TaskSet& tasks, const TaskGraphOptions& options, const Parameters& p, const std::vector<at::Tensor>& views,
                                              const at::Tensor& numeric, double* nearest) {
  *nearest = 1.0;
  std::map<std::string, at::Tensor> outputs, representations, labels;
  const StopGradient stop = options.stop_gradient();
  const auto cut = [](const at::Tensor& x, bool yes) { return yes ? x.detach() : x; };
  for (const int64_t t : tasks.order()) {
    const std::string name = tasks[t].name();
    std::vector<at::Tensor> inputs{views[static_cast<size_t>(t)]}, reps, embeddings;
    if (numeric.defined()) inputs.push_back(numeric);
    for (const int64_t parent : tasks.parents(t)) {
      const std::string from = tasks[parent].name();
      if (has_representation(options.transfer())) reps.push_back(cut(representations[from], stop != StopGradient::none));
      if (has_label(options.transfer()) && tasks[parent].is_discrete()) {
        const at::Tensor le = naive_label(cut(outputs[from], stop != StopGradient::none), options.label(), p["label_embeddings." + from + ".weight"]);
        embeddings.push_back(cut(le, stop == StopGradient::label_output));
      }
    }
    if (!reps.empty())
      inputs.push_back(cut(naive_fusion(reps, p, "fusions." + name + ".representation.", options.fusion()), stop == StopGradient::fusion_output));
    if (!embeddings.empty())
      inputs.push_back(cut(naive_fusion(embeddings, p, "fusions." + name + ".label.", options.fusion()), stop == StopGradient::fusion_output));
    std::vector<at::Tensor> hidden{at::cat(inputs, 1)};
    for (size_t l = 0; l < options.tower().size(); ++l) {
      const at::Tensor linear = map_of(hidden.back(), p, "towers." + name + ".layers." + std::to_string(l));
      if (linear.numel() > 0) *nearest = std::min(*nearest, linear.detach().abs().min().item<double>());
      hidden.push_back(linear.relu());
    }
    outputs[name] = map_of(hidden.back(), p, "towers." + name + ".output");
    const int64_t r = options.representation();
    representations[name] = hidden[static_cast<size_t>(r < 0 ? r + static_cast<int64_t>(hidden.size()) : r + 1)];
  }
  return outputs;
}

TaskSet random_tasks(test::Random& random, int64_t count) {
  std::vector<TaskSpec> tasks;
  for (int64_t t = 0; t < count; ++t) {
    const std::string name = "task" + std::to_string(t);
    const int64_t kind = random.integer(0, 3);
    TaskSpec task = kind <= 1 ? binary(name) : kind == 2 ? multiclass(name, random.integer(3, 5)) : regression(name);
    std::vector<std::string> parents;
    // edges against the order of the list as well: an even position may follow later odd ones
    for (int64_t s = 0; s < count; ++s) {
      const bool comes_before = (s % 2 != t % 2) ? s % 2 > t % 2 : s < t;
      if (s != t && comes_before && random.chance(.6)) parents.push_back("task" + std::to_string(s));
    }
    tasks.push_back(task.after(parents));
  }
  return TaskSet(tasks);
}

TEST(TaskGraph, OfAnyShapeEqualsTheOpByOpNetworkInValuesAndGradients) {
  test::Random random(10);
  int compared_in_float = 0;
  for (int trial = 0; trial < 80; ++trial) {
    const at::ScalarType type = trial < 48 ? at::kDouble : at::kFloat;
    const bool training = random.chance(.5);  // without noise, so that the reference knows the labels
    const auto label = LabelEmbeddingOptions()
                           .dim(random.integer(1, 6))
                           .noise(training || random.chance(.3) ? LabelNoise::none : LabelNoise::gumbel)
                           .temperature(Temperature::constant(random.pick<double>({1.0, 1.0, 0.7, 2.5})));
    const TaskSet tasks = random_tasks(random, 1 + trial % 6);
    const int64_t width = random.integer(1, 9), numeric_width = random.chance(.3) ? random.integer(1, 3) : 0, rows = random.pick<int64_t>({0, 1, 6, 150});
    const auto options =
        TaskGraphOptions(width)
            .numeric_width(numeric_width)
            .tower(random.pick<std::vector<int64_t>>({{7}, {6, 5}, {8, 4, 3}}))
            .representation(random.chance(.5) ? first_hidden : last_hidden)
            .transfer(random.pick<Transfer>({Transfer::both, Transfer::both, Transfer::representation, Transfer::label, Transfer::none}))
            .stop_gradient(random.pick<StopGradient>({StopGradient::inputs, StopGradient::label_output, StopGradient::fusion_output, StopGradient::none}))
            .fusion(random.pick<FusionKind>(all_kinds))
            .fusion_width(random.pick<int64_t>({0, 4}))
            .label_fusion_width(random.pick<int64_t>({0, 3}))
            .label(label);
    TaskGraph<> graph(tasks, options);
    graph->to(type);
    graph->train(training);
    randomize(graph, random);
    std::vector<at::Tensor> views;
    for (int64_t t = 0; t < tasks.size(); ++t) views.push_back(random.normal({rows, width}, 1.0, type).requires_grad_());
    const at::Tensor numeric = numeric_width > 0 ? random.normal({rows, numeric_width}, 1.0, type) : at::Tensor();
    const TaskOutputs ours = graph->forward(views, numeric);
    EXPECT_EQ(ours.names(), tasks.names());
    double nearest = 1.0;
    auto theirs = naive_graph(tasks, options, parameters_in_double(graph), in_double(views), numeric.defined() ? numeric.to(at::kDouble) : numeric, &nearest);
    const bool has_gradients = type == at::kDouble || nearest > 1e-5;  // else rounding decides on which side of a ReLU's kink something is
    compared_in_float += type == at::kFloat && has_gradients;
    std::vector<at::Tensor> leaves = views;
    for (const at::Tensor& parameter : graph->parameters()) leaves.push_back(parameter);
    for (const auto& [name, output] : ours) {
      ASSERT_TRUE(close_to_reference(output, theirs[name])) << "trial " << trial << " " << name << " " << type;
      if (!has_gradients) continue;
      const at::Tensor cotangent = random.normal(output.sizes(), 1.0, type);
      const auto by_us = torch::autograd::grad({output}, leaves, {cotangent}, true, false, true);
      const auto by_them = torch::autograd::grad({theirs[name]}, leaves, {cotangent.to(at::kDouble)}, true, false, true);
      for (size_t i = 0; i < leaves.size(); ++i) {
        ASSERT_EQ(by_us[i].defined(), by_them[i].defined()) << "trial " << trial << " " << name << " leaf " << i << " " << to_string(options.stop_gradient());
        if (!by_us[i].defined()) continue;
        EXPECT_TRUE(close_to_reference(by_us[i], by_them[i], 1e-11)) << "trial " << trial << " " << name << " leaf " << i << " " << type;
      }
    }
  }
  EXPECT_GE(compared_in_float, 20);
}

TEST(TaskGraph, AgreesWithFiniteDifferencesInViewsAndParameters) {
  test::Random random(11);
  const TaskSet tasks{binary("a"), multiclass("b", 3).after("a"), regression("c").after("a", "b")};
  for (const FusionKind kind : all_kinds)
    for (const bool training : {true, false}) {
      if (!training && kind != FusionKind::attention) continue;  // evaluation differs by the labels' weights alone
      // fused widths other than the sources', layers of few and of many outputs; in training with dropout and label noise
      const auto options = TaskGraphOptions(3)
                               .numeric_width(2)
                               .tower({6, 4})
                               .dropout(training ? .2 : 0)
                               .representation(training ? first_hidden : last_hidden)
                               .stop_gradient(StopGradient::none)
                               .fusion(kind)
                               .fusion_width(5)
                               .label_fusion_width(3)
                               .label(LabelEmbeddingOptions().dim(2).temperature(Temperature::constant(training ? .8 : 1)));
      TaskGraph<> graph(tasks, options);
      graph->to(at::kDouble);
      graph->train(training);
      randomize(graph, random, .6);
      const auto run = [&](const std::vector<at::Tensor>& x) {
        at::manual_seed(9);
        const TaskOutputs outputs = graph->forward({x[0], x[1], x[2]}, x[3]);
        return at::cat({outputs["a"], outputs["b"], outputs["c"]}, 1);
      };
      EXPECT_TRUE(test::gradcheck_module(run, *graph, {random.normal({4, 3}), random.normal({4, 3}), random.normal({4, 3}), random.normal({4, 2})}))
          << to_string(kind) << " " << training;
    }
}

/// Which parameters a task's loss reaches with a gradient other than zero.
std::set<std::string> trained_by(TaskGraph<>& graph, const std::string& task) {
  graph->zero_grad();
  graph->forward(at::randn({64, graph->options.input_width()}))[task].square().sum().backward();
  std::set<std::string> result;
  for (const auto& item : graph->named_parameters())
    if (item.value().grad().defined() && item.value().grad().abs().max().template item<double>() > 0.0) result.insert(item.key());
  return result;
}

bool any_starts_with(const std::set<std::string>& names, const std::string& prefix) {
  const auto at = names.lower_bound(prefix);
  return at != names.end() && at->compare(0, prefix.size(), prefix) == 0;
}

TEST(TaskGraph, TrainsExactlyWhatItsStopGradientSays) {
  for (const bool training : {true, false})
    for (const StopGradient stop : {StopGradient::inputs, StopGradient::label_output, StopGradient::fusion_output, StopGradient::none}) {
      at::manual_seed(20);
      TaskGraph<> graph(video(), TaskGraphOptions(12).stop_gradient(stop));
      graph->train(training);
      const bool units = stop != StopGradient::fusion_output, tables = units && stop != StopGradient::label_output, towers = stop == StopGradient::none;
      const auto by_click = trained_by(graph, "click"), by_view = trained_by(graph, "long_view"), by_watch = trained_by(graph, "watch_time");
      const std::string at = to_string(stop);
      EXPECT_EQ(by_click.size(), 8u) << "the first task trains its own tower only";
      EXPECT_TRUE(any_starts_with(by_view, "towers.long_view") && any_starts_with(by_watch, "towers.watch_time")) << at;
      EXPECT_EQ(any_starts_with(by_view, "towers.click"), towers) << at;
      EXPECT_EQ(any_starts_with(by_watch, "towers.click"), towers) << at;
      EXPECT_EQ(any_starts_with(by_watch, "towers.long_view"), towers) << at;
      for (const std::string unit :
           {"fusions.watch_time.representation.value", "fusions.watch_time.representation.query", "fusions.watch_time.representation.key",
            "fusions.watch_time.label.value", "fusions.watch_time.label.query", "fusions.watch_time.label.key"})
        EXPECT_EQ(by_watch.count(unit + ".weight"), units ? 1u : 0u) << at << " " << unit;
      EXPECT_EQ(any_starts_with(by_view, "fusions.long_view.representation") && any_starts_with(by_view, "fusions.long_view.label"), units) << at;
      EXPECT_EQ(any_starts_with(by_watch, "fusions.long_view"), towers) << at << ": through long_view's tower";
      EXPECT_EQ(by_view.count("label_embeddings.click.weight"), tables ? 1u : 0u) << at;
      EXPECT_EQ(by_watch.count("label_embeddings.click.weight"), tables ? 1u : 0u) << at;
      EXPECT_EQ(by_watch.count("label_embeddings.long_view.weight"), tables ? 1u : 0u) << at;
      EXPECT_EQ(by_view.count("label_embeddings.long_view.weight"), 0u) << at;
    }
}

TEST(TaskGraph, GivesEveryParameterAGradientWhereNothingIsCut) {
  at::manual_seed(21);
  for (const FusionKind kind : all_kinds) {
    TaskGraph<> graph(video(), TaskGraphOptions(12).fusion(kind));
    at::Tensor total;
    for (const auto& [name, output] : graph->forward(at::randn({64, 12}))) total = total.defined() ? total + output.square().sum() : output.square().sum();
    total.backward();
    for (const auto& item : graph->named_parameters()) {
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_GT(item.value().grad().abs().max().item<double>(), 0.0) << to_string(kind) << " " << item.key();
    }
  }
}

TEST(TaskGraph, LeavesTheViewsOfOtherTasksAloneUnlessNothingStops) {
  at::manual_seed(22);
  for (const StopGradient stop : {StopGradient::inputs, StopGradient::label_output, StopGradient::fusion_output, StopGradient::none}) {
    TaskGraph<> graph(video(), TaskGraphOptions(6).stop_gradient(stop));
    std::vector<at::Tensor> views;
    for (int t = 0; t < 3; ++t) views.push_back(at::randn({9, 6}).requires_grad_());
    const auto gradients = torch::autograd::grad({graph->forward(views)["watch_time"].sum()}, views, {}, {}, false, true);
    EXPECT_EQ(gradients[0].defined(), stop == StopGradient::none);
    EXPECT_EQ(gradients[1].defined(), stop == StopGradient::none);
    EXPECT_TRUE(gradients[2].defined());
  }
}

TEST(TaskGraph, MakesOnlyWhatSomeTaskReads) {
  TaskGraph<> full(video(), TaskGraphOptions(430));
  EXPECT_EQ(full->named_parameters().keys().front(), "towers.click.layers.0.weight");
  EXPECT_TRUE(full->label_embedding("click") && full->label_embedding("long_view") && !full->label_embedding("watch_time"));
  EXPECT_TRUE(!full->representation_fusion("click") && full->representation_fusion("long_view") && full->label_fusion("watch_time"));
  EXPECT_EQ(full->tower("watch_time")->options.inputs(), (std::vector<int64_t>{430, 128, 10}));
  int64_t count = 0;
  for (const at::Tensor& parameter : full->parameters()) count += parameter.numel();
  EXPECT_EQ(count, 65537 + 2 * 83201 + 4 * 16512 + 4 * 110 + 40);

  const auto keys = [](Transfer what) {
    std::set<std::string> result;
    for (const std::string& key : TaskGraph<>(video(), TaskGraphOptions(5).transfer(what))->named_parameters().keys()) result.insert(key);
    return result;
  };
  const auto representation = keys(Transfer::representation), label = keys(Transfer::label), none = keys(Transfer::none);
  EXPECT_TRUE(!any_starts_with(representation, "label_embeddings") && !any_starts_with(representation, "fusions.watch_time.label") &&
              any_starts_with(representation, "fusions.watch_time.representation"));
  EXPECT_TRUE(any_starts_with(label, "label_embeddings") && !any_starts_with(label, "fusions.watch_time.representation") &&
              any_starts_with(label, "fusions.watch_time.label"));
  EXPECT_EQ(none.size(), 24u) << "three towers, nothing else";

  const TaskSet by_regressions{regression("a"), regression("b").after("a")};
  const auto only = TaskGraph<>(by_regressions, TaskGraphOptions(5))->named_parameters().keys();
  EXPECT_FALSE(any_starts_with({only.begin(), only.end()}, "label_embeddings")) << "a regression has no label to embed";
  EXPECT_TRUE(any_starts_with({only.begin(), only.end()}, "fusions.b.representation"));
}

TEST(TaskGraph, ReadsOneTensorAsTheViewOfEveryTask) {
  at::manual_seed(23);
  TaskGraph<> graph(video(), TaskGraphOptions(8));
  graph->eval();
  const at::Tensor shared = at::randn({5, 8});
  const TaskOutputs one = graph->forward(shared), three = graph->forward(std::vector<at::Tensor>(3, shared));
  for (const auto& [name, output] : one) EXPECT_TRUE(same_bits(output, three[name]));
}

TEST(TaskGraph, KeepsRowsApartAndTakesNoRowAndOne) {
  at::manual_seed(24);
  TaskGraph<> graph(video(), TaskGraphOptions(8));
  const at::Tensor x = at::randn({33, 8});
  graph->eval();
  const TaskOutputs all = graph->forward(x);
  for (const auto& [name, output] : graph->forward(x.slice(0, 4, 5))) EXPECT_TRUE(close(output, all[name].slice(0, 4, 5), 1e-5, 1e-6));
  graph->train();
  for (const int64_t rows : {0, 1}) {
    graph->zero_grad();
    at::Tensor total = at::zeros({});
    for (const auto& [name, output] : graph->forward(x.slice(0, 0, rows))) {
      EXPECT_EQ(output.sizes(), (std::vector<int64_t>{rows, 1}));
      total = total + output.sum();
    }
    total.backward();
    for (const auto& item : graph->named_parameters())
      EXPECT_TRUE(item.value().grad().defined() && item.value().grad().isfinite().all().item<bool>()) << rows << " " << item.key();
  }
}

TEST(TaskGraph, IsBitIdenticalInEveryRepetitionAndSilentInEvaluation) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  at::manual_seed(25);
  TaskGraph<> graph(video(), TaskGraphOptions(40).dropout(.1));
  const at::Tensor x = at::randn({1100, 40});
  std::vector<at::Tensor> first;
  for (int repetition = 0; repetition < 20; ++repetition) {
    at::manual_seed(26);
    graph->zero_grad();
    std::vector<at::Tensor> now;
    for (const auto& [name, output] : graph->forward(x)) now.push_back(output);
    (now[0].square().mean() + now[1].square().mean() + now[2].square().mean()).backward();
    for (const at::Tensor& parameter : graph->parameters()) now.push_back(parameter.grad().clone());
    if (first.empty()) first = now;
    for (size_t i = 0; i < now.size(); ++i) ASSERT_TRUE(same_bits(first[i], now[i])) << "repetition " << repetition << ", tensor " << i;
  }
  const TaskOutputs one = graph->forward(x), two = graph->forward(x);
  EXPECT_FALSE(at::equal(one["click"], two["click"])) << "dropout draws anew";
  graph->eval();
  const at::Tensor before = at::detail::getDefaultCPUGenerator().get_state();
  const TaskOutputs three = graph->forward(x), four = graph->forward(x);
  for (const auto& [name, output] : three) EXPECT_TRUE(same_bits(output, four[name]));
  EXPECT_TRUE(at::equal(before, at::detail::getDefaultCPUGenerator().get_state()));
  at::set_num_threads(threads);

  const auto seeded = [&](uint64_t seed) {
    at::manual_seed(27);
    return TaskGraph<>(video(), TaskGraphOptions(40).dropout(.1).generator(at::detail::createCPUGenerator(seed)))->forward(x)["watch_time"];
  };
  EXPECT_TRUE(same_bits(seeded(1), seeded(1)));
  EXPECT_FALSE(at::equal(seeded(1), seeded(2))) << "the generator decides, not the default one";
}

TEST(TaskGraph, ClonesSavesLoadsAndCasts) {
  at::manual_seed(28);
  const auto options = TaskGraphOptions(8).label(LabelEmbeddingOptions().temperature(Temperature::exponential(10, .9, 5000, .5)));
  TaskGraph<> graph(video(), options), other(video(), options);
  const at::Tensor x = at::randn({16, 8});
  graph->label_embedding("click")->step.fill_(7583333);
  graph->eval();
  const TaskOutputs expected = graph->forward(x);
  const auto copy = std::dynamic_pointer_cast<TaskGraphImpl<>>(graph->clone());
  std::stringstream stream;
  torch::save(graph.ptr(), stream);
  auto loaded = other.ptr();
  torch::load(loaded, stream);
  other->eval();
  graph->to(at::kBFloat16);
  const TaskOutputs low = graph->forward(x.to(at::kBFloat16));
  for (const auto& [name, output] : expected) EXPECT_TRUE(close(low[name], output, .1, .05)) << name;
  EXPECT_EQ(graph->label_embedding("click")->step.item<int64_t>(), 7583333);
  graph->to(at::kFloat);
  EXPECT_EQ(graph->named_buffers()["label_embeddings.click.step"].item<int64_t>(), 7583333) << "through bf16 and back";
  for (at::Tensor& parameter : graph->parameters()) parameter.set_data(at::zeros_like(parameter));
  for (const auto& [name, output] : expected) {
    EXPECT_TRUE(same_bits(copy->forward(x)[name], output)) << "the clone uses its own towers, label embeddings and units";
    EXPECT_TRUE(same_bits(other->forward(x)[name], output));
  }
  EXPECT_EQ(copy->label_embedding("click")->step.item<int64_t>(), 7583333);
  EXPECT_EQ(copy->named_parameters().keys(), graph->named_parameters().keys());
  copy->zero_grad();
  copy->forward(x)["watch_time"].sum().backward();
  EXPECT_TRUE(copy->named_parameters()["fusions.watch_time.label.key.weight"].grad().defined()) << "the clone's named parameters are those it computes with";
}

TEST(TaskGraph, WorksInBfloat16AndUnderAutocast) {
  at::manual_seed(29);
  TaskGraph<> graph(video(), TaskGraphOptions(8));
  const at::Tensor x = at::randn({40, 8});
  graph->eval();
  const TaskOutputs exact = graph->forward(x);
  graph->train();
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::Tensor total;
  for (const auto& [name, output] : graph->forward(x))
    total = total.defined() ? total + output.to(at::kFloat).square().sum() : output.to(at::kFloat).square().sum();
  graph->eval();
  const TaskOutputs cast = graph->forward(x);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  for (const auto& [name, output] : exact) EXPECT_TRUE(close(cast[name], output, .1, .05)) << name;
  total.backward();
  for (const auto& item : graph->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_EQ(item.value().grad().scalar_type(), at::kFloat) << item.key();
    EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
  }
  graph->to(at::kBFloat16);
  graph->train();
  graph->zero_grad();
  total = at::Tensor();
  for (const auto& [name, output] : graph->forward(x.to(at::kBFloat16))) total = total.defined() ? total + output.square().sum() : output.square().sum();
  total.backward();
  for (const auto& item : graph->named_parameters())
    EXPECT_TRUE(item.value().grad().defined() && item.value().grad().isfinite().all().item<bool>()) << item.key();
}

/// Towers, label embeddings and fusions of a user.
struct FlatTowerImpl : torch::nn::Module {
  explicit FlatTowerImpl(const TowerOptions& options)
      : width(options.inputs().front()), output(register_module("output", Dense(DenseOptions(options.inputs(), options.output_width())))) {}
  TowerOutput forward(const std::vector<at::Tensor>& parts) { return {output->forward(parts), parts[0].tanh()}; }
  int64_t representation_width() const { return width; }
  int64_t width;
  Dense output;
};
TORCH_MODULE(FlatTower);
struct ProbabilityImpl : torch::nn::Module {
  explicit ProbabilityImpl(const LabelEmbeddingOptions& options) : width(options.dim()) {}
  at::Tensor forward(const at::Tensor& logits) { return logits.sigmoid().expand({logits.size(0), width}); }
  int64_t width;
};
TORCH_MODULE(Probability);
struct LargestImpl : torch::nn::Module {
  explicit LargestImpl(const InformationFusionOptions&) {}
  at::Tensor forward(const std::vector<at::Tensor>& sources) { return at::stack(sources).amax(0); }
};
TORCH_MODULE(Largest);
struct Wrong {
  Wrong* operator->() { return this; }
};
static_assert(TaskTower<FlatTower> && TaskLabelEmbedding<Probability> && TaskFusion<Largest> && TaskLabelEmbedding<LabelEmbedding> &&
              TaskFusion<InformationFusion>);
static_assert(!TaskTower<Wrong> && !TaskLabelEmbedding<Wrong> && !TaskFusion<Wrong> && !TaskFusion<LabelEmbedding> && !TaskLabelEmbedding<InformationFusion>);

TEST(TaskGraph, TakesTheUsersOwnParts) {
  at::manual_seed(30);
  TaskGraph<FlatTower, Probability, Largest> graph(video(), TaskGraphOptions(4));
  EXPECT_EQ(graph->tower("watch_time")->output->options.inputs(), (std::vector<int64_t>{4, 4, 10}));
  const at::Tensor x = at::randn({3, 4});
  const TaskOutputs outputs = graph->forward(x);
  const auto p = graph->named_parameters();
  const at::Tensor click = map_of(x, p, "towers.click.output"), q = click.sigmoid().expand({3, 10});
  const at::Tensor view = map_of(at::cat({x, x.tanh(), q}, 1), p, "towers.long_view.output");
  EXPECT_TRUE(close(outputs["long_view"], view, 1e-5, 1e-6));
  EXPECT_TRUE(close(outputs["watch_time"], map_of(at::cat({x, x.tanh(), at::maximum(q, view.sigmoid().expand({3, 10}))}, 1), p, "towers.watch_time.output"),
                    1e-5, 1e-6));

  struct Model : torch::nn::Module {
    TaskGraph<FlatTower> graph{nullptr};
  } model;
  EXPECT_FALSE(model.graph);
  model.graph = model.register_module("graph", TaskGraph<FlatTower>(video(), TaskGraphOptions(4)));
  EXPECT_FALSE(model.parameters().empty());
}

TEST(TaskGraph, PrintsItself) {
  std::ostringstream text;
  text << *TaskGraph<>(TaskSet{binary("click"), regression("watch_time")}, TaskGraphOptions(4).tower({3}));
  EXPECT_EQ(text.str(),
            "htl::TaskGraph(tasks=[\"click\", \"watch_time\"], input_width=4, transfer=both, stop_gradient=inputs)(\n"
            "  (towers): htl::ModuleTable(\n"
            "    (click): htl::Tower(inputs=[4], hidden=[3], output_width=1, representation=0)(\n"
            "      (layers): htl::Mlp(inputs=[4], hidden=[3])(\n"
            "        (0): htl::Dense(inputs=[4], outputs=3, relu)\n"
            "      )\n"
            "      (output): htl::Dense(inputs=[3], outputs=1)\n"
            "    )\n"
            "    (watch_time): htl::Tower(inputs=[4, 3, 10], hidden=[3], output_width=1, representation=0)(\n"
            "      (layers): htl::Mlp(inputs=[4, 3, 10], hidden=[3])(\n"
            "        (0): htl::Dense(inputs=[4, 3, 10], outputs=3, relu)\n"
            "      )\n"
            "      (output): htl::Dense(inputs=[3], outputs=1)\n"
            "    )\n"
            "  )\n"
            "  (label_embeddings): htl::ModuleTable(\n"
            "    (click): htl::LabelEmbedding(classes=2, dim=10, noise=gumbel, hardness=soft, temperature=constant:1, evaluation=expected_soft)\n"
            "  )\n"
            "  (fusions): htl::ModuleTable(\n"
            "    (watch_time): htl::TaskFusionUnits(\n"
            "      (representation): htl::InformationFusion(sources=[3], outputs=3, kind=attention)(\n"
            "        (value): htl::Dense(inputs=[3], outputs=3)\n"
            "      )\n"
            "      (label): htl::InformationFusion(sources=[10], outputs=10, kind=attention)(\n"
            "        (value): htl::Dense(inputs=[10], outputs=10)\n"
            "      )\n"
            "    )\n"
            "  )\n"
            ")");
}

/// Asks for an output of two columns, which is no logit.
struct TwoColumnLoss {
  std::string name() const { return "two_columns"; }
  int64_t output_width() const { return 2; }
  at::Tensor per_row(const LossInput& input) const { return input.output.sum(1); }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.select(1, 0); }
};

TEST(TaskGraph, SaysWhatIsWrong) {
  EXPECT_EQ(sentence_of([] { TaskGraph<>(video(), TaskGraphOptions(0)); }), "htl::TaskGraph: expected an input width ≥ 1, got 0");
  EXPECT_EQ(sentence_of([] { TaskGraph<>(video(), TaskGraphOptions(4).fusion_width(-1)); }),
            "htl::TaskGraph: expected widths ≥ 0, got numeric_width 0, fusion_width -1, label_fusion_width 0");
  const TaskSet odd{binary("click").loss(TwoColumnLoss{}), regression("watch_time").after("click")};
  EXPECT_EQ(sentence_of([&] { TaskGraph<>(odd, TaskGraphOptions(4)); }),
            "htl::TaskGraph: the label of task \"click\" flows to other tasks, which needs 1 logits, but its losses ask for an output of width 2; "
            "let only the representation flow (transfer), or drop the edge");
  EXPECT_EQ(TaskGraph<>(odd, TaskGraphOptions(4).transfer(Transfer::representation))->forward(at::zeros({3, 4}))["click"].size(1), 2);
  TaskGraph<> graph(video(), TaskGraphOptions(4));
  EXPECT_EQ(sentence_of([&] {
              graph->forward(std::vector<at::Tensor>(2, at::zeros({3, 4})));
            }),
            "htl::TaskGraph: expected 3 views, one per task of \"click\", \"long_view\", \"watch_time\", got 2");
  EXPECT_EQ(sentence_of([&] {
              graph->forward({at::zeros({3, 4}), at::zeros({2, 4}), at::zeros({3, 4})});
            }),
            "htl::TaskGraph: expected the view of task \"long_view\" of shape [3, 4], got [2, 4]");
  EXPECT_EQ(sentence_of([&] {
              graph->forward(at::zeros({3, 4}), at::zeros({3, 2}));
            }),
            "htl::TaskGraph: got numeric inputs of shape [3, 2], but was made for none; set numeric_width in its options");
  EXPECT_EQ(sentence_of([] {
              TaskGraph<>(video(), TaskGraphOptions(4).numeric_width(2))->forward(at::zeros({3, 4}));
            }),
            "htl::TaskGraph: expected numeric inputs [B, 2], got none; pass batch.numeric");
  EXPECT_NE(sentence_of([&] { graph->tower("clik"); }).find("did you mean \"click\"?"), std::string::npos);
}

}  // namespace
}  // namespace htl
