// SPDX-License-Identifier: Apache-2.0
/// @file synthetic_dataset.hpp
/// @brief Synthetic logs as a data set of the training program, and as files that its CSV reader reads back to the same data set.
#pragma once

#include <examples/htlnet/data/additive_model.hpp>
#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/line_writer.hpp>
#include <examples/htlnet/data/synthetic.hpp>

#include <htl/data/field_counter.hpp>
#include <htl/data/vocabulary.hpp>
#include <htl/task/task_outputs.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <array>
#include <bit>
#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief The eight fields in the order of their ids; the last one is a number cut into ten buckets at quantiles of the training rows.
inline std::array<std::string, 8> synthetic_fields(Scenario scenario) {
  return {"user", "segment", "item", "category", "author", "tab", "hour", scenario == Scenario::video ? "duration" : "price"};
}
/// @brief Where training, validation and test rows begin and end: 8:1:1 in the order of time.
inline std::array<int64_t, 4> synthetic_bounds(int64_t rows) {
  const auto part = [&](double fraction) { return static_cast<int64_t>(std::llround(static_cast<double>(rows) * fraction)); };
  return {0, part(0.8), part(0.9), rows};
}

/// @brief The synthetic data set: ids, labels, tasks, and metrics grouped by "user".
/// @param options scenario, rows and seed
/// @param min_count a text in fewer training rows shares id 0
/// @param statistics a map whose bucket edges are kept
/// @throws c10::ValueError for fewer than 10 rows
inline Dataset synthetic_dataset(const SyntheticOptions& options, int64_t min_count = 1, const htl::FeatureMap* statistics = nullptr);

/// @brief The true probabilities and expectations of rows [begin, end), as predictions [n] in float64: what no model can beat but by luck.
inline htl::Predictions synthetic_oracle(const SyntheticOptions& options, int64_t begin, int64_t end);

/// @brief The predictions of the best additive models for rows [begin, end), which are projected over their span of time; [n] in float64.
inline htl::Predictions synthetic_additive(const SyntheticOptions& options, int64_t begin, int64_t end);

/// @brief Writes DIRECTORY/rows.csv, schema.toml (which reads rows.csv into the same data set), and truth.csv (true expectations, one line a row).
/// @throws c10::ValueError for fewer than 10 rows, or if a file can't be written
inline void write_synthetic(const SyntheticOptions& options, const std::string& directory);

namespace detail {

inline std::array<int32_t, 7> synthetic_values(const SyntheticRow& row) {
  return {row.user, row.segment, row.item, row.category, row.author, row.tab, row.hour};
}
inline void check_synthetic(const SyntheticOptions& options) {
  HTL_CHECK(options.rows >= 10, "htlnet: expected at least 10 synthetic rows, so that each part has one, got ", options.rows);
}
/// Calls visit(row number, row) for rows [begin, end), in parallel and in no order.
template <class Visit>
void for_each_synthetic(const SyntheticOptions& options, int64_t begin, int64_t end, const Visit& visit) {
  check_synthetic(options);
  HTL_CHECK(begin >= 0 && begin <= end && end <= options.rows, "htlnet: expected rows within [0, ", options.rows, "), got [", begin, ", ", end, ")");
  const SyntheticWorld world(options.scenario, options.seed);
  at::parallel_for(begin, end, 4096, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) visit(r, world.draw(static_cast<uint64_t>(r), static_cast<double>(r) / static_cast<double>(options.rows)));
  });
}
template <class Guess>
htl::Predictions synthetic_predictions(const SyntheticOptions& options, int64_t begin, int64_t end, const Guess& guess) {
  std::array<at::Tensor, 3> columns;
  std::array<double*, 3> data{};
  for (size_t t = 0; t < 3; ++t) {
    columns[t] = at::empty({end - begin}, at::kDouble);
    data[t] = columns[t].mutable_data_ptr<double>();
  }
  for_each_synthetic(options, begin, end, [&](int64_t r, const SyntheticRow& row) {
    const std::array<double, 3> values = guess(row);
    for (size_t t = 0; t < 3; ++t) data[t][r - begin] = values[t];
  });
  htl::Predictions predictions;
  const std::vector<std::string> names = tasks_of(options.scenario).names();
  for (size_t t = 0; t < 3; ++t) predictions.set(names[t], columns[t]);
  return predictions;
}

}  // namespace detail

inline Dataset synthetic_dataset(const SyntheticOptions& options, int64_t min_count, const htl::FeatureMap* statistics) {
  constexpr int64_t width = 8;
  const at::Tensor ids = at::empty({std::max<int64_t>(options.rows, 0), width}, at::kInt);
  std::array<at::Tensor, 3> labels;
  std::array<float*, 3> label_data{};
  for (size_t t = 0; t < 3; ++t) {
    labels[t] = at::empty({ids.size(0)}, at::kFloat);
    label_data[t] = labels[t].mutable_data_ptr<float>();
  }
  int32_t* const raw = ids.mutable_data_ptr<int32_t>();  // raw values first, ids at the end
  detail::for_each_synthetic(options, 0, options.rows, [&](int64_t r, const SyntheticRow& row) {
    const auto values = detail::synthetic_values(row);
    std::copy(values.begin(), values.end(), raw + r * width);
    raw[r * width + width - 1] = std::bit_cast<int32_t>(row.size);
    label_data[0][r] = row.click;
    label_data[1][r] = row.second;
    label_data[2][r] = row.value;
  });

  const std::array<int64_t, 4> bounds = synthetic_bounds(options.rows);
  constexpr std::array<int32_t, 7> sizes = {SyntheticWorld::users,   SyntheticWorld::segments, SyntheticWorld::items, SyntheticWorld::categories,
                                            SyntheticWorld::authors, SyntheticWorld::tabs,     SyntheticWorld::hours};
  const std::array<std::string, 8> names = synthetic_fields(options.scenario);
  std::vector<htl::FeatureMap::Field> fields;
  for (int64_t f = 0; f + 1 < width; ++f) {
    htl::FieldCounter counter({names[static_cast<size_t>(f)], htl::FieldKind::categorical, '\0', min_count, 1});
    std::vector<int32_t> codes;  // by raw value
    for (int32_t value = 0; value < sizes[static_cast<size_t>(f)]; ++value) codes.push_back(counter.encode(std::to_string(value)));
    for (int64_t r = 0; r < bounds[1]; ++r) counter.count(codes[static_cast<size_t>(raw[r * width + f])]);
    fields.push_back(counter.fit());
    for (int32_t& code : codes) code = counter.id(code);
    for (int64_t r = 0; r < options.rows; ++r) raw[r * width + f] = codes[static_cast<size_t>(raw[r * width + f])];
  }
  htl::FieldPlan by_size{names.back(), htl::FieldKind::bucketised, '\0', min_count, 10};
  keep_edges(by_size, statistics);
  htl::FieldCounter sizes_of_items(std::move(by_size));
  for (int64_t r = 0; r < bounds[1]; ++r) sizes_of_items.count(raw[r * width + width - 1]);
  fields.push_back(sizes_of_items.fit());
  for (int64_t r = 0; r < options.rows; ++r) raw[r * width + width - 1] = sizes_of_items.id(raw[r * width + width - 1]);

  Dataset data{htl::FeatureMap(std::move(fields)), tasks_of(options.scenario), {}, {}, {}, {}};
  htl::Batch all;
  all.fields = htl::FieldBatch::of(ids);
  const std::vector<std::string> tasks = data.tasks.names();
  for (size_t t = 0; t < 3; ++t) all.labels.set(tasks[t], {labels[t]});
  htl::Vocabulary users;  // in the order of their first row, as a reader meets them
  const at::Tensor groups = at::empty({options.rows}, at::kInt);
  const auto& known = data.features.fields().front().vocabulary;
  const SyntheticWorld world(options.scenario, options.seed);
  for (int64_t r = 0; r < options.rows; ++r) {
    const int32_t id = raw[r * width];  // unknown ones (id 0) are rare: their text is drawn again
    const std::string text = id > 0 ? known[static_cast<size_t>(id - 1)] : std::to_string(world.draw(static_cast<uint64_t>(r), 0.0).user);
    groups.mutable_data_ptr<int32_t>()[r] = users.add(text);
  }
  all.labels.context.set("user", groups);
  const htl::TableData table(std::move(all));
  data.train = table.slice(bounds[0], bounds[1]);
  data.valid = table.slice(bounds[1], bounds[2]);
  data.test = table.slice(bounds[2], bounds[3]);
  std::vector<std::string> texts;
  for (int32_t n = 0; n < users.size(); ++n) texts.emplace_back(users.text(n));
  data.groups.set("user", std::move(texts));
  return data;
}

inline htl::Predictions synthetic_oracle(const SyntheticOptions& options, int64_t begin, int64_t end) {
  return detail::synthetic_predictions(options, begin, end, [](const SyntheticRow& row) {
    return std::array<double, 3>{row.true_click, row.true_second, row.true_value};
  });
}

inline htl::Predictions synthetic_additive(const SyntheticOptions& options, int64_t begin, int64_t end) {
  const auto time = [&](int64_t row) { return static_cast<double>(row) / static_cast<double>(options.rows); };
  const BestAdditive best = BestAdditive::of(options, time(begin), time(end));
  return detail::synthetic_predictions(options, begin, end, [&](const SyntheticRow& row) {
    return std::array<double, 3>{best.click(row), best.second(row), best.value(row)};
  });
}

inline void write_synthetic(const SyntheticOptions& options, const std::string& directory) {
  detail::check_synthetic(options);  // before anything is made
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  HTL_CHECK(!error, "htlnet: can't make the directory \"", directory, "\": ", error.message());
  const std::filesystem::path folder = directory;
  const std::array<std::string, 8> fields = synthetic_fields(options.scenario);
  const std::vector<std::string> tasks = tasks_of(options.scenario).names();
  LineWriter rows(folder / "rows.csv"), truth(folder / "truth.csv"), schema(folder / "schema.toml");
  for (const std::string& field : fields) rows << field << ",";
  rows << tasks[0] << "," << tasks[1] << "," << tasks[2] << "\n";
  truth << tasks[0] << "," << tasks[1] << "," << tasks[2] << "\n";
  constexpr int64_t block = 65536;
  std::vector<SyntheticRow> drawn(static_cast<size_t>(std::min(block, std::max<int64_t>(options.rows, 1))));
  for (int64_t begin = 0; begin < options.rows; begin += block) {
    const int64_t end = std::min(begin + block, options.rows);
    detail::for_each_synthetic(options, begin, end, [&](int64_t r, const SyntheticRow& row) { drawn[static_cast<size_t>(r - begin)] = row; });
    for (int64_t r = begin; r < end; ++r) {
      const SyntheticRow& row = drawn[static_cast<size_t>(r - begin)];
      for (const int32_t value : detail::synthetic_values(row)) rows << value << ",";
      rows << row.size << "," << row.click << "," << row.second << "," << row.value << "\n";
      truth << row.true_click << "," << row.true_second << "," << row.true_value << "\n";
    }
  }
  schema << "# " << to_string(options.scenario) << ", " << options.rows << " rows, seed " << options.seed << "\nfiles = [\"rows.csv\"]\ngroups = [\"user\"]\n\n"
         << "[features]\ncategorical = [";
  for (size_t f = 0; f + 1 < fields.size(); ++f) schema << (f > 0 ? ", \"" : "\"") << fields[f] << "\"";
  schema << "]\nbucketised = [\"" << fields.back() << "\"]\nbuckets = 10\n\n"
         << "[[task]]\nname = \"" << tasks[0] << "\"\nkind = \"binary\"\n\n"
         << "[[task]]\nname = \"" << tasks[1] << "\"\nkind = \"binary\"\nafter = [\"" << tasks[0] << "\"]\n\n"
         << "[[task]]\nname = \"" << tasks[2] << "\"\nkind = \"regression\"\nafter = [\"" << tasks[0] << "\", \"" << tasks[1] << "\"]\ncore = true\n"
         << "transform = \"z_score\"\n\n[split]\nfractions = [0.8, 0.1, 0.1]\n";
  rows.commit();
  truth.commit();
  schema.commit();
}

}  // namespace htlnet
