// SPDX-License-Identifier: Apache-2.0
/// @file features_test.cpp
/// @brief Features that a reader derives from earlier rows, target statistics and a user's history: none may know what comes after.

#include <examples/htlnet/data/kuairand.hpp>
#include <examples/htlnet/id_dropout.hpp>

#include <support/data_files.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

namespace {

using htl::test::Bag;
using htl::test::bag;
using htl::test::Files;
using htl::test::Random;
using htl::test::real_data;
using htl::test::same_bits;
using htl::test::sentence_of;
using htlnet::Dataset;
using htlnet::load_kuairand;
using htlnet::NumbersAs;
using htlnet::TargetRows;
using htlnet::TargetStatistics;

// ---- TargetStatistics ----

struct Row {
  int64_t time;
  std::vector<int64_t> keys;
  std::vector<float> targets;  // empty = unknown
};

std::vector<Row> random_rows(Random& random, size_t keys, size_t targets) {
  std::vector<Row> rows;
  int64_t time = -3;
  for (int64_t n = random.integer(1, 60); n > 0; --n) {
    time += random.integer(0, 2);
    Row row{time, {}, {}};
    for (size_t k = 0; k < keys; ++k) row.keys.push_back(random.integer(-1, 5) + (random.chance(0.2) ? int64_t{1} << 40 : 0));
    for (size_t t = 0; t < targets && !random.chance(0.05); ++t) row.targets.push_back(static_cast<float>(random.real(-2.0, 9.0)));
    if (row.targets.size() < targets) row.targets.clear();
    rows.push_back(row);
  }
  return rows;
}

std::vector<std::vector<float>> stream(const std::vector<Row>& rows, size_t keys, size_t targets, double strength) {
  TargetStatistics statistics(keys, targets, strength);
  std::vector<std::vector<float>> result;
  for (const Row& row : rows) {
    result.emplace_back(statistics.width());
    statistics.next(row.time, row.keys, row.targets, result.back());
  }
  return result;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) { return same_bits(at::tensor(a), at::tensor(b)); }

TEST(TargetStatistics, AreWhatAPassOverAllEarlierRowsGivesForEachRow) {
  Random random(1);
  for (int round = 0; round < 200; ++round) {
    const size_t keys = static_cast<size_t>(random.integer(1, 3)), targets = static_cast<size_t>(random.integer(1, 3));
    const double strength = random.pick(std::vector<double>{0.0, 0.5, 20.0});
    const std::vector<Row> rows = random_rows(random, keys, targets);
    const std::vector<std::vector<float>> found = stream(rows, keys, targets, strength);
    for (size_t i = 0; i < rows.size(); ++i)
      for (size_t k = 0; k < keys; ++k) {
        const int64_t key = rows[i].keys[k];
        double all = 0.0, count = 0.0;
        std::vector<double> sums(targets, 0.0), totals(targets, 0.0);
        for (const Row& other : rows) {
          if (other.time >= rows[i].time || other.targets.empty()) continue;
          const bool fits = other.keys[k] == key;
          all += 1.0;
          count += fits ? 1.0 : 0.0;
          for (size_t t = 0; t < targets; ++t) {
            totals[t] += static_cast<double>(other.targets[t]);
            sums[t] += fits ? static_cast<double>(other.targets[t]) : 0.0;
          }
        }
        const float* const got = found[i].data() + k * (targets + 1);
        for (size_t t = 0; t < targets; ++t) {
          if (key < 0 || all == 0.0 || count + strength == 0.0) {
            EXPECT_TRUE(std::isnan(got[t]));
          } else {
            EXPECT_NEAR(got[t], (sums[t] + strength * totals[t] / all) / (count + strength), 1e-5);
          }
        }
        if (key < 0) {
          EXPECT_TRUE(std::isnan(got[targets]));
        } else {
          EXPECT_EQ(got[targets], static_cast<float>(count));
        }
      }
  }
}

TEST(TargetStatistics, OfARowDoNotDependOnItsOwnTargetsNorOnThoseOfAnyRowThatIsNotEarlier) {
  Random random(2);
  int64_t heard = 0;  // earlier targets must be heard, or this test could not fail
  for (int round = 0; round < 60; ++round) {
    const double strength = random.pick(std::vector<double>{0.0, 3.0});
    const std::vector<Row> rows = random_rows(random, 2, 2);
    const std::vector<std::vector<float>> before = stream(rows, 2, 2, strength);
    for (size_t i = 0; i < rows.size(); ++i) {
      std::vector<Row> changed = rows;
      for (Row& row : changed)
        if (row.time >= rows[i].time)
          row.targets = random.chance(0.2) ? std::vector<float>() : std::vector<float>{1e6F, std::numeric_limits<float>::quiet_NaN()};
      const std::vector<std::vector<float>> after = stream(changed, 2, 2, strength);
      for (size_t j = 0; j <= i; ++j) ASSERT_TRUE(same(after[j], before[j])) << "row " << j << " heard of row " << i;
      changed = rows;
      if (!changed[i].targets.empty()) changed[i].targets[0] += 1e4F;
      const std::vector<std::vector<float>> other = stream(changed, 2, 2, strength);
      for (size_t j = 0; j < rows.size(); ++j) {
        const bool is_same = same(other[j], before[j]);
        ASSERT_TRUE(is_same || rows[j].time > rows[i].time);
        heard += is_same ? 0 : 1;
      }
    }
  }
  EXPECT_GT(heard, 10000);
}

TEST(TargetStatistics, RefuseRowsOutOfOrderAndOfAnotherWidth) {
  TargetStatistics statistics(1, 1, 1.0);
  std::vector<float> to(2);
  const std::vector<int64_t> key = {1}, two = {1, 2};
  const std::vector<float> target = {1.0F}, targets = {1.0F, 2.0F};
  statistics.next(5, key, target, to);
  EXPECT_EQ(sentence_of([&] { statistics.next(4, key, target, to); }), "htlnet::TargetStatistics: expected rows in the order of time, got time 4 after 5");
  EXPECT_EQ(sentence_of([&] { statistics.next(5, two, target, to); }),
            "htlnet::TargetStatistics: expected 1 keys, 1 targets or none, and room for 2 numbers, got 2, 1 and 2");
  EXPECT_NE(sentence_of([&] { statistics.next(5, key, targets, to); }), "no error");
  EXPECT_EQ(sentence_of([] { TargetStatistics(1, 1, -1.0); }), "htlnet::TargetStatistics: expected a finite strength ≥ 0, got -1");
  EXPECT_EQ(sentence_of([] { htlnet::target_rows("earlier_row"); }),
            "htlnet: expected none, earlier_rows or earlier_days, got \"earlier_row\"; did you mean \"earlier_rows\"?");
  EXPECT_EQ(sentence_of([] { htlnet::numbers_as("bucket"); }), "htlnet: expected buckets, numbers or both, got \"bucket\"; did you mean \"buckets\"?");
}

// ---- IdDropout ----

TEST(IdDropout, TurnsIdsOfLargeFieldsIntoUnknownOnesAtItsRateAndNothingElse) {
  Random random(4);
  const std::vector<int64_t> sizes = {5, 1001, 1000, 50000};
  const at::Tensor ids = random.ids({4000, 4}, 4) + 1;
  at::manual_seed(5);
  const auto share = [](const at::Tensor& dropped) { return dropped.to(at::kDouble).mean().item<double>(); };
  const htlnet::IdDropout drop(sizes, 0.25);
  for (const at::ScalarType type : {at::kInt, at::kLong}) {
    const at::Tensor before = ids.to(type), after = drop({htl::FieldBatch::of(before)}).fields.ids;
    EXPECT_TRUE(same_bits(before, ids.to(type))) << "the given batch is not changed";
    for (const int64_t field : {0, 2}) EXPECT_TRUE(same_bits(after.select(1, field), before.select(1, field)));
    for (const int64_t field : {1, 3}) {
      const at::Tensor dropped = after.select(1, field).eq(0);
      EXPECT_NEAR(share(dropped), 0.25, 0.04);
      EXPECT_TRUE(after.select(1, field).eq(before.select(1, field)).logical_or(dropped).all().item<bool>());
    }
    // the long form: a third of the bags of field 3 are empty, a third have two ids; the last bag of all is empty
    std::vector<int64_t> flat, offsets = {0};
    for (int64_t row = 0; row < 3000; ++row)
      for (int64_t field = 0; field < 4; ++field) {
        for (int64_t n = field == 3 ? (row + 1) % 3 : 1; n > 0; --n) flat.push_back(1 + row % 4);
        offsets.push_back(static_cast<int64_t>(flat.size()));
      }
    const at::Tensor all = at::tensor(flat, at::kLong).to(type);
    const at::Tensor bags = drop({htl::FieldBatch::bags(all, at::tensor(offsets, at::kLong), 4)}).fields.ids;
    int64_t dropped = 0;
    for (size_t bag = 0; bag + 1 < offsets.size(); ++bag)
      for (int64_t i = offsets[bag]; i < offsets[bag + 1]; ++i) {
        const bool may_drop = bag % 4 == 1 || (bag % 4 == 3 && offsets[bag + 1] - offsets[bag] == 1);
        const int64_t id = bags[i].item<int64_t>();
        EXPECT_TRUE(id == flat[static_cast<size_t>(i)] || (may_drop && id == 0)) << "bag " << bag;
        dropped += id == 0 ? 1 : 0;
      }
    EXPECT_NEAR(static_cast<double>(dropped) / 4000.0, 0.25, 0.04);
    EXPECT_TRUE(same_bits(htlnet::IdDropout(sizes, 0.0)({htl::FieldBatch::of(before)}).fields.ids, before));
  }
  EXPECT_EQ(sentence_of([&] { htlnet::IdDropout(sizes, 1.0); }), "htlnet::IdDropout: expected a probability in [0, 1), got 1");
}

// ---- files ----

class KuaiRandFeatures : public Files {};

// ---- KuaiRand ----

struct LogRow {
  std::string user, video, date;
  int64_t time;
  int click;
  std::string play, tab = "1";
};

const int64_t midnight = 1650816000000;  // 2022-04-25 in Beijing
const int64_t hour = 3'600'000;

class KuaiRandLog : public KuaiRandFeatures {
 protected:
  void SetUp() override {
    KuaiRandFeatures::SetUp();
    std::string users = "user_id";
    for (int i = 0; i < 30; ++i) users += ",c" + std::to_string(i);
    for (const char* user : {"\nu1", "\nu2"}) users += user + std::string(30, ',');
    write("user_features_pure.csv", users + "\n");
    write("video_features_basic_pure.csv",
          "video_id,author_id,video_type,upload_type,video_duration,music_id,music_type,tag\nv1,a1,N,W,9000,m1,9.0,39\nv2,a1,N,W,9000,m2,9.0,\"39,68\"\n");
  }
  void write_log(const std::vector<LogRow>& rows) const {
    std::string text = "user_id,video_id,date,hourmin,time_ms,is_click,long_view,play_time_ms,duration_ms,is_rand,tab\n";
    for (const LogRow& row : rows)
      text += row.user + "," + row.video + "," + row.date + ",1200," + std::to_string(row.time) + "," + std::to_string(row.click) + ",0," + row.play +
              ",9000,0," + row.tab + "\n";
    write("log_standard_a.csv", text);
  }
  Dataset load(TargetRows rows, const htl::FeatureMap* features = nullptr) const {
    return load_kuairand(folder_.string(), features ? "" : "2022-04-25:2022-04-26", "", "2022-04-27",
                         {.target_rows = rows, .target_strength = 1.0, .numbers = NumbersAs::numbers, .features = features});
  }
  static float number(const Dataset& data, const htl::TableData& rows, int64_t row, const std::string& name) {
    for (size_t c = 0; c < data.features.numeric().size(); ++c)
      if (data.features.numeric()[c].name == name) return rows.all().numeric[row][static_cast<int64_t>(c)].item<float>();
    ADD_FAILURE() << "no column " << name;
    return 0.0F;
  }
  const std::vector<LogRow> rows_ = {{"u1", "v1", "20220425", midnight + 2 * hour, 1, "1000"},       // 0
                                     {"u2", "v1", "20220425", midnight + 1 * hour, 0, "0"},          // 1: earlier than the row before it
                                     {"u1", "v2", "20220426", midnight + 23 * hour, 1, "3000"},      // 2: of the next date, and by the clock of the same day
                                     {"u1", "v9", "20220426", midnight + 25 * hour, 0, "500", "0"},  // 3
                                     {"u1", "v1", "20220427", midnight + 50 * hour, 0, "0"},         // 4: test
                                     {"u1", "v1", "20220427", midnight + 50 * hour, 1, "2000"},      // 5: test, at the same moment
                                     {"u1", "v2", "20220427", midnight + 51 * hour, 1, "2000"},      // 6: test
                                     {"u1", "v1", "20220424", midnight - 30 * hour, 1, "1000"},      // 7: of no part
                                     {"u1", "v1", "20220430", midnight + 130 * hour, 1, "1000"}};    // 8: later than every part
};

TEST_F(KuaiRandLog, StatisticsAreOfStrictlyEarlierRowsOrDays) {
  write_log(rows_);
  const Dataset rows = load(TargetRows::earlier_rows), days = load(TargetRows::earlier_days);
  ASSERT_EQ(rows.features.numeric().size(), 36U);
  ASSERT_EQ(rows.features.size(), 43);
  ASSERT_EQ(rows.train.rows(), 4);
  ASSERT_EQ(rows.test.rows(), 3);
  const float log2 = std::log(2.0F), log3 = std::log(3.0F), log4 = std::log(4.0F), log5 = std::log(5.0F);
  // strength 1: (sum + global mean) / (n + 1)
  EXPECT_FLOAT_EQ(number(rows, rows.train, 0, "user.count"), log2);  // row 7
  EXPECT_FLOAT_EQ(number(rows, rows.train, 0, "user.click"), (1.0F + 0.5F) / 2.0F);
  EXPECT_FLOAT_EQ(number(rows, rows.train, 0, "video.click"), (1.0F + 0.5F) / 3.0F);
  EXPECT_FLOAT_EQ(number(rows, rows.train, 1, "user.count"), 0.0F);
  EXPECT_FLOAT_EQ(number(rows, rows.train, 1, "user.click"), 1.0F);  // the global mean of row 7
  EXPECT_FLOAT_EQ(number(rows, rows.train, 2, "user.click"), (2.0F + 2.0F / 3.0F) / 3.0F);
  EXPECT_FLOAT_EQ(number(rows, rows.train, 2, "author.count"), log4);  // of v1, whose author is v2's
  EXPECT_FLOAT_EQ(number(rows, rows.train, 3, "user_tab.count"), 0.0F);
  EXPECT_FLOAT_EQ(number(rows, rows.train, 3, "author.count"), (log3 + log2 + log4) / 3.0F) << "an unknown video's author is missing: the training mean";
  for (const int64_t row : {0, 1}) EXPECT_FLOAT_EQ(number(rows, rows.test, row, "user.count"), log5) << "not each other";
  EXPECT_FLOAT_EQ(number(rows, rows.test, 0, "user.click"), (3.0F + 3.0F / 5.0F) / 5.0F);
  EXPECT_FLOAT_EQ(number(rows, rows.test, 2, "user.count"), std::log(7.0F));
  EXPECT_FLOAT_EQ(number(rows, rows.test, 2, "tab_hour.count"), std::log(7.0F)) << "all but the row in tab 0";
  EXPECT_FLOAT_EQ(number(days, days.train, 2, "user.count"), log2) << "row 2 is of the day of row 0, whatever its date says";
  EXPECT_FLOAT_EQ(number(days, days.train, 3, "user.count"), log4);
  for (const int64_t row : {0, 1, 2}) EXPECT_FLOAT_EQ(number(days, days.test, row, "user.count"), log5) << "no row of the same day";
  EXPECT_FLOAT_EQ(number(days, days.test, 2, "user_tag.count"), log2);
  EXPECT_FLOAT_EQ(number(days, days.test, 0, "video_tab.log_seconds"), ((log2 + log2) + (3 * log2 + std::log(4.0F) - log2 + std::log(1.5F)) / 5.0F) / 4.0F);
  const Dataset again = load(TargetRows::earlier_rows, &rows.features);
  EXPECT_TRUE(same_bits(again.test.all().numeric, rows.test.all().numeric)) << "a finished run sees in a test row what its training saw";
}

TEST_F(KuaiRandLog, StatisticsKnowARowThatIsEarlierByItsClockWhateverItsDate) {
  write_log(rows_);
  const Dataset before = load(TargetRows::earlier_rows), days = load(TargetRows::earlier_days);
  std::vector<LogRow> more = rows_;
  more.push_back({"u1", "v1", "20220428", midnight + 49 * hour, 1, "1000"});  // after every part by its date, before the test rows by its clock
  write_log(more);
  const Dataset after = load(TargetRows::earlier_rows, &before.features);
  for (const int64_t row : {0, 1, 2})
    EXPECT_FLOAT_EQ(std::expm1(number(after, after.test, row, "user.count")), std::expm1(number(before, before.test, row, "user.count")) + 1.0F) << row;
  EXPECT_TRUE(same_bits(load(TargetRows::earlier_days, &days.features).test.all().numeric, days.test.all().numeric)) << "it is of the test rows' day";
  more.back().time = midnight + 52 * hour;
  write_log(more);
  EXPECT_TRUE(same_bits(load(TargetRows::earlier_rows, &before.features).test.all().numeric, before.test.all().numeric)) << "later than all of them";
}

TEST_F(KuaiRandLog, NoLabelOfARowOrOfALaterOneIsInItsFeatures) {
  write_log(rows_);
  for (const TargetRows which : {TargetRows::earlier_rows, TargetRows::earlier_days}) {
    const Dataset before = load(which);
    int64_t heard = 0;
    for (size_t i = 0; i < rows_.size(); ++i) {
      std::vector<LogRow> changed = rows_;
      for (LogRow& row : changed)
        if (row.time >= rows_[i].time) {
          row.click = 1 - row.click;
          row.play = "77000";
        }
      write_log(changed);
      const Dataset after = load(which, &before.features);  // the same stand-ins for what is missing
      const auto compare = [&](const htl::TableData& a, const htl::TableData& b, const std::vector<size_t>& places) {
        for (size_t n = 0; n < places.size(); ++n) {
          const bool is_same = same_bits(a.all().numeric[static_cast<int64_t>(n)], b.all().numeric[static_cast<int64_t>(n)]);
          EXPECT_TRUE(is_same || rows_[places[n]].time > rows_[i].time) << "row " << places[n] << " heard of row " << i;
          heard += is_same ? 0 : 1;
        }
      };
      compare(after.test, before.test, {4, 5, 6});
      compare(load_kuairand(folder_.string(), "2022-04-25:2022-04-26", "", "",
                            {.target_rows = which, .target_strength = 1.0, .numbers = NumbersAs::numbers, .features = &before.features})
                  .train,
              before.train, {0, 1, 2, 3});
    }
    EXPECT_GT(heard, 10);
  }
}

TEST_F(KuaiRandLog, StatisticsComeAsBucketsToo) {
  write_log(rows_);
  const auto options = [](NumbersAs numbers) {
    return htlnet::KuaiRandOptions{.buckets = 3, .target_rows = TargetRows::earlier_rows, .target_strength = 1.0, .numbers = numbers};
  };
  const auto load_as = [&](NumbersAs numbers) { return load_kuairand(folder_.string(), "2022-04-25:2022-04-26", "", "2022-04-27", options(numbers)); };
  const Dataset buckets = load_as(NumbersAs::buckets), both = load_as(NumbersAs::both), numbers = load_as(NumbersAs::numbers);
  ASSERT_EQ(buckets.features.size(), 79);
  EXPECT_TRUE(buckets.features.numeric().empty());
  EXPECT_FALSE(buckets.train.all().numeric.defined());
  EXPECT_TRUE(same_bits(both.train.all().fields.ids, buckets.train.all().fields.ids));
  EXPECT_TRUE(same_bits(both.test.all().numeric, numbers.test.all().numeric));
  const int64_t field = buckets.features.index("user.count");
  const std::vector<double> edges = buckets.features.fields()[static_cast<size_t>(field)].edges;
  EXPECT_EQ(edges, (std::vector<double>{static_cast<double>(std::log1p(1.0F)), static_cast<double>(std::log1p(2.0F))})) << "of 0, 1, 2, 3 rows before";
  EXPECT_TRUE(same_bits(buckets.test.all().fields.ids.select(1, field), at::tensor({3, 3, 3}, at::kInt)));
  EXPECT_EQ(buckets.train.all().fields.ids[3][buckets.features.index("author.click")].item<int64_t>(), 0) << "missing";
}

TEST_F(KuaiRandLog, AHistoryBelongsToRowsThatAreLaterThanAllOfIt) {
  write_log(rows_);
  const std::string header = "user_id,history_len,last_time_ms,watch_seq,like_seq,long_watch_seq\n";
  write("user_history.csv", header + "u1,4," + std::to_string(midnight + 10 * hour) + ",v1 v2 v1 v7,v2,\nu3,1,5,v8 v8,,\n");
  const Dataset data = load_kuairand(folder_.string(), "2022-04-25:2022-04-26", "", "2022-04-27", {.history = true});
  ASSERT_EQ(data.features.size(), 46);
  EXPECT_EQ(data.features.fields()[static_cast<size_t>(data.features.index("watch_seq"))].vocabulary, (std::vector<std::string>{"v1", "v2", "v7"}))
      << "of the users in training rows, each once";
  EXPECT_EQ(bag(data, data.train, 0, "watch_seq"), (Bag{{0}, {1.0F}})) << "row 0 is before the history's end";
  EXPECT_EQ(bag(data, data.train, 1, "watch_seq"), (Bag{{0}, {1.0F}})) << "u2 has none";
  EXPECT_EQ(bag(data, data.train, 2, "watch_seq"), (Bag{{1, 2, 1, 3}, {0.25F, 0.25F, 0.25F, 0.25F}}));
  EXPECT_EQ(bag(data, data.test, 1, "like_seq"), (Bag{{1}, {1.0F}}));
  EXPECT_EQ(bag(data, data.test, 1, "long_watch_seq"), (Bag{{0}, {1.0F}}));
  EXPECT_EQ(bag(data, data.test, 1, "user_id"), (Bag{{1}, {1.0F}}));
  const Dataset pooled = load_kuairand(folder_.string(), "2022-04-25:2022-04-26", "", "2022-04-27", {.min_count = 2, .history = true});
  EXPECT_EQ(bag(pooled, pooled.test, 0, "watch_seq"), (Bag{{1, 0, 1, 0}, {0.25F, 0.25F, 0.25F, 0.25F}})) << "rare ones share id 0";
  const Dataset again = load_kuairand(folder_.string(), "", "", "2022-04-27", {.history = true, .features = &data.features});
  EXPECT_TRUE(same_bits(again.test.all().fields.ids, data.test.all().fields.ids));
  write("user_history.csv", header + "u1,1,then,v1,,\n");
  EXPECT_EQ(said([&] { load_kuairand(folder_.string(), "2022-04-25", "", "", {.history = true}); }),
            "htl::CsvReader: \"DIR/user_history.csv\", line 2, column \"last_time_ms\": expected a whole number, got \"then\"");
}

TEST_F(KuaiRandFeatures, RealRowsHaveThemAndAFinishedMapGivesTheSame) {
  const std::string directory = real_data("kuairand_pure");
  if (!std::filesystem::is_directory(directory)) GTEST_SKIP() << "no KuaiRand in \"" << directory << "\"; set HTL_DATA_DIR";
  htlnet::KuaiRandOptions options{.min_count = 10, .history = true, .target_rows = TargetRows::earlier_rows};
  const Dataset data = load_kuairand(directory, "2022-04-25:2022-05-02", "", "2022-05-03", options);
  EXPECT_EQ(data.train.rows(), 131474);
  EXPECT_EQ(data.features.size(), 43 + 3 + 36);
  const auto id = [&](int64_t row, int64_t field) {
    const htl::FieldBatch& all = data.test.all().fields;
    return all.ids[all.offsets[row * all.fields + field]].item<int64_t>();
  };
  int64_t known = 0;
  for (int64_t row = 0; row < 1000; ++row) known += id(row, data.features.index("watch_seq")) > 0 ? 1 : 0;
  EXPECT_GT(known, 500);
  options.features = &data.features;
  const Dataset again = load_kuairand(directory, "", "", "2022-05-03", options);
  EXPECT_TRUE(same_bits(again.test.all().fields.ids, data.test.all().fields.ids));
  EXPECT_TRUE(same_bits(again.test.all().fields.weights, data.test.all().fields.weights));
}

}  // namespace
