// SPDX-License-Identifier: Apache-2.0
// Lookups against their dense meaning, loops against tensors, errors; FieldEmbedding.
#include <htl/embedding/field_embedding.hpp>

#include <support/dense_rows.hpp>
#include <support/gradcheck.hpp>
#include <support/seeded.hpp>

#include <ATen/ATen.h>
#include <torch/autograd.h>
#include <torch/nn/modules/embedding.h>
#include <torch/serialize.h>

#include <limits>
#include <sstream>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;
namespace kernels = htl::detail;

/// A random table, fields over it, a batch, and what it means.
struct Case {
  RowTable table;
  std::vector<FieldRows> fields;
  FieldBatch batch;
  Pooling pooling;
  UnknownIds unknown;
  DenseLookup dense;

  explicit Case(Random& random) {
    const int64_t table_rows = random.integer(1, 15);
    table = RowTable(random.normal({table_rows, random.pick<int64_t>({1, 3, 4, 8, 10, 12, 16, 17, 32, 64})}).requires_grad_(), "table",
                     {.padding_row = random.chance(0.3) ? std::optional<int64_t>(random.integer(0, table_rows - 1)) : std::nullopt});
    for (int64_t f = random.integer(1, 4); f > 0; --f) {
      const int64_t first = random.integer(0, table_rows - 1);
      fields.push_back({first, random.integer(1, table_rows - first), random.chance(0.3), "f" + std::to_string(f)});
    }
    pooling = random.pick<Pooling>({Pooling::sum, Pooling::mean});
    unknown = random.pick<UnknownIds>({UnknownIds::error, UnknownIds::map_to_zero});
    const int64_t rows = random.chance(0.1) ? 0 : random.integer(1, 30);
    batch = random_field_batch(random, rows, fields, random.pick<at::ScalarType>({at::kDouble, at::kFloat}));
    if (unknown == UnknownIds::map_to_zero && batch.ids.numel() > 0) {
      Tensor flat = batch.ids.view({-1});
      flat[random.integer(0, flat.numel() - 1)].fill_(random.pick<int64_t>({-1, 1000, -2000000000}));
    }
    dense = dense_lookup(batch, fields, table_rows, table.padding_row(), pooling, unknown);
  }
  Lookup look() const { return lookup(table, batch, fields, pooling, unknown); }
};

class LookupTest : public Seeded {};
class RowKernels : public Seeded {};
class FieldEmbeddingTest : public Seeded {};

TEST_F(LookupTest, EqualsADenseMatrixProductInValuesAndGradients) {
  const Threads one(1);  // thousands of tiny operators: a second thread would only wait
  Random random(41);
  for (int repetition = 0; repetition < 300; ++repetition) {
    SCOPED_TRACE(repetition);
    const Case c(random);
    Lookup look = c.look();
    const Tensor weight = c.table.weight().detach().clone().requires_grad_(), expected = c.dense.values(weight, c.batch.rows());
    ASSERT_TRUE(close(look.values(), expected, 1e-13, 1e-14));
    EXPECT_EQ(look.rows(), c.batch.rows());
    EXPECT_EQ(look.width(), expected.size(1));
    const Tensor cotangent = random.normal(expected.sizes());
    (look.values() * cotangent).sum().backward();
    (expected * cotangent).sum().backward();
    ASSERT_TRUE(close(dense_gradient(c.table), weight.grad()));
    EXPECT_FALSE(c.table.weight().grad().defined());
    EXPECT_EQ(c.table.groupings(), 1);
    const Tensor squares = c.table.gradient().squared_norm();
    EXPECT_TRUE(close(squares, weight.grad().square().sum()));
    c.table.gradient().scale_(at::scalar_tensor(0.5, at::kDouble));
    EXPECT_TRUE(close(dense_gradient(c.table), weight.grad() * 0.5));
  }
}

TEST_F(LookupTest, AddsGradientsOfSeveralBackwardsAndLookups) {
  Random random(42);
  for (int repetition = 0; repetition < 50; ++repetition) {
    const Case c(random);
    Tensor expected = at::zeros_like(c.table.weight());
    for (int64_t n = 0; n < 3; ++n) {
      Lookup look = c.look(), copy = look;
      const Tensor weight = c.table.weight().detach().clone().requires_grad_(), dense = c.dense.values(weight, c.batch.rows());
      const Tensor a = random.normal(dense.sizes()), b = random.normal(dense.sizes());
      ((look.values() * a).sum() + (copy.values() * b).sum()).backward();
      expected = expected + torch::autograd::grad({(dense * (a + b)).sum()}, {weight})[0];
    }
    ASSERT_TRUE(close(dense_gradient(c.table), expected));
    c.table.gradient().clear();
    EXPECT_FALSE(c.table.gradient().defined());
  }
}

TEST_F(LookupTest, AgreesWithFiniteDifferences) {
  const Threads one(1);  // thousands of tiny operators: a second thread would only wait
  Random random(47);
  for (int repetition = 0; repetition < 40; ++repetition) {
    Case c(random);
    for (FieldRows& field : c.fields) field.frozen_zero = false;  // differences know nothing of frozen rows
    const RowTable table(c.table.weight().detach().clone().requires_grad_());
    Lookup look = lookup(table, c.batch, c.fields, c.pooling, c.unknown);
    const Tensor cotangent = random.normal(look.raw().sizes());
    (look.values() * cotangent).sum().backward();
    const auto value = [&](const std::vector<Tensor>& w) {
      return (lookup(RowTable(w[0].clone()), c.batch, c.fields, c.pooling, c.unknown).raw() * cotangent).sum().view({1});
    };
    EXPECT_TRUE(close(dense_gradient(table).view({1, -1}), numeric_jacobian(value, {table.weight()}, 0), 1e-8, 1e-8));
  }
}

TEST_F(LookupTest, OverAnEmbeddingOfTheUsersIsThatEmbedding) {
  Random random(50);
  for (const std::optional<int64_t> padding : {std::optional<int64_t>(), std::optional<int64_t>(2)}) {
    torch::nn::Embedding module(torch::nn::EmbeddingOptions(9, 4).padding_idx(padding));
    module->to(at::kDouble);
    {
      const at::NoGradGuard no_grad;
      module->weight.copy_(random.normal({9, 4}));  // also the padding row: it is looked up as it is
    }
    const RowTable table(module->weight, "items", {.padding_row = padding});
    const Tensor ids = random.ids({20, 3}, 9), cotangent = random.normal({20, 12});
    ASSERT_GT(ids.eq(2).sum().item<int64_t>(), 2);
    const Tensor expected = module(ids).view({20, 12});
    (expected * cotangent).sum().backward();
    const Tensor gradient = module->weight.grad().clone();
    module->weight.mutable_grad() = Tensor();
    Lookup look = lookup(table, FieldBatch::of(ids));
    EXPECT_TRUE(same_bits(look.values(), expected));
    (look.values() * cotangent).sum().backward();
    EXPECT_TRUE(close(dense_gradient(table), gradient));
    EXPECT_FALSE(module->weight.grad().defined());
  }
}

TEST_F(LookupTest, OverAnEmbeddingBagOfTheUsersIsThatBag) {
  Random random(51);
  for (const std::optional<int64_t> padding : {std::optional<int64_t>(), std::optional<int64_t>(2)})
    for (const bool mean : {false, true})
      for (const bool weighted : {false, true}) {
        if (mean && weighted) continue;  // nn::EmbeddingBag refuses it
        SCOPED_TRACE(std::string(mean ? "mean" : "sum") + (padding ? ", padding" : "") + (weighted ? ", weights" : ""));
        auto options = torch::nn::EmbeddingBagOptions(9, 4).include_last_offset(true);
        options.padding_idx(padding);
        if (mean) {
          options.mode(torch::kMean);
        } else {
          options.mode(torch::kSum);
        }
        torch::nn::EmbeddingBag module(options);
        module->to(at::kDouble);
        {
          const at::NoGradGuard no_grad;
          module->weight.copy_(random.normal({9, 4}));
        }
        const RowTable table(module->weight, "items", {.padding_row = padding});
        std::vector<int64_t> ids, offsets = {0};
        int64_t empty = 0, only_padding = 0;
        for (int64_t bag = 0; bag < 40; ++bag) {
          const int64_t length = bag % 8 == 0 ? 0 : random.integer(1, 7);
          for (int64_t n = 0; n < length; ++n) ids.push_back(bag % 8 == 1 || random.chance(0.2) ? 2 : random.integer(0, 8));
          offsets.push_back(static_cast<int64_t>(ids.size()));
          empty += length == 0;
          only_padding += bag % 8 == 1;
        }
        const auto count = static_cast<int64_t>(ids.size());
        const Tensor all = at::tensor(ids, at::kLong), starts = at::tensor(offsets, at::kLong), cotangent = random.normal({40, 4}),
                     factors = weighted ? random.uniform({count}, 0.1, 2.0) : Tensor();
        const Tensor expected = module(all, starts, factors);
        (expected * cotangent).sum().backward();
        const Tensor gradient = module->weight.grad().clone();
        module->weight.mutable_grad() = Tensor();
        for (const int64_t fields : {1, 4}) {
          table.gradient().clear();
          Lookup look = lookup(table, FieldBatch::bags(all, starts, fields, factors), mean ? Pooling::mean : Pooling::sum);
          EXPECT_TRUE(close(look.values().view({40, 4}), expected));
          (look.values().view({40, 4}) * cotangent).sum().backward();
          EXPECT_TRUE(close(dense_gradient(table), gradient));
        }
        EXPECT_TRUE(empty == 5 && only_padding == 5);
        EXPECT_FALSE(module->weight.grad().defined());
      }
}

TEST_F(LookupTest, IsPlainNumbersWhereNothingIsRecorded) {
  Random random(43);
  const Case c(random);
  {
    const at::NoGradGuard guard;
    Lookup look = c.look();
    EXPECT_FALSE(look.values().requires_grad());
    EXPECT_TRUE(look.values().is_same(look.raw()));
  }
  {
    const c10::InferenceMode guard;
    EXPECT_FALSE(c.look().values().requires_grad());
  }
  c.table.weight().requires_grad_(false);
  EXPECT_FALSE(c.look().values().requires_grad());
  EXPECT_EQ(c.table.groupings(), 0);
}

TEST_F(LookupTest, SaysWhatIsWrongWithABatch) {
  const RowTable table(at::ones({9, 2}).requires_grad_(), "words");
  const std::vector<FieldRows> fields = {{0, 4, false, "user"}, {4, 5, false, "item"}};
  const auto says = [&](const FieldBatch& batch) { return sentence_of([&] { lookup(table, batch, fields); }); };
  const auto ids = [](std::vector<int64_t> values) { return at::tensor(values, at::kLong); };
  for (const at::ScalarType type : {at::kInt, at::kLong}) {
    EXPECT_TRUE(contains(says(FieldBatch::of(ids({0, 4, 3, 5}).view({2, 2}).to(type))), "id 5 of field \"item\" (row 1) is outside [0, 5)", "map_to_zero"));
    EXPECT_TRUE(contains(says(FieldBatch::of(ids({0, 4, -1, 0}).view({2, 2}).to(type))), "id -1 of field \"user\" (row 1)"));
  }
  EXPECT_TRUE(contains(says(FieldBatch::of(at::zeros({2, 3}, at::kInt))), "ids of 2 fields, got 3"));
  EXPECT_TRUE(contains(says({}), "ids of 2 fields, got 0"));
  const auto bags = [&](std::vector<int64_t> offsets) { return FieldBatch::bags(ids({0, 1, 2}), ids(offsets), 2); };
  EXPECT_TRUE(contains(says(bags({0, 2, 1, 3, 3})), "do not decrease, got 2 then 1 at bag 1"));
  EXPECT_TRUE(contains(says(bags({1, 2, 3})), "start at 0"));
  EXPECT_TRUE(contains(says(bags({0, 1, 2})), "the number of ids, 3, got 2"));
  EXPECT_TRUE(contains(says(bags({0, 1, 7})), "the number of ids, 3, got 7"));
  EXPECT_TRUE(contains(says(FieldBatch::bags(ids({0, 4, 4, 0, 1, 9}), ids({0, 1, 3, 4, 6}), 2)), "id 9 of field \"item\" (row 1)"));
  // batches made by hand, without the checks of of() and bags()
  EXPECT_TRUE(contains(says({ids({0, 1, 2}), {}, {}, 2}), "expected ids of shape [any, 2], got [3]"));
  EXPECT_TRUE(contains(says({at::zeros({2, 3}, at::kLong), {}, {}, 2}), "expected ids of shape [any, 2], got [2, 3]"));
  EXPECT_TRUE(contains(says({ids({0, 1, 2}), ids({0, 3}), {}, 2}), "B·F + 1 entries"));
  EXPECT_TRUE(contains(says({ids({0, 1, 2}), ids({0, 1, 3}), at::ones({2}), 2}), "weights of bags of shape [3], got [2]"));
  EXPECT_NE(says({at::ones({2, 2}), {}, {}, 2}), "no error");
  EXPECT_NE(says({ids({0, 1, 2}), ids({0, 1, 3}).to(at::kInt), {}, 2}), "no error");
  EXPECT_TRUE(contains(sentence_of([&] { FieldBatch::of(at::ones({2, 2})); }), "int32 or int64 ids, got Float"));
  EXPECT_TRUE(contains(says(FieldBatch::of(at::empty({2, 2}, at::TensorOptions(at::kLong).device(at::kMeta)))), "on the table's device cpu, got meta"));
  EXPECT_TRUE(contains(sentence_of([&] { lookup(RowTable(), FieldBatch::of(at::zeros({1, 1}, at::kInt))); }), "empty RowTable"));
  EXPECT_TRUE(contains(sentence_of([&] {
                         lookup(table, FieldBatch::of(at::zeros({1, 1}, at::kInt)), {{5, 5, false, "late"}});
                       }),
                       "field \"late\" has rows [5, 10)"));
  EXPECT_THROW(lookup(table, FieldBatch::of(at::full({1, 2}, 4, at::kInt)), fields), c10::IndexError);
  EXPECT_EQ(sentence_of([&] { lookup(table, bags({0, 0, 0, 2, 3}), fields); }), "no error");
}

TEST_F(LookupTest, OfSeveralTablesIsOneLookupEach) {
  Random random(8);
  std::vector<RowTable> tables;
  std::vector<FieldBatch> batches;
  for (int64_t i = 0; i < 3; ++i) {
    tables.emplace_back(random.normal({9, 2 + i}).requires_grad_(), "t");
    batches.push_back(FieldBatch::bags(random.ids({5}, 9), at::tensor({0, 2, 2, 5}, at::kLong), 1));
  }
  const std::vector<Lookup> lookups = lookup(tables, batches, Pooling::mean);
  ASSERT_EQ(lookups.size(), 3U);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(lookups[i].raw(), lookup(tables[i], batches[i], Pooling::mean).raw()));
  batches.pop_back();
  EXPECT_TRUE(contains(sentence_of([&] { lookup(tables, batches); }), "each of the 3 tables, got 2 batches"));
}

TEST_F(LookupTest, RowTablesSayWhatTheyExpect) {
  EXPECT_TRUE(contains(sentence_of([] { RowTable(at::ones({3}), "flat"); }), "the weight of \"flat\" of shape [any, any], got [3]"));
  EXPECT_TRUE(contains(sentence_of([] { RowTable(at::ones({3, 2}, at::kInt)); }), "floating-point"));
  EXPECT_TRUE(contains(sentence_of([] { RowTable(at::ones({3, 2}), "t", {.padding_row = 3}); }), "padding row 3 of \"t\" is outside [0, 3)"));
  EXPECT_TRUE(contains(sentence_of([] { RowTable(at::ones({3, 2}).requires_grad_() * 2.0, "half"); }), "leaf"));
  const RowTable table(at::ones({6, 2}).requires_grad_());
  Lookup look = lookup(table, FieldBatch::of(at::full({1, 1}, 5, at::kInt)));
  const Tensor loss = look.values().sum();
  table.weight().set_data(at::ones({4, 2}));
  EXPECT_TRUE(contains(sentence_of([&] { loss.backward(); }), "had 6 rows when it was looked up and has 4"));
}

TEST_F(RowKernels, TensorsEqualLoops) {
  const Threads one(1);  // thousands of tiny operators: a second thread would only wait
  Random random(44);
  for (int repetition = 0; repetition < 300; ++repetition) {
    SCOPED_TRACE(repetition);
    const Case c(random);
    const Tensor weight = c.table.weight().detach();
    const auto loops = kernels::resolve_loops(c.table, c.batch, c.fields, c.unknown), tensors = kernels::resolve_tensors(c.table, c.batch, c.fields, c.unknown);
    ASSERT_TRUE(at::equal(loops.entry_rows.to(at::kLong), tensors.entry_rows));
    ASSERT_EQ(loops.bag.defined(), tensors.bag.defined());
    if (loops.bag.defined()) {
      ASSERT_TRUE(at::equal(loops.bag, tensors.bag));
    }

    const int64_t bag_count = c.batch.rows() * static_cast<int64_t>(c.fields.size()), width = c.table.dim(), tasks = random.integer(1, 4);
    kernels::Bags bags{bag_count, loops.bag, {}};
    if (loops.bag.defined()) bags.coefficient = kernels::bag_coefficients(c.table, c.batch, loops.entry_rows, bags.bag, bag_count, c.pooling);
    ASSERT_TRUE(
        close(kernels::gather_rows_loops(weight, loops.entry_rows, bags), kernels::gather_rows_tensors(weight, tensors.entry_rows, bags), 1e-14, 1e-15));

    const RowGroups by_loops = kernels::group_rows_loops(c.table, loops.entry_rows),
                    by_tensors = kernels::group_rows_tensors(c.table.rows(), tensors.entry_rows);
    EXPECT_EQ(by_tensors.size(), loops.entry_rows.numel()) << "shapes must not depend on the data";
    ASSERT_TRUE(at::equal(std::get<0>(by_loops.rows.sort()), std::get<0>(by_tensors.rows.masked_select(by_tensors.valid).sort())));
    for (const int32_t slot : c.table.slot_scratch()) ASSERT_EQ(slot, -1) << "the scratch is dirty";

    std::vector<Tensor> gradients;
    for (int64_t t = 0; t < tasks; ++t)
      gradients.push_back(random.chance(0.2) ? Tensor() : random.normal({c.batch.rows(), bag_count / std::max<int64_t>(1, c.batch.rows()) * width}));
    const auto a = kernels::sum_rows_loops(by_loops, gradients, bags, width, weight.options(), true);
    const auto b = kernels::sum_rows_tensors(by_tensors, gradients, bags, width, weight.options(), true);
    const auto dense = [&](const Tensor& rows, const Tensor& sums) { return at::zeros({c.table.rows(), tasks, width}, at::kDouble).index_add_(0, rows, sums); };
    ASSERT_TRUE(close(dense(by_loops.rows, a.sums), dense(by_tensors.rows, b.sums), 1e-13, 1e-13));
    ASSERT_TRUE(close(a.gramian, b.gramian, 1e-13, 1e-12));
    EXPECT_TRUE(same_bits(a.gramian, a.gramian.t().contiguous()));

    const Tensor weights = random.normal({tasks});
    const Tensor x = kernels::combine_rows_loops(a.sums, weights, at::kDouble), y = kernels::combine_rows_tensors(b.sums, weights, at::kDouble);
    ASSERT_TRUE(close(at::zeros({c.table.rows(), width}, at::kDouble).index_add_(0, by_loops.rows, x),
                      at::zeros({c.table.rows(), width}, at::kDouble).index_add_(0, by_tensors.rows, y), 1e-12, 1e-12));
  }
}

TEST_F(RowKernels, ReadPartsOfAWiderTableInPlace) {
  Random random(48);
  const Tensor wide = random.normal({30, 12});
  for (const Tensor& weight : {wide.narrow(1, 3, 5), wide.t().narrow(1, 3, 5), wide.narrow(1, 11, 1)}) {
    const Tensor rows = random.ids({40}, weight.size(0)).to(at::kInt), bag = std::get<0>(random.ids({40}, 9).sort());
    for (const bool with_bags : {false, true}) {
      const kernels::Bags bags = with_bags ? kernels::Bags{9, bag, random.normal({40})} : kernels::Bags{40, {}, {}};
      EXPECT_TRUE(close(kernels::gather_rows_loops(weight, rows, bags), kernels::gather_rows_tensors(weight, rows, bags), 1e-14, 1e-15)) << with_bags;
    }
  }
}

TEST_F(RowKernels, LongBagsAreSummedAlikeByAnyNumberOfThreads) {
  Random random(49);
  const Tensor weight = random.normal({100, 7}, 1.0, at::kFloat);
  for (const int64_t count : {1, 2, 3, 700, 30000}) {
    const int64_t entries = 30000;
    const Tensor rows = random.ids({entries}, 100).to(at::kInt);
    const kernels::Bags bags{count, std::get<0>(random.ids({entries}, count).sort()), random.normal({entries}, 1.0, at::kFloat)};
    const auto gather = [&](int threads) {
      const Threads only(threads);
      return kernels::gather_rows_loops(weight, rows, bags);
    };
    const Tensor one = gather(1);
    EXPECT_TRUE(same_bits(one, gather(2))) << count;
    const kernels::Bags exact{count, bags.bag, bags.coefficient.to(at::kDouble)};
    EXPECT_TRUE(close(one, kernels::gather_rows_tensors(weight.to(at::kDouble), rows, exact), 1e-5, 1e-6 * (1.0 + static_cast<double>(entries / count))))
        << count;
  }
}

TEST_F(RowKernels, FrozenEntriesOfTensorsIgnoreNotANumber) {
  const RowGroups groups = kernels::group_rows_tensors(3, at::tensor({-1, 2, -3, 2}, at::kLong));
  const Tensor gradient = at::tensor({std::numeric_limits<double>::quiet_NaN(), 1.0, std::numeric_limits<double>::infinity(), 2.0}, at::kDouble).view({4, 1});
  const auto sums = kernels::sum_rows_tensors(groups, {gradient}, {4, {}, {}}, 1, gradient.options(), true);
  EXPECT_EQ(sums.gramian.item<double>(), 9.0);
  EXPECT_EQ(groups.rows.masked_select(groups.valid).item<int64_t>(), 2);
}

TEST_F(RowKernels, OffsetsAreCheckedByTensorsToo) {
  const RowTable table(at::ones({4, 2}));
  const std::vector<FieldRows> fields = {{0, 4, false, "f"}};
  const auto resolve = [&](std::vector<int64_t> offsets) {
    kernels::resolve_tensors(table, FieldBatch::bags(at::zeros({3}, at::kLong), at::tensor(offsets, at::kLong), 1), fields, UnknownIds::error);
  };
  resolve({0, 1, 1, 3});
  for (const auto& wrong : {std::vector<int64_t>{0, 2, 1, 3}, {1, 2, 3}, {0, 1, 2}}) EXPECT_ANY_THROW(resolve(wrong));
  EXPECT_ANY_THROW(kernels::resolve_tensors(table, FieldBatch::of(at::full({1, 1}, 4, at::kLong)), fields, UnknownIds::error));
}

TEST_F(RowKernels, LargeGroupsKeepTheirPrecisionInFloat) {
  Random random(45);
  const RowTable table(at::zeros({3, 10}).requires_grad_());
  for (const int64_t entries : {200000, 100000}) {  // summed in blocks, and group by group
    EXPECT_EQ(kernels::entry_blocks(entries, 3) > 0, entries == 200000);
    const Tensor ids = random.ids({entries}, 3), gradient = random.uniform({entries, 10}, 0.0, 1.0, at::kFloat);
    const RowGroups groups = group_rows(table, ids.to(at::kInt));
    const auto sums = kernels::sum_rows(groups, {gradient}, {entries, {}, {}}, 10, gradient.options(), false);
    const Tensor exact = at::zeros({3, 10}, at::kDouble).index_add_(0, ids, gradient.to(at::kDouble)).index_select(0, groups.rows);
    EXPECT_TRUE(close(sums.sums.squeeze(1), exact, 1e-6, 0.0)) << entries;
  }
}

TEST_F(RowKernels, LargeBatchesOfFewRowsSumInBlocksAsTensorsDo) {
  Random random(46);
  for (const bool bags_of_several : {false, true})
    for (const int64_t width : {10, 5}) {
      const RowTable table(at::zeros({50, width}, at::kDouble));
      const int64_t entries = 150000;
      ASSERT_GT(kernels::entry_blocks(entries, 50), 1);
      Tensor rows = random.ids({entries}, 50);
      rows = rows.where(rows > 2, -1 - rows);
      kernels::Bags bags{entries, {}, {}};
      if (bags_of_several) bags = {entries / 3, at::arange(entries).floor_divide(3), random.uniform({entries})};
      const std::vector<Tensor> gradients = {random.normal({bags.count, width}), Tensor(), random.normal({bags.count, width})};
      const RowGroups loops = kernels::group_rows_loops(table, rows.to(at::kInt)), tensors = kernels::group_rows_tensors(50, rows);
      const auto a = kernels::sum_rows_loops(loops, gradients, bags, width, gradients[0].options(), true);
      const auto b = kernels::sum_rows_tensors(tensors, gradients, bags, width, gradients[0].options(), true);
      EXPECT_TRUE(close(a.gramian, b.gramian, 1e-11, 1e-6));
      const auto dense = [&](const Tensor& at_rows, const Tensor& sums) { return at::zeros({50, 3, width}, at::kDouble).index_add_(0, at_rows, sums); };
      EXPECT_TRUE(close(dense(loops.rows, a.sums), dense(tensors.rows, b.sums), 1e-12, 1e-9));
      EXPECT_EQ(loops.size(), 47);
    }
}

TEST_F(FieldEmbeddingTest, LooksUpEveryFieldInItsOwnRows) {
  FieldEmbedding embedding(FieldEmbeddingOptions({5, 7, 2}, 3).initial_sd(1.0).names({"a", "b", "c"}));
  EXPECT_EQ(embedding->width(), 9);
  EXPECT_EQ(embedding->weight.sizes(), at::IntArrayRef({14, 3}));
  ASSERT_EQ(embedding->parameters().size(), 1U);
  EXPECT_EQ(embedding->named_parameters().keys()[0], "weight");
  const Tensor ids = at::tensor({0, 0, 0, 4, 6, 1}, at::kInt).view({2, 3});
  Batch batch;
  batch.fields = FieldBatch::of(ids);
  EXPECT_TRUE(same_bits(embedding(batch), at::embedding(embedding->weight, ids.to(at::kLong) + at::tensor({0, 5, 12}, at::kLong)).view({2, 9})));
  EXPECT_TRUE(contains(sentence_of([&] {
                         embedding->lookup(FieldBatch::of(at::full({1, 3}, 2, at::kInt)));
                       }),
                       "id 2 of field \"c\" (row 0) is outside [0, 2)"));
  embedding->options.unknown_ids(UnknownIds::map_to_zero);
  EXPECT_TRUE(
      same_bits(embedding->lookup(FieldBatch::of(at::full({1, 3}, 99, at::kInt))).raw(), embedding->lookup(FieldBatch::of(at::zeros({1, 3}, at::kInt))).raw()));
  std::ostringstream text;
  text << *embedding;
  EXPECT_EQ(text.str(), "htl::FieldEmbedding(fields=3, rows=14, dim=3)");
  EXPECT_TRUE(embedding->row_tables()[0].is_same(embedding->table()));
}

TEST_F(FieldEmbeddingTest, LooksUpSomeFieldsAsAllOfThem) {
  Random random(11);
  FieldEmbedding embedding(FieldEmbeddingOptions({5, 7, 2, 9}, 3).initial_sd(1.0).pooling(Pooling::mean));
  for (int round = 0; round < 60; ++round) {
    const FieldBatch batch = random_field_batch(random, round == 0 ? 0 : random.integer(1, 20), embedding->fields(), at::kFloat);
    const Tensor all = embedding->lookup(batch).raw();
    std::vector<int64_t> chosen;
    std::vector<Tensor> expected;
    for (int64_t count = random.integer(1, 5); count > 0; --count) {
      chosen.push_back(random.integer(0, 3));
      expected.push_back(all.narrow(1, chosen.back() * 3, 3));
    }
    for (const FieldBatch& form : {batch, batch.as_bags()}) {
      EXPECT_TRUE(same_bits(embedding->lookup(form).raw(), all));
      const FieldBatch selected = form.select(chosen);
      EXPECT_EQ(selected.rows(), batch.rows());
      EXPECT_EQ(selected.is_short(), form.is_short());
      EXPECT_TRUE(same_bits(embedding->lookup(selected, chosen).raw(), at::cat(expected, 1)));
    }
  }
  const FieldBatch batch = FieldBatch::of(at::zeros({2, 4}, at::kInt));
  EXPECT_FALSE(batch.as_bags().is_short());
  EXPECT_TRUE(contains(sentence_of([&] { batch.select({1, 4}); }), "htl::FieldBatch: expected positions of its 4 fields, got 4"));
  EXPECT_TRUE(contains(sentence_of([&] { batch.select({}); }), "htl::FieldBatch: expected at least one field to select, got none"));
  FieldBatch bags = FieldBatch::bags(at::zeros({3}, at::kLong), at::tensor({0, 2, 1, 3, 3}, at::kLong), 2);
  EXPECT_TRUE(contains(sentence_of([&] { bags.select({1}); }), "htl::FieldBatch: expected offsets from 0 to 3, the number of ids, that don't decrease"));
  bags.offsets = at::tensor({0, 1, 2, 3, 4}, at::kLong);
  EXPECT_TRUE(contains(sentence_of([&] { bags.select({1}); }), "expected offsets from 0 to 3"));
  EXPECT_TRUE(contains(sentence_of([&] { embedding->lookup(batch, {0, 1, -1, 2}); }), "htl::FieldEmbedding: expected positions of its 4 fields, got -1"));
  EXPECT_TRUE(contains(sentence_of([&] { embedding->lookup(batch, {0, 1}); }), "htl::lookup: expected ids of 2 fields, got 4"));
}

TEST_F(FieldEmbeddingTest, DrawsFromTheGivenDeviationAndFreezesZero) {
  FieldEmbedding embedding(FieldEmbeddingOptions({3000, 2000}, 10).initial_sd(0.2).frozen_zero(true));
  EXPECT_NEAR(embedding->weight.std().item<double>(), 0.2, 0.005);
  EXPECT_NEAR(embedding->weight.mean().item<double>(), 0.0, 0.005);
  EXPECT_EQ(embedding->weight[0].abs().sum().item<double>(), 0.0);
  EXPECT_EQ(embedding->weight[3000].abs().sum().item<double>(), 0.0);
  EXPECT_GT(embedding->weight[1].abs().sum().item<double>(), 0.0);
}

TEST_F(FieldEmbeddingTest, KeepsItsRowsInPlaceThroughCastsClonesAndFiles) {
  const auto options = FieldEmbeddingOptions({70001, 301}, 2).initial_sd(1.0).frozen_zero(true);
  FieldEmbedding embedding(options), other(options);
  const FieldBatch batch = FieldBatch::of(at::tensor({70000, 300, 65537, 257, 0, 0}, at::kInt).view({3, 2}));  // no such number exists in bfloat16
  const Tensor before = embedding->lookup(batch).raw();
  embedding->to(at::kBFloat16);
  EXPECT_TRUE(same_bits(embedding->lookup(batch).raw(), before.to(at::kBFloat16)));
  embedding->to(at::kFloat);
  const Tensor after = before.to(at::kBFloat16).to(at::kFloat);
  EXPECT_TRUE(same_bits(embedding->lookup(batch).raw(), after));
  EXPECT_EQ(embedding->fields()[1].first_row, 70001);
  const auto copy = std::dynamic_pointer_cast<FieldEmbeddingImpl>(embedding->clone());
  std::stringstream stream;
  torch::save(embedding, stream);
  torch::load(other, stream);
  {
    const at::NoGradGuard no_grad;
    embedding->weight.zero_();
  }
  for (FieldEmbeddingImpl* same : {copy.get(), other.get()}) {
    EXPECT_TRUE(same_bits(same->lookup(batch).raw(), after));
    EXPECT_TRUE(same->table().weight().is_same(same->weight)) << "the handle that optimizers hold";
    EXPECT_TRUE(same->fields()[1].first_row == 70001 && same->fields()[1].frozen_zero);
  }
}

TEST_F(FieldEmbeddingTest, RefusesBadOptions) {
  const auto says = [](const FieldEmbeddingOptions& options) { return sentence_of([&] { FieldEmbedding embedding(options); }); };
  EXPECT_TRUE(contains(says({std::vector<int64_t>{}, 3}), "at least one field"));
  EXPECT_TRUE(contains(says({std::vector<int64_t>{3}, 0}), "dim ≥ 1, got 0"));
  EXPECT_TRUE(contains(says({std::vector<int64_t>{3, 0}, 2}), "field \"1\" to have at least one id, got 0"));
  EXPECT_TRUE(contains(says(FieldEmbeddingOptions({3, 4}, 2).names({"a"})), "a name for each of the 2 fields, got 1"));
  EXPECT_TRUE(contains(says(FieldEmbeddingOptions({3}, 2).initial_sd(-1.0)), "initial_sd"));
  EXPECT_TRUE(contains(says(FieldEmbeddingOptions({3}, 2).initial_sd(std::nan(""))), "initial_sd"));
  EXPECT_TRUE(contains(says(FieldEmbeddingOptions({int64_t{1} << 30, int64_t{1} << 30}, 1)), "at most 2³¹ − 1 rows"));
  EXPECT_TRUE(contains(says(FieldEmbeddingOptions({std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max()}, 1)), "at most 2³¹ − 1 rows"));
}

TEST_F(FieldEmbeddingTest, TakesNamesAndSizesFromAnythingThatHasThem) {
  struct Map {
    std::vector<std::string> names() const { return {"user", "item"}; }
    std::vector<int64_t> sizes() const { return {2, 3}; }
  };
  static_assert(FieldVocabulary<Map> && !FieldVocabulary<int>);
  FieldEmbedding embedding(Map{}, 4);
  EXPECT_EQ(embedding->fields()[1].name, "item");
  EXPECT_EQ(embedding->fields()[1].first_row, 2);
}

}  // namespace
