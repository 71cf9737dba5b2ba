// SPDX-License-Identifier: Apache-2.0
/// @file online_retail_test.cpp
/// @brief UCI Online Retail as snapshots of customers: no feature knows what comes after its cut-off, and no label what lies outside its horizon.

#include <examples/htlnet/data/online_retail.hpp>

#include <htl/io/json.hpp>

#include <support/data_files.hpp>
#include <support/program.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

namespace {

using htl::test::bag;
using htl::test::Files;
using htl::test::Random;
using htl::test::real_data;
using htl::test::same_bits;
using htl::test::sentence_of;
using htlnet::Dataset;
using htlnet::load_online_retail;

class OnlineRetail : public Files {};

const std::string retail_header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
const std::string retail_rows =
    "1,A,a,2,2011-01-01 08:00:00,5.0,17.0,United Kingdom\n"
    "1,B,b,1,2011-01-01 08:00:00,10.0,17.0,United Kingdom\n"
    "C2,B,b,-1,2011-01-03 08:00:00,10.0,17.0,United Kingdom\n"
    "3,C,c,3,2011-01-31 08:00:00,10.0,17.0,France\n"
    "3,B,b,1,2011-01-31 08:00:00,0.0,17.0,France\n"  // a gift
    "C4,A,a,-1,2011-01-31 09:00:00,5.0,18.0,France\n"
    "5,A,a,1,2011-01-31 10:00:00,5.0,,France\n"  // nobody's
    "6,A,a,1,2011-02-01 00:00:00,7.0,17.0,Spain\n"
    "C7,A,a,-9,2011-02-02 00:00:00,7.0,17.0,Spain\n"
    "8,A,a,1,2011-02-10 23:59:59,2.5,17.0,Spain\n"
    "9,A,a,1,2011-02-11 00:00:00,100.0,17.0,Spain\n"
    "10,A,a,1,2011-03-05 00:00:00,1.0,19.0,Spain\n"
    "11,A,a,1,2011-04-30 00:00:00,1.0,,Spain\n";

Dataset small_retail(const std::string& directory, const htl::FeatureMap* features = nullptr) {
  return load_online_retail(directory, "2011-02-01", "2011-03-01", "2011-04-01", {.horizon_days = 10, .features = features});
}

TEST_F(OnlineRetail, ASnapshotIsOfTheRowsBeforeTheCutOffAndItsLabelsOfTheHorizon) {
  write("online_retail.csv", retail_header + retail_rows);
  const Dataset data = small_retail(folder_.string());
  EXPECT_EQ(data.features.size(), 4 + 13);
  EXPECT_EQ(data.tasks.names(), (std::vector<std::string>{"buy", "spend"}));
  EXPECT_EQ(data.groups["cut_off"], (std::vector<std::string>{"2011-02-01", "2011-03-01", "2011-04-01"}));
  ASSERT_EQ(data.train.rows(), 2);  // 17 and 18, who has only sent something back
  ASSERT_EQ(data.valid.rows(), 2);
  ASSERT_EQ(data.test.rows(), 3);
  EXPECT_TRUE(same_bits(data.train.labels()["buy"].value, at::tensor({1.0F, 0.0F})));
  EXPECT_TRUE(same_bits(data.train.labels()["spend"].value, at::tensor({9.5F, 0.0F}))) << "the first moment belongs to the horizon, the last does not; gross";
  EXPECT_TRUE(same_bits(data.valid.labels()["buy"].value, at::tensor({0.0F, 0.0F})));
  EXPECT_EQ(data.test.labels().context["cut_off"][0].item<int64_t>(), 2);
  EXPECT_TRUE(same_bits(data.valid.labels().context["user"], at::tensor({0, 1}, at::kInt))) << "the customers 17 and 18, in every part";
  EXPECT_TRUE(same_bits(data.test.labels().context["user"], at::tensor({0, 1, 2}, at::kInt)));

  const auto number = [&](int64_t row, const std::string& name) {
    const auto& names = htlnet::online_retail::number_names;
    return data.train.all().numeric[row][std::find(names.begin(), names.end(), name) - names.begin()].item<double>();
  };
  const auto log1p = [](double x) { return std::log1p(x); };
  const double third = 16.0 / 24.0;  // 2011-01-31 08:00 is 16 hours before the cut-off
  EXPECT_NEAR(number(0, "days_since_order"), log1p(third), 1e-6);
  EXPECT_NEAR(number(0, "orders"), log1p(2), 1e-6);
  EXPECT_NEAR(number(0, "spend_before"), log1p(50), 1e-6);
  EXPECT_NEAR(number(0, "tenure_days"), log1p(30 + third), 1e-6);
  EXPECT_NEAR(number(0, "mean_basket"), log1p(25), 1e-6);
  EXPECT_NEAR(number(0, "last_basket"), log1p(30), 1e-6);
  EXPECT_NEAR(number(0, "cancelled_share"), 1.0 / 3.0, 1e-6);
  EXPECT_NEAR(number(0, "days_between_orders"), log1p(30), 1e-6);
  EXPECT_NEAR(number(0, "products"), log1p(3), 1e-6);
  EXPECT_NEAR(number(0, "orders_30_days"), log1p(1), 1e-6);
  EXPECT_NEAR(number(0, "spend_90_days"), log1p(50), 1e-6);
  EXPECT_NEAR(number(1, "orders"), 0.0, 1e-6);
  EXPECT_NEAR(number(1, "cancelled_share"), 1.0, 1e-6);
  EXPECT_NEAR(number(1, "mean_basket"), log1p(25), 1e-6) << "missing: the training mean";

  const auto texts = [&](const std::string& field, int64_t row) {
    std::vector<std::string> result;
    for (const int64_t id : bag(data, data.train, row, field).first)
      result.push_back(id == 0 ? "" : data.features.fields()[static_cast<size_t>(data.features.index(field))].vocabulary[static_cast<size_t>(id - 1)]);
    return result;
  };
  EXPECT_EQ(texts("last_products", 0), std::vector<std::string>{"C"});
  EXPECT_EQ(texts("most_bought", 0), (std::vector<std::string>{"C", "A", "B"})) << "one order each: the later first";
  EXPECT_EQ(texts("most_bought", 1), std::vector<std::string>{""});
  EXPECT_EQ(texts("country", 0), std::vector<std::string>{"France"});
  EXPECT_EQ(texts("month", 0), std::vector<std::string>{"2"});
  EXPECT_EQ(bag(data, data.train, 0, "most_bought").second, std::vector<float>(3, 1.0F / 3.0F));
  EXPECT_EQ(bag(data, data.train, 1, "mean_basket").first, std::vector<int64_t>{0});

  const Dataset again = load_online_retail(folder_.string(), "", "", "2011-04-01", {.horizon_days = 10, .features = &data.features});
  EXPECT_TRUE(same_bits(again.test.all().fields.ids, data.test.all().fields.ids));
  EXPECT_TRUE(same_bits(again.test.all().numeric, data.test.all().numeric));
}

TEST_F(OnlineRetail, NoRowAtOrAfterTheCutOffIsInAFeatureAndNoneOutsideTheHorizonInALabel) {
  // Random logs; then rows are added at and after a cut-off, or outside of its horizon.
  Random random(3);
  const auto row = [&](int64_t day, const std::string& time) {
    const std::string date = "2011-0" + std::to_string(1 + day / 28) + (day % 28 < 9 ? "-0" : "-") + std::to_string(1 + day % 28);
    const int64_t pieces = random.integer(-2, 6);
    return std::string(pieces < 0 ? "C" : "") + std::to_string(random.integer(1, 40)) + ",P" + std::to_string(random.integer(1, 9)) + ",," +
           std::to_string(pieces) + "," + date + " " + time + "," + std::to_string(random.integer(0, 9)) + "," + std::to_string(random.integer(1, 6)) + ",X" +
           std::to_string(random.integer(1, 3)) + "\n";
  };
  const auto time = [&] { return "1" + std::to_string(random.integer(0, 9)) + ":30"; };
  for (int round = 0; round < 20; ++round) {
    std::string text = retail_header + "0,P0,,1,2011-01-01 08:00,1,1,X1\n";
    for (int n = 0; n < 60; ++n) text += row(random.integer(1, 27), time());
    for (int n = 0; n < 20; ++n) text += row(random.integer(28, 55), time());
    const std::string end = "99,P0,,1,2011-07-01 08:00,1,,X1\n";
    const auto load = [&](const std::string& more) {
      write("online_retail.csv", text + more + end);
      return load_online_retail(folder_.string(), "2011-02-01", "", "", {.horizon_days = 28});
    };
    const Dataset plain = load("");
    std::string later, beside;
    for (int n = 0; n < 20; ++n) later += row(random.integer(28, 90), random.chance(0.3) ? "00:00:00" : time());
    for (int n = 0; n < 20; ++n) beside += row(random.chance(0.5) ? random.integer(1, 27) : random.integer(56, 90), random.chance(0.3) ? "00:00:00" : time());
    later += "90,P1,,1,2011-02-01 00:00:00,1,1,X1\n";
    beside += "91,P1,,1,2011-03-01 00:00:00,1000,1,X1\n";
    const Dataset after = load(later), around = load(beside);
    EXPECT_TRUE(after.features == plain.features);
    EXPECT_TRUE(same_bits(after.train.all().fields.ids, plain.train.all().fields.ids));
    EXPECT_TRUE(same_bits(after.train.all().fields.offsets, plain.train.all().fields.offsets));
    EXPECT_TRUE(same_bits(after.train.all().numeric, plain.train.all().numeric));
    EXPECT_FALSE(same_bits(after.train.labels()["spend"].value, plain.train.labels()["spend"].value)) << "what is added is bought within the horizon";
    // customers that only the added rows know are new rows; the others come in the order of their first row, which is 1 … 6 here
    const int64_t known = plain.train.rows();
    for (const char* task : {"buy", "spend"})
      EXPECT_TRUE(same_bits(around.train.labels()[task].value.slice(0, 0, known), plain.train.labels()[task].value)) << task;
    EXPECT_FALSE(same_bits(around.train.all().numeric.slice(0, 0, known), plain.train.all().numeric));
    EXPECT_GE(plain.train.labels()["spend"].value.min().item<float>(), 0.0F);
    EXPECT_TRUE(plain.train.labels()["spend"].value.gt(0).eq(plain.train.labels()["buy"].value.gt(0)).all().item<bool>());
  }
}

TEST_F(OnlineRetail, AHorizonThatALaterPartCutsShortIsRefused) {
  write("online_retail.csv", retail_header + retail_rows);
  const auto load = [&](const std::string& train, const std::string& valid, const std::string& test, int64_t horizon = 90) {
    return said([&] { load_online_retail(folder_.string(), train, valid, test, {.horizon_days = horizon}); });
  };
  EXPECT_EQ(sentence_of([] { htlnet::online_retail_cut_offs("2011-01-01:2011-03-01", "2011-06-01", "2011-09-01", 90); }), "no error");
  EXPECT_EQ(
      load("2011-01-01:2011-04-01", "2011-06-01", "2011-09-01"),
      "htlnet: the horizon of the training cut-off 2011-04-01 ends on 2011-06-30, after the validation cut-off 2011-06-01, where its labels can't be known "
      "yet; take cut-offs at least 90 days apart, or a shorter --horizon");
  EXPECT_EQ(
      load("2011-01-01", "", "2011-03-31"),
      "htlnet: the horizon of the training cut-off 2011-01-01 ends on 2011-04-01, after the test cut-off 2011-03-31, where its labels can't be known yet; "
      "take cut-offs at least 90 days apart, or a shorter --horizon");
  EXPECT_EQ(load("2011-01-01", "2011-06-01", "2011-07-01:2011-09-01").substr(0, 75),
            "htlnet: the horizon of the validation cut-off 2011-06-01 ends on 2011-08-30");
  EXPECT_EQ(load("2011-01-31:2011-03-31", "", ""),
            "htlnet: the cut-offs \"2011-01-31:2011-03-31\" are one a month, and not every month has a day 31; begin on a day from 1 to 28");
  EXPECT_EQ(load("", "2011-06-01", ""), "htlnet: expected training cut-offs, got none; only with a fitted feature map can there be none");
  EXPECT_EQ(
      load("2011-02-01", "", ""),
      "htlnet: the horizon of the cut-off 2011-02-01 ends on 2011-05-02, and the rows in \"DIR\" end on 2011-04-30: its labels would be cut short; take an "
      "earlier cut-off or a shorter --horizon");
  EXPECT_EQ(load("2011-02-01", "", "", 88), "no error") << "the horizon ends at the first moment of 04-30, which the last row is of";
  EXPECT_EQ(load("2011-02-01", "", "", 89).substr(0, 136),
            "htlnet: the horizon of the cut-off 2011-02-01 ends on 2011-05-01, and the rows in \"DIR\" end on 2011-04-30: its labels would be cut short")
      << "of its last day nothing is known but the first moment";
  EXPECT_EQ(load("2011-01-01", "", "", 30), "htlnet: expected training rows, found no customer before 2011-01-01 in \"DIR\"");
  EXPECT_EQ(load("2011-01-01", "", "", 0), "htlnet: expected a horizon of 1 to 36500 days, got 0");
  const Dataset fitted = small_retail(folder_.string());
  EXPECT_EQ(load_online_retail(folder_.string(), "", "", "2011-06-01", {.features = &fitted.features, .labels = false}).test.rows(), 3)
      << "what comes is predicted before it is known";
  const auto with_row = [&](const std::string& row) {
    write("online_retail.csv", retail_header + row);
    return load("2011-01-01", "", "");
  };
  EXPECT_EQ(with_row("1,A,a,2,1.12.2010 8:26,5.0,17,X\n"),
            "htl::CsvReader: \"DIR/online_retail.csv\", line 2, column \"InvoiceDate\": expected a time YYYY-MM-DD HH:MM:SS, got \"1.12.2010 8:26\"");
  EXPECT_NE(with_row("1,A,a,2,2010-02-30 08:26,5.0,17,X\n").find("expected a time"), std::string::npos);
  EXPECT_EQ(with_row("1,A,a,two,2010-12-01 08:26,5.0,17,X\n"),
            "htl::CsvReader: \"DIR/online_retail.csv\", line 2, column \"Quantity\": expected a number, got \"two\"");
}

TEST_F(OnlineRetail, TheRealSnapshotsAreThoseOfTheDataSetsFacts) {
  const std::string directory = real_data("uci_online_retail");
  if (!std::filesystem::is_directory(directory)) GTEST_SKIP() << "no Online Retail in \"" << directory << "\"; set HTL_DATA_DIR";
  const Dataset data = load_online_retail(directory, "2011-03-01:2011-09-01", "", "");
  EXPECT_EQ(data.train.rows(), 18748);
  EXPECT_EQ(data.train.labels().context["cut_off"].eq(6).sum().item<int64_t>(), 3360) << "a customer who was once seen is seen at every later cut-off";
  const at::Tensor buy = data.train.labels()["buy"].value.to(at::kDouble), spend = data.train.labels()["spend"].value.to(at::kDouble);
  EXPECT_NEAR(buy.mean().item<double>(), 0.524, 5e-4);
  const at::Tensor bought = std::get<0>(spend.masked_select(buy.gt(0)).sort());
  EXPECT_NEAR(bought.median().item<double>(), 520.0, 0.5);
  EXPECT_NEAR(at::quantile(bought, 0.99).item<double>(), 13788.0, 1.0);
  EXPECT_EQ(spend.masked_select(buy.eq(0)).abs().max().item<double>(), 0.0);
  const Dataset parts = load_online_retail(directory, "2011-01-01:2011-03-01", "2011-06-01", "2011-09-01");
  EXPECT_EQ(parts.test.rows(), 3360);
  EXPECT_GT(parts.train.rows(), 3000);
}

class OnlineRetailProgram : public htl::test::ProgramTest {};

TEST_F(OnlineRetailProgram, LearnsTheSpendByZilnUnlessALossOrATransformIsGiven) {
  write("online_retail.csv", retail_header + retail_rows);
  const std::string train =
      "train --dataset online_retail --data . --train-dates 2011-02-01 --valid-dates 2011-03-01 --test-dates 2011-04-01 --horizon 10 "
      "--epochs 1 --min-count 1 --select-by spend.mae --threads 1 --quiet ";
  const auto spend = [&](const std::string& options, const std::string& run_name) {
    const htl::test::Ended ended = run(train + options + " --output " + run_name);
    EXPECT_EQ(ended.status, 0) << ended.text;
    const nlohmann::json task = htl::read_json(folder.path(run_name + "/tasks.json")).at("tasks").at(1);
    const std::string loss = task.contains("losses") ? task["losses"].at(0).at("name").get<std::string>() : "squared";
    return loss + "@" + (task.contains("transform") ? task["transform"].at("name").get<std::string>() : "none");
  };
  EXPECT_EQ(spend("", "plain"), "ziln@none");
  EXPECT_EQ(spend("--core-label log1p", "transformed"), "squared@log1p");
  EXPECT_EQ(spend("--loss spend=huber", "huber"), "huber@z_score");
  EXPECT_EQ(spend("--loss spend=huber --core-label log1p", "both"), "huber@log1p");
  EXPECT_EQ(spend("--loss spend=huber@none", "raw"), "huber@none");
  EXPECT_EQ(spend("--loss spend=tweedie --core-label log1p", "tweedie"), "tweedie@none");
  EXPECT_EQ(spend("--loss spend=huber@none&0.25*pairwise_ranking:group=cut_off", "two"), "huber@none");
  const nlohmann::json losses = htl::read_json(folder.path("two/tasks.json")).at("tasks").at(1).at("losses");
  ASSERT_EQ(losses.size(), 2u);
  EXPECT_EQ(losses[1].at("name"), "pairwise_ranking");
  EXPECT_EQ(losses[1].at("weight"), 0.25);
}

}  // namespace
