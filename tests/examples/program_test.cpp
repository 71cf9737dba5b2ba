// SPDX-License-Identifier: Apache-2.0
/// @file program_test.cpp
/// @brief Rules of the program htlnet that need no training: which epoch is better, what an average is, how options are written.

#include <examples/htlnet/data/padding.hpp>
#include <examples/htlnet/data/seen_rows.hpp>
#include <examples/htlnet/evaluate.hpp>

#include <htl/data/batch_loader.hpp>

#include <support/seeded.hpp>

#include <gtest/gtest.h>

#include <limits>

namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

htlnet::Selection by(const std::string& metric) {
  htlnet::Selection selection;
  selection.metric = metric;
  return selection;
}

TEST(Selection, KnowsWhichWayEachMetricIsBetter) {
  EXPECT_TRUE(by("auc").better(0.7, 0.6));
  EXPECT_FALSE(by("auc").better(0.6, 0.6));
  EXPECT_TRUE(by("gauc.user_id").better(0.7, 0.6));
  EXPECT_TRUE(by("nrmse").better(0.9, 1.0));
  EXPECT_FALSE(by("log_loss").better(0.7, 0.6));
  // of ratios the nearer one to 1, by factors: a half is as far as two
  EXPECT_TRUE(by("calibration_ratio").better(0.9, 1.2));
  EXPECT_TRUE(by("calibration_ratio").better(1.2, 0.8));
  EXPECT_FALSE(by("calibration_ratio").better(0.5, 2.0));
  EXPECT_FALSE(by("calibration_ratio").better(0.0, 5.0));
  EXPECT_TRUE(by("calibration_ratio").better(5.0, -1.0));
  for (const char* metric : {"auc", "nrmse", "calibration_ratio"}) EXPECT_FALSE(by(metric).better(undefined, 0.5)) << metric;
}

TEST(Options, NullStandsForWhatIsNotDefined) {
  EXPECT_TRUE(htlnet::to_json(undefined).is_null());
  EXPECT_TRUE(htlnet::to_json(std::numeric_limits<double>::infinity()).is_null());
  EXPECT_EQ(htlnet::to_json(0.5), nlohmann::json(0.5));
}

TEST(Options, AnAverageIsNoneMeanOrADecayInsideZeroAndOne) {
  EXPECT_EQ(htlnet::average_decay("none"), 0.0);
  EXPECT_EQ(htlnet::average_decay("mean"), 0.0);
  EXPECT_EQ(htlnet::average_decay("ema:0.99"), 0.99);
  for (const std::string wrong : {"", "ema", "ema:", "ema:0", "ema:1", "ema:0.9x", "ema:-0.5", "men"})
    EXPECT_EQ(htl::test::sentence_of([&] { htlnet::average_decay(wrong); }),
              "htlnet: expected none, mean or ema:DECAY with a decay in (0, 1), got \"" + wrong + "\"");
}

TEST(Padding, OfRowsOnADeviceIsThatOfTheLoaderForRowsOnTheCpu) {
  htl::Batch all;
  all.fields = htl::FieldBatch::of(torch::arange(26, torch::kInt).view({13, 2}));
  all.numeric = torch::rand({13, 1});
  all.labels.set("click", {torch::rand({13})}).set("amount", {torch::rand({13}), torch::rand({13}) > 0.5, torch::rand({13})});
  all.labels.context.set("user", torch::arange(13, torch::kInt));
  const htl::TableData rows(all), weighted = htlnet::with_weights(rows);
  EXPECT_FALSE(rows.labels()["click"].weight.defined()) << "the rows themselves stay as they are";
  htl::BatchLoader expected(rows, {.batch_size = 5, .pad_last = true}), plain(weighted, {.batch_size = 5});
  ASSERT_EQ(plain.batches(), 3);
  auto other = expected.begin();
  for (const htl::Batch& batch : plain) {
    const htl::Batch full = htlnet::padded(batch, 5);
    ASSERT_EQ(full.rows(), 5);
    EXPECT_TRUE(full.fields.ids.equal(other->fields.ids));
    EXPECT_TRUE(full.numeric.equal(other->numeric));
    EXPECT_TRUE(full.labels.context["user"].equal(other->labels.context["user"]));
    for (const std::string task : {"click", "amount"}) {
      EXPECT_TRUE(full.labels[task].value.equal(other->labels[task].value));
      EXPECT_TRUE(full.labels[task].weight.equal(other->labels[task].weight));
      EXPECT_EQ(full.labels[task].weight.scalar_type(), torch::kFloat);
    }
    EXPECT_TRUE(full.labels["amount"].mask.equal(other->labels["amount"].mask));
    ++other;
  }
}

TEST(SeenRows, TellsEveryTextThatWasThere) {
  htlnet::SeenRows seen;
  for (int i = 0; i < 5000; ++i) ASSERT_TRUE(seen.add("row " + std::to_string(i))) << i;
  for (int i = 0; i < 5000; ++i) ASSERT_FALSE(seen.add("row " + std::to_string(i))) << i;
  EXPECT_TRUE(seen.add(""));
  EXPECT_TRUE(seen.add(std::string(1, '\0')));  // the length counts
  EXPECT_FALSE(seen.add(""));
}

}  // namespace
