// SPDX-License-Identifier: Apache-2.0
// Tasks as values: their graph, their labels, their transforms, their predictions, and the sentences of what is refused.
#include <htl/loss/built_in_losses.hpp>
#include <htl/task/built_in_transforms.hpp>
#include <htl/task/task_set.hpp>

#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "support/gradcheck.hpp"
#include "support/seeded.hpp"

namespace {

using htl::AnyLabelTransform;
using htl::Label;
using htl::Labels;
using htl::Named;
using htl::TaskKind;
using htl::TaskOutputs;
using htl::TaskSet;
using htl::TaskSpec;
using htl::test::close;
using htl::test::gradcheck;
using htl::test::Random;
using htl::test::same_bits;
using htl::test::sentence_of;
using Positions = std::vector<int64_t>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }
at::Tensor bools(const std::vector<int64_t>& values) { return torch::tensor(values, at::kLong).to(at::kBool); }

/// A loss of a given width that predicts its output times a factor.
struct Scaled {
  double factor = 1.0;
  int64_t width = 1;
  std::string word = "scaled";
  std::string name() const { return word; }
  int64_t output_width() const { return width; }
  at::Tensor per_row(const htl::LossInput& input) const { return input.output.sum(1) * factor; }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.sum(1) * factor; }
};

/// The same in the label's unit, reading a context column.
struct InUnit : Scaled {
  static constexpr bool in_label_unit = true;
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>& context) const { return output.sum(1) * context["duration"]; }
};

// ---- Named ---------------------------------------------------------------------------------------------------------------------

TEST(Named, keeps_its_order_and_replaces_by_name) {
  Named<int> numbers;
  EXPECT_TRUE(numbers.empty());
  numbers.set("b", 1).set("a", 2).set("b", 3);
  EXPECT_EQ(numbers.names(), (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(numbers["b"], 3);
  EXPECT_EQ(numbers.size(), 2u);
  EXPECT_TRUE(numbers.contains("a"));
  EXPECT_FALSE(numbers.contains("c"));
  EXPECT_EQ(numbers.find("c"), nullptr);
  *numbers.find("a") = 7;
  int sum = 0;
  for (auto& [name, value] : numbers) sum += value += 1;
  EXPECT_EQ(sum, 12);
  EXPECT_EQ(numbers["a"], 8);
}

TEST(Named, says_which_names_there_are) {
  EXPECT_EQ(sentence_of([] { (void)Named<int>().set("click", 1).set("long_view", 2)["clik"]; }),
            "htl: there is no \"clik\" here; did you mean \"click\"? Present: \"click\", \"long_view\"");
  EXPECT_EQ(sentence_of([] { (void)Named<int>()["x"]; }), "htl: there is no \"x\" here; nothing is");
  EXPECT_THROW((void)Named<int>()["x"], c10::IndexError);
}

// ---- check ---------------------------------------------------------------------------------------------------------------------

TEST(Check, finds_the_nearest_name_by_edit_distance) {
  const std::vector<std::string> names = {"squared", "huber", "softmax_cross_entropy"};
  EXPECT_EQ(htl::nearest("sqared", names), "squared");
  EXPECT_EQ(htl::nearest("Huber", names), "huber");
  EXPECT_EQ(htl::nearest("", names), "huber");
  EXPECT_EQ(htl::nearest("softmax", names), "squared");  // 7 edits; the longer name needs 14
  EXPECT_EQ(htl::nearest("x", {}), "");
  EXPECT_EQ(htl::detail::edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(htl::detail::edit_distance("", "abc") + htl::detail::edit_distance("abc", ""), 6U);
}

TEST(Check, of_shapes_names_everything) {
  EXPECT_EQ(sentence_of([] { htl::check_shape("htl::X", "ids", torch::zeros({2, 3}), {-1, 4}); }), "htl::X: expected ids of shape [any, 4], got [2, 3]");
  EXPECT_EQ(sentence_of([] { htl::check_shape("htl::X", "ids", at::Tensor(), {2}); }), "htl::X: expected ids of shape [2], got undefined");
  EXPECT_EQ(sentence_of([] { htl::check_shape("htl::X", "ids", torch::zeros({2}), {}); }), "htl::X: expected ids of shape [], got [2]");
  EXPECT_EQ(sentence_of([] { htl::check_shape("htl::X", "ids", torch::zeros({2, 3}), {-1, 3}); }), "no error");
  EXPECT_THROW(htl::check_shape("htl::X", "ids", torch::zeros({2}), {3}), c10::ValueError);
}

// ---- Label ---------------------------------------------------------------------------------------------------------------------

TEST(Labels, move_and_select_with_mask_weight_and_context) {
  Labels labels;
  EXPECT_EQ(labels.rows(), 0);
  labels.set("click", {doubles({0, 1, 1}), bools({1, 0, 1}), doubles({1, 2, 3})}).set("time", {doubles({5, 6, 7})});
  labels.context.set("duration", doubles({10, 20, 30}));
  EXPECT_EQ(labels.rows(), 3);
  const Labels picked = labels.index_select(torch::tensor({2, 0}, at::kLong));
  EXPECT_EQ(picked.rows(), 2);
  EXPECT_TRUE(same_bits(picked["click"].value, doubles({1, 0})));
  EXPECT_TRUE(same_bits(picked["click"].mask, bools({1, 1})));
  EXPECT_TRUE(same_bits(picked["click"].weight, doubles({3, 1})));
  EXPECT_FALSE(picked["time"].mask.defined());
  EXPECT_TRUE(same_bits(picked.context["duration"], doubles({30, 10})));
  const Labels moved = labels.to(at::kMeta);
  EXPECT_TRUE(moved["click"].mask.is_meta() && moved["click"].weight.is_meta() && moved["time"].value.is_meta() && moved.context["duration"].is_meta());
  EXPECT_FALSE(moved["time"].weight.defined());
}

// ---- label transforms ----------------------------------------------------------------------------------------------------------

TEST(LabelTransform, carries_the_statistics_of_the_observed_labels) {
  const AnyLabelTransform fitted = htl::z_score().fitted({torch::tensor({2.f, std::nanf(""), 4.f, 6.f}), bools({1, 0, 1, 1})});
  EXPECT_EQ(fitted.statistics().names(), (std::vector<std::string>{"mean", "sd"}));
  EXPECT_DOUBLE_EQ(fitted.statistics()["mean"].number(), 4.0);
  EXPECT_DOUBLE_EQ(fitted.statistics()["sd"].number(), std::sqrt(8.0 / 3.0));  // of the population
  EXPECT_TRUE(close(fitted.apply(doubles({4, 4 + std::sqrt(8.0 / 3.0)})), doubles({0, 1})));
  for (const at::Tensor& mask : {at::Tensor(), bools({1, 1, 0, 1, 1})}) {  // a row of weight 0 is no row, whatever it holds
    const AnyLabelTransform weighted = htl::z_score().fitted({doubles({2, kNaN, mask.defined() ? 1e9 : 4, 6, 4}), mask, doubles({1, 0, 1, 2, .5})});
    EXPECT_DOUBLE_EQ(weighted.statistics()["mean"].number(), 4.0);
  }
  EXPECT_TRUE(htl::log1p().fitted({doubles({0, 3})}).statistics().empty());
  EXPECT_TRUE(htl::no_transform().fitted({doubles({-1, 3})}).statistics().empty());
}

TEST(LabelTransform, is_a_value_that_fitting_leaves_alone) {
  const AnyLabelTransform plain = htl::z_score(), copy = plain, fitted = plain.fitted({doubles({1, 2})});
  EXPECT_FALSE(plain.is_fitted());
  EXPECT_FALSE(copy.is_fitted());
  EXPECT_TRUE(fitted.is_fitted());
  EXPECT_TRUE(htl::log1p().is_fitted() && htl::no_transform().is_fitted());
  const AnyLabelTransform again = htl::z_score().with_statistics(fitted.statistics());
  EXPECT_TRUE(same_bits(again.apply(doubles({1, 7})), fitted.apply(doubles({1, 7}))));
}

TEST(LabelTransform, inverts_itself_over_hundreds_of_random_labels) {
  Random random(21);
  for (int round = 0; round < 300; ++round) {
    const double scale = std::pow(10.0, random.real(-6, 6)), shift = round % 2 == 0 ? 0.0 : scale * random.real(0, 50);
    const at::Tensor labels = random.uniform({random.integer(1, 50)}, 0, scale) + shift;
    for (const AnyLabelTransform& transform : {htl::no_transform(), htl::z_score(), htl::log1p()}) {
      const AnyLabelTransform fitted = transform.fitted({labels});
      EXPECT_TRUE(close(fitted.inverse(fitted.apply(labels)), labels, 1e-12, 1e-12 * scale)) << transform.name();
      const at::Tensor targets = random.normal({9});
      const double rounding = transform.name() == "z_score" ? 1e-15 * std::abs(fitted.statistics()["mean"].number() / fitted.statistics()["sd"].number()) : 0.0;
      EXPECT_TRUE(close(fitted.apply(fitted.inverse(targets)), targets, 1e-12, 1e-12 + rounding)) << transform.name();
      if (transform.name() == "z_score" && labels.numel() > 1) {
        EXPECT_NEAR(fitted.apply(labels).mean().item<double>(), 0.0, 1e-9);
        EXPECT_NEAR(fitted.apply(labels).square().mean().item<double>(), 1.0, 1e-9);
      }
    }
  }
}

TEST(LabelTransform, keeps_shape_and_type_and_passes_gradients) {
  for (const AnyLabelTransform& transform : {htl::no_transform(), htl::z_score().fitted({doubles({1, 2, 9})}), htl::log1p()}) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const at::Tensor labels = torch::rand({2, 3}, type);
      EXPECT_EQ(transform.apply(labels).scalar_type(), type) << transform.name();
      EXPECT_EQ(transform.inverse(labels).scalar_type(), type) << transform.name();
      EXPECT_EQ(transform.inverse(labels).sizes(), labels.sizes());
    }
    EXPECT_TRUE(gradcheck([&](const auto& x) { return transform.apply(x[0]) + transform.inverse(x[0]); }, {torch::rand({3}, at::kDouble)}));
  }
}

TEST(LabelTransform, of_a_constant_label_has_sd_one) {
  const AnyLabelTransform fitted = htl::z_score().fitted({doubles({3, 3, 3})});
  EXPECT_DOUBLE_EQ(fitted.statistics()["sd"].number(), 1.0);
  EXPECT_TRUE(same_bits(fitted.apply(doubles({3, 4})), doubles({0, 1})));
  const AnyLabelTransform tenth = htl::z_score().fitted({doubles({.1, .1, .1})});  // whose sum over three is not .1
  EXPECT_DOUBLE_EQ(tenth.statistics()["sd"].number(), 1.0);
  EXPECT_TRUE(same_bits(tenth.apply(doubles({.1})), doubles({0})));
}

TEST(LabelTransform, refuses_what_it_cannot_use) {
  EXPECT_EQ(sentence_of([] { htl::z_score().fitted({doubles({1, kNaN})}); }), "htl::z_score: expected finite labels, got NaN or infinity; mask those rows");
  EXPECT_EQ(sentence_of([] { htl::log1p().fitted({doubles({1, kInfinity})}); }), "htl::log1p: expected finite labels, got NaN or infinity; mask those rows");
  EXPECT_EQ(sentence_of([] {
              htl::z_score().fitted({doubles({1, 2}), bools({0, 0})});
            }),
            "htl::z_score: expected at least one observed label to fit to, got none");
  EXPECT_EQ(sentence_of([] {
              htl::log1p().fitted({doubles({1, -2})});
            }),
            "htl::log1p: expected labels ≥ 0, got -2; use z_score() for a label that can be negative");
  EXPECT_EQ(sentence_of([] { htl::z_score().apply(doubles({1})); }),
            "htl::z_score: expected fitted statistics, got none; call tasks.fitted(training_labels) and use its result");
  EXPECT_EQ(sentence_of([] { htl::z_score().inverse(doubles({1})); }),
            "htl::z_score: expected fitted statistics, got none; call tasks.fitted(training_labels) and use its result");
  EXPECT_EQ(sentence_of([] {
              htl::z_score().with_statistics({{"mean", 1}, {"sd", 0}});
            }),
            "htl::z_score: expected a finite mean and a finite sd > 0, got mean 1, sd 0");
  EXPECT_EQ(sentence_of([] { htl::z_score().with_statistics({{"mean", 1}}); }), "htl: there is no \"sd\" here; did you mean \"mean\"? Present: \"mean\"");
  EXPECT_THROW(htl::z_score().apply(doubles({1})), c10::Error);
}

TEST(LabelTransform, comes_by_name) {
  for (const std::string name : {"none", "z_score", "log1p"}) EXPECT_EQ(htl::label_transform(name).name(), name);
  EXPECT_EQ(sentence_of([] { htl::label_transform("zscore"); }),
            "htl::label_transform: unknown transform \"zscore\"; did you mean \"z_score\"? Known: \"none\", \"z_score\", \"log1p\", "
            "\"min_max\", \"box_cox\", \"quantile\", \"chained\", \"clipped\", \"grouped\", \"smeared\"");
}

// ---- TaskSpec ------------------------------------------------------------------------------------------------------------------

TEST(TaskSpec, setters_return_changed_copies) {
  const TaskSpec plain = htl::regression("amount");
  const TaskSpec changed =
      plain.after("click", "buy").core().transform(htl::log1p()).observed_when("buy").weight(2).mask_column("seen").weight_column("w").context({"price"});
  EXPECT_FALSE(plain.parents().has_value());
  EXPECT_FALSE(plain.is_core());
  EXPECT_EQ(plain.transform().name(), "none");
  EXPECT_TRUE(plain.observed_when().empty() && plain.mask_column().empty() && plain.weight_column().empty() && plain.context().empty());
  EXPECT_EQ(plain.weight(), 1.0);
  EXPECT_EQ(*changed.parents(), (std::vector<std::string>{"click", "buy"}));
  EXPECT_TRUE(changed.is_core());
  EXPECT_FALSE(changed.core(false).is_core());
  EXPECT_EQ(changed.transform().name(), "log1p");
  EXPECT_EQ(changed.observed_when(), "buy");
  EXPECT_EQ(changed.weight(), 2.0);
  EXPECT_EQ(changed.mask_column(), "seen");
  EXPECT_EQ(changed.weight_column(), "w");
  EXPECT_EQ(changed.context(), (std::vector<std::string>{"price"}));
  EXPECT_TRUE(plain.after().parents().has_value());
  EXPECT_TRUE(plain.after().parents()->empty());
}

TEST(TaskSpec, knows_its_kind_classes_and_width) {
  EXPECT_EQ(htl::binary("a").kind(), TaskKind::binary);
  EXPECT_EQ(htl::binary("a").classes(), 2);
  EXPECT_EQ(htl::binary("a").output_width(), 1);
  EXPECT_TRUE(htl::binary("a").is_discrete());
  EXPECT_EQ(htl::multiclass("a", 5).output_width(), 5);
  EXPECT_TRUE(htl::multiclass("a", 5).is_discrete());
  EXPECT_EQ(htl::regression("a").output_width(), 1);
  EXPECT_FALSE(htl::regression("a").is_discrete());
  EXPECT_EQ(htl::regression("a").classes(), 0);
  EXPECT_EQ(to_string(TaskKind::binary) + to_string(TaskKind::multiclass) + to_string(TaskKind::regression), "binarymulticlassregression");
}

TEST(TaskSpec, carries_several_losses_of_one_width) {
  const TaskSpec task = htl::regression("y").loss(Scaled{1, 3}).loss(Scaled{2, 3}, .5);
  EXPECT_EQ(task.losses().size(), 2u);
  EXPECT_EQ(task.losses()[1].weight, .5);
  EXPECT_EQ(task.output_width(), 3);
  EXPECT_FALSE(task.in_label_unit());
  EXPECT_TRUE(htl::regression("y").loss(InUnit{}).in_label_unit());
  EXPECT_EQ(sentence_of([&] {
              task.loss(Scaled{1, 2, "narrow"});
            }),
            "htl::TaskSpec: losses of one task share its output; \"narrow\" of task \"y\" expects width 2, \"scaled\" has 3");
  EXPECT_EQ(sentence_of([&] { htl::binary("y").loss(htl::SoftmaxCrossEntropy(2)); }),
            "htl::TaskSpec: the loss \"softmax_cross_entropy\" is not for a binary task as \"y\" is");
  EXPECT_EQ(sentence_of([&] { htl::binary("y").loss(htl::SquaredError{}); }), "htl::TaskSpec: the loss \"squared\" is not for a binary task as \"y\" is");
  EXPECT_EQ(sentence_of([&] { htl::multiclass("y", 2).loss(htl::Huber()); }), "htl::TaskSpec: the loss \"huber\" is not for a multiclass task as \"y\" is");
  EXPECT_EQ(sentence_of([&] { htl::multiclass("y", 2).loss(htl::BinaryCrossEntropy{}); }),
            "htl::TaskSpec: the loss \"binary_cross_entropy\" is not for a multiclass task as \"y\" is");
  EXPECT_TRUE(htl::regression("y").loss(Scaled{}).loss(InUnit{{1, 1, "in_unit"}}).in_label_unit()) << "any of its losses decides, not the first";
  EXPECT_EQ(sentence_of([&] {
              htl::TaskSet{htl::regression("y").transform(htl::log1p()).loss(Scaled{}).loss(InUnit{{1, 1, "in_unit"}})};
            }),
            "htl::TaskSet: the loss \"in_unit\" of task \"y\" works in the label's unit; remove the label transform \"log1p\"");
  EXPECT_EQ(sentence_of([&] { task.loss(Scaled{1, 3}, -1); }), "htl::TaskSpec: loss \"scaled\" of task \"y\" expects a finite weight ≥ 0, got -1");
  EXPECT_EQ(sentence_of([&] { task.loss(Scaled{1, 3}, kNaN); }), "htl::TaskSpec: loss \"scaled\" of task \"y\" expects a finite weight ≥ 0, got nan");
}

TEST(TaskSpec, refuses_what_makes_no_sense) {
  EXPECT_EQ(sentence_of([] { htl::binary(""); }), "htl::TaskSpec: expected a name, got an empty one");
  EXPECT_EQ(sentence_of([] { htl::binary("long view"); }),
            "htl::TaskSpec: the name \"long view\" holds a dot, slash, quote or white space, which file formats and parameter names can't; use letters, digits "
            "and _");
  for (const char* name : {"a.b", "a/b", "a\"b", "a\tb", "a\nb"}) EXPECT_THROW(htl::binary(name), c10::ValueError) << name;
  EXPECT_EQ(sentence_of([] { htl::multiclass("k", 1); }), "htl::TaskSpec: multiclass task \"k\" expects at least 2 classes, got 1");
  EXPECT_EQ(sentence_of([] { htl::binary("click").transform(htl::log1p()); }),
            "htl::TaskSpec: task \"click\" is binary; only a regression's label can be transformed by \"log1p\"");
  EXPECT_EQ(sentence_of([] { htl::binary("click").transform(htl::no_transform()); }), "no error");
  EXPECT_EQ(sentence_of([] { htl::binary("click").weight(-2); }), "htl::TaskSpec: task \"click\" expects a finite weight ≥ 0, got -2");
  EXPECT_EQ(sentence_of([] { htl::binary("click").weight(kInfinity); }), "htl::TaskSpec: task \"click\" expects a finite weight ≥ 0, got inf");
}

// ---- TaskSet: the graph --------------------------------------------------------------------------------------------------------

TEST(TaskSet, without_edges_is_the_full_chain) {
  const TaskSet tasks{htl::binary("a"), htl::binary("b"), htl::regression("c").core()};
  EXPECT_EQ(tasks.size(), 3);
  EXPECT_EQ(tasks.parents(0), Positions{});
  EXPECT_EQ(tasks.parents(1), Positions{0});
  EXPECT_EQ(tasks.parents(2), (Positions{0, 1}));
  EXPECT_EQ(tasks.order(), (Positions{0, 1, 2}));
  EXPECT_EQ(tasks.cores(), Positions{2});
  EXPECT_TRUE(tasks.precedes(0, 2));
  EXPECT_FALSE(tasks.precedes(2, 0));
  EXPECT_FALSE(tasks.precedes(1, 1));
  EXPECT_EQ(tasks.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(tasks.index("b"), 1);
  EXPECT_TRUE(tasks.contains("c"));
  EXPECT_FALSE(tasks.contains("d"));
  EXPECT_EQ(tasks["c"].kind(), TaskKind::regression);
  EXPECT_EQ(tasks[1].name(), "b");
  EXPECT_TRUE((TaskSet{htl::binary("a"), htl::regression("b")}).cores().empty());
}

TEST(TaskSet, finds_paths_in_a_long_full_chain_at_once) {
  std::vector<TaskSpec> specs;
  for (int t = 0; t < 64; ++t) specs.push_back(htl::binary("t" + std::to_string(t)));
  const TaskSet tasks(specs);  // 2^62 paths from the first task to the last
  EXPECT_TRUE(tasks.precedes(0, 63));
  EXPECT_TRUE(tasks.precedes(62, 63));
  EXPECT_FALSE(tasks.precedes(63, 62));
  EXPECT_FALSE(tasks.precedes(62, 62));
}

TEST(TaskSet, with_one_edge_has_only_the_edges_that_were_written) {
  const TaskSet tasks{htl::binary("a"), htl::binary("b"), htl::regression("c").after("a")};
  EXPECT_EQ(tasks.parents(1), Positions{});
  EXPECT_EQ(tasks.parents(2), Positions{0});
  EXPECT_FALSE(tasks.precedes(1, 2));
  const TaskSet roots{htl::binary("a").after(), htl::binary("b")};
  EXPECT_EQ(roots.parents(1), Positions{});
}

TEST(TaskSet, orders_any_list_so_that_parents_come_first) {
  const TaskSet tasks{htl::regression("amount").after("buy", "click").core(), htl::binary("buy").after("click"), htl::binary("click"),
                      htl::regression("time").after("click").core()};
  EXPECT_EQ(tasks.order(), (Positions{2, 1, 0, 3}));
  EXPECT_EQ(tasks.parents(0), (Positions{1, 2}));  // in the order of the list, not of after()
  EXPECT_EQ(tasks.cores(), (Positions{0, 3}));
  EXPECT_TRUE(tasks.precedes(2, 0));
}

TEST(TaskSet, orders_hundreds_of_random_graphs_and_finds_every_path) {
  Random random(22);
  for (int round = 0; round < 300; ++round) {
    const int64_t n = random.integer(1, 8);
    const at::Tensor rank = random.permutation(n);  // an edge goes from a smaller to a larger rank
    std::vector<TaskSpec> specs;
    std::vector<std::vector<bool>> reaches(static_cast<size_t>(n), std::vector<bool>(static_cast<size_t>(n), false));
    for (int64_t t = 0; t < n; ++t) {
      std::vector<std::string> parents;
      for (int64_t s = 0; s < n; ++s)
        if (rank[s].item<int64_t>() < rank[t].item<int64_t>() && random.chance(.4)) {
          parents.push_back("t" + std::to_string(s));
          reaches[static_cast<size_t>(s)][static_cast<size_t>(t)] = true;
        }
      specs.push_back(htl::binary("t" + std::to_string(t)).after(parents));
    }
    for (size_t k = 0; k < reaches.size(); ++k)
      for (size_t i = 0; i < reaches.size(); ++i)
        for (size_t j = 0; j < reaches.size(); ++j) reaches[i][j] = reaches[i][j] || (reaches[i][k] && reaches[k][j]);
    const TaskSet tasks(specs);
    std::set<int64_t> seen;
    for (const int64_t t : tasks.order()) {
      for (const int64_t parent : tasks.parents(t)) ASSERT_TRUE(seen.count(parent));
      seen.insert(t);
    }
    ASSERT_EQ(static_cast<int64_t>(seen.size()), n);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) ASSERT_EQ(tasks.precedes(i, j), reaches[static_cast<size_t>(i)][static_cast<size_t>(j)]);
  }
}

TEST(TaskSet, refuses_graphs_that_are_none) {
  EXPECT_EQ(sentence_of([] { TaskSet(std::vector<TaskSpec>{}); }), "htl::TaskSet: expected at least one task, got none");
  EXPECT_EQ(sentence_of([] { TaskSet{htl::binary("a"), htl::regression("a")}; }), "htl::TaskSet: the task \"a\" is there twice; names must be unique");
  EXPECT_EQ(sentence_of([] {
              TaskSet{htl::binary("click"), htl::binary("buy").after("clik")};
            }),
            "htl::TaskSet: task \"buy\" follows \"clik\", which is not there; did you mean \"click\"? Tasks: \"click\", \"buy\"");
  EXPECT_EQ(sentence_of([] { TaskSet{htl::binary("a").after("a")}; }), "htl::TaskSet: task \"a\" follows itself; remove it from its after()");
  EXPECT_EQ(sentence_of([] {
              TaskSet{htl::binary("a").after("b"), htl::binary("b").after("a")};
            }),
            "htl::TaskSet: the tasks follow each other in a cycle: \"a\" after \"b\" after \"a\"; remove one of these edges");
  EXPECT_EQ(sentence_of([] {
              TaskSet{htl::binary("a"), htl::binary("b").after("a", "d"), htl::binary("c").after("b"), htl::binary("d").after("c")};
            }),
            "htl::TaskSet: the tasks follow each other in a cycle: \"b\" after \"d\" after \"c\" after \"b\"; remove one of these edges");
  // a task that only hangs below the cycle is not named
  EXPECT_EQ(sentence_of([] {
              TaskSet{htl::binary("x").after("a"), htl::binary("a").after("b"), htl::binary("b").after("a")};
            }),
            "htl::TaskSet: the tasks follow each other in a cycle: \"a\" after \"b\" after \"a\"; remove one of these edges");
}

TEST(TaskSet, says_which_task_is_missing) {
  const TaskSet tasks{htl::binary("click"), htl::binary("long_view")};
  EXPECT_EQ(sentence_of([&] { (void)tasks["longview"]; }),
            "htl::TaskSet: there is no task \"longview\"; did you mean \"long_view\"? Tasks: \"click\", \"long_view\"");
  EXPECT_EQ(sentence_of([&] { (void)tasks[2]; }), "htl::TaskSet: expected a position in [0, 2), got 2");
  EXPECT_EQ(sentence_of([&] { (void)tasks[-1]; }), "htl::TaskSet: expected a position in [0, 2), got -1");
  EXPECT_THROW((void)tasks["x"], c10::IndexError);
}

TEST(TaskSet, refuses_a_transform_beside_a_loss_in_the_labels_unit) {
  EXPECT_EQ(sentence_of([] { TaskSet{htl::regression("y").loss(InUnit{}).transform(htl::log1p())}; }),
            "htl::TaskSet: the loss \"scaled\" of task \"y\" works in the label's unit; remove the label transform \"log1p\"");
}

// ---- TaskSet: observed labels --------------------------------------------------------------------------------------------------

TEST(TaskSet, follows_a_chain_of_events_to_the_observed_rows) {
  const TaskSet tasks{htl::regression("amount").observed_when("buy"), htl::binary("click"), htl::binary("buy").observed_when("click"),
                      htl::regression("other")};
  const Labels labels = Labels()
                            .set("click", {doubles({1, 1, 0, 1, kNaN}), bools({1, 1, 1, 0, 0})})
                            .set("buy", {torch::tensor({1, 0, 1, 1, 1}, at::kLong)})
                            .set("amount", {doubles({1, 2, 3, 4, 5}), bools({1, 1, 1, 1, 1})})
                            .set("other", {doubles({1, 2, 3, 4, 5})});
  EXPECT_TRUE(same_bits(tasks.observed(0, labels), bools({1, 0, 0, 0, 0})));
  EXPECT_TRUE(same_bits(tasks.observed(1, labels), bools({1, 1, 1, 0, 0})));
  EXPECT_TRUE(same_bits(tasks.observed(2, labels), bools({1, 1, 0, 0, 0})));
  EXPECT_FALSE(tasks.observed(3, labels).defined());
}

TEST(TaskSet, refuses_events_that_are_none) {
  EXPECT_EQ(sentence_of([] {
              TaskSet{htl::binary("click"), htl::regression("y").observed_when("klick")};
            }),
            "htl::TaskSet: task \"y\" is observed when \"klick\", which is not there; did you mean \"click\"?");
  EXPECT_EQ(sentence_of([] {
              TaskSet{htl::regression("x"), htl::regression("y").observed_when("x")};
            }),
            "htl::TaskSet: task \"y\" is observed when \"x\", which is regression; expected a binary task");
  EXPECT_EQ(sentence_of([] {
              TaskSet{htl::binary("a").observed_when("b"), htl::binary("b").observed_when("a")};
            }),
            "htl::TaskSet: the label of task \"a\" is observed only when it is itself observed; break this circle of observed_when()");
  EXPECT_EQ(sentence_of([] { TaskSet{htl::binary("a").observed_when("a")}; }),
            "htl::TaskSet: the label of task \"a\" is observed only when it is itself observed; break this circle of observed_when()");
}

TEST(TaskSet, fits_its_transforms_to_observed_labels_as_a_new_value) {
  const TaskSet tasks{htl::binary("click"), htl::regression("time").observed_when("click").transform(htl::z_score()), htl::regression("raw")};
  const Labels labels =
      Labels().set("click", {doubles({1, 0, 1, 1})}).set("time", {doubles({2, kNaN, 4, 99}), bools({1, 1, 1, 0})}).set("raw", {doubles({1, 2, 3, 4})});
  const TaskSet fitted = tasks.fitted(labels);
  EXPECT_FALSE(tasks["time"].transform().is_fitted());
  EXPECT_DOUBLE_EQ(fitted["time"].transform().statistics()["mean"].number(), 3.0);
  EXPECT_DOUBLE_EQ(fitted["time"].transform().statistics()["sd"].number(), 1.0);
  EXPECT_EQ(fitted["time"].observed_when(), "click");
  EXPECT_EQ(fitted.parents(2), tasks.parents(2));
}

TEST(TaskSet, says_which_transform_it_could_not_fit) {
  const TaskSet tasks{htl::regression("time").transform(htl::z_score())};
  EXPECT_EQ(sentence_of([&] {
              tasks.fitted(Labels().set("time", {doubles({1, kNaN})}));
            }),
            "htl::TaskSet: can't fit task \"time\" to its labels: htl::z_score: expected finite labels, got NaN or infinity; mask those rows");
  EXPECT_EQ(sentence_of([&] {
              tasks.fitted(Labels().set("time", {doubles({1}), bools({0})}));
            }),
            "htl::TaskSet: can't fit task \"time\" to its labels: htl::z_score: expected at least one observed label to fit to, got none");
  EXPECT_THROW(tasks.fitted(Labels()), c10::IndexError);
}

// ---- TaskSet: predictions ------------------------------------------------------------------------------------------------------

TEST(TaskSet, predicts_in_the_labels_unit) {
  const TaskSet tasks = TaskSet{htl::binary("click"), htl::multiclass("kind", 3), htl::regression("time").transform(htl::z_score()),
                                htl::regression("amount").transform(htl::log1p())}
                            .fitted(Labels().set("time", {doubles({10, 30})}).set("amount", {doubles({0, 1})}));
  const TaskOutputs outputs = TaskOutputs()
                                  .set("click", doubles({0, 2}).view({2, 1}))
                                  .set("kind", doubles({1, 2, 3, 0, 0, 0}).view({2, 3}))
                                  .set("time", doubles({0, -1}).view({2, 1}))
                                  .set("amount", doubles({0, 1}).view({2, 1}));
  const htl::Predictions p = tasks.predict(outputs);
  EXPECT_EQ(p.names(), tasks.names());
  EXPECT_TRUE(close(p["click"], doubles({.5, .8807970779778823})));
  EXPECT_TRUE(close(p["kind"], doubles({.09003057317038046, .24472847105479767, .6652409557748219, 1. / 3, 1. / 3, 1. / 3}).view({2, 3})));
  EXPECT_TRUE(close(p["time"], doubles({20, 10})));
  EXPECT_TRUE(close(p["amount"], doubles({0, std::exp(1.0) - 1})));
  EXPECT_TRUE(gradcheck([&](const auto& x) { return tasks.predict(TaskOutputs(outputs).set("time", x[0]))["time"]; }, {outputs["time"]}));
}

TEST(TaskSet, predicts_by_the_first_of_a_tasks_losses) {
  const TaskSet tasks = TaskSet{htl::regression("y").loss(Scaled{2, 2}).loss(Scaled{9, 2}, 3).transform(htl::ZScoreTransform{1, 10})};
  EXPECT_TRUE(close(tasks.predict(TaskOutputs().set("y", doubles({1, 2}).view({1, 2})))["y"], doubles({2 * 3 * 10 + 1})));
  const TaskSet unit{htl::regression("y").loss(InUnit{})};
  const TaskOutputs outputs = TaskOutputs().set("y", doubles({1, 2}).view({2, 1}));
  EXPECT_TRUE(close(unit.predict(outputs, Named<at::Tensor>().set("duration", doubles({5, 7})))["y"], doubles({5, 14})));
  EXPECT_EQ(sentence_of([&] { unit.predict(outputs); }), "htl: there is no \"duration\" here; nothing is");
}

TEST(TaskSet, takes_an_event_for_happened_where_it_is_observed_and_counts) {
  const TaskSet tasks{htl::binary("click"), htl::binary("buy").observed_when("click")};
  htl::Labels labels;
  labels.set("click", {torch::tensor({1.f, 1.f, 0.f, 1.f}), torch::tensor({1, 1, 1, 0}).to(at::kBool), torch::tensor({2.f, 0.f, 1.f, 1.f})});
  labels.set("buy", {torch::ones({4})});
  EXPECT_TRUE(tasks.observed(1, labels).equal(torch::tensor({1, 0, 0, 0}).to(at::kBool))) << "a row of weight 0 has no label";
}

TEST(TaskSet, predicts_from_narrow_outputs_as_the_loss_reads_them) {
  const TaskSet tasks{htl::regression("count").loss(htl::Poisson{}), htl::regression("spend").loss(htl::ZILN{})};
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    htl::TaskOutputs narrow, wide;
    for (const htl::TaskSpec& task : tasks) {
      narrow.set(task.name(), torch::full({2, task.output_width()}, 12.0).to(type));
      wide.set(task.name(), narrow[task.name()].to(at::kFloat));
    }
    const htl::Predictions predictions = tasks.predict(narrow), expected = tasks.predict(wide);
    for (const auto& [name, value] : predictions) {
      EXPECT_TRUE(value.isfinite().all().item<bool>()) << name;
      EXPECT_TRUE(htl::test::same_bits(value, expected[name])) << name;
    }
  }
}

TEST(TaskSet, refuses_outputs_of_the_wrong_shape_or_name) {
  const TaskSet tasks{htl::binary("click"), htl::multiclass("kind", 3)};
  const TaskOutputs outputs = TaskOutputs().set("click", torch::zeros({2, 1})).set("kind", torch::zeros({2, 3}));
  EXPECT_EQ(sentence_of([&] { tasks.predict(outputs); }), "no error");
  EXPECT_EQ(sentence_of([&] { tasks.predict(TaskOutputs(outputs).set("click", torch::zeros({2}))); }),
            "htl::TaskSet::predict: expected the output of task \"click\" of shape [any, 1], got [2]");
  EXPECT_EQ(sentence_of([&] {
              tasks.predict(TaskOutputs(outputs).set("kind", torch::zeros({2, 2})));
            }),
            "htl::TaskSet::predict: expected the output of task \"kind\" of shape [any, 3], got [2, 2]");
  EXPECT_EQ(sentence_of([&] {
              tasks.predict(TaskOutputs().set("click", torch::zeros({2, 1})));
            }),
            "htl: there is no \"kind\" here; did you mean \"click\"? Present: \"click\"");
}

// ---- TaskLosses, AnyLoss -------------------------------------------------------------------------------------------------------

TEST(TaskLosses, sum_with_their_graphs) {
  const at::Tensor x = doubles({1, 2}).requires_grad_();
  htl::TaskLosses losses;
  EXPECT_EQ(sentence_of([&] { losses.sum(); }), "htl::TaskLosses: there is no loss to sum; give it at least one task");
  losses.values.set("a", x[0] * 3).set("b", x[1] * 5);
  losses.sum().backward();
  EXPECT_TRUE(same_bits(x.grad(), doubles({3, 5})));
  EXPECT_EQ(losses["b"].item<double>(), 10.0);
}

TEST(AnyLoss, reduces_rows_that_count_and_no_others) {
  const htl::AnyLoss loss = Scaled{2};
  const Named<at::Tensor> context;
  const at::Tensor output = doubles({1, kNaN, 3}).view({3, 1}).requires_grad_();
  const at::Tensor value = loss.reduced({output, {}, {}, {}, context}, doubles({.25, 0, .75}));
  value.backward();
  EXPECT_DOUBLE_EQ(value.item<double>(), 5.0);
  EXPECT_TRUE(same_bits(output.grad(), doubles({.5, 0, 1.5}).view({3, 1})));
  EXPECT_EQ(loss.label_range(), (std::pair{-kInfinity, kInfinity}));
  EXPECT_FALSE(loss.in_label_unit());
  struct Scalar : Scaled {
    at::Tensor per_row(const htl::LossInput& input) const { return input.output.sum(); }
  };
  EXPECT_EQ(sentence_of([&] {
              htl::AnyLoss(Scalar{}).reduced({output, {}, {}, {}, context}, doubles({.25, 0, .75}));
            }),
            "htl::AnyLoss: expected per_row() of loss \"scaled\" of shape [3], got []");
}

}  // namespace
