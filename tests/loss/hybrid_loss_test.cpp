// SPDX-License-Identifier: Apache-2.0
// The hybrid loss against a naive reduction; masks, weights, transforms and events; losses that users write; sentences.
#include <htl/loss/huber.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/task/grouped_transform.hpp>

#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "support/gradcheck.hpp"
#include "support/seeded.hpp"

namespace {

using htl::AnyLoss;
using htl::HybridLoss;
using htl::Label;
using htl::Labels;
using htl::LossInput;
using htl::Named;
using htl::TaskKind;
using htl::TaskLosses;
using htl::TaskOutputs;
using htl::TaskSet;
using htl::TaskSpec;
using htl::test::close;
using htl::test::gradcheck;
using htl::test::Random;
using htl::test::same_bits;
using htl::test::sentence_of;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }
at::Tensor bools(const std::vector<int64_t>& values) { return torch::tensor(values, at::kLong).to(at::kBool); }

// ---- losses as users write them ------------------------------------------------------------------------------------------------

/// Zero-inflated log-normal: three numbers per row, works in the label's unit, defined for labels ≥ 0.
struct ZeroInflated {
  static constexpr bool in_label_unit = true;
  std::string name() const { return "zero_inflated"; }
  int64_t output_width() const { return 3; }
  std::pair<double, double> label_range() const { return {0.0, kInfinity}; }
  at::Tensor per_row(const LossInput& input) const {
    const at::Tensor positive = input.label > 0, logit = input.output.select(1, 0), mean = input.output.select(1, 1);
    const at::Tensor sd = torch::softplus(input.output.select(1, 2)), log_label = torch::where(positive, input.label, 1.0).log();
    const at::Tensor normal = log_label + sd.log() + 0.5 * std::log(2 * M_PI) + 0.5 * ((log_label - mean) / sd).square();
    return at::binary_cross_entropy_with_logits(logit, positive.to(logit.scalar_type()), {}, {}, at::Reduction::None) + torch::where(positive, normal, 0.0);
  }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    return output.select(1, 0).sigmoid() * (output.select(1, 1) + 0.5 * torch::softplus(output.select(1, 2)).square()).exp();
  }
};

/// Reads a context column: the squared error of the share of a duration, predicted back in seconds.
struct ShareOfDuration {
  static constexpr bool in_label_unit = true;
  std::string name() const { return "share_of_duration"; }
  int64_t output_width() const { return 1; }
  at::Tensor per_row(const LossInput& input) const { return (input.output.squeeze(1) - input.label / input.context["duration"]).square(); }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>& context) const { return output.squeeze(1) * context["duration"]; }
};

/// M thresholds: P(label > s_m) each, the expectation as prediction.
struct Thresholds {
  static constexpr bool in_label_unit = true;
  std::vector<double> splits;
  std::string name() const { return "thresholds"; }
  int64_t output_width() const { return static_cast<int64_t>(splits.size()); }
  at::Tensor edges(const at::Tensor& like) const { return torch::tensor(splits, like.options()); }
  at::Tensor per_row(const LossInput& input) const {
    const at::Tensor above = (input.label.unsqueeze(1) > edges(input.output)).to(input.output.scalar_type());
    return at::binary_cross_entropy_with_logits(input.output, above, {}, {}, at::Reduction::None).mean(1);
  }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const {
    const at::Tensor s = edges(output);
    return output.sigmoid().mv(torch::cat({s.narrow(0, 0, 1), s.diff()}));
  }
};

/// The empirical quantile of the label among rows of like duration, by linear interpolation; predicted back in seconds. Its tables are fitted.
struct QuantileByDuration {
  static constexpr bool in_label_unit = true;
  double split = 0.0;             // of durations: short below, long from here
  std::vector<double> tables[2];  // the labels at equally spaced quantiles
  std::string name() const { return "quantile_by_duration"; }
  int64_t output_width() const { return 1; }
  bool fits(TaskKind kind) const { return kind == TaskKind::regression; }
  QuantileByDuration fitted(const Label& label, const Named<at::Tensor>& context) const {
    QuantileByDuration fit{split, {}};
    const at::Tensor is_long = context["duration"].ge(split);
    for (int64_t part = 0; part < 2; ++part) {
      const at::Tensor values = std::get<0>(label.value.masked_select(is_long.eq(part)).to(at::kDouble).sort());
      fit.tables[part].assign(values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel());
    }
    return fit;
  }
  htl::Options parameters() const {
    htl::Options numbers = {{"split", split}};
    for (int part = 0; part < 2; ++part)
      for (size_t i = 0; i < tables[part].size(); ++i) numbers.set("q" + std::to_string(part) + "_" + std::to_string(i), tables[part][i]);
    return numbers;
  }
  at::Tensor map(const at::Tensor& values, const Named<at::Tensor>& context, bool to_label) const {
    std::vector<double> mapped;
    for (int64_t row = 0; row < values.size(0); ++row) {
      const std::vector<double>& table = tables[context["duration"][row].item<double>() >= split ? 1 : 0];
      TORCH_CHECK(table.size() > 1, "quantile_by_duration: no quantiles; call tasks.fitted(training_labels)");
      const double last = static_cast<double>(table.size() - 1), value = values[row].item<double>();
      size_t i = 0;
      if (to_label) {
        const double at = std::clamp(value, 0.0, 1.0) * last;
        i = std::min(static_cast<size_t>(at), table.size() - 2);
        mapped.push_back(table[i] + (at - static_cast<double>(i)) * (table[i + 1] - table[i]));
      } else {
        while (i + 2 < table.size() && value > table[i + 1]) ++i;
        mapped.push_back((static_cast<double>(i) + (value - table[i]) / (table[i + 1] - table[i])) / last);
      }
    }
    return doubles(mapped);
  }
  at::Tensor per_row(const LossInput& input) const { return (input.output.squeeze(1) - map(input.label, input.context, false)).square(); }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>& context) const { return map(output.detach().squeeze(1), context, true); }
};

/// Pairs within a group: log loss that the larger label has the larger output; the mean over pairs, not over rows.
struct PairsInGroup {
  std::string name() const { return "pairs"; }
  int64_t output_width() const { return 1; }
  at::Tensor pairs(const LossInput& input) const {
    const at::Tensor group = input.context["group"], y = input.target;
    at::Tensor valid = (group.unsqueeze(1) == group.unsqueeze(0)).logical_and(y.unsqueeze(1) > y.unsqueeze(0)).to(y.scalar_type());
    return input.weight.defined() ? valid * input.weight.unsqueeze(1) * input.weight.unsqueeze(0) : valid;
  }
  at::Tensor cost(const LossInput& input) const { return torch::softplus(input.output.transpose(0, 1) - input.output); }
  at::Tensor per_row(const LossInput& input) const { return (pairs(input) * cost(input)).sum(1); }
  at::Tensor reduced(const LossInput& input, const at::Tensor&) const {
    const at::Tensor weight = pairs(input);
    return (weight * cost(input)).sum() / weight.sum().clamp_min(1e-30);
  }
  at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.squeeze(1); }
};

static_assert(htl::TaskLoss<QuantileByDuration> && htl::TaskLoss<ZeroInflated> && htl::TaskLoss<ShareOfDuration> && htl::TaskLoss<Thresholds> &&
              htl::TaskLoss<PairsInGroup>);
static_assert(htl::RowLoss<htl::Huber> && !htl::RowLoss<Thresholds>);

TEST(HybridLoss, takes_a_zero_inflated_loss_of_width_three_in_the_labels_unit) {
  const TaskSet tasks{htl::regression("amount").loss(ZeroInflated{})};
  const at::Tensor output = doubles({.1, .2, .3, .4, .5, .6, 9, 9, 9}).view({3, 3}).requires_grad_();
  const Labels labels = Labels().set("amount", {doubles({0, 1.5, kNaN}), bools({1, 1, 0})});
  const TaskLosses losses = HybridLoss{tasks}(TaskOutputs().set("amount", output), labels);
  EXPECT_NEAR(losses["amount"].item<double>(), 1.311385, 1e-6);
  losses.sum().backward();
  EXPECT_TRUE(close(output.grad(), doubles({.26249, 0, 0, -.200656, .043913, .30858, 0, 0, 0}).view({3, 3}), 0, 1e-6));
  const auto predictions = tasks.predict(TaskOutputs().set("amount", output));
  EXPECT_TRUE(close(predictions["amount"].narrow(0, 0, 2), doubles({.923638, 1.690755}), 0, 1e-6));
  EXPECT_EQ(sentence_of([&] {
              HybridLoss{tasks}(TaskOutputs().set("amount", output), Labels().set("amount", {doubles({0, -1.5, 2})}));
            }),
            "htl::HybridLoss: loss \"zero_inflated\" of task \"amount\" expects labels in [0, inf], got -1.5 in row 1; correct the data, or mask the row");
}

TEST(HybridLoss, takes_a_loss_that_reads_a_context_column) {
  const TaskSet tasks{htl::regression("watch").loss(ShareOfDuration{}).context({"duration"})};
  const TaskOutputs outputs = TaskOutputs().set("watch", doubles({.5, .25}).view({2, 1}));
  Labels labels = Labels().set("watch", {doubles({10, 30})});
  EXPECT_EQ(sentence_of([&] { HybridLoss{tasks}(outputs, labels); }),
            "htl::HybridLoss: task \"watch\" reads the context column \"duration\", which the labels do not have; they have none");
  labels.context.set("duration", doubles({10, 40}));
  EXPECT_NEAR(HybridLoss{tasks}(outputs, labels)["watch"].item<double>(), .25, 1e-12);
  EXPECT_TRUE(close(tasks.predict(outputs, labels.context)["watch"], doubles({5, 10})));
  labels.context.set("duration", doubles({10}));
  EXPECT_EQ(sentence_of([&] { HybridLoss{tasks}(outputs, labels); }), "htl::HybridLoss: expected the context column of task \"watch\" of shape [2], got [1]");
}

TEST(HybridLoss, takes_a_loss_with_statistics_of_the_training_labels_by_context) {
  const TaskSet unfitted{htl::binary("play"), htl::regression("watch").loss(QuantileByDuration{30, {}}).context({"duration"}).observed_when("play")};
  Labels training = Labels()
                        .set("play", {doubles({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1})})
                        .set("watch", {doubles({9, 0, 60, 2, 5, 20, 10, 0, 10, 40, 999, kNaN, kNaN}), bools({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1}),
                                       doubles({1, 1, 1, 1, 1, 2, 1, 1, .5, 1, 1, 1, 0})});
  training.context.set("duration", doubles({10, 10, 60, 10, 10, 60, 10, 60, 60, 60, 10, 10, 10}));
  const TaskSet tasks = unfitted.fitted(training);
  const htl::Options numbers = tasks["watch"].losses()[0].loss.parameters();
  EXPECT_EQ(numbers.size(), 11U);  // 999 was not played, and the last two rows carry no label
  EXPECT_EQ(numbers["q0_4"].number(), 10.0);
  EXPECT_EQ(numbers["q1_1"].number(), 10.0);
  EXPECT_TRUE(unfitted["watch"].losses()[0].loss.parameters().size() == 1) << "fitting makes a copy";

  Labels labels = Labels().set("play", {doubles({1, 1})}).set("watch", {doubles({7, 7})});
  labels.context.set("duration", doubles({10, 60}));
  const TaskOutputs outputs = TaskOutputs().set("play", doubles({0, 0}).view({2, 1})).set("watch", doubles({.625, .175}).view({2, 1}));
  EXPECT_NEAR(HybridLoss{tasks}(outputs, labels)["watch"].item<double>(), 0.0, 1e-30);
  const TaskOutputs other = TaskOutputs().set("play", doubles({0, 0}).view({2, 1})).set("watch", doubles({.6, .6}).view({2, 1}));
  EXPECT_TRUE(close(tasks.predict(other, labels.context)["watch"], doubles({6.6, 28})));
  EXPECT_NE(sentence_of([&] { HybridLoss{unfitted}(outputs, labels); }).find("tasks.fitted"), std::string::npos);
  labels.context = {};
  EXPECT_EQ(sentence_of([&] { unfitted.fitted(labels); }).find("htl::TaskSet: can't fit task \"watch\" to its labels: "), 0U);
}

TEST(HybridLoss, takes_a_loss_of_width_m) {
  const TaskSet tasks{htl::regression("watch").loss(Thresholds{{2, 5, 10, 30}})};
  const at::Tensor p = doubles({.9, .6, .4, .1, .5, .5, .5, .5}).view({2, 4});
  const TaskOutputs outputs = TaskOutputs().set("watch", p.logit());
  EXPECT_NEAR(HybridLoss{tasks}(outputs, Labels().set("watch", {doubles({7, 0}), bools({1, 0})}))["watch"].item<double>(), .308093, 1e-6);
  EXPECT_NEAR(tasks.predict(outputs)["watch"][0].item<double>(), 7.6, 1e-12);
}

TEST(HybridLoss, takes_a_pairwise_loss_with_its_own_mean) {
  const TaskSet tasks{htl::regression("score").loss(PairsInGroup{})};
  const at::Tensor x = doubles({1, 2, 0, 5, 7}).view({5, 1}), y = doubles({3, 1, kNaN, 1, 2});
  Labels labels = Labels().set("score", {y, bools({1, 1, 0, 1, 1})});
  labels.context.set("group", torch::tensor({0, 0, 0, 1, 1}, at::kLong));
  const double first = std::log1p(std::exp(1.0)), second = std::log1p(std::exp(-2.0));  // row 0 over row 1, row 4 over row 3
  EXPECT_NEAR(HybridLoss{tasks}(TaskOutputs().set("score", x), labels)["score"].item<double>(), (first + second) / 2, 1e-12);
  labels.set("score", {y, bools({0, 0, 0, 0, 0})});
  const TaskLosses losses = HybridLoss{tasks}(TaskOutputs().set("score", x.clone().requires_grad_()), labels);
  EXPECT_EQ(losses["score"].item<double>(), 0.0);
  EXPECT_TRUE(losses["score"].requires_grad());
  EXPECT_FALSE(losses.active.item<bool>());
}

// ---- the built-in reduction ----------------------------------------------------------------------------------------------------

TEST(HybridLoss, divides_by_the_weights_of_the_rows_that_carry_the_label) {
  const TaskSet tasks{htl::regression("y")};
  const TaskOutputs outputs = TaskOutputs().set("y", doubles({1, 2, 3, 4}).sqrt().view({4, 1}));  // squared errors 1, 2, 3, 4
  const auto loss = [&](Label label) { return HybridLoss{tasks}(outputs, Labels().set("y", std::move(label)))["y"].item<double>(); };
  EXPECT_NEAR(loss({torch::zeros({4}, at::kDouble), bools({1, 0, 1, 0})}), 2.0, 1e-12);
  EXPECT_NEAR(loss({torch::zeros({4}, at::kDouble), {}, doubles({1, 0, 1, 0})}), 2.0, 1e-12);
  EXPECT_NEAR(loss({torch::zeros({4}, at::kDouble), bools({0, 1, 1, 1}), doubles({9, 1, 0, 3})}), (2 + 12) / 4.0, 1e-12);
  EXPECT_NEAR(loss({torch::zeros({4}, at::kDouble)}), 2.5, 1e-12);
}

TEST(HybridLoss, of_logarithms_is_the_mean_squared_logarithmic_error) {
  const TaskSet tasks{htl::regression("y").transform(htl::log1p())};
  const TaskOutputs outputs = TaskOutputs().set("y", doubles({.6, .7, .3, .8}).log1p().view({4, 1}));
  EXPECT_NEAR(HybridLoss{tasks}(outputs, Labels().set("y", {doubles({1, 1.2, 0, 2})}))["y"].item<double>(), .111512, 1e-6);
  EXPECT_TRUE(close(tasks.predict(outputs)["y"], doubles({.6, .7, .3, .8})));
}

/// A random batch of three to five tasks of all kinds, and its losses by naive loops.
struct Scene {
  std::vector<TaskSpec> specs;
  TaskOutputs outputs;
  Labels labels;

  Scene(Random& random, int64_t rows, at::ScalarType type, bool hard = true) {
    const int64_t count = random.integer(3, 5);
    for (int64_t t = 0; t < count; ++t) {
      const std::string name = "task" + std::to_string(t);
      const int64_t kind = t == 0 ? 0 : random.integer(0, 2);
      TaskSpec spec = kind == 0 ? htl::binary(name) : kind == 1 ? htl::multiclass(name, 4) : htl::regression(name);
      at::Tensor value = kind == 0 ? random.events({rows}, .4, type) : kind == 1 ? random.ids({rows}, 4) : random.uniform({rows}, 0, 9, type);
      if (kind == 2 && random.chance(.5)) spec = spec.transform(htl::log1p());
      if (kind == 2 && random.chance(.3)) spec = spec.transform(htl::ZScoreTransform{3.0, 2.5});
      if (kind == 2 && random.chance(.5)) spec = spec.loss(htl::SquaredError{}, random.real(0, 2)).loss(htl::Huber(.7), random.real(0, 2));
      if (random.chance(.3)) spec = spec.weight(random.real(0, 3));
      if (t > 0 && random.chance(.4)) spec = spec.observed_when("task0");
      Label label{value};
      if (random.chance(.6)) label.mask = random.mask({rows}, random.pick<double>({0, .3, .8, 1}));
      if (random.chance(.5)) label.weight = random.uniform({rows}, 0, 5, random.pick<at::ScalarType>({at::kFloat, at::kDouble})) * random.mask({rows}, .8);
      if (hard && label.mask.defined() && kind != 1) label.value = torch::where(label.mask, value, kNaN);
      if (hard && label.mask.defined() && label.weight.defined()) label.weight = torch::where(label.mask, label.weight, kNaN);
      specs.push_back(spec);
      labels.set(name, label);
      outputs.set(name, random.normal({rows, spec.output_width()}, 2, type).requires_grad_());
    }
  }

  bool observed(const std::string& name, int64_t row) const {
    const Label& label = labels[name];
    if (label.mask.defined() && !label.mask[row].item<bool>()) return false;
    for (const TaskSpec& spec : specs)
      if (spec.name() == name && !spec.observed_when().empty())
        return observed(spec.observed_when(), row) && labels[spec.observed_when()].value[row].item<double>() == 1.0 &&
               (!labels[spec.observed_when()].weight.defined() || labels[spec.observed_when()].weight[row].item<double>() > 0.0);
    return true;
  }

  double naive(const TaskSpec& spec) const {
    double numerator = 0, denominator = 0;
    const Label& label = labels[spec.name()];
    for (int64_t row = 0; row < label.value.size(0); ++row) {
      const double weight = !observed(spec.name(), row) ? 0 : label.weight.defined() ? label.weight[row].item<double>() : 1;
      if (weight == 0) continue;
      const at::Tensor x = outputs[spec.name()][row].detach().to(at::kDouble);
      double y = label.value[row].item<double>(), l = 0;
      if (spec.kind() == TaskKind::binary) {
        const double p = 1 / (1 + std::exp(-x[0].item<double>()));
        l = -y * std::log(p) - (1 - y) * std::log(1 - p);
      } else if (spec.kind() == TaskKind::multiclass) {
        l = -std::log((x.exp() / x.exp().sum())[static_cast<int64_t>(y)].item<double>());
      } else {
        if (spec.transform().name() == "log1p") y = std::log(1 + y);
        if (spec.transform().name() == "z_score") y = (y - 3.0) / 2.5;
        const double e = std::abs(x[0].item<double>() - y);
        l = e * e;
        if (!spec.losses().empty()) l = spec.losses()[0].weight * l + spec.losses()[1].weight * (e < .7 ? .5 * e * e : .7 * (e - .35));
      }
      numerator += weight * l;
      denominator += weight;
    }
    return denominator > 0 ? spec.weight() * numerator / denominator : 0.0;
  }
};

TEST(HybridLoss, equals_a_naive_reduction_over_hundreds_of_random_batches) {
  Random random(11);
  int inactive = 0;
  for (int round = 0; round < 300; ++round) {
    const at::ScalarType type = round % 3 == 0 ? at::kFloat : at::kDouble;
    Scene scene(random, random.pick<int64_t>({1, 1, 2, 5, 17, 40}), type);
    const TaskSet tasks(scene.specs);
    const TaskLosses losses = HybridLoss{tasks}(scene.outputs, scene.labels);
    EXPECT_EQ(losses.values.names(), tasks.names());
    losses.sum().backward();
    for (int64_t t = 0; t < tasks.size(); ++t) {
      const TaskSpec& task = tasks[t];
      const double expected = scene.naive(task);
      ASSERT_NEAR(losses[task.name()].item<double>(), expected, (type == at::kFloat ? 1e-5 : 1e-12) * std::max(1.0, expected)) << round << task.name();
      ASSERT_EQ(losses[task.name()].scalar_type(), type);
      const at::Tensor gradient = scene.outputs[task.name()].grad();
      ASSERT_TRUE(gradient.isfinite().all().item<bool>());
      bool any = false;
      for (int64_t row = 0; row < gradient.size(0); ++row) {
        const bool counts =
            scene.observed(task.name(), row) && (!scene.labels[task.name()].weight.defined() || scene.labels[task.name()].weight[row].item<double>() > 0);
        ASSERT_TRUE(counts || gradient[row].abs().max().item<double>() == 0.0);
        any = any || counts;
      }
      ASSERT_EQ(losses.active[t].item<bool>(), any);
      inactive += any ? 0 : 1;
    }
  }
  EXPECT_GT(inactive, 20);
}

TEST(HybridLoss, has_the_gradient_of_finite_differences_with_masks_weights_and_transforms) {
  Random random(12);
  for (int round = 0; round < 25; ++round) {
    Scene scene(random, 6, at::kDouble);
    const HybridLoss loss{TaskSet(scene.specs)};
    std::vector<at::Tensor> inputs;
    for (const auto& [name, output] : scene.outputs) inputs.push_back(output.detach());
    EXPECT_TRUE(gradcheck(
        [&](const std::vector<at::Tensor>& x) {
          TaskOutputs outputs;
          for (size_t t = 0; t < x.size(); ++t) outputs.set(scene.specs[t].name(), x[t]);
          const TaskLosses losses = loss(outputs, scene.labels);
          std::vector<at::Tensor> all;
          for (const auto& [name, value] : losses.values) all.push_back(value);
          return torch::stack(all);
        },
        inputs));
  }
}

TEST(HybridLoss, by_loops_equals_its_form_by_tensors_for_other_devices) {
  Random random(13);
  for (int round = 0; round < 100; ++round) {
    const at::ScalarType type = round % 2 == 0 ? at::kFloat : at::kDouble;
    Scene scene(random, random.pick<int64_t>({0, 1, 5, 3000}), type);
    const TaskSet tasks(scene.specs);
    for (int64_t t = 0; t < tasks.size(); ++t) {
      Label label = scene.labels[tasks[t].name()];
      label.mask = tasks.observed(t, scene.labels);
      if (!tasks[t].is_discrete() && random.chance(.5)) label.value = label.value.to(at::kFloat);
      const htl::PreparedLabel a = htl::detail::prepare_by_loops(tasks[t], label, {}, type), b = htl::detail::prepare_by_tensors(tasks[t], label, {}, type);
      const double tolerance = type == at::kFloat ? 1e-5 : 1e-12;  // readers give labels in fp32: fp64 losses must still see the same targets
      EXPECT_TRUE(close(a.target, b.target, tolerance));
      EXPECT_TRUE(close(a.label, b.label, tolerance));
      EXPECT_TRUE(close(a.share, b.share, tolerance));
      EXPECT_EQ(a.weight.defined(), b.weight.defined());
      EXPECT_TRUE(!a.weight.defined() || close(a.weight, b.weight, tolerance));
      EXPECT_TRUE(same_bits(a.active, b.active));
      EXPECT_EQ(a.target.scalar_type(), b.target.scalar_type());
    }
  }
}

TEST(HybridLoss, does_not_depend_on_the_order_of_the_rows) {
  Random random(14);
  for (int round = 0; round < 50; ++round) {
    Scene scene(random, 64, at::kDouble);
    const HybridLoss loss{TaskSet(scene.specs)};
    const at::Tensor order = random.permutation(64);
    TaskOutputs shuffled;
    for (const auto& [name, output] : scene.outputs) shuffled.set(name, output.index_select(0, order));
    const TaskLosses a = loss(scene.outputs, scene.labels), b = loss(shuffled, scene.labels.index_select(order));
    for (const auto& [name, value] : a.values) EXPECT_TRUE(close(value, b[name]));
  }
}

TEST(HybridLoss, of_an_empty_batch_or_without_labels_is_zero_with_a_graph_and_inactive) {
  const TaskSet tasks{htl::binary("click"), htl::multiclass("kind", 3), htl::regression("time").transform(htl::ZScoreTransform{1, 2}),
                      htl::regression("amount").loss(Thresholds{{1, 2}})};
  for (const int64_t rows : {0, 4}) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
      TaskOutputs outputs;
      Labels labels;
      for (const TaskSpec& task : tasks) {
        outputs.set(task.name(), torch::randn({rows, task.output_width()}, type).requires_grad_());
        labels.set(task.name(), {torch::full({rows}, kNaN), torch::zeros({rows}, at::kBool)});
      }
      labels.set("kind", {torch::full({rows}, 77, at::kLong), torch::zeros({rows}, at::kBool)});
      const TaskLosses losses = HybridLoss{tasks}(outputs, labels);
      losses.sum().backward();
      EXPECT_TRUE(at::equal(losses.active, torch::zeros({4}, at::kBool)));
      for (const auto& [name, value] : losses.values) {
        EXPECT_EQ(value.item<double>(), 0.0) << name;
        EXPECT_TRUE(at::equal(outputs[name].grad(), torch::zeros_like(outputs[name]))) << name << rows;
      }
    }
  }
  // an empty batch whose labels have no mask
  const TaskLosses losses =
      HybridLoss(TaskSet{htl::regression("y")})(TaskOutputs().set("y", torch::randn({0, 1}).requires_grad_()), Labels().set("y", {torch::randn({0})}));
  EXPECT_EQ(losses["y"].item<double>(), 0.0);
  EXPECT_FALSE(losses.active.item<bool>());
}

TEST(HybridLoss, keeps_labels_of_rows_without_them_out_of_value_and_gradient_bit_by_bit) {
  Random random(15);
  for (int round = 0; round < 50; ++round) {
    Scene scene(random, 20, at::kFloat, /*hard=*/false);
    const HybridLoss loss{TaskSet(scene.specs)};
    const TaskLosses clean = loss(scene.outputs, scene.labels);
    clean.sum().backward();
    TaskOutputs outputs;
    Labels labels = scene.labels;
    for (const auto& [name, output] : scene.outputs) {
      outputs.set(name, output.detach().clone().requires_grad_());
      Label label = labels[name];
      at::Tensor carried = torch::tensor(std::vector<int64_t>(20, 1), at::kLong).to(at::kBool);
      for (int64_t row = 0; row < 20; ++row) carried[row].fill_(scene.observed(name, row) && (!label.weight.defined() || label.weight[row].item<double>() > 0));
      label.value = label.value.is_floating_point() ? torch::where(carried, label.value, random.pick<double>({kNaN, kInfinity, -1e30}))
                                                    : torch::where(carried, label.value, torch::full_like(label.value, -100));
      labels.set(name, label);
    }
    for (const TaskSpec& spec : scene.specs)
      if (!outputs.contains(spec.name())) outputs.set(spec.name(), scene.outputs[spec.name()].detach().clone().requires_grad_());
    const TaskLosses dirty = loss(outputs, labels);
    dirty.sum().backward();
    for (const auto& [name, value] : clean.values) {
      EXPECT_TRUE(same_bits(value, dirty[name]));
      EXPECT_TRUE(same_bits(scene.outputs[name].grad(), outputs[name].grad()));
    }
  }
}

TEST(HybridLoss, keeps_its_mean_for_weights_of_any_size) {
  const at::Tensor x = doubles({1, 2, 3, 4}).sqrt().view({4, 1}), y = torch::zeros({4}, at::kDouble), w = doubles({1, 2, 0, 5});
  const TaskSet tasks{htl::regression("y")};
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const double scale : {1e-300, 1e-40, 1e-20, 1.0, 1e20, 1e38, 1e300}) {
      const at::Tensor output = x.to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_();
      const Label label{y, {}, w * scale};
      const at::Tensor value = HybridLoss{tasks}(TaskOutputs().set("y", output), Labels().set("y", label))["y"];
      value.backward();
      const double tolerance = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-6 : 2e-2;
      EXPECT_TRUE(close(value, torch::tensor(25.0 / 8, at::kDouble), tolerance)) << scale;
      EXPECT_TRUE(close(output.grad().squeeze(1), 2 * x.squeeze(1) * w / 8, tolerance)) << scale;
      const htl::PreparedLabel prepared = htl::detail::prepare_by_tensors(tasks[0], label, {}, at::kDouble);
      EXPECT_TRUE(close(prepared.share, w / 8)) << scale;
    }
  }
}

TEST(HybridLoss, computes_in_the_outputs_type_and_lifts_narrow_ones_to_float) {
  Random random(16);
  Scene scene(random, 1000, at::kDouble);
  const HybridLoss loss{TaskSet(scene.specs)};
  const TaskLosses exact = loss(scene.outputs, scene.labels);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    TaskOutputs outputs, rounded;
    for (const auto& [name, output] : scene.outputs) {
      outputs.set(name, output.detach().to(type).requires_grad_());
      rounded.set(name, outputs[name].detach().to(at::kDouble).requires_grad_());
    }
    const TaskLosses losses = loss(outputs, scene.labels), reference = loss(rounded, scene.labels);
    losses.sum().backward();
    reference.sum().backward();
    for (const auto& [name, value] : losses.values) {
      EXPECT_EQ(value.scalar_type(), at::kFloat);
      EXPECT_EQ(outputs[name].grad().scalar_type(), type);
      EXPECT_TRUE(close(value, reference[name], 1e-5)) << name;
      EXPECT_TRUE(close(outputs[name].grad(), rounded[name].grad(), type == at::kFloat ? 1e-5 : type == at::kHalf ? 1e-3 : 8e-3, 1e-6)) << name;
    }
  }
}

TEST(HybridLoss, reads_labels_of_any_number_type) {
  const TaskSet tasks{htl::binary("click"), htl::multiclass("kind", 3), htl::regression("time")};
  const TaskOutputs outputs = TaskOutputs().set("click", torch::randn({3, 1})).set("kind", torch::randn({3, 3})).set("time", torch::randn({3, 1}));
  const auto losses = [&](at::ScalarType type) {
    const auto column = [&](std::vector<int64_t> values) { return Label{torch::tensor(values, at::kLong).to(type)}; };
    return HybridLoss{tasks}(outputs, Labels().set("click", column({0, 1, 1})).set("kind", column({2, 0, 1})).set("time", column({5, 0, 7}))).sum();
  };
  const at::Tensor expected = losses(at::kDouble);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf, at::kLong, at::kInt, at::kShort, at::kByte})
    EXPECT_TRUE(same_bits(losses(type), expected));
}

TEST(HybridLoss, gives_the_raw_label_to_losses_in_its_unit_and_the_target_to_others) {
  struct Spy {
    std::shared_ptr<at::Tensor> target = std::make_shared<at::Tensor>(), label = std::make_shared<at::Tensor>(), weight = std::make_shared<at::Tensor>();
    std::string name() const { return "spy"; }
    int64_t output_width() const { return 1; }
    at::Tensor per_row(const LossInput& input) const {
      *target = input.target;
      *label = input.label;
      *weight = input.weight;
      return input.output.squeeze(1) * 0;
    }
    at::Tensor predict(const at::Tensor& output, const Named<at::Tensor>&) const { return output.squeeze(1); }
  };
  const Spy spy;
  const TaskSet tasks{htl::regression("y").transform(htl::ZScoreTransform{10, 5}).loss(spy)};
  const TaskOutputs outputs = TaskOutputs().set("y", torch::zeros({3, 1}));
  HybridLoss{tasks}(outputs, Labels().set("y", {doubles({20, kNaN, 5}), bools({1, 0, 1}), doubles({2, 7, 4})}));
  EXPECT_TRUE(same_bits(*spy.target, torch::tensor({2.f, 0.f, -1.f})));
  EXPECT_TRUE(same_bits(*spy.label, torch::tensor({20.f, 0.f, 5.f})));
  EXPECT_TRUE(same_bits(*spy.weight, torch::tensor({.5f, 0.f, 1.f})));
  HybridLoss{tasks}(outputs, Labels().set("y", {doubles({20, 10, 5})}));
  EXPECT_FALSE(spy.weight->defined());
}

TEST(HybridLoss, sums_a_tasks_losses_with_their_weights_and_the_tasks) {
  const TaskOutputs outputs = TaskOutputs().set("y", doubles({2}).view({1, 1}));
  const Labels labels = Labels().set("y", {doubles({0})});
  const auto loss = [&](const TaskSpec& task) { return HybridLoss(TaskSet{task})(outputs, labels); };
  EXPECT_NEAR(loss(htl::regression("y").loss(htl::SquaredError{}).loss(htl::Huber(1), 4)).sum().item<double>(), 4 + 4 * 1.5, 1e-12);
  EXPECT_NEAR(loss(htl::regression("y").loss(htl::SquaredError{}).loss(htl::Huber(1), 4).weight(.5)).sum().item<double>(), 5, 1e-12);
  EXPECT_NEAR(loss(htl::regression("y").weight(3)).sum().item<double>(), 12, 1e-12);
  EXPECT_TRUE(loss(htl::regression("y").weight(3)).active.item<bool>());
  EXPECT_FALSE(loss(htl::regression("y").weight(0)).active.item<bool>());
  EXPECT_FALSE(loss(htl::regression("y").loss(htl::SquaredError{}, 0)).active.item<bool>());
}

TEST(HybridLoss, sees_labels_only_where_the_event_happened) {
  const TaskSet tasks{htl::binary("click"), htl::binary("buy").observed_when("click"), htl::regression("amount").observed_when("buy")};
  const at::Tensor x = doubles({1, 2, 3, 4, 5}).view({5, 1});
  const TaskOutputs outputs = TaskOutputs().set("click", x).set("buy", x).set("amount", x);
  const Labels labels = Labels()
                            .set("click", {doubles({1, 1, 0, 1, 1}), bools({1, 1, 1, 1, 0})})
                            .set("buy", {doubles({1, 0, 1, 1, 1})})
                            .set("amount", {doubles({0, kNaN, kNaN, 0, kNaN})});
  const TaskLosses losses = HybridLoss{tasks}(outputs, labels);
  EXPECT_NEAR(losses["amount"].item<double>(), (1 + 16) / 2.0, 1e-12);  // clicked and bought: rows 0 and 3
  const auto cost = [](double z, double y) { return std::log1p(std::exp(-z)) + (1 - y) * z; };
  EXPECT_NEAR(losses["buy"].item<double>(), (cost(1, 1) + cost(2, 0) + cost(4, 1)) / 3, 1e-12);
  EXPECT_NEAR(losses["click"].item<double>(), (cost(1, 1) + cost(2, 1) + cost(3, 0) + cost(4, 1)) / 4, 1e-12);
}

TEST(HybridLoss, keeps_the_tasks_graphs_apart) {
  Random random(17);
  Scene scene(random, 8, at::kDouble, false);
  const TaskLosses losses = HybridLoss(TaskSet(scene.specs))(scene.outputs, scene.labels);
  for (const auto& [name, value] : losses.values) {
    for (const auto& [other, output] : scene.outputs) {
      const auto gradient = torch::autograd::grad({value}, {output}, {}, true, false, true);
      EXPECT_EQ(gradient[0].defined(), name == other);
    }
  }
}

TEST(HybridLoss, names_what_is_wrong_with_labels_and_weights) {
  const TaskSet tasks{htl::binary("click"), htl::multiclass("kind", 3), htl::regression("time").transform(htl::log1p())};
  const HybridLoss loss(tasks);
  const TaskOutputs outputs = TaskOutputs().set("click", torch::zeros({3, 1})).set("kind", torch::zeros({3, 3})).set("time", torch::zeros({3, 1}));
  const auto sentence = [&](const std::string& name, Label label) {
    Labels labels = Labels().set("click", {doubles({0, 1, 0})}).set("kind", {torch::tensor({0, 1, 2}, at::kLong)}).set("time", {doubles({0, 1, 2})});
    EXPECT_EQ(sentence_of([&] { loss(outputs, labels); }), "no error");
    labels.set(name, std::move(label));
    return sentence_of([&] { loss(outputs, labels); });
  };
  EXPECT_EQ(sentence("click", {doubles({0, 1, 2})}),
            "htl::HybridLoss: task \"click\" expects labels 0 or 1, got 2 in row 2; correct the data, or mask the row");
  EXPECT_EQ(sentence("click", {doubles({0, .5, 2})}),
            "htl::HybridLoss: task \"click\" expects labels 0 or 1, got 0.5 in row 1; correct the data, or mask the row");
  EXPECT_EQ(sentence("click", {doubles({0, kNaN, 2}), bools({1, 1, 0})}),
            "htl::HybridLoss: task \"click\" expects labels 0 or 1, got nan in row 1; correct the data, or mask the row");
  EXPECT_EQ(sentence("kind", {torch::tensor({0, 3, 1}, at::kLong)}),
            "htl::HybridLoss: task \"kind\" expects classes 0 to 2, got 3 in row 1; correct the data, or mask the row");
  EXPECT_EQ(sentence("kind", {doubles({0, 1.5, 1})}),
            "htl::HybridLoss: task \"kind\" expects classes 0 to 2, got 1.5 in row 1; correct the data, or mask the row");
  EXPECT_EQ(sentence("kind", {torch::tensor({-1, 0, 1}, at::kLong)}),
            "htl::HybridLoss: task \"kind\" expects classes 0 to 2, got -1 in row 0; correct the data, or mask the row");
  EXPECT_EQ(sentence("time", {doubles({0, 1, kInfinity})}),
            "htl::HybridLoss: task \"time\" expects finite labels, got inf in row 2; correct the data, or mask the row");
  EXPECT_EQ(
      sentence("time", {doubles({0, -2, 1})}),
      "htl::HybridLoss: the label -2 of task \"time\" in row 1 becomes nan by the transform \"log1p\", which is no finite Float; correct the data, or mask the row");
  EXPECT_EQ(sentence("time", {doubles({0, 1, 1}), {}, doubles({1, -1, 1})}), "htl::HybridLoss: task \"time\" expects finite weights ≥ 0, got -1 in row 1");
  EXPECT_EQ(sentence("time", {doubles({0, 1, 1}), {}, doubles({1, 1, kNaN})}), "htl::HybridLoss: task \"time\" expects finite weights ≥ 0, got nan in row 2");
  EXPECT_EQ(sentence("time", {doubles({0, 1, 1}), bools({1, 1, 0}), doubles({1, 1, kNaN})}), "no error");
  const TaskSet wide{htl::regression("time")};
  EXPECT_EQ(
      sentence_of([&] {
        HybridLoss{wide}(TaskOutputs().set("time", torch::zeros({1, 1})), Labels().set("time", {doubles({1e300})}));
      }),
      "htl::HybridLoss: the label 1e+300 of task \"time\" in row 0 becomes 1e+300 by the transform \"none\", which is no finite Float; correct the data, or mask "
      "the row");
  EXPECT_EQ(sentence_of([&] {
              HybridLoss(TaskSet{htl::regression("share").loss(htl::BinaryCrossEntropy{})})(TaskOutputs().set("share", torch::zeros({2, 1})),
                                                                                            Labels().set("share", {doubles({.5, 1.25})}));
            }),
            "htl::HybridLoss: loss \"binary_cross_entropy\" of task \"share\" expects labels in [0, 1], got 1.25 in row 1; correct the data, or mask the row");
}

/// ShareOfDuration that says which column it reads.
struct DeclaredShare : ShareOfDuration {
  std::vector<std::string> context() const { return {"duration"}; }
};

TEST(HybridLoss, names_what_is_wrong_with_columns_that_losses_and_transforms_read_in_rows_that_count) {
  Labels labels = Labels().set("watch", {doubles({1, 2, 3, 4}), bools({1, 1, 1, 0}), doubles({1, 0, 2, 1})});
  const TaskOutputs outputs = TaskOutputs().set("watch", torch::zeros({4, 1}));
  const auto sentence = [&](const TaskSpec& task, const at::Tensor& duration) {
    labels.context.set("duration", duration);
    return sentence_of([&] { HybridLoss{TaskSet{task}}(outputs, labels); });
  };
  EXPECT_EQ(sentence_of([&] { HybridLoss{TaskSet{htl::regression("watch").loss(DeclaredShare{})}}(outputs, labels); }),
            "htl::HybridLoss: task \"watch\" reads the context column \"duration\", which the labels do not have; they have none");
  const std::string in_row_2 =
      "htl::HybridLoss: task \"watch\" expects finite numbers in the context column \"duration\", got nan in row 2; correct the data, or mask the row";
  EXPECT_EQ(sentence(htl::regression("watch").loss(DeclaredShare{}), doubles({1, kNaN, kNaN, 5})), in_row_2);
  EXPECT_EQ(sentence(htl::regression("watch").loss(DeclaredShare{}), torch::tensor({kInfinity, 1., 1., 1.}, at::kFloat)),
            "htl::HybridLoss: task \"watch\" expects finite numbers in the context column \"duration\", got inf in row 0; correct the data, or mask the row");
  EXPECT_EQ(sentence(htl::regression("watch").loss(DeclaredShare{}), doubles({1, kNaN, 3, kInfinity})), "no error") << "rows that do not count";
  EXPECT_EQ(sentence(htl::regression("watch").loss(DeclaredShare{}), torch::tensor({1, 2, 3, 4}, at::kLong)), "no error");
  EXPECT_EQ(sentence(htl::regression("watch").context({"duration"}), doubles({kNaN, kNaN, kNaN, kNaN})), "no error") << "nobody reads it";
  const htl::AnyLabelTransform fitted =
      htl::grouped(htl::z_score(), "duration", 2).fitted({doubles({1, 2, 3, 4})}, Named<at::Tensor>().set("duration", doubles({1, 2, 3, 4})));
  EXPECT_EQ(sentence(htl::regression("watch").transform(fitted), doubles({1, 2, kNaN, kNaN})), in_row_2);
  EXPECT_EQ(sentence(htl::regression("watch").transform(fitted), doubles({1, 2, 3, kNaN})), "no error");
}

TEST(HybridLoss, names_what_is_wrong_with_shapes_types_and_names) {
  const TaskSet tasks{htl::binary("click"), htl::regression("time").observed_when("click")};
  const HybridLoss loss(tasks);
  const at::Tensor x = torch::zeros({3, 1}), y = torch::zeros({3});
  const auto sentence = [&](const TaskOutputs& outputs, const Labels& labels) { return sentence_of([&] { loss(outputs, labels); }); };
  const TaskOutputs outputs = TaskOutputs().set("click", x).set("time", x).set("extra", x);
  const Labels labels = Labels().set("click", {y}).set("time", {y});
  const auto with = [&](const std::string& name, Label label) { return Labels(labels).set(name, std::move(label)); };
  EXPECT_EQ(sentence(outputs, labels), "no error");
  EXPECT_EQ(sentence(TaskOutputs().set("click", x), labels), "htl::HybridLoss: there is no output of task \"time\"; the model gave \"click\"");
  EXPECT_EQ(sentence(TaskOutputs(outputs).set("time", y), labels), "htl::HybridLoss: expected the output of task \"time\" of shape [any, 1], got [3]");
  EXPECT_EQ(sentence(TaskOutputs(outputs).set("time", at::Tensor()), labels),
            "htl::HybridLoss: expected the output of task \"time\" of shape [any, 1], got undefined");
  EXPECT_EQ(sentence(TaskOutputs(outputs).set("time", x.to(at::kLong)), labels),
            "htl::HybridLoss: expected a floating-point output of task \"time\", got Long");
  EXPECT_EQ(sentence(outputs, Labels().set("click", {y})), "htl::HybridLoss: there is no label of task \"time\"; the batch has \"click\"");
  EXPECT_EQ(sentence(outputs, with("time", {x})), "htl::HybridLoss: expected the label of task \"time\" of shape [3], got [3, 1]");
  EXPECT_EQ(sentence(outputs, with("time", {at::Tensor()})), "htl::HybridLoss: expected the label of task \"time\" of shape [3], got undefined");
  EXPECT_EQ(sentence(outputs, with("time", {torch::zeros({4})})), "htl::HybridLoss: expected the label of task \"time\" of shape [3], got [4]");
  EXPECT_EQ(sentence(outputs, with("time", {y, torch::ones({2}, at::kBool)})), "htl::HybridLoss: expected the mask of task \"time\" of shape [3], got [2]");
  EXPECT_EQ(sentence(outputs, with("time", {y, y})), "htl::HybridLoss: expected a bool mask of task \"time\", got Float");
  EXPECT_EQ(sentence(outputs, with("time", {y, {}, x})), "htl::HybridLoss: expected the weight of task \"time\" of shape [3], got [3, 1]");
  EXPECT_EQ(sentence(outputs, with("click", {torch::zeros({2})})), "htl::HybridLoss: expected the label of task \"click\" of shape [3], got [2]");
  EXPECT_EQ(sentence(outputs, with("time", {torch::zeros({3}, at::kMeta)})),
            "htl::HybridLoss: the label of task \"time\" is on meta, its output on cpu; call batch.to(device)");
  EXPECT_EQ(sentence(outputs, with("time", {torch::zeros({3}, at::kComplexFloat)})),
            "htl::HybridLoss: expected real labels of task \"time\", got ComplexFloat");
  EXPECT_EQ(sentence_of([] { HybridLoss{TaskSet{htl::regression("y").transform(htl::z_score())}}; }),
            "htl::HybridLoss: the label transform \"z_score\" of task \"y\" is not fitted; call tasks.fitted(training_labels) and give its result");
  struct Wrong : htl::SquaredError {
    at::Tensor per_row(const LossInput& input) const { return input.output; }
    at::Tensor reduced(const LossInput& input, const at::Tensor&) const { return input.output; }
  };
  EXPECT_EQ(sentence_of([&] { HybridLoss{TaskSet{htl::regression("y").loss(Wrong{})}}(TaskOutputs().set("y", x), Labels().set("y", {y})); }),
            "htl::HybridLoss: expected reduced() of loss \"squared\" of shape [], got [3, 1]");
}

/// The hybrid loss on another device gives the CPU's values, and asks nothing of the host unless told to check.
TEST(HybridLoss, gives_the_same_on_cuda_as_on_the_cpu_CUDA) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  Random random(18);
  for (int round = 0; round < 20; ++round) {
    Scene scene(random, random.pick<int64_t>({0, 1, 64}), at::kDouble);
    const TaskSet tasks(scene.specs);
    TaskOutputs outputs;
    for (const auto& [name, output] : scene.outputs) outputs.set(name, output.detach().to(at::kCUDA).requires_grad_());
    const TaskLosses a = HybridLoss{tasks}(scene.outputs, scene.labels), b = HybridLoss{tasks}(outputs, scene.labels.to(at::kCUDA));
    a.sum().backward();
    b.sum().backward();
    EXPECT_TRUE(at::equal(a.active, b.active.cpu()));
    for (const auto& [name, value] : a.values) {
      EXPECT_TRUE(close(value, b[name], 1e-10));
      EXPECT_TRUE(close(scene.outputs[name].grad(), outputs[name].grad(), 1e-10));
    }
  }
  const TaskSet tasks{htl::binary("click")};
  const Labels labels = Labels().set("click", {doubles({2})}).to(at::kCUDA);
  const TaskOutputs outputs = TaskOutputs().set("click", torch::zeros({1, 1}, at::kCUDA));
  EXPECT_EQ(sentence_of([&] { HybridLoss{tasks}(outputs, labels); }), "no error");
  EXPECT_EQ(sentence_of([&] {
              HybridLoss{tasks, {.check_labels_on_device = true}}(outputs, labels);
            }),
            "htl::HybridLoss: task \"click\" expects labels 0 or 1, got 2 in row 0; correct the data, or mask the row");
}

}  // namespace
