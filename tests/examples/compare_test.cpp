// SPDX-License-Identifier: Apache-2.0
/// @file compare_test.cpp
/// @brief What the program compare computes with: formulas, statistics, resampling, the grid, averages and pictures, against naive ones.

#include <examples/compare/averages.hpp>
#include <examples/compare/bootstrap.hpp>
#include <examples/compare/cell.hpp>
#include <examples/compare/expression.hpp>
#include <examples/compare/grid.hpp>
#include <examples/compare/inputs.hpp>
#include <examples/compare/picture.hpp>
#include <examples/htlnet/machine.hpp>

#include <htl/metrics/auc.hpp>
#include <htl/metrics/regression_error.hpp>
#include <htl/metrics/spearman.hpp>

#include <support/seeded.hpp>

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace {

using compare::Kind;
using htl::test::contains;
using htl::test::sentence_of;

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

double value_of(const std::string& text, const std::vector<double>& values) { return compare::Expression(text, {"click", "watch_time"})(values); }

TEST(Expression, has_the_value_that_arithmetic_says) {
  const std::vector<double> at = {0.25, 9.0};
  EXPECT_DOUBLE_EQ(value_of("click^.6 * watch_time", at), std::pow(0.25, 0.6) * 9.0);
  EXPECT_DOUBLE_EQ(value_of("1 + 2 * 3", at), 7.0);
  EXPECT_DOUBLE_EQ(value_of("(1 + 2) * 3", at), 9.0);
  EXPECT_DOUBLE_EQ(value_of("8 / 4 / 2 - 1 - 1", at), -1.0);
  EXPECT_DOUBLE_EQ(value_of("2 ^ 3 ^ 2", at), 512.0);
  EXPECT_DOUBLE_EQ(value_of("-2 ^ 2", at), -4.0);
  EXPECT_DOUBLE_EQ(value_of("2 ^ -2", at), 0.25);
  EXPECT_DOUBLE_EQ(value_of("--2", at), 2.0);
  EXPECT_DOUBLE_EQ(value_of("1e-3*1.5E2", at), 0.15);
  EXPECT_DOUBLE_EQ(value_of("\"click\"^.6 * \"watch_time\"", at), std::pow(0.25, 0.6) * 9.0);
  EXPECT_DOUBLE_EQ(compare::Expression("2 * \"add-to-cart\"", {"add-to-cart"})({0.25}), 0.5);
  EXPECT_DOUBLE_EQ(value_of(" log( click ) + log1p(watch_time)", at), std::log(0.25) + std::log1p(9.0));
}

TEST(Expression, refuses_what_is_no_formula_with_a_sentence) {
  EXPECT_TRUE(contains(sentence_of([] { value_of("clik * 2", {1, 1}); }), "names \"clik\", which is no task; did you mean \"click\"?"));
  for (const std::string wrong :
       {"", "1 +", "(click", "click)", "click watch_time", "* 2", "2 ** 3", "log click", "log(2", "1..2", "click $ 2", "\"click", "\"\""})
    EXPECT_NE(sentence_of([&] { value_of(wrong, {1, 1}); }), "no error") << wrong;
  EXPECT_TRUE(contains(sentence_of([] { value_of(std::string(5000, '('), {1, 1}); }), "nested more than 200 deep"));
  EXPECT_TRUE(contains(sentence_of([] { value_of("1 +", {1, 1}); }), "expected a number, a task or \"(\" at its end"));
}

TEST(Statistics, know_students_t) {  // of tables: P(|T| ≥ t)
  EXPECT_NEAR(compare::student_two_sided(12.706204736, 1), 0.05, 1e-9);
  EXPECT_NEAR(compare::student_two_sided(4.302652730, 2), 0.05, 1e-9);
  EXPECT_NEAR(compare::student_two_sided(-2.776445105, 4), 0.05, 1e-9);
  EXPECT_NEAR(compare::student_two_sided(2.0, 1), 1.0 - 2.0 / std::acos(-1.0) * std::atan(2.0), 1e-12);  // Cauchy
  EXPECT_NEAR(compare::student_two_sided(1.0, 2), 1.0 - 1.0 / std::sqrt(3.0), 1e-12);
  EXPECT_EQ(compare::student_two_sided(0.0, 3), 1.0);
}

TEST(Statistics, pair_what_has_the_same_seed_and_leave_out_what_failed) {
  const compare::PairedDifference found = compare::paired_difference({1.0, 2.0, undefined, 6.0}, {0.0, 0.0, 5.0, 3.0});
  EXPECT_DOUBLE_EQ(found.mean, 2.0);
  EXPECT_DOUBLE_EQ(found.sd, 1.0);
  EXPECT_NEAR(found.p, compare::student_two_sided(2.0 * std::sqrt(3.0), 2), 1e-15);
  EXPECT_TRUE(std::isnan(compare::paired_difference({1.0}, {0.0}).p));
  EXPECT_EQ(compare::paired_difference({1.0, 2.0}, {1.0, 2.0}).p, 1.0);
  EXPECT_EQ(compare::paired_difference({1.0, 2.0}, {0.5, 1.5}).p, 0.0);
}

TEST(Statistics, gain_turns_the_sign_of_errors) {
  EXPECT_DOUBLE_EQ(compare::relative_gain({0.77, 0.9}, {0.7, 1.0}, {true, false}), 0.5 * (0.1 + 0.1));
  EXPECT_TRUE(std::isnan(compare::relative_gain({0.77, undefined}, {0.7, 1.0}, {true, false})));
  EXPECT_TRUE(std::isnan(compare::relative_gain({0.77}, {0.0}, {true})));
}

TEST(Statistics, a_front_is_what_nobody_beats) {
  EXPECT_EQ(compare::pareto_front({1, 2, 3, 2, 3}, {3, 2, 1, 1.5, undefined}), (std::vector<bool>{true, true, true, false, false}));
  EXPECT_EQ(compare::pareto_front({1, 1}, {2, 2}), (std::vector<bool>{true, true}));
}

/// Weights as tensors: what a metric of the repeated rows sees.
at::Tensor counts_of(const std::vector<uint8_t>& counts, const std::vector<compare::ResampledMetric::Row>& rows) {
  at::Tensor weights = at::zeros({static_cast<int64_t>(rows.size())}, at::kDouble);
  for (size_t i = 0; i < rows.size(); ++i) weights.mutable_data_ptr<double>()[i] = rows[i].weight * counts[static_cast<size_t>(rows[i].row)];
  return weights;
}

TEST(Bootstrap, has_in_every_replicate_the_metric_of_the_repeated_rows) {
  htl::test::Random random(7);
  for (const bool weighted : {false, true}) {
    const int64_t n = 300, users = 40;
    std::vector<int32_t> user;
    std::vector<compare::ResampledMetric::Row> events, numbers, tied, same;
    for (int32_t r = 0; r < n; ++r) {
      user.push_back(static_cast<int32_t>(random.integer(0, users - 1)));
      if (random.chance(.1)) continue;  // no label
      const double weight = weighted ? .25 * static_cast<double>(random.integer(1, 8)) : 1.0;
      events.push_back({r, weight, .1 * static_cast<double>(random.integer(0, 9)), random.chance(.4) ? 1.0 : 0.0});  // with ties
      numbers.push_back({r, weight, random.real(0, 10), random.real(0, 10)});
      const double label = static_cast<double>(random.integer(0, 6));
      tied.push_back({r, weight, std::floor(label + random.real(0, 5)), label});
      same.push_back({r, weighted ? random.real(0, 3) : 1.0, random.real(), 7.0});
    }
    const auto column = [](const std::vector<compare::ResampledMetric::Row>& rows, auto member) {
      at::Tensor values = at::zeros({static_cast<int64_t>(rows.size())}, at::kDouble);
      for (size_t i = 0; i < rows.size(); ++i) values.mutable_data_ptr<double>()[i] = rows[i].*member;
      return values;
    };
    const auto auc = compare::ResampledMetric::auc(events);
    const auto nrmse = compare::ResampledMetric::nrmse(numbers), mean = compare::ResampledMetric::mean(numbers);
    const auto spearman = compare::ResampledMetric::spearman(numbers), of_ties = compare::ResampledMetric::spearman(tied);
    const auto of_same = compare::ResampledMetric::spearman(same);
    for (uint64_t replicate = 0; replicate < 20; ++replicate) {
      const std::vector<uint8_t> counts = compare::drawn_rows(3, replicate, user, users);
      for (int32_t r = 1; r < n; ++r)
        for (int32_t s = 0; s < r; ++s)
          ASSERT_TRUE(user[static_cast<size_t>(r)] != user[static_cast<size_t>(s)] || counts[static_cast<size_t>(r)] == counts[static_cast<size_t>(s)]);
      using Row = compare::ResampledMetric::Row;
      htl::Auc whole;
      whole.add(column(events, &Row::prediction), {column(events, &Row::label), {}, counts_of(counts, events)});
      EXPECT_NEAR(auc(counts), whole.value(), 1e-12);
      htl::RegressionError error;
      error.add(column(numbers, &Row::prediction), {column(numbers, &Row::label), {}, counts_of(counts, numbers)});
      EXPECT_NEAR(nrmse(counts), error.nrmse(), 1e-6);
      for (const auto& [resampled, rows] : {std::pair{&spearman, &numbers}, std::pair{&of_ties, &tied}}) {
        htl::Spearman ranks;
        ranks.add(column(*rows, &Row::prediction), {column(*rows, &Row::label), {}, counts_of(counts, *rows)});
        EXPECT_NEAR((*resampled)(counts), ranks.value(), 1e-12);
      }
      EXPECT_TRUE(std::isnan(of_same(counts))) << "labels that are all the same have no order";
      const at::Tensor weights = counts_of(counts, numbers);
      EXPECT_NEAR(mean(counts), ((column(numbers, &Row::prediction) * weights).sum() / weights.sum()).item<double>(), 1e-5);
    }
  }
}

TEST(Bootstrap, draws_each_unit_by_poisson_of_mean_1) {
  std::vector<int32_t> unit(2000);
  std::iota(unit.begin(), unit.end(), 0);
  std::map<int, int> counts;
  for (uint64_t replicate = 0; replicate < 50; ++replicate)
    for (const uint8_t count : compare::drawn_rows(1, replicate, unit, 2000)) ++counts[count];
  double probability = std::exp(-1.0);
  for (int k = 0; k < 5; ++k) {
    EXPECT_NEAR(counts[k] / 1e5, probability, 5.0 * std::sqrt(probability / 1e5)) << k;
    probability /= k + 1;
  }
}

TEST(Bootstrap, finds_a_difference_where_there_is_one_and_none_where_there_is_none) {
  htl::test::Random random(11);
  std::vector<int32_t> unit(2000);
  std::iota(unit.begin(), unit.end(), 0);
  std::vector<compare::ResampledMetric::Row> good, other, bad;
  for (int32_t r = 0; r < 2000; ++r) {
    const double label = random.chance(.5) ? 1.0 : 0.0;
    good.push_back({r, 1.0, label + random.real(-1, 1), label});
    other.push_back({r, 1.0, label + random.real(-1, 1), label});
    bad.push_back({r, 1.0, random.real(), label});
  }
  using compare::ResampledMetric;
  const auto values = compare::resample({ResampledMetric::auc(good), ResampledMetric::auc(other), ResampledMetric::auc(bad)}, unit, 2000, 400, 5);
  const compare::Interval none = compare::interval_of(values[0], values[1]), some = compare::interval_of(values[0], values[2]);
  EXPECT_LT(none.low, 0.0);
  EXPECT_GT(none.high, 0.0);
  EXPECT_GT(none.p, 0.05);
  EXPECT_GT(some.low, 0.2);
  EXPECT_LT(some.p, 0.01);
  EXPECT_NEAR(compare::interval_of(values[0], values[0]).p, 1.0, 1e-12);
  EXPECT_TRUE(std::isnan(compare::interval_of(values[0], std::vector<double>(400, undefined)).low));
  EXPECT_TRUE(std::isnan(compare::interval_of(compare::mean_of({}), compare::mean_of({})).p));
  const std::vector<double> means = compare::mean_of({&values[0], &values[2]});
  ASSERT_EQ(means.size(), 400U);
  for (size_t r = 0; r < means.size(); ++r) EXPECT_NEAR(means[r], 0.5 * (values[0][r] + values[2][r]), 1e-15);
}

TEST(Grid, splits_lists_of_specs) {
  using List = std::vector<std::string>;
  EXPECT_EQ(compare::split_specs("sum,cagrad:c=0.4,rescale=1,mgda"), (List{"sum", "cagrad:c=0.4,rescale=1", "mgda"}));
  EXPECT_EQ(compare::split_specs("huber:delta=0.5@chained:first=log1p,second=z_score|ziln"),
            (List{"huber:delta=0.5@chained:first=log1p,second=z_score", "ziln"}));
  EXPECT_EQ(compare::split_specs("one"), List{"one"});
  EXPECT_TRUE(contains(sentence_of([] { compare::split_specs("sum,,mgda"); }), "expected names with"));
}

TEST(Grid, always_has_its_controls_and_has_nothing_twice) {
  const compare::GridParts parts{
      .models = {"htlnet"}, .adjusters = {"sum", "mgda"}, .losses = {"squared@z_score"}, .balancers = {"none"}, .tasks = {"click", "time"}};
  std::set<std::string> labels;
  const std::vector<Kind> kinds = compare::kinds_of(parts);
  for (const Kind& kind : kinds) labels.insert(kind.label());
  EXPECT_EQ(labels.size(), kinds.size());
  EXPECT_EQ(kinds.size(), 7U);
  for (const char* control : {"shared_embedding+sum+squared@z_score+none", "shared_embedding+core_task+squared@z_score+none", "htlnet+sum+squared@z_score+none",
                              "shared_embedding+sum+squared@z_score+none+only_click", "averages"})
    EXPECT_TRUE(labels.contains(control)) << control;
  compare::GridParts other = parts;
  other.losses = {"ziln@none", "squared@z_score"};
  const std::vector<Kind> others = compare::kinds_of(other);
  EXPECT_EQ(std::count_if(others.begin(), others.end(), [](const Kind& kind) { return !kind.task.empty() && kind.loss == "ziln@none"; }), 2)
      << "single-task models have the first loss";
  EXPECT_EQ(compare::reference_of(kinds, "htlnet+mgda"), 1U);
  EXPECT_EQ(compare::reference_of(kinds, ""), 0U);
  EXPECT_TRUE(contains(sentence_of([&] { compare::reference_of(kinds, "htlnet+mgd"); }), "did you mean \"htlnet+mgda"));
}

TEST(Inputs, read_a_historys_values_as_the_targets_where_it_knows_most_of_them) {
  const htl::FeatureMap::Field target{.name = "item", .vocabulary = {"b", "a", "c"}}, shared{.name = "seen", .vocabulary = {"a", "x", "c"}},
      apart{.name = "seen", .vocabulary = {"a", "x"}};
  const at::Tensor ids = compare::detail::target_ids_of(shared, target);
  ASSERT_TRUE(ids.defined());
  EXPECT_TRUE(ids.equal(at::tensor({0, 2, 0, 3}, at::kLong)));
  EXPECT_FALSE(compare::detail::target_ids_of(apart, target).defined());
}

TEST(Grid, has_a_row_for_what_was_predicted_outside) {
  const std::vector<Kind> kinds = compare::kinds_of(
      {.models = {"htlnet"}, .adjusters = {"sum"}, .losses = {"squared@z_score"}, .balancers = {"none"}, .tasks = {}, .predictions = {"trees"}});
  const auto trees = std::find(kinds.begin(), kinds.end(), Kind::bound("trees"));
  ASSERT_NE(trees, kinds.end());
  EXPECT_TRUE(trees->is_bound());
  EXPECT_EQ(trees->label(), "trees");
  EXPECT_EQ((compare::Cell{*trees, 3, {}}.name()), "trees");
  EXPECT_EQ(kinds[compare::reference_of(kinds, "trees")], *trees);
  EXPECT_FALSE(Kind{.model = "trees"}.is_bound());
}

TEST(Cells, are_not_to_blame_for_what_the_machine_has_not) {
  const auto is_out_of_memory = [](const std::string& sentence) {
    try {
      HTL_CHECK(false, sentence);
    } catch (const c10::Error& error) {
      return htlnet::is_out_of_memory(error);
    }
    return false;
  };
  EXPECT_TRUE(is_out_of_memory("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"));
  EXPECT_FALSE(is_out_of_memory("the loss of task \"time\" was not finite in step 3"));
}

TEST(Grid, gives_every_label_a_file_name_of_its_own) {
  EXPECT_EQ(compare::file_name_of("htlnet+core_task+squared@z_score+none"), "htlnet+core_task+squared@z_score+none");
  EXPECT_NE(compare::file_name_of("a:b"), compare::file_name_of("a;b"));
  EXPECT_EQ(compare::file_name_of("a/b").find('/'), std::string::npos);
  EXPECT_LE(compare::file_name_of(std::string(500, 'x')).size(), 140U);
}

TEST(Grid, tunes_all_kinds_by_the_same_draws_and_begins_with_the_given_rates) {
  const compare::Rates given{.05, 1e-3, 0.0, 0.0};
  const std::vector<compare::Rates> four = compare::draws_of(given, 4), six = compare::draws_of(given, 6);
  EXPECT_EQ(four.front(), given);
  for (size_t d = 0; d < 4; ++d) EXPECT_EQ(four[d], six[d]);
  const std::vector<compare::Rates> slower = compare::draws_of({.005, 1e-4, 0.0, 0.0}, 6);
  for (size_t d = 1; d < 6; ++d) {
    EXPECT_NEAR(slower[d].row_lr / six[d].row_lr, .1, 1e-12);
    EXPECT_NEAR(slower[d].dense_lr / six[d].dense_lr, .1, 1e-12);
    EXPECT_TRUE(six[d].row_lr >= .005 && six[d].row_lr <= .15 && six[d].dense_lr >= 2e-4 && six[d].dense_lr <= 5e-3);
    EXPECT_TRUE(six[d].weight_decay >= 1e-6 && six[d].weight_decay <= 1e-2 && six[d].dropout >= 0.0 && six[d].dropout < .3);
  }
}

/// Rows of one field of four ids and two tasks.
htl::TableData rows_of(const std::vector<int64_t>& ids, const std::vector<double>& clicks, const std::vector<double>& times) {
  const auto n = static_cast<int64_t>(ids.size());
  htl::Batch all;
  all.fields = htl::FieldBatch::of(at::tensor(ids, at::kLong).view({n, 1}));
  all.labels.set("click", {at::tensor(clicks, at::kDouble)}).set("time", {at::tensor(times, at::kDouble), at::tensor(clicks, at::kDouble).gt(0.5)});
  return htl::TableData(std::move(all));
}

TEST(Averages, are_smoothed_means_by_id_and_hear_of_observed_rows_only) {
  htl::FieldCounter counter({"item", htl::FieldKind::categorical, '\0', 1, 1});
  std::vector<int64_t> ids;
  for (const char* text : {"a", "a", "a", "b", "b", "c"}) {
    const int32_t code = counter.encode(text);
    counter.count(code);
    ids.push_back(code + 1);
  }
  const htlnet::Dataset data{htl::FeatureMap({counter.fit()}),
                             {htl::binary("click"), htl::regression("time").core()},
                             rows_of({1, 1, 1, 2, 2, 3}, {1, 1, 0, 1, 0, 0}, {4, 8, 1000, 3, 1000, 1000}),
                             htl::TableData(),
                             rows_of({1, 2, 3, 0}, {0, 0, 0, 0}, {0, 0, 0, 0})};
  const htl::Predictions found = compare::averages(data);  // of strength 20: there are no validation rows
  const auto smoothed = [](double sum, double count) { return (sum + 20.0 * 0.5) / (count + 20.0); };
  EXPECT_TRUE(htl::test::close(found["click"], at::tensor({smoothed(2, 3), smoothed(1, 2), smoothed(0, 1), 0.5}, at::kDouble)));
  EXPECT_TRUE(htl::test::close(found["time"], at::tensor({5.0 + (-1.0 + 3.0) / 22.0, 5.0 - 2.0 / 21.0, 5.0, 5.0}, at::kDouble)));
}

TEST(Picture, escapes_texts_and_draws_nothing_that_is_not_finite) {
  compare::Picture picture{.title = "a < b & \"c\"", .x_label = "x", .y_label = "y"};
  picture.series = {{1, "one", {{1.0, 2.0}}, true}, {2, "two", {{1.0, 2.0}}, true}, {3, "none", {}, false}};
  const std::string svg = compare::svg_of(picture);
  EXPECT_TRUE(contains(svg, "a &lt; b &amp; &quot;c&quot;", "<circle", "</svg>"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Picture, has_a_few_ticks_however_close_its_values_are) {
  const double one = 0.7213, next = std::nextafter(std::nextafter(one, 1.0), 1.0), tiny = 5e-324;
  const std::vector<std::vector<double>> cases = {
      {one, next}, {-next, -one}, {one, one},       {0.0, 0.0}, {0.0, tiny}, {-tiny, tiny}, {1e12, std::nextafter(1e12, 1e13)},
      {0.0, 1.0},  {-3.0, 5e8},   {1e-300, 2e-300}, {}};
  for (const std::vector<double>& values : cases) {
    const compare::detail::Axis axis(values, 70.0, 620.0, false);
    const std::vector<double> ticks = axis.ticks();
    EXPECT_TRUE(ticks.size() >= 2 && ticks.size() <= 12) << ticks.size();
    for (size_t t = 1; t < ticks.size(); ++t) EXPECT_GT(ticks[t], ticks[t - 1]);
    for (const double value : values) EXPECT_TRUE(axis(value) >= 70.0 && axis(value) <= 620.0) << value;
  }
}

}  // namespace
