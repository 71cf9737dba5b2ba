// SPDX-License-Identifier: Apache-2.0
/// @file compare_test.cpp
/// @brief The program compare: its formulas and statistics against naive ones, and grids on small synthetic data from the command line.

#include <examples/compare/averages.hpp>
#include <examples/compare/bootstrap.hpp>
#include <examples/compare/expression.hpp>
#include <examples/compare/grid.hpp>
#include <examples/compare/picture.hpp>
#include <htl/io/json.hpp>
#include <htl/io/safetensors.hpp>
#include <htl/metrics/auc.hpp>
#include <htl/metrics/regression_error.hpp>

#include <support/program.hpp>

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace {

namespace fs = std::filesystem;
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
  EXPECT_DOUBLE_EQ(value_of(" log( click ) + log1p(watch_time)", at), std::log(0.25) + std::log1p(9.0));
}

TEST(Expression, refuses_what_is_no_formula_with_a_sentence) {
  EXPECT_TRUE(contains(sentence_of([] { value_of("clik * 2", {1, 1}); }), "names \"clik\", which is no task; did you mean \"click\"?"));
  for (const std::string wrong : {"", "1 +", "(click", "click)", "click watch_time", "* 2", "2 ** 3", "log click", "log(2", "1..2", "click $ 2"})
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
    std::vector<compare::ResampledMetric::Row> events, numbers;
    for (int32_t r = 0; r < n; ++r) {
      user.push_back(static_cast<int32_t>(random.integer(0, users - 1)));
      if (random.chance(.1)) continue;  // no label
      const double weight = weighted ? .25 * static_cast<double>(random.integer(1, 8)) : 1.0;
      events.push_back({r, weight, .1 * static_cast<double>(random.integer(0, 9)), random.chance(.4) ? 1.0 : 0.0});  // with ties
      numbers.push_back({r, weight, random.real(0, 10), random.real(0, 10)});
    }
    const auto column = [](const std::vector<compare::ResampledMetric::Row>& rows, auto member) {
      at::Tensor values = at::zeros({static_cast<int64_t>(rows.size())}, at::kDouble);
      for (size_t i = 0; i < rows.size(); ++i) values.mutable_data_ptr<double>()[i] = rows[i].*member;
      return values;
    };
    const auto auc = compare::ResampledMetric::auc(events);
    const auto nrmse = compare::ResampledMetric::nrmse(numbers), mean = compare::ResampledMetric::mean(numbers);
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
  const auto values = compare::resample(
      {{ResampledMetric::auc(good)}, {ResampledMetric::auc(other)}, {ResampledMetric::auc(bad), ResampledMetric::auc(bad)}, {}}, unit, 2000, 400, 5);
  const compare::Interval none = compare::interval_of(values[0], values[1]), some = compare::interval_of(values[0], values[2]);
  EXPECT_LT(none.low, 0.0);
  EXPECT_GT(none.high, 0.0);
  EXPECT_GT(none.p, 0.05);
  EXPECT_GT(some.low, 0.2);
  EXPECT_LT(some.p, 0.01);
  EXPECT_NEAR(compare::interval_of(values[0], values[0]).p, 1.0, 1e-12);
  EXPECT_TRUE(std::isnan(compare::interval_of(values[0], values[3]).low));
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
  EXPECT_EQ(compare::reference_of(kinds, "htlnet+mgda"), 1U);
  EXPECT_EQ(compare::reference_of(kinds, ""), 0U);
  EXPECT_TRUE(contains(sentence_of([&] { compare::reference_of(kinds, "htlnet+mgd"); }), "did you mean \"htlnet+mgda"));
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
  for (size_t d = 1; d < 6; ++d) {
    EXPECT_TRUE(six[d].row_lr >= .01 && six[d].row_lr <= .3 && six[d].dense_lr >= 2e-4 && six[d].dense_lr <= 5e-3);
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

/// The program compare; htlnet's own test fixture gives the folder.
class CompareProgram : public testing::Test {
 protected:
#ifdef COMPARE_PROGRAM
  static constexpr const char* program = COMPARE_PROGRAM;
#else
  static constexpr const char* program = "";
#endif
  void SetUp() override {
    if (std::string(program).empty()) GTEST_SKIP() << "the program compare is not built: set HTL_BUILD_EXAMPLES=ON";
  }
  pid_t start(const std::string& text) const {
    std::istringstream stream(text);
    std::vector<std::string> words = {program};
    for (std::string word; stream >> word;) words.push_back(word);
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    const std::string printed = folder.path(".printed").string();
    const pid_t child = ::fork();
    if (child != 0) return child;
    const int file = ::open(printed.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (file < 0 || ::dup2(file, STDOUT_FILENO) < 0 || ::dup2(file, STDERR_FILENO) < 0 || ::chdir(folder.path().c_str()) != 0) ::_exit(126);
    ::execv(program, pointers.data());
    ::_exit(127);
  }
  htl::test::Ended end(pid_t child) const {
    int status = 0;
    ::waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), htl::read_file(folder.path(".printed"))};
  }
  htl::test::Ended run(const std::string& text) const { return end(start(text)); }
  std::set<std::string> finished(const std::string& output) const {
    std::set<std::string> names;
    std::error_code none_yet;
    for (const auto& entry : fs::directory_iterator(folder.path(output) / "cells", none_yet))
      if (fs::exists(entry.path() / "cell.json")) names.insert(entry.path().filename().string());
    return names;
  }
  std::string predictions(const std::string& output, const std::string& cell) const {
    return htl::read_file(folder.path(output) / "cells" / cell / "predictions.safetensors");
  }

  static constexpr const char* small =
      "--dataset synthetic --rows 1500 --epochs 2 --batch-size 256 --tower 8 --trunk 8 --tower-above-trunk 8 --experts 2 --threads 1 --bootstrap 50 ";
  htl::test::TemporaryFolder folder;
};

TEST_F(CompareProgram, compares_a_grid_and_its_controls_and_goes_on_where_it_was_killed) {
  const std::string grid = std::string(small) + "--models htlnet,mmoe --adjusters sum,cagrad:c=0.4 --seeds 2 --score click^.6*long_view ";
  const pid_t child = start(grid + "--output killed");
  for (int i = 0; i < 2000 && finished("killed").size() < 3; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ::kill(child, SIGKILL);
  end(child);
  const std::set<std::string> before = finished("killed");
  ASSERT_GE(before.size(), 3U);
  std::map<std::string, fs::file_time_type> times;
  for (const std::string& cell : before) times[cell] = fs::last_write_time(folder.path("killed") / "cells" / cell / "cell.json");
  htl::test::Ended went_on = run(grid + "--output killed");
  for (int i = 0; i < 500 && went_on.text.find("another process") != std::string::npos;
       ++i) {  // until the cell that was being trained notices that it is alone
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    went_on = run(grid + "--output killed");
  }
  ASSERT_EQ(went_on.status, 0) << went_on.text;
  EXPECT_TRUE(contains(went_on.text, std::to_string(before.size()) + " cells were finished before"));
  for (const auto& [cell, time] : times) EXPECT_EQ(fs::last_write_time(folder.path("killed") / "cells" / cell / "cell.json"), time) << cell;

  const auto whole = run(grid + "--output whole --jobs 3");  // 6 kinds with their controls, 3 single tasks, 2 seeds, 2 bounds
  ASSERT_EQ(whole.status, 0) << whole.text;
  const std::set<std::string> cells = finished("whole");
  EXPECT_EQ(cells, finished("killed"));
  EXPECT_EQ(cells.size(), 2U * (4 + 2 + 3) + 2);
  for (const std::string& cell : cells) EXPECT_EQ(predictions("whole", cell), predictions("killed", cell)) << cell;
  EXPECT_NE(predictions("whole", "mmoe+sum+squared@z_score+none+seed1"), predictions("whole", "mmoe+sum+squared@z_score+none+seed2"));
  EXPECT_NE(predictions("whole", "htlnet+sum+squared@z_score+none+seed1"), predictions("whole", "mmoe+sum+squared@z_score+none+seed1"));

  const std::string markdown = htl::read_file(folder.path("whole") / "results.md"), html = htl::read_file(folder.path("whole") / "report.html");
  EXPECT_TRUE(contains(markdown, "## Test metrics", "## Differences to the reference", "## Fused score", "## Gain and cost", "single_task", "oracle",
                       "additive", "±", "cagrad:c=0.4"));
  EXPECT_TRUE(contains(html, "<svg", "Learning curves", "</html>"));
  for (const char* elsewhere : {"http:", "https:", "src=", "href=", "@import", "url("}) EXPECT_EQ(html.find(elsewhere), std::string::npos) << elsewhere;
  const std::string csv = htl::read_file(folder.path("whole") / "results.csv");
  EXPECT_TRUE(contains(csv, "htlnet,sum,squared@z_score,none,click,auc,true,0.", "htlnet,cagrad:c=0.4,squared@z_score,none,score,gauc(click),true,"));
  EXPECT_EQ(htl::read_json(folder.path("whole") / "report.json")["pictures"].size(), 3U);

  const std::string of_oracle = csv.substr(csv.find("oracle,,,,click,auc,true,")),
                    of_model = csv.substr(csv.find("htlnet,sum,squared@z_score,none,click,auc,true,"));
  const auto mean = [](const std::string& line) { return std::stod(line.substr(line.find("true,") + 5)); };
  EXPECT_GT(mean(of_oracle), mean(of_model));

  std::string longer = grid;
  longer.replace(longer.find("--epochs 2"), 10, "--epochs 3");
  const auto other = run(longer + "--output whole");
  EXPECT_EQ(other.status, 1);
  EXPECT_TRUE(contains(other.text, "was made with epochs 2, not 3; give another --output"));
  const auto world = run(grid + "--output whole --seed 2");
  EXPECT_TRUE(contains(world.text, "was made with seed 1, not 2"));
}

TEST_F(CompareProgram, tunes_every_kind_alike_and_keeps_a_cell_that_fails) {
  const std::string grid = std::string(small) +
                           "--models htlnet --adjusters sum --balancers none,uncertainty --losses squared@z_score|ziln --seeds 1 --tune 2 "
                           "--without-single-tasks --output tuned";
  const auto ended = run(grid);
  ASSERT_EQ(ended.status, 0) << ended.text;
  int draws = 0;
  for (const auto& entry : fs::directory_iterator(folder.path("tuned") / "tuning")) draws += fs::exists(entry.path() / "cell.json") ? 1 : 0;
  EXPECT_EQ(draws, 2 * (4 + 2));
  for (const std::string& cell : finished("tuned")) {
    if (cell == "oracle" || cell == "additive") continue;
    const nlohmann::json rates = htl::read_json(folder.path("tuned") / "cells" / cell / "cell.json")["spec"]["rates"];
    const std::string kind = cell.substr(0, cell.size() - 6);
    std::vector<std::pair<double, nlohmann::json>> tried;
    for (const char* draw : {"0", "1"}) {
      const nlohmann::json of = htl::read_json(folder.path("tuned") / "tuning" / (kind + "+seed1+draw" + draw) / "cell.json");
      tried.emplace_back(of["figures"]["selected_value"].get<double>(), of["spec"]["rates"]);
    }
    EXPECT_EQ(rates, std::min(tried[0], tried[1]).second) << cell;  // of nrmse the least
  }
  EXPECT_TRUE(contains(ended.text, "ziln@none", "Without single-task models there is no gain"));

  const auto failed = run(std::string(small) + "--models htlnet --adjusters sum --losses squared@none --dense-lr 1e30 --seeds 1 --output failed");
  EXPECT_EQ(failed.status, 0) << failed.text;
  EXPECT_TRUE(contains(failed.text, "was not finite in step"));
  EXPECT_TRUE(contains(htl::read_file(folder.path("failed") / "results.md"), "Failed: htlnet+sum+squared@none+none, seed 1: "));
}

TEST_F(CompareProgram, refuses_with_a_sentence_before_anything_is_trained) {
  const auto refused = [&](const std::string& options, int status, const std::string& sentence) {
    const auto ended = run(std::string(small) + options + " --output refused");
    EXPECT_EQ(ended.status, status) << ended.text;
    EXPECT_TRUE(contains(ended.text, sentence));
    EXPECT_FALSE(fs::exists(folder.path("refused"))) << options;
  };
  refused("--models htlnt", 2, "unknown model \"htlnt\"; did you mean \"htlnet\"?");
  refused("--models htlnet --adjusters mgdaa", 2, "did you mean \"mgda\"?");
  refused("--models htlnet --losses zilm", 2, "did you mean \"ziln\"?");
  refused("--models htlnet --losses squared@zscore", 2, "did you mean \"z_score\"?");
  refused("--models htlnet --losses ziln@z_score", 2, "works in the label's unit");
  refused("--models htlnet --losses softmax_cross_entropy:classes=3", 2, "is not for a regression");
  refused("--models htlnet --losses focal", 1, "[0, 1]");
  refused("--models htlnet --balancers dwaa", 2, "did you mean \"dwa\"?");
  refused("--models htlnet --adjusters famo --balancers dwa", 2, "compares the losses before and after a step");
  refused("--models htlnet --modle x", 2, "there is no option \"--modle\"; did you mean \"--model");
  refused("--models htlnet --patience x", 2, "--patience");
  refused("--models htlnet --jobs 0", 2, "--jobs");
  refused("--models htlnet --score clik", 1, "did you mean \"click\"?");
  refused("--models htlnet --group tab", 1, "--group \"tab\" is no column of groups; the data have \"user\"");
  refused("--models htlnet --reference mmoe", 1, "--reference \"mmoe\" is not in the grid");
}

}  // namespace
