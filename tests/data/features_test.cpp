// SPDX-License-Identifier: Apache-2.0
/// @file features_test.cpp
/// @brief Vocabularies, feature maps and how they are fitted; tables of rows; the loader's order, its resumption and its batches.

#include <htl/data/batch_loader.hpp>
#include <htl/data/field_counter.hpp>
#include <htl/data/text_batch.hpp>
#include <htl/task/task_set.hpp>

#include <support/seeded.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

namespace {

using htl::Batch;
using htl::BatchLoader;
using htl::BatchLoaderState;
using htl::FeatureMap;
using htl::FieldCounter;
using htl::FieldKind;
using htl::TableData;
using htl::test::Random;
using htl::test::same_bits;
using htl::test::sentence_of;

static_assert(htl::BatchSource<BatchLoader>);
static_assert(std::regular<FeatureMap>);

std::string random_text(Random& random) {
  std::string text;
  for (int64_t n = random.integer(1, 20); n > 0; --n) text += static_cast<char>(random.integer(1, 255));
  return text;
}

TEST(Vocabulary, AgreesWithAMap) {
  Random random(1);
  htl::Vocabulary vocabulary;
  std::map<std::string, int32_t> expected;
  std::vector<std::string> order;
  for (int i = 0; i < 60000; ++i) {
    // texts of every length, many that differ in one byte only, and repeats
    std::string text = random.chance(0.3) && !order.empty() ? random.pick(order) : random_text(random);
    if (random.chance(0.3)) text.back() = static_cast<char>(text.back() + 1);
    if (i == 7) text.clear();
    const auto [at, is_new] = expected.try_emplace(text, static_cast<int32_t>(order.size()));
    ASSERT_EQ(vocabulary.find(text), is_new ? -1 : at->second);
    if (is_new) order.push_back(text);
    ASSERT_EQ(vocabulary.add(text), at->second);
  }
  ASSERT_EQ(vocabulary.size(), static_cast<int32_t>(order.size()));
  for (size_t n = 0; n < order.size(); ++n) ASSERT_EQ(vocabulary.text(static_cast<int32_t>(n)), order[n]);
}

FeatureMap small_map() {
  return FeatureMap({{.name = "user", .vocabulary = {"7", "-3", "ann"}},
                     {.name = "tags", .kind = FieldKind::multi_valued, .separator = '|', .vocabulary = {"red", "blue"}},
                     {.name = "price", .kind = FieldKind::bucketised, .edges = {0.0, 1.5, 10.0}}},
                    {{.name = "age", .missing = 33.0}});
}

TEST(FeatureMap, MapsKnownTextsToTheirPlaceAndAllElseToZero) {
  const FeatureMap map = small_map();
  EXPECT_EQ(map.names(), (std::vector<std::string>{"user", "tags", "price"}));
  EXPECT_EQ(map.sizes(), (std::vector<int64_t>{4, 3, 5}));
  EXPECT_EQ(map.size(), 3);
  EXPECT_FALSE(map.is_short());
  EXPECT_EQ(map.index("price"), 2);
  EXPECT_EQ(map.id(0, "7"), 1);
  EXPECT_EQ(map.id(0, "ann"), 3);
  for (const char* unknown : {"", "8", "7 ", "ANN", "nan"}) EXPECT_EQ(map.id(0, unknown), 0) << unknown;
  EXPECT_EQ(map.id(0, int64_t{7}), 1);
  EXPECT_EQ(map.id(0, int64_t{-3}), 2);
  EXPECT_EQ(map.id(0, std::numeric_limits<int64_t>::min()), 0);
  std::vector<int32_t> ids;
  for (const char* text : {"blue|red", "", "|", "red||new|red", "blue|"}) map.append_ids(1, text, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 1, 0, 0, 1, 0, 1, 2}));
  ids.clear();
  map.append_ids(0, "-3", ids);
  EXPECT_EQ(ids, std::vector<int32_t>{2});
  EXPECT_EQ(map.number(0, "41.5"), 41.5F);
  EXPECT_EQ(map.number(0, "NA"), 33.0F);
}

TEST(FeatureMap, ANumbersIdIsOneAndTheNumberOfEdgesAtOrBelowIt) {
  const FeatureMap map = small_map();
  for (const auto& [text, id] :
       std::vector<std::pair<std::string, int32_t>>{{"", 0}, {"nan", 0}, {"-1e9", 1}, {"-0.001", 1}, {"0", 2}, {"1.49", 2}, {"1.5", 3}, {"10", 4}, {"1e30", 4}})
    EXPECT_EQ(map.id(2, text), id) << text;
  EXPECT_EQ(map.bucket(2, 1.5), 3);
  EXPECT_EQ(map.bucket(2, std::numeric_limits<double>::quiet_NaN()), 0);
  EXPECT_EQ(map.bucket(2, std::numeric_limits<double>::infinity()), 4);
  EXPECT_EQ(map.id(2, int64_t{1}), 2);
}

TEST(FeatureMap, IsAllInItsFields) {
  const FeatureMap map = small_map();
  const FeatureMap again(map.fields(), map.numeric());
  EXPECT_TRUE(map == again);
  EXPECT_EQ(again.id(0, "ann"), 3);
  FeatureMap moved = small_map();
  const FeatureMap target = std::move(moved);
  EXPECT_EQ(target.id(0, "ann"), 3);
  std::vector<FeatureMap::Field> fields = map.fields();
  std::swap(fields[0].vocabulary[0], fields[0].vocabulary[1]);
  EXPECT_FALSE(map == FeatureMap(fields, map.numeric()));
  EXPECT_FALSE(map == FeatureMap(map.fields()));
}

TEST(FeatureMap, RefusesImpossibleFieldsAndValuesInASentence) {
  const auto made = [](FeatureMap::Field field) { return sentence_of([&] { FeatureMap map({field}); }); };
  EXPECT_EQ(made({.name = ""}), "htl::FeatureMap: expected a name for field 0, got an empty one");
  EXPECT_EQ(sentence_of([] { FeatureMap map({{.name = "a"}, {.name = "a"}}); }), "htl::FeatureMap: the field \"a\" is there twice");
  EXPECT_EQ(sentence_of([] { FeatureMap map({{.name = "a"}}, {{"a"}, {"b"}, {"a"}}); }), "htl::FeatureMap: the numeric column \"a\" is there twice");
  std::vector<FeatureMap::Numeric> many;
  for (int i = 0; i < 200'000; ++i) many.push_back({"n" + std::to_string(i)});
  EXPECT_EQ(FeatureMap({}, many).numeric().size(), many.size());  // with each name compared to all before it, minutes
  EXPECT_EQ(made({.name = "a", .vocabulary = {"x", "y", "x"}}), "htl::FeatureMap: field \"a\": \"x\" is in the vocabulary twice");
  EXPECT_EQ(made({.name = "a", .vocabulary = {""}}),
            "htl::FeatureMap: field \"a\": expected texts in the vocabulary, got an empty one; missing values have id 0 already");
  EXPECT_EQ(made({.name = "a", .edges = {1.0}}), "htl::FeatureMap: field \"a\" is categorical; expected no bucket edges");
  EXPECT_EQ(made({.name = "a", .kind = FieldKind::bucketised, .vocabulary = {"x"}}), "htl::FeatureMap: field \"a\" is bucketised; expected no vocabulary");
  EXPECT_EQ(made({.name = "a", .kind = FieldKind::multi_valued}), "htl::FeatureMap: field \"a\" is multi_valued; expected a separator");
  EXPECT_EQ(made({.name = "a", .separator = ','}), "htl::FeatureMap: field \"a\" is categorical; expected no separator");
  EXPECT_NE(made({.name = "a", .kind = FieldKind::bucketised, .edges = {2.0, 1.0}}).find("expected finite bucket edges that rise"), std::string::npos);
  EXPECT_NE(made({.name = "a", .kind = FieldKind::bucketised, .edges = {1.0, 1.0 + 1e-12}}).find("rise in single precision"), std::string::npos);
  EXPECT_NE(made({.name = "a", .kind = FieldKind::bucketised, .edges = {std::nan("")}}).find("finite"), std::string::npos);
  const FeatureMap map = small_map();
  EXPECT_EQ(sentence_of([&] { map.id(2, "cheap"); }), "htl::FeatureMap: field \"price\": expected a number or nothing, got \"cheap\"");
  EXPECT_EQ(sentence_of([&] { map.id(1, "red"); }), "htl::FeatureMap: field \"tags\" is multi-valued, so it has no single id; use append_ids()");
  EXPECT_EQ(sentence_of([&] { map.bucket(0, 1.0); }), "htl::FeatureMap: field \"user\" is categorical; only a bucketised one has an id for the number 1");
  EXPECT_EQ(sentence_of([&] { map.id(3, "x"); }), "htl::FeatureMap: expected a field in [0, 3), got 3");
  EXPECT_EQ(map.id(2, "1e39"), 4) << "above every edge, although no float";
  for (const char* text : {"1e39", "-1e300"})
    EXPECT_EQ(sentence_of([&] { map.number(0, text); }),
              std::string("htl::FeatureMap: numeric column \"age\": expected a number within single precision, got \"") + text +
                  "\"; scale the column, or take its logarithm");
  EXPECT_EQ(sentence_of([&] { map.number(1, "x"); }), "htl::FeatureMap: expected a numeric column in [0, 1), got 1");
  EXPECT_EQ(sentence_of([&] { map.index("prise"); }),
            "htl::FeatureMap: there is no field \"prise\"; did you mean \"price\"? Fields: \"user\", \"tags\", \"price\"");
  EXPECT_EQ(sentence_of([] { htl::field_kind("categorial"); }),
            "htl::field_kind: unknown kind \"categorial\"; did you mean \"categorical\"? Known: \"categorical\", \"multi_valued\", \"bucketised\"");
}

TEST(FieldCounter, NumbersTextsByFallingCountAndPoolsRareOnes) {
  Random random(2);
  for (int round = 0; round < 50; ++round) {
    const int64_t min_count = random.integer(0, 4);
    std::vector<std::string> rows;
    for (int i = 0; i < 300; ++i) rows.push_back(random.chance(0.1) ? "" : "v" + std::to_string(random.integer(0, 80)));
    const size_t training = static_cast<size_t>(random.integer(0, 300));
    std::map<std::string, int64_t> counts;
    for (size_t i = 0; i < training; ++i)
      if (!rows[i].empty()) ++counts[rows[i]];
    std::vector<std::string> expected;
    for (const auto& [text, times] : counts)
      if (times >= min_count) expected.push_back(text);
    std::stable_sort(expected.begin(), expected.end(), [&](const auto& a, const auto& b) { return counts[a] > counts[b]; });

    FieldCounter counter({.name = "f", .min_count = min_count});
    std::vector<int32_t> codes;
    for (const std::string& row : rows) codes.push_back(counter.encode(row));
    for (size_t i = 0; i < training; ++i) counter.count(codes[i]);
    const FeatureMap map({counter.fit()});
    ASSERT_EQ(map.fields()[0].vocabulary, expected);
    for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(counter.id(codes[i]), map.id(0, rows[i])) << rows[i];

    FieldCounter other({.name = "f"});  // later data, the same map
    std::vector<int32_t> later;
    for (auto row = rows.rbegin(); row != rows.rend(); ++row) later.push_back(other.encode(*row + (random.chance(0.2) ? "new" : "")));
    other.adopt(map);
    const std::vector<std::string> texts = other.texts();
    for (const int32_t code : later) ASSERT_EQ(other.id(code), map.id(0, texts[static_cast<size_t>(code)]));
  }
}

TEST(FieldCounter, CountsEveryValueOfABag) {
  FieldCounter counter({.name = "tags", .kind = FieldKind::multi_valued, .separator = '|', .min_count = 2});
  std::vector<int32_t> codes;
  counter.append_codes("a|b|a||c", codes);
  counter.append_codes("", codes);
  for (const int32_t code : codes) counter.count(code);
  const FeatureMap map({counter.fit()});
  EXPECT_EQ(map.fields()[0].vocabulary, std::vector<std::string>{"a"});
  std::vector<int32_t> ids;
  for (const int32_t code : codes) ids.push_back(counter.id(code));
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 0, 1, 0, 0}));
}

TEST(FieldCounter, CutsNumbersIntoBucketsOfEqualMass) {
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    const int64_t n = random.integer(1, 2000), buckets = random.integer(1, 40);
    const bool few = random.chance(0.4);
    FieldCounter counter({.name = "x", .kind = FieldKind::bucketised, .buckets = buckets});
    std::vector<int32_t> codes;
    std::vector<float> values;
    for (int64_t i = 0; i < n; ++i) {
      const double value = few ? static_cast<double>(random.integer(-3, 3)) : random.real(-5.0, 5.0) * random.real(0.0, 1e3);
      codes.push_back(counter.encode(std::to_string(value)));
      values.push_back(std::strtof(std::to_string(value).c_str(), nullptr));
    }
    codes.push_back(counter.encode(""));
    for (const int32_t code : codes) counter.count(code);
    const FeatureMap map({counter.fit()});
    const std::vector<double>& edges = map.fields()[0].edges;
    ASSERT_LT(static_cast<int64_t>(edges.size()), buckets);
    std::vector<int64_t> mass(edges.size() + 2, 0);
    for (const int32_t code : codes) ++mass[static_cast<size_t>(counter.id(code))];
    ASSERT_EQ(mass[0], 1);
    std::vector<float> distinct = values;
    std::sort(distinct.begin(), distinct.end());
    const int64_t most = [&] {
      int64_t longest = 0, run = 0;
      for (size_t i = 0; i < distinct.size(); ++i) longest = std::max(longest, run = i > 0 && distinct[i] == distinct[i - 1] ? run + 1 : 1);
      return longest;
    }();
    for (size_t b = 1; b < mass.size(); ++b) {
      ASSERT_GT(mass[b], 0) << "bucket " << b << " of " << buckets << " is empty";
      ASSERT_LE(mass[b], n / buckets + 1 + 2 * most) << "bucket " << b;
    }
    if (most == 1 && n >= buckets) {
      ASSERT_EQ(static_cast<int64_t>(edges.size()), buckets - 1);
    }
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(counter.id(codes[i]), map.bucket(0, static_cast<double>(values[i])));
  }
}

TEST(FieldCounter, TakesGivenEdges) {
  for (const std::vector<double>& edges : {std::vector<double>{2.5, 7.0}, std::vector<double>{}}) {
    htl::FieldCounter counter({.name = "age", .kind = htl::FieldKind::bucketised, .buckets = 4, .edges = edges});
    for (const float value : {1.0F, 2.0F, 3.0F, 4.0F, 9.0F}) counter.count(htl::FieldCounter::encode_number(value));
    EXPECT_EQ(counter.fit().edges, edges);
    EXPECT_EQ(counter.id(htl::FieldCounter::encode_number(7.0)), 1 + static_cast<int32_t>(edges.size()));
  }
}

TEST(FieldCounter, WeightedCountsEqualRepeatedOnes) {
  for (const FieldKind kind : {FieldKind::categorical, FieldKind::bucketised}) {
    FieldCounter once({.name = "x", .kind = kind, .min_count = 4, .buckets = 4}), often({.name = "x", .kind = kind, .min_count = 4, .buckets = 4});
    for (int value = 0; value < 9; ++value) {
      once.count(once.encode(std::to_string(value)), value);
      for (int i = 0; i < value; ++i) often.count(often.encode(std::to_string(value)));
    }
    EXPECT_EQ(once.fit(), often.fit());
  }
}

TEST(FieldCounter, RefusesWhatDoesNotFit) {
  EXPECT_EQ(sentence_of([] { FieldCounter counter({.name = "x", .buckets = 0}); }), "htl::FieldCounter: field \"x\": expected at least one bucket, got 0");
  EXPECT_EQ(sentence_of([] { FieldCounter counter({.name = "x", .min_count = -1}); }), "htl::FieldCounter: field \"x\": expected min_count ≥ 0, got -1");
  EXPECT_EQ(sentence_of([] { FieldCounter({.name = "x", .kind = FieldKind::bucketised}).encode("y"); }),
            "htl::FeatureMap: field \"x\": expected a number or nothing, got \"y\"");
  EXPECT_EQ(sentence_of([] { FieldCounter({.name = "user", .kind = FieldKind::bucketised}).adopt(small_map()); }),
            "htl::FieldCounter: field \"user\" is bucketised here and categorical in the feature map; read the data as in training");
}

// ---- rows in memory ----

TableData random_table(Random& random, int64_t n, bool bags) {
  const int64_t fields = random.integer(1, 6);
  Batch all;
  if (bags) {
    std::vector<int64_t> offsets = {0};
    for (int64_t i = 0; i < n * fields; ++i) offsets.push_back(offsets.back() + random.integer(0, 3));
    all.fields = htl::FieldBatch::bags(random.ids({offsets.back()}, 100).to(at::kInt), at::tensor(offsets, at::kLong), fields,
                                       random.chance(0.5) ? random.uniform({offsets.back()}, 0, 1, at::kFloat) : at::Tensor());
  } else {
    all.fields = htl::FieldBatch::of(random.ids({n, fields}, 100).to(random.chance(0.5) ? at::kInt : at::kLong));
  }
  if (random.chance(0.5)) all.numeric = random.normal({n, 3}, 1.0, at::kFloat);
  all.labels.set("click", {random.events({n}, 0.5, at::kFloat), random.chance(0.5) ? random.mask({n}) : at::Tensor()});
  all.labels.set("amount", {random.normal({n}, 1.0, at::kDouble), {}, random.chance(0.5) ? random.uniform({n}, 0, 1, at::kFloat) : at::Tensor()});
  all.labels.set("class", {random.ids({n}, 5)});
  all.labels.context.set("row", at::arange(n, at::kLong));
  return TableData(std::move(all));
}

// One row of a batch in plain vectors: bags by field, then everything else as doubles.
std::vector<std::vector<double>> row_of(const Batch& batch, int64_t row) {
  std::vector<std::vector<double>> result;
  const auto to_vector = [](const at::Tensor& t) {
    const at::Tensor flat = t.to(at::kDouble).flatten().contiguous();
    return std::vector<double>(flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel());
  };
  for (int64_t f = 0; f < batch.fields.fields; ++f) {
    if (batch.fields.is_short()) {
      result.push_back({batch.fields.ids[row][f].item<double>()});
      continue;
    }
    const int64_t begin = batch.fields.offsets[row * batch.fields.fields + f].item<int64_t>(),
                  end = batch.fields.offsets[row * batch.fields.fields + f + 1].item<int64_t>();
    result.push_back(to_vector(batch.fields.ids.slice(0, begin, end)));
    if (batch.fields.weights.defined()) result.push_back(to_vector(batch.fields.weights.slice(0, begin, end)));
  }
  if (batch.numeric.defined()) result.push_back(to_vector(batch.numeric[row]));
  for (const auto& [name, label] : batch.labels.tasks)
    for (const at::Tensor& t : {label.value, label.mask, label.weight})
      if (t.defined()) result.push_back({t[row].item<double>()});
  for (const auto& [name, column] : batch.labels.context) result.push_back({column[row].item<double>()});
  return result;
}

TEST(TableData, GathersWholeRowsInTheAskedOrder) {
  Random random(4);
  for (int round = 0; round < 40; ++round) {
    const int64_t n = random.integer(1, 40);
    const TableData data = random_table(random, n, round % 2 == 1);
    std::vector<int64_t> picked;
    for (int64_t i = random.integer(0, 60); i > 0; --i) picked.push_back(random.integer(0, n - 1));
    const Batch batch = data.gather(picked);
    ASSERT_EQ(batch.rows(), static_cast<int64_t>(picked.size()));
    for (size_t i = 0; i < picked.size(); ++i) ASSERT_EQ(row_of(batch, static_cast<int64_t>(i)), row_of(data.all(), picked[i]));
    if (data.all().fields.is_short()) {
      const Batch by_tensor = data.gather(at::tensor(picked, at::kLong));
      ASSERT_TRUE(same_bits(by_tensor.fields.ids, batch.fields.ids));
      ASSERT_TRUE(same_bits(by_tensor.labels["amount"].value, batch.labels["amount"].value));
    }
    const int64_t begin = random.integer(0, n), end = random.integer(begin, n);
    const TableData part = data.slice(begin, end);
    ASSERT_EQ(part.rows(), end - begin);
    for (int64_t i = begin; i < end; ++i) ASSERT_EQ(row_of(part.all(), i - begin), row_of(data.all(), i));
  }
}

TEST(TableData, ReadsEveryStride) {
  const auto strided = [](const at::Tensor& t) { return at::stack({t, t * 0 - 1}, 1).select(1, 0); };
  const at::Tensor ids = at::tensor({4, 5, 6, 7}, at::kInt), offsets = at::tensor({0, 1, 1, 4}, at::kLong), weights = at::tensor({.5, 2., 3., 4.});
  Batch all;
  all.fields = htl::FieldBatch::bags(strided(ids), strided(offsets), 1, strided(weights));
  all.labels.set("click", {strided(at::tensor({0., 1., 1.}))});
  const Batch batch = TableData(all).gather(std::vector<int64_t>{2, 0});
  EXPECT_TRUE(same_bits(batch.fields.ids, at::tensor({5, 6, 7, 4}, at::kInt)));
  EXPECT_TRUE(same_bits(batch.fields.offsets, at::tensor({0, 3, 4}, at::kLong)));
  EXPECT_TRUE(same_bits(batch.fields.weights, at::tensor({2., 3., 4., .5})));
  EXPECT_TRUE(same_bits(batch.labels["click"].value, at::tensor({1., 0.})));
}

TEST(TableData, PadsWithRowsOfWeightZero) {
  Random random(5);
  for (const bool bags : {false, true}) {
    const TableData data = random_table(random, 10, bags);
    const std::vector<int64_t> picked = {3, 8, 1};
    const Batch full = data.gather(picked, {.pad_to = 3}), padded = data.gather(picked, {.pad_to = 7});
    ASSERT_EQ(padded.rows(), 7);
    for (const auto& [name, label] : padded.labels.tasks) {
      ASSERT_EQ(label.weight.slice(0, 3).abs().sum().item<double>(), 0.0);
      ASSERT_TRUE(same_bits(label.weight.slice(0, 0, 3), full.labels[name].weight));
      const at::Tensor own = data.labels()[name].weight;
      ASSERT_TRUE(own.defined() || label.weight.slice(0, 0, 3).eq(1.0).all().item<bool>());
    }
    for (int64_t i = 0; i < 7; ++i) ASSERT_EQ(padded.labels.context["row"][i].item<int64_t>(), picked[static_cast<size_t>(std::min<int64_t>(i, 2))]);
  }
}

TEST(TableData, RefusesRowsThatAreNotThere) {
  Random random(6);
  const TableData data = random_table(random, 5, false);
  EXPECT_EQ(sentence_of([&] { data.gather(std::vector<int64_t>{0, 5}); }), "htl::TableData: expected rows in [0, 5), got 5");
  EXPECT_EQ(sentence_of([&] { data.gather(std::vector<int64_t>{-1}); }), "htl::TableData: expected rows in [0, 5), got -1");
  EXPECT_EQ(sentence_of([&] { data.slice(3, 6); }), "htl::TableData: expected a slice within [0, 5], got [3, 6)");
  EXPECT_EQ(sentence_of([&] { data.gather(std::vector<int64_t>{}, {.pad_to = 2}); }), "htl::TableData: expected at least one row to pad to 2");
  Batch wrong = data.all();
  wrong.labels.set("click", {at::zeros({4})});
  EXPECT_EQ(sentence_of([&] { TableData made(wrong); }), "htl::TableData: expected the label of task \"click\" of 5 rows as the ids, got [4]");
  Batch bags;
  bags.fields = htl::FieldBatch::bags(at::zeros({3}, at::kInt), at::tensor({0, 4, 3}, at::kLong), 1);
  EXPECT_EQ(sentence_of([&] { TableData made(bags); }), "htl::TableData: expected offsets that rise from 0 to 3, the number of ids");
  bags.fields.fields = 0;  // by hand, without the checks of bags()
  EXPECT_EQ(sentence_of([&] { TableData made(bags); }), "htl::FieldBatch: expected offsets of B·F + 1 entries for F = 0 fields, got 3");
  bags.fields = {at::zeros({3}, at::kInt), at::empty({0}, at::kLong), {}, 1};
  EXPECT_EQ(sentence_of([&] { TableData made(bags); }), "htl::FieldBatch: expected offsets of B·F + 1 entries for F = 1 fields, got 0");
  bags.fields = {at::zeros({3}, at::kInt), at::tensor({0, 2, 3}, at::kLong), at::ones({2}), 1};
  EXPECT_EQ(sentence_of([&] { TableData made(bags); }), "htl::FieldBatch: expected weights of shape [3], got [2]");
  EXPECT_EQ(TableData().rows(), 0);
}

// ---- the loader ----

std::vector<int64_t> rows_of(const Batch& batch) {
  const at::Tensor& rows = batch.labels.context["row"];
  return {rows.const_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>() + rows.numel()};
}
std::vector<int64_t> pass(BatchLoader& loader) {
  std::vector<int64_t> all;
  for (const Batch& batch : loader)
    for (const int64_t row : rows_of(batch)) all.push_back(row);
  return all;
}
TableData numbered(int64_t n) {
  Batch all;
  all.fields = htl::FieldBatch::of(at::arange(2 * n, at::kInt).view({n, 2}));
  all.labels.set("click", {at::zeros({n})});
  all.labels.context.set("row", at::arange(n, at::kLong));
  return TableData(std::move(all));
}

TEST(Shuffle, IsAPermutationThatDependsOnSeedAndEpochOnly) {
  std::set<std::vector<int64_t>> orders;
  for (const int64_t n : {0, 1, 2, 3, 17, 1000}) {
    for (uint64_t seed = 0; seed < 5; ++seed)
      for (int64_t epoch = 0; epoch < 5; ++epoch) {
        std::vector<int64_t> order = htl::shuffled_rows(n, seed, epoch);
        ASSERT_EQ(order, htl::shuffled_rows(n, seed, epoch));
        if (n == 1000) orders.insert(order);
        std::sort(order.begin(), order.end());
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(order[static_cast<size_t>(i)], i);
      }
  }
  EXPECT_EQ(orders.size(), 25U);
}

TEST(Shuffle, EveryOrderOfFourRowsIsEquallyLikely) {
  std::map<std::vector<int64_t>, int> seen;
  constexpr int rounds = 24000;
  for (int epoch = 0; epoch < rounds; ++epoch) ++seen[htl::shuffled_rows(4, 42, epoch)];
  ASSERT_EQ(seen.size(), 24U);
  double chi_square = 0.0;
  for (const auto& [order, count] : seen) chi_square += std::pow(count - rounds / 24, 2) / (rounds / 24);
  EXPECT_LT(chi_square, 49.7);  // p = 0.001 with 23 degrees of freedom
}

TEST(Shuffle, RowsLandEverywhereAndNeighboursPart) {
  constexpr int64_t n = 64;
  std::vector<std::vector<int>> at(n, std::vector<int>(n, 0));
  int64_t neighbours = 0;
  constexpr int rounds = 6400;
  for (int epoch = 0; epoch < rounds; ++epoch) {
    const std::vector<int64_t> order = htl::shuffled_rows(n, 7, epoch);
    for (size_t i = 0; i < n; ++i) ++at[static_cast<size_t>(order[i])][i];
    for (size_t i = 1; i < n; ++i) neighbours += order[i] == order[i - 1] + 1 ? 1 : 0;
  }
  double chi_square = 0.0;
  for (const auto& row : at)
    for (const int count : row) chi_square += std::pow(count - rounds / n, 2) / (rounds / n);
  EXPECT_NEAR(chi_square, 63.0 * 63.0, 5.0 * std::sqrt(2.0 * 63.0 * 63.0));
  EXPECT_NEAR(static_cast<double>(neighbours) / rounds, 63.0 / 64.0, 0.07);
}

TEST(BatchLoader, OnePassSeesEveryRowOnceAndTheNextInAnotherOrder) {
  for (const bool prefetch : {false, true}) {
    BatchLoader loader(numbered(103), {.batch_size = 10, .prefetch = prefetch});
    EXPECT_EQ(loader.batches(), 11);
    std::vector<int64_t> first = pass(loader), second = pass(loader);
    EXPECT_EQ(first, htl::shuffled_rows(103, 1, 0));
    EXPECT_EQ(second, htl::shuffled_rows(103, 1, 1));
    EXPECT_EQ(loader.state(), (BatchLoaderState{1, 2, 0}));
    BatchLoader other(numbered(103), {.batch_size = 7, .seed = 2});
    EXPECT_NE(pass(other), first);
    BatchLoader plain(numbered(103), {.batch_size = 10, .shuffle = false, .drop_last = true, .prefetch = prefetch});
    std::vector<int64_t> expected(100);
    std::iota(expected.begin(), expected.end(), int64_t{0});
    EXPECT_EQ(pass(plain), expected);
    EXPECT_EQ(pass(plain), expected);
    EXPECT_EQ(plain.batches(), 10);
  }
}

TEST(BatchLoader, ResumesAtEveryBatchWithExactlyTheRemainingOnes) {
  for (const int64_t n : {1, 9, 10, 31})
    for (const bool prefetch : {false, true}) {
      const TableData data = numbered(n);
      const auto options = [&] { return htl::BatchLoaderOptions{.batch_size = 5, .seed = 3, .prefetch = prefetch}; };
      std::vector<std::vector<int64_t>> whole;
      std::vector<BatchLoaderState> states;
      BatchLoader loader(data, options());
      for (int epoch = 0; epoch < 3; ++epoch)
        for (const Batch& batch : loader) {
          whole.push_back(rows_of(batch));
          states.push_back(loader.state());
        }
      for (size_t k = 0; k < states.size(); ++k) {
        BatchLoader later(data, {.batch_size = 5, .seed = 99, .prefetch = prefetch});
        later.resume(states[k]);
        std::vector<std::vector<int64_t>> rest;
        while (later.state().epoch < 3)
          for (const Batch& batch : later) rest.push_back(rows_of(batch));
        ASSERT_EQ(rest, std::vector<std::vector<int64_t>>(whole.begin() + static_cast<std::ptrdiff_t>(k) + 1, whole.end())) << n << " rows, state " << k;
      }
    }
}

TEST(TextBatch, MapsTextsAsTheMapDoes) {
  const FeatureMap short_map({{.name = "city", .vocabulary = {"Oslo", "Paris"}}, {.name = "hour", .kind = FieldKind::bucketised, .edges = {6, 12}}},
                             {{.name = "price", .missing = 4.5}});
  const Batch batch = htl::batch_of_texts(short_map, {{"Paris", "7", "1.25"}, {"Rome", "", ""}, {"", "12", "-3"}});
  EXPECT_TRUE(same_bits(batch.fields.ids, at::tensor({2, 2, 0, 0, 0, 3}, at::kInt).view({3, 2})));
  EXPECT_TRUE(same_bits(batch.numeric, at::tensor({1.25F, 4.5F, -3.0F}).view({3, 1})));
  EXPECT_EQ(htl::batch_of_texts(short_map, {}).rows(), 0);

  const FeatureMap long_map(
      {{.name = "tags", .kind = FieldKind::multi_valued, .separator = '|', .vocabulary = {"a", "b"}}, {.name = "city", .vocabulary = {"Oslo"}}});
  const Batch bags = htl::batch_of_texts(long_map, {{"b|a|b", "Oslo"}, {"", "x"}});
  EXPECT_TRUE(same_bits(bags.fields.ids, at::tensor({2, 1, 2, 1, 0, 0}, at::kInt)));
  EXPECT_TRUE(same_bits(bags.fields.offsets, at::tensor({0, 3, 4, 5, 6}, at::kLong)));
  EXPECT_FALSE(bags.numeric.defined());
  EXPECT_EQ(bags.rows(), 2);

  EXPECT_TRUE(htl::test::contains(sentence_of([&] {
                                    htl::batch_of_texts(short_map, {{"Paris", "7", "1"}, {"Paris", "7"}});
                                  }),
                                  "expected 3 texts in row 1", "got 2"));
  EXPECT_TRUE(htl::test::contains(sentence_of([&] { htl::batch_of_texts(short_map, {{"Paris", "noon", "1"}}); }), "field \"hour\"", "\"noon\""));
}

TEST(BatchLoader, ALoopLeftEarlyIsContinuedByTheNext) {
  for (const bool prefetch : {false, true}) {
    BatchLoader loader(numbered(20), {.batch_size = 6, .prefetch = prefetch});
    std::vector<int64_t> seen;
    for (const Batch& batch : loader) {
      for (const int64_t row : rows_of(batch)) seen.push_back(row);
      break;
    }
    for (const int64_t row : pass(loader)) seen.push_back(row);
    EXPECT_EQ(seen, htl::shuffled_rows(20, 1, 0));
    loader.resume({1, 0, 0});
    EXPECT_EQ(pass(loader), seen);
    loader.resume({2, 0, 0});
    EXPECT_EQ(pass(loader), htl::shuffled_rows(20, 2, 0)) << "the same epoch of another seed";
    loader.resume({1, 0, 0});
    loader.begin();  // the second batch is being made ahead
    loader.resume({1, 0, 0});
    EXPECT_EQ(pass(loader), seen) << "what was made ahead belongs to the place that was left";
  }
}

TEST(BatchLoader, PrefetchedBatchesAreTheSameBits) {
  Random random(8);
  for (const bool bags : {false, true}) {
    const TableData data = random_table(random, 500, bags);
    BatchLoader plain(data, {.batch_size = 32, .pad_last = true}), ahead(data, {.batch_size = 32, .pad_last = true, .prefetch = true});
    for (int epoch = 0; epoch < 2; ++epoch) {
      auto other = ahead.begin();
      for (const Batch& batch : plain) {
        ASSERT_TRUE(same_bits(batch.fields.ids, other->fields.ids));
        ASSERT_TRUE(same_bits(batch.fields.offsets, other->fields.offsets));
        ASSERT_TRUE(same_bits(batch.labels["click"].weight, other->labels["click"].weight));
        ASSERT_EQ(batch.rows(), 32);
        ++other;
      }
      ASSERT_TRUE(other == ahead.end());
    }
  }
}

TEST(BatchLoader, ABatchOutlivesTheLoader) {
  Batch kept;
  {
    BatchLoader loader(numbered(8), {.batch_size = 4, .shuffle = false, .prefetch = true});
    for (const Batch& batch : loader) {
      kept = batch;
      break;
    }
  }
  EXPECT_EQ(rows_of(kept), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(BatchLoader, HandlesNoRowsAndRefusesImpossibleOptions) {
  BatchLoader none(numbered(0));
  EXPECT_TRUE(pass(none).empty());
  EXPECT_EQ(none.state().epoch, 1);
  const auto made = [](htl::BatchLoaderOptions options) { return sentence_of([&] { BatchLoader loader(numbered(3), options); }); };
  EXPECT_EQ(made({.batch_size = 0}), "htl::BatchLoader: expected batch_size ≥ 1, got 0");
  EXPECT_EQ(made({.drop_last = true, .pad_last = true}), "htl::BatchLoader: expected drop_last or pad_last, got both");
  if (!at::globalContext().hasCUDA()) {
    EXPECT_EQ(made({.pin_memory = true}), "htl::BatchLoader: pin_memory needs an accelerator, and none was found; set it to false");
  }
  BatchLoader loader(numbered(10), {.batch_size = 4});
  EXPECT_EQ(sentence_of([&] {
              loader.resume({1, 0, 3});
            }),
            "htl::BatchLoader: expected a position between batches of 4 of 10 rows, got 3; resume with the data and "
            "the batch_size of the state");
  EXPECT_EQ(sentence_of([&] { loader.resume({1, -1, 0}); }), "htl::BatchLoader: expected an epoch ≥ 0, got -1");
  loader.resume({1, 4, 10});
  EXPECT_TRUE(pass(loader).empty());
  EXPECT_EQ(loader.state(), (BatchLoaderState{1, 5, 0}));
}

TEST(BatchLoader, OnCudaGivesTheSameBatches_CUDA) {
  if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "no CUDA device";
  Random random(9);
  const TableData data = random_table(random, 300, false);
  BatchLoader host(data, {.batch_size = 64}), device(data.to(at::kCUDA), {.batch_size = 64});
  BatchLoader pinned(data, {.batch_size = 64, .pad_last = true, .prefetch = true, .pin_memory = true});
  auto there = device.begin();
  auto padded = pinned.begin();
  for (const Batch& batch : host) {
    ASSERT_TRUE(there->fields.ids.is_cuda());
    ASSERT_TRUE(same_bits(batch.fields.ids, there->fields.ids));
    ASSERT_TRUE(same_bits(batch.labels["amount"].value, there->labels["amount"].value));
    ASSERT_TRUE(padded->fields.ids.is_pinned());
    ASSERT_TRUE(same_bits(batch.fields.ids, padded->to(at::kCUDA, true).fields.ids.slice(0, 0, batch.rows())));
    ++there;
    ++padded;
  }
}

}  // namespace
