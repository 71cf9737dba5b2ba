// SPDX-License-Identifier: Apache-2.0
/// @file datasets_test.cpp
/// @brief The readers of the reference program: KuaiRand-Pure, and CSV files by a schema.

#include <examples/htlnet/data/csv_dataset.hpp>
#include <examples/htlnet/data/kuairand.hpp>

#include <htl/io/atomic_file.hpp>

#include <support/data_files.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

using htl::FeatureMap;
using htl::FieldKind;
using htl::test::Files;
using htl::test::Random;
using htl::test::real_data;
using htl::test::same_bits;
using htl::test::sentence_of;
using htlnet::CsvSchema;
using htlnet::Dataset;
using htlnet::load_kuairand;

class KuaiRand : public Files {};
class CsvDataset : public Files {};

double mean_of(const at::Tensor& t) { return t.to(at::kDouble).mean().item<double>(); }

// ---- KuaiRand ----

const std::string log_header =
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,"
    "comment_stay_time,is_profile_enter,is_rand,tab\n";
const std::string video_header =
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,music_type,tag\n";

std::string user_table() {
  std::string text = "user_id,user_active_degree";
  for (int i = 0; i < 29; ++i) text += i == 3 ? ",follow_user_num" : ",c" + std::to_string(i);
  for (const std::string user : {"u1", "u2", "u3"}) {
    text += "\n" + user + ",full";
    for (int i = 0; i < 29; ++i) text += "," + std::to_string(i + (user == "u2" ? 1 : 0));
  }
  return text + "\n";
}
std::string log_row(const std::string& user, const std::string& video, const std::string& date, const std::string& play = "1500",
                    const std::string& tab = "1") {
  return user + "," + video + "," + date + ",2359,1,1,0,0,0,0,0,0," + play + ",9000,7,7,0,0," + tab + "\n";
}

TEST_F(KuaiRand, ASmallDirectoryIsReadAsDocumented) {
  write("user_features_pure.csv", user_table());
  write("video_features_basic_pure.csv",
        video_header + "v1,a1,NORMAL,2022-04-10,Web,0.0,9000.0,720.0,1280.0,m1,9.0,\"39,68\"\nv2,a2,AD,2022-04-10,Web,0.0,,720.0,1280.0,m1,,39\n");
  // two logs; the second one repeats a row of the first; u9 and v9 are in no feature file
  write("log_standard_4_22_to_5_08_pure.csv", log_header + log_row("u1", "v1", "20220425") + log_row("u2", "v2", "20220425") + log_row("u3", "v1", "20220430"));
  write("log_standard_4_08_to_4_21_pure.csv", log_header + log_row("u1", "v1", "20220425") + log_row("u1", "v1", "20220425", "0") +
                                                  log_row("u9", "v9", "20220426") + log_row("u2", "v2", "20220427", "3000", "4"));
  for (const bool bags : {false, true}) {
    const Dataset data = load_kuairand(folder_.string(), "2022-04-25", "2022-04-26", "2022-04-27:2022-04-28", {.core_transform = "log1p", .tag_bags = bags});
    ASSERT_EQ(data.features.size(), 43);
    EXPECT_EQ(data.train.rows(), 3);  // the file of 4_08 comes first, and its row counts
    EXPECT_EQ(data.valid.rows(), 1);
    EXPECT_EQ(data.test.rows(), 1);
    EXPECT_TRUE(same_bits(data.train.labels()["watch_time"].value, at::tensor({1.5F, 0.0F, 1.5F})));
    EXPECT_TRUE(same_bits(data.train.labels().context["duration"], at::tensor({9.0F, 9.0F, 9.0F})));
    EXPECT_EQ(data.groups["tab"][static_cast<size_t>(data.test.labels().context["tab"][0].item<int64_t>())], "4");
    EXPECT_EQ(data.groups["user"][static_cast<size_t>(data.valid.labels().context["user"][0].item<int64_t>())], "u9");
    EXPECT_EQ(data.tasks["watch_time"].transform().name(), "log1p");

    const auto ids = [&](const htl::TableData& rows, int64_t row, const std::string& field) {
      const htl::FieldBatch& all = rows.all().fields;
      const int64_t at = row * 43 + data.features.index(field);
      const at::Tensor flat = all.ids.flatten();
      const int64_t begin = bags ? all.offsets[at].item<int64_t>() : at, end = bags ? all.offsets[at + 1].item<int64_t>() : at + 1;
      std::vector<int64_t> result;
      for (int64_t i = begin; i < end; ++i) result.push_back(flat[i].item<int64_t>());
      return result;
    };
    using Ids = std::vector<int64_t>;
    EXPECT_EQ(data.features.fields()[0].vocabulary, (std::vector<std::string>{"u1", "u2"}));
    EXPECT_EQ(ids(data.train, 2, "user_id"), Ids{2});
    EXPECT_EQ(ids(data.train, 2, "c0"), Ids{2});
    EXPECT_EQ(ids(data.test, 0, "tab"), Ids{0});  // never seen in training
    EXPECT_EQ(ids(data.train, 0, "hour"), Ids{1});
    EXPECT_EQ(data.features.fields()[static_cast<size_t>(data.features.index("hour"))].vocabulary, std::vector<std::string>{"23"});
    EXPECT_EQ(data.features.fields()[static_cast<size_t>(data.features.index("weekday"))].vocabulary, std::vector<std::string>{"1"});  // a Monday
    for (const char* field : {"user_id", "c0", "video_id", "tag", "author_id", "follow_user_num", "video_duration"})
      EXPECT_EQ(ids(data.valid, 0, field), Ids{0}) << field;
    EXPECT_EQ(ids(data.train, 2, "video_duration"), Ids{0});  // missing in the file
    EXPECT_EQ(ids(data.train, 2, "music_type"), Ids{0});
    EXPECT_EQ(ids(data.train, 0, "tag"), bags ? (Ids{1, 2}) : Ids{1});
    EXPECT_EQ(ids(data.train, 2, "tag"), bags ? Ids{1} : Ids{2});

    const Dataset again = load_kuairand(folder_.string(), "", "", "2022-04-27", {.tag_bags = bags, .features = &data.features});
    EXPECT_TRUE(again.features == data.features);
    EXPECT_TRUE(same_bits(again.test.all().fields.ids, data.test.all().fields.ids));
    EXPECT_EQ(again.train.rows(), 0);
  }
}

TEST_F(KuaiRand, BadInputGetsASentence) {
  const auto load = [&](const std::string& train, const std::string& valid, const std::string& test) {
    return said([&] { load_kuairand(folder_.string(), train, valid, test); });
  };
  EXPECT_EQ(said([&] { load_kuairand((folder_ / "none").string(), "2022-04-25", "", ""); }),
            "htlnet: can't read the directory \"DIR/none\": No such file or directory");
  EXPECT_EQ(load("2022-04-25", "", ""), "htlnet: expected a file user_features_pure*.csv or user_features_pure*.csv.gz in \"DIR\", found none");
  write("user_features_pure.csv", user_table());
  EXPECT_EQ(load("2022-04-25", "", ""), "htlnet: expected a file video_features_basic_pure*.csv or video_features_basic_pure*.csv.gz in \"DIR\", found none");
  write("video_features_basic_pure.csv", video_header + "v1,a1,NORMAL,2022-04-10,Web,0.0,long,720.0,1280.0,m1,9.0,39\n");
  EXPECT_EQ(load("2022-04-25", "", ""),
            "htl::CsvReader: \"DIR/video_features_basic_pure.csv\", line 2, column \"video_duration\": expected a number or nothing, got \"long\"");
  write("video_features_basic_pure.csv", video_header + "v1,a1,NORMAL,2022-04-10,Web,0.0,1e39,720.0,1280.0,m1,9.0,39\n");
  EXPECT_EQ(
      load("2022-04-25", "", ""),
      "htl::CsvReader: \"DIR/video_features_basic_pure.csv\", line 2, column \"video_duration\": expected a number within single precision (up to 3.4e38), "
      "got \"1e39\"");
  write("video_features_basic_pure.csv", "video_id,author_id,video_type\n");
  EXPECT_EQ(load("2022-04-25", "", ""),
            "htl::CsvReader: \"DIR/video_features_basic_pure.csv\" has no column \"upload_type\"; did you mean \"video_type\"? Columns: "
            "\"video_id\", \"author_id\", \"video_type\"");
  write("video_features_basic_pure.csv", video_header);
  EXPECT_EQ(load("2022-04-25", "", ""), "htlnet: expected a file log_standard_*.csv or log_standard_*.csv.gz in \"DIR\", found none");
  const std::string good = log_row("u1", "v1", "20220425");
  const auto with_row = [&](const std::string& row) {
    write("log_standard_a.csv", log_header + good + row);
    return load("2022-04-25", "", "");
  };
  EXPECT_EQ(with_row(""), "no error");
  EXPECT_EQ(load("2022-04-25", "2022-04-26", ""),
            "htlnet: expected validation rows of the days 20220426 to 20220426, found none; the logs in \"DIR\" hold days from "
            "20220425 to 20220425");
  EXPECT_EQ(with_row(log_row("u1", "v1", "20220432")),
            "htl::CsvReader: \"DIR/log_standard_a.csv\", line 3, column \"date\": expected a day YYYYMMDD, got \"20220432\"");
  EXPECT_EQ(with_row(log_row("u1", "v1", "20220425", "-1")),
            "htl::CsvReader: \"DIR/log_standard_a.csv\", line 3, column \"play_time_ms\": expected milliseconds ≥ 0, got \"-1\"");
  EXPECT_EQ(with_row(log_row("u1", "v1", "20220425", "1e300")),
            "htl::CsvReader: \"DIR/log_standard_a.csv\", line 3, column \"play_time_ms\": expected a number within single precision (up to 3.4e38), got "
            "\"1e300\"");
  EXPECT_EQ(with_row("u1,v1,20220425,2400,1,1,0,0,0,0,0,0,1,1,0,0,0,0,1\n"),
            "htl::CsvReader: \"DIR/log_standard_a.csv\", line 3, column \"hourmin\": expected a time HHMM, got \"2400\"");
  EXPECT_EQ(with_row("u1,v1,20220425,0,1,2,0,0,0,0,0,0,1,1,0,0,0,0,1\n"),
            "htl::CsvReader: \"DIR/log_standard_a.csv\", line 3, column \"is_click\": expected 0 or 1, got \"2\"");
  EXPECT_EQ(load("2022-4-25", "", ""), "htlnet: expected dates YYYY-MM-DD or YYYY-MM-DD:YYYY-MM-DD, got \"2022-4-25\"");
  EXPECT_EQ(load("2022-02-30", "", ""), "htlnet: the day 2022-02-30 in \"2022-02-30\" isn't in the calendar");
  EXPECT_EQ(load("2022-04-25:2022-04-24", "", ""), "htlnet: the dates \"2022-04-25:2022-04-24\" end before they begin");
  EXPECT_EQ(load("2022-04-25:2022-04-27", "2022-04-27", ""),
            "htlnet: the training days 2022-04-25:2022-04-27 and the validation days 2022-04-27 overlap; "
            "each part needs days of its own");
  EXPECT_EQ(load("2022-04-25", "", "2022-04-24:2022-04-26"),
            "htlnet: the training days 2022-04-25 and the test days 2022-04-24:2022-04-26 overlap; each part needs days of its own");
  EXPECT_EQ(load("", "2022-04-25", ""), "htlnet: expected training days, got none; only with a fitted feature map can there be none");
  write("user_features_pure.csv", user_table() + "u1" + std::string(30, ',') + "\n");
  EXPECT_EQ(load("2022-04-25", "", ""),
            "htl::CsvReader: \"DIR/user_features_pure.csv\", line 5, column \"user_id\": expected a value that no earlier row has, got \"u1\"");
}

TEST_F(KuaiRand, TheRealRowsAreAllThereOnceAndSplitByDay) {
  if (!std::filesystem::is_directory(real_data("kuairand_pure"))) GTEST_SKIP() << "no KuaiRand in \"" << real_data("kuairand_pure") << "\"; set HTL_DATA_DIR";
  const Dataset data = load_kuairand(real_data("kuairand_pure"), "2022-04-25:2022-05-02", "2022-05-03", "2022-05-04");
  EXPECT_EQ(data.train.rows(), 131474);  // counted by pandas, after drop_duplicates
  EXPECT_EQ(data.valid.rows(), 18581);
  EXPECT_EQ(data.test.rows(), 17226);
  EXPECT_EQ(load_kuairand(real_data("kuairand_pure"), "2022-04-09:2022-04-24", "", "").train.rows() +
                load_kuairand(real_data("kuairand_pure"), "2022-04-25:2022-05-04", "", "").train.rows(),
            171671 + 1311 - 4404);
  EXPECT_NEAR(mean_of(data.train.labels()["watch_time"].value), 21.85093681640476, 1e-6);
  EXPECT_NEAR(mean_of(data.train.labels()["click"].value), 0.450705, 1e-6);

  const std::map<std::string, int64_t> sizes = {{"user_id", 23042},  {"video_id", 5877}, {"author_id", 5274},    {"music_id", 5605},
                                                {"tag", 107},        {"tab", 16},        {"onehot_feat3", 1388}, {"onehot_feat8", 440},
                                                {"upload_type", 13}, {"hour", 25},       {"weekday", 8},         {"is_rand", 2}};
  ASSERT_EQ(data.features.size(), 43);
  for (const auto& [name, size] : sizes) EXPECT_EQ(data.features.sizes()[static_cast<size_t>(data.features.index(name))], size) << name;
  int bucketised = 0;
  for (const FeatureMap::Field& field : data.features.fields()) bucketised += field.kind == FieldKind::bucketised ? 1 : 0;
  EXPECT_EQ(bucketised, 5);

  // every id is in its field's range, and every known id of training occurs there
  const at::Tensor limit = at::tensor(data.features.sizes(), at::kLong);
  for (const htl::TableData* rows : {&data.train, &data.valid, &data.test}) {
    EXPECT_TRUE(rows->all().fields.ids.lt(limit).all().item<bool>());
    EXPECT_GE(rows->all().fields.ids.min().item<int64_t>(), 0);
  }
  EXPECT_TRUE(same_bits(data.train.all().fields.ids.amax({0}).to(at::kLong), limit - 1));
}

TEST_F(KuaiRand, NothingThatIsKnownOnlyAfterTheExposureIsAFeature) {
  if (!std::filesystem::is_directory(real_data("kuairand_pure"))) GTEST_SKIP() << "no KuaiRand in \"" << real_data("kuairand_pure") << "\"; set HTL_DATA_DIR";
  const Dataset data = load_kuairand(real_data("kuairand_pure"), "2022-04-25:2022-04-26", "", "");
  for (const std::string banned : {"play_time_ms", "profile_stay_time", "comment_stay_time", "is_click", "is_like", "is_follow", "is_comment", "is_forward",
                                   "is_hate", "long_view", "is_profile_enter", "time_ms", "watch_time", "click"})
    for (const std::string& name : data.features.names()) EXPECT_NE(name, banned);
  // and no field tells the click: the best rule "one id of one field → its click rate" leaves most of the uncertainty
  const at::Tensor click = data.train.labels()["click"].value.to(at::kDouble);
  const double total = (click - click.mean()).square().mean().item<double>();
  for (const char* name : {"tab", "hour", "weekday", "tag", "video_duration"}) {
    const int64_t field = data.features.index(name);
    const at::Tensor ids = data.train.all().fields.ids.select(1, field).to(at::kLong);
    const at::Tensor zeros = at::zeros({data.features.sizes()[static_cast<size_t>(field)]}, at::kDouble);
    const at::Tensor rate = zeros.index_add(0, ids, click) / zeros.index_add(0, ids, at::ones_like(click)).clamp_min(1.0);
    EXPECT_GT((click - rate.index_select(0, ids)).square().mean().item<double>(), 0.8 * total) << name;
  }
}

// ---- CSV by a schema ----

const std::string good_schema = R"(
groups = ["user"]
[features]
categorical = ["user", "item"]
multi_valued = { tags = "|" }
bucketised = ["price"]
numeric = ["age"]
min_count = 1
buckets = 4
[[task]]
name = "click"
kind = "binary"
[[task]]
name = "amount"
kind = "regression"
after = ["click"]
core = true
transform = "log1p"
observed_when = "click"
mask_column = "paid"
weight_column = "row_weight"
weight = 0.5
context = ["duration"]
[[task]]
name = "rating"
kind = "multiclass"
classes = 3
column = "stars"
[split]
column = "day"
train = { from = 1, to = 9 }
valid = 10
test = ["11", "12"]
)";
const std::string good_rows = R"(user,item,tags,price,age,click,amount,paid,row_weight,duration,stars,day,unused
ann,1,red|blue,10,20,1,3.5,1,1,30,2,9,x
bob,2,red,20,,0,,0,2,31,0,10,x
ann,2,,30,40,1,nonsense,0,0.5,32,,2,x
eve,1,blue|blue,,30,0,7,1,1,33,1,11,x
ann,"1",green|red,1e9,30,1,0,1,1,34,1,012,x
zoe,1,red,1,30,1,0,1,1,34,1,13,x
)";

TEST_F(CsvDataset, ASchemaIsFollowedColumnByColumn) {
  write("rows.csv", good_rows);
  const CsvSchema schema = CsvSchema::read(write("schema.toml", good_schema));
  const Dataset data = htlnet::load_csv(folder_.string(), schema);
  EXPECT_EQ(data.features.names(), (std::vector<std::string>{"user", "item", "tags", "price"}));
  EXPECT_EQ(data.features.fields()[0].vocabulary, std::vector<std::string>{"ann"});
  EXPECT_EQ(data.features.fields()[1].vocabulary, (std::vector<std::string>{"1", "2"}));
  EXPECT_EQ(data.features.fields()[2].vocabulary, (std::vector<std::string>{"blue", "red"}));
  EXPECT_EQ(data.features.fields()[3].edges, std::vector<double>{30.0});
  EXPECT_EQ(data.features.numeric(), (std::vector<FeatureMap::Numeric>{{"age", 30.0}}));
  ASSERT_EQ(data.train.rows(), 2);
  ASSERT_EQ(data.valid.rows(), 1);
  ASSERT_EQ(data.test.rows(), 1);  // "012" is no text of the list, and 13 is in no part
  const htl::FieldBatch& fields = data.train.all().fields;
  EXPECT_TRUE(same_bits(fields.ids, at::tensor({1, 1, 2, 1, 1, 1, 2, 0, 2}, at::kInt)));
  EXPECT_TRUE(same_bits(fields.offsets, at::tensor({0, 1, 2, 4, 5, 6, 7, 8, 9}, at::kLong)));
  EXPECT_TRUE(same_bits(data.test.all().fields.ids, at::tensor({0, 1, 1, 1, 0}, at::kInt)));
  EXPECT_TRUE(same_bits(data.valid.all().numeric, at::tensor({30.0F}).view({1, 1})));
  const htl::Labels& labels = data.train.labels();
  EXPECT_FALSE(labels["click"].mask.defined());
  EXPECT_TRUE(same_bits(labels["amount"].value, at::tensor({3.5F, 0.0F})));
  EXPECT_TRUE(same_bits(labels["amount"].mask, at::tensor({1, 0}).to(at::kBool)));
  EXPECT_TRUE(same_bits(labels["amount"].weight, at::tensor({1.0F, 0.5F})));
  EXPECT_TRUE(same_bits(labels["rating"].value, at::tensor({2, 0}, at::kLong)));
  EXPECT_TRUE(same_bits(labels["rating"].mask, at::tensor({1, 0}).to(at::kBool)));
  EXPECT_TRUE(same_bits(labels.context["duration"], at::tensor({30.0F, 32.0F})));
  EXPECT_EQ(data.groups["user"][static_cast<size_t>(data.test.labels().context["user"][0].item<int64_t>())], "eve");
  const htl::TaskSpec& amount = data.tasks["amount"];
  EXPECT_TRUE(amount.is_core());
  EXPECT_EQ(amount.transform().name(), "log1p");
  EXPECT_EQ(amount.observed_when(), "click");
  EXPECT_EQ(amount.weight(), 0.5);
  EXPECT_EQ(data.tasks.parents(1), std::vector<int64_t>{0});
  EXPECT_TRUE(data.tasks.parents(2).empty());
  EXPECT_TRUE(data.tasks.fitted(labels)["amount"].transform().is_fitted());

  // with the fitted map, other rows, no training row
  CsvSchema later = schema;
  later.split[0] = {.values = {"none"}, .range = {}};
  later.split[1] = {};
  const Dataset test = htlnet::load_csv((folder_ / "rows.csv").string(), later, {.features = &data.features});
  EXPECT_TRUE(same_bits(test.test.all().fields.ids, data.test.all().fields.ids));
  const Dataset pooled = htlnet::load_csv(folder_.string(), schema, {.min_count = 2});
  EXPECT_EQ(pooled.features.sizes(), (std::vector<int64_t>{2, 1, 1, 3}));
}

TEST_F(CsvDataset, FractionsCutTheFilesInTheirOrder) {
  std::string rows = "id,tag,y\n";
  for (int i = 0; i < 70; ++i) rows += std::to_string(i % 7) + "," + (i % 3 == 0 ? "a|b" : "b") + "," + std::to_string(i) + "\n";
  write("b.csv", rows);
  write("a.csv", "y,id,tag\n-1,0,a\n-2,1,a\n");
  for (const bool bags : {false, true}) {
    const Dataset data = htlnet::load_csv(
        folder_.string(), CsvSchema::read(write("s.toml", std::string(bags ? "features = { categorical = [\"id\"], multi_valued = { tag = \"|\" } }\n"
                                                                           : "features = { categorical = [\"id\", \"tag\"] }\n") +
                                                              "[[task]]\nname = \"y\"\nkind = \"regression\"\n[split]\nfractions = [0.5, 0.25, 0.25]\n")));
    ASSERT_EQ(data.train.rows(), 36);
    ASSERT_EQ(data.valid.rows(), 18);
    ASSERT_EQ(data.test.rows(), 18);
    EXPECT_EQ(data.train.labels()["y"].value[0].item<double>(), -1.0);
    EXPECT_EQ(data.valid.labels()["y"].value[0].item<double>(), 34.0);
    EXPECT_EQ(data.test.labels()["y"].value[17].item<double>(), 69.0);
    for (const htl::TableData* part : {&data.train, &data.valid, &data.test}) EXPECT_EQ(part->all().fields.is_short(), !bags);
  }
}

TEST_F(CsvDataset, ReadsBackWhatItsMapSays) {
  // random rows: the ids of every row are those that the map gives its raw values
  Random random(12);
  std::vector<std::vector<std::string>> rows;
  std::string text = "c,t,n,a,y\n";
  for (int i = 0; i < 500; ++i) {
    std::string tags;
    for (int64_t k = random.integer(0, 3); k > 0; --k) tags += "t" + std::to_string(random.integer(0, 9)) + (random.chance(0.5) ? ";" : ";;");
    rows.push_back({random.chance(0.1) ? "" : "c\"" + std::to_string(random.integer(0, 30)), tags, random.chance(0.1) ? "" : std::to_string(random.real(-5, 5)),
                    std::to_string(random.integer(0, 9))});
    text += (rows.back()[0].empty() ? "" : "\"c\"\"" + rows.back()[0].substr(2) + "\"") + "," + tags + "," + rows.back()[2] + "," + rows.back()[3] + ",1\n";
  }
  write("r.csv", text);
  const Dataset data = htlnet::load_csv(folder_.string(), CsvSchema::read(write("s.toml", R"(
features = { categorical = ["c"], multi_valued = { t = ";" }, bucketised = ["n"], numeric = ["a"], min_count = 5, buckets = 7 }
split = { fractions = [0.7, 0.0, 0.3] }
task = [ { name = "y", kind = "binary" } ]
)")));
  ASSERT_EQ(data.train.rows() + data.test.rows(), 500);
  std::vector<int32_t> expected;
  for (const auto& row : rows)
    for (int64_t f = 0; f < 3; ++f) data.features.append_ids(f, row[static_cast<size_t>(f)], expected);
  EXPECT_TRUE(same_bits(at::cat({data.train.all().fields.ids, data.test.all().fields.ids}), at::tensor(expected, at::kInt)));
  for (int64_t i = 0; i < 350; ++i) ASSERT_EQ(data.train.all().numeric[i][0].item<float>(), data.features.number(0, rows[static_cast<size_t>(i)][3]));
}

TEST_F(CsvDataset, NumbersBeyondSinglePrecisionAreRefusedWhereTheyAreRead) {
  const CsvSchema schema = CsvSchema::read(write("schema.toml", good_schema));
  const std::string header = "user,item,tags,price,age,click,amount,paid,row_weight,duration,stars,day\n", good = "ann,1,red,10,20,1,3.5,1,1,30,2,";
  const auto with = [&](const std::string& test_row) {
    write("rows.csv", header + good + "1\n" + good + "10\n" + test_row + "11\n");
    return said([&] { htlnet::load_csv((folder_ / "rows.csv").string(), schema); });
  };
  EXPECT_EQ(with(good), "no error");
  EXPECT_EQ(with("ann,1,red,-3.4e38,3.4e38,1,3.4028234e38,1,1e38,-3e38,2,"), "no error");
  for (const auto& [column, row] : std::map<std::string, std::string>{{"price", "ann,1,red,1e300,20,1,3.5,1,1,30,2,"},
                                                                      {"age", "ann,1,red,10,1e300,1,3.5,1,1,30,2,"},
                                                                      {"amount", "ann,1,red,10,20,1,1e300,1,1,30,2,"},
                                                                      {"row_weight", "ann,1,red,10,20,1,3.5,1,1e300,30,2,"},
                                                                      {"duration", "ann,1,red,10,20,1,3.5,1,1,1e300,2,"}})
    EXPECT_EQ(with(row),
              "htl::CsvReader: \"DIR/rows.csv\", line 4, column \"" + column + "\": expected a number within single precision (up to 3.4e38), got \"1e300\"");
}

TEST_F(CsvDataset, AFileThatOnlyLiesInTheFolderIsExplained) {
  write("rows.csv", good_rows);
  write("truth.csv", "click,amount\n1,2\n");
  EXPECT_EQ(said([&] { htlnet::load_csv(folder_.string(), CsvSchema::read(write("schema.toml", good_schema))); }),
            "htl::CsvReader: \"DIR/truth.csv\" has no column \"user\"; did you mean \"click\"? Columns: \"click\", \"amount\"; if it holds no rows, name the "
            "files that do in the schema, as in files = [\"rows.csv\"]: without files every *.csv counts");
  EXPECT_EQ(htlnet::load_csv(folder_.string(), CsvSchema::read(write("schema.toml", "files = [\"rows.csv\"]\n" + good_schema))).train.rows(), 2);
}

TEST_F(CsvDataset, TheDocumentedSchemaIsRead) {
  const std::filesystem::path page = std::filesystem::path(__FILE__).parent_path() / "../../docs/csv_schema.md";
  const std::string text = htl::read_file(page);
  const std::string open = "```toml\n";
  const size_t begin = text.find(open), end = text.find("```", begin + open.size());
  ASSERT_NE(end, std::string::npos);
  const CsvSchema schema = CsvSchema::read(write("documented.toml", text.substr(begin + open.size(), end - begin - open.size())));
  EXPECT_EQ(schema.tasks.size(), 3);
  EXPECT_EQ(schema.fields.size(), 5);
  EXPECT_TRUE(schema.asks_for(2));
  // every key that the program knows is explained
  for (const std::string key : {"separator",     "files",  "groups",  "categorical", "multi_valued", "bucketised", "numeric",   "min_count",     "buckets",
                                "name",          "kind",   "column",  "classes",     "after",        "core",       "transform", "observed_when", "mask_column",
                                "weight_column", "weight", "context", "train",       "valid",        "test",       "fractions"})
    EXPECT_NE(text.find("| `" + key + "` |"), std::string::npos) << key;
}

TEST_F(CsvDataset, ASchemaOfEndlessDotsGetsASentence) {
  std::string key = "a";
  for (int i = 0; i < 500'000; ++i) key += ".a";  // a table in a table for each: they would exhaust the stack
  for (const std::string& text : {key + " = 1\n", "[" + key + "]\n"}) {
    const std::string path = write("s.toml", text);
    EXPECT_EQ(said([&] { CsvSchema::read(path); }), "htlnet: can't read the schema \"DIR/s.toml\", line 1: expected at most 20000 dots in the file");
  }
}

TEST_F(CsvDataset, EverySchemaMistakeGetsItsSentence) {
  write("rows.csv", good_rows);
  // replaces a piece of the good schema, reads it and the rows
  const auto with = [&](const std::string& piece, const std::string& instead) {
    std::string text = good_schema;
    const size_t at = text.find(piece);
    EXPECT_NE(at, std::string::npos) << piece;
    const std::string path = write("s.toml", text.replace(at, piece.size(), instead));
    return said([&] { htlnet::load_csv((folder_ / "rows.csv").string(), CsvSchema::read(path)); });
  };
  EXPECT_EQ(with("groups", "groups"), "no error");
  EXPECT_EQ(
      with("groups =", "gruops ="),
      "htlnet: \"DIR/s.toml\", line 2: unknown key \"gruops\" in the schema; did you mean \"groups\"? Known: \"separator\", \"files\", \"groups\", \"features\", "
      "\"task\", \"split\"");
  EXPECT_EQ(with("categorical", "categoricl"),
            "htlnet: \"DIR/s.toml\", line 4: unknown key \"categoricl\" in [features]; did you mean \"categorical\"? Known: \"categorical\", \"multi_valued\", "
            "\"bucketised\", \"numeric\", \"min_count\", \"buckets\"");
  EXPECT_EQ(with("core = true", "cor = true").substr(0, 93),
            "htlnet: \"DIR/s.toml\", line 17: unknown key \"cor\" in [[task]] number 2; did you mean \"core\"? K");
  EXPECT_EQ(
      with("kind = \"binary\"", "kind = \"binry\""),
      "htlnet: \"DIR/s.toml\", line 12: unknown kind \"binry\" of task \"click\"; did you mean \"binary\"? Known: \"binary\", \"multiclass\", \"regression\"");
  EXPECT_EQ(with("\"log1p\"", "\"log\"").substr(0, 113),
            "htlnet: \"DIR/s.toml\", line 13: htl::label_transform: unknown transform \"log\"; did you mean \"log1p\"? Known: \"none\"");
  EXPECT_EQ(with("core = true", "core = \"yes\""), "htlnet: \"DIR/s.toml\", line 17: expected true or false for core in [[task]] number 2, got a text");
  EXPECT_EQ(with("buckets = 4", "buckets = 0"), "htlnet: \"DIR/s.toml\", line 9: expected a whole number ≥ 1 for buckets in [features], got 0");
  EXPECT_EQ(with("buckets = 4", "buckets = 4.5"), "htlnet: \"DIR/s.toml\", line 9: expected a whole number ≥ 1 for buckets in [features], got 4.5");
  EXPECT_EQ(with("{ tags = \"|\" }", "[\"tags\"]"),
            "htlnet: \"DIR/s.toml\", line 5: expected multi_valued = { column = \"separator\" } in [features], got a list");
  EXPECT_EQ(with("\"|\"", "\"||\""), "htlnet: \"DIR/s.toml\", line 5: expected one character as the separator of multi_valued in [features], got '||'");
  EXPECT_EQ(with("[\"user\", \"item\"]", "\"user\""), "htlnet: \"DIR/s.toml\", line 4: expected a list of texts for categorical in [features], got a text");
  EXPECT_EQ(with("[\"user\", \"item\"]", "[\"user\", \"user\"]"), "htlnet: \"DIR/s.toml\", line 4: \"user\" is there twice in categorical of [features]");
  EXPECT_EQ(with("[\"price\"]", "[\"item\"]"), "htlnet: \"DIR/s.toml\", line 3: the column \"item\" is categorical and bucketised; keep one");
  EXPECT_EQ(with("[\"price\"]", "[\"amount\"]"),
            "htlnet: \"DIR/s.toml\": the column \"amount\" tells the label of task \"amount\" and can't be a feature; remove it from [features]");
  EXPECT_EQ(with("[\"age\"]", "[\"paid\"]"),
            "htlnet: \"DIR/s.toml\": the column \"paid\" tells the label of task \"amount\" and can't be a feature; remove it from [features]");
  EXPECT_EQ(with("classes = 3", ""), "htlnet: \"DIR/s.toml\", line 24: task \"rating\" is multiclass; expected classes, their number");
  EXPECT_EQ(with("name = \"click\"", ""), "htlnet: \"DIR/s.toml\", line 10: expected name in [[task]] number 1");
  EXPECT_EQ(with("after = [\"click\"]", "after = [\"clik\"]"),
            "htlnet: \"DIR/s.toml\": htl::TaskSet: task \"amount\" follows \"clik\", which is not there; did you mean "
            "\"click\"? Tasks: \"click\", \"amount\", \"rating\"");
  EXPECT_EQ(with("weight = 0.5", "weight = -1"), "htlnet: \"DIR/s.toml\", line 13: htl::TaskSpec: task \"amount\" expects a finite weight ≥ 0, got -1");
  EXPECT_EQ(with("column = \"day\"", "column = \"day\"\nfractions = [1, 0, 0]"),
            "htlnet: \"DIR/s.toml\", line 29: expected in [split] either fractions or a column, got both");
  EXPECT_EQ(with("column = \"day\"", "column = \"\""),
            "htlnet: \"DIR/s.toml\", line 30: expected a name for column in [split], got an empty text; leave it out where there is none");
  EXPECT_EQ(with("[\"user\", \"item\"]", "[\"user\", \"\"]"),
            "htlnet: \"DIR/s.toml\", line 4: expected a name for categorical in [features], got an empty text; leave it out where there is none");
  EXPECT_EQ(
      with("\ngroups", "\nfiles = []\ngroups"),
      "htlnet: \"DIR/s.toml\", line 2: expected the names of files in files of the schema, got none; leave it out to read every *.csv and *.csv.gz of the "
      "folder");
  EXPECT_EQ(with("{ from = 1, to = 9 }", "{ from = 1 }"), "htlnet: \"DIR/s.toml\", line 31: expected from and to in train of [split]");
  EXPECT_EQ(with("{ from = 1, to = 9 }", "{ from = 10, to = 9 }"), "htlnet: \"DIR/s.toml\", line 31: train of [split] ends before it begins");
  EXPECT_EQ(with("valid = 10", "valid = 9"),
            "htlnet: \"DIR/s.toml\": the value \"9\" of the split column \"day\" belongs to training and validation rows; the parts of "
            "[split] must not overlap");
  EXPECT_EQ(with("valid = 10", "valid = 99"), "htlnet: expected validation rows by [split] of \"DIR/s.toml\", found none among 6 rows");
  EXPECT_EQ(with("valid = 10", "valid = 1.5"), "htlnet: \"DIR/s.toml\", line 32: expected texts, whole numbers or dates for valid in [split], got a number");
  EXPECT_EQ(with("\"price\"", "\"prise\"").substr(0, 85), "htl::CsvReader: \"DIR/rows.csv\" has no column \"prise\"; did you mean \"price\"? Columns: ");
  EXPECT_EQ(with("\"price\"", "\"unused\""), "htl::CsvReader: \"DIR/rows.csv\", line 2, column \"unused\": expected a number or nothing, got \"x\"");
  EXPECT_EQ(with("kind = \"binary\"", "kind = \"binary\"\ncolumn = \"stars\""),
            "htl::CsvReader: \"DIR/rows.csv\", line 2, column \"stars\": expected 0 or 1, or nothing where it was not observed, got \"2\"");
  EXPECT_EQ(with("classes = 3", "classes = 2"), "htl::CsvReader: \"DIR/rows.csv\", line 2, column \"stars\": expected a class in [0, 2), got \"2\"");
  EXPECT_EQ(with("mask_column = \"paid\"", ""), "htl::CsvReader: \"DIR/rows.csv\", line 4, column \"amount\": expected a number, got \"nonsense\"");
  EXPECT_EQ(with("\"paid\"", "\"duration\""), "htl::CsvReader: \"DIR/rows.csv\", line 2, column \"duration\": expected 0 or 1, got \"30\"");
  EXPECT_EQ(with("groups = [\"user\"]", "groups = [\"duration\"]"),
            "htlnet: \"DIR/s.toml\": the column \"duration\" can't be a group and the context of a task at the same time");
  EXPECT_EQ(with("[split]", "[split").substr(0, 55), "htlnet: can't read the schema \"DIR/s.toml\", line 29: Er");
  EXPECT_NE(said([&] { CsvSchema::read((folder_ / "none.toml").string()); }).find("htlnet: can't read the schema \"DIR/none.toml\""), std::string::npos);
  for (const auto& [fractions, says] : std::map<std::string, std::string>{
           {"[0.5, 0.5]", "expected fractions = [train, valid, test] in [split]"},
           {"[0.5, 0.6, -0.1]", "expected fractions that are not negative, the first one positive, and add up to 1, got 0.5, 0.6, -0.1"},
           {"[0.5, 0.2, 0.2]", "expected fractions that are not negative, the first one positive, and add up to 1, got 0.5, 0.2, 0.2"}})
    EXPECT_EQ(said([&] {
                CsvSchema::read(write("f.toml", "features = { categorical = [\"a\"] }\ntask = [ { name = \"y\", kind = \"binary\" } ]\nsplit = { fractions = " +
                                                    fractions + " }\n"));
              }),
              "htlnet: \"DIR/f.toml\", line 3: " + says);
}

}  // namespace
