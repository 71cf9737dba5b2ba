// SPDX-License-Identifier: Apache-2.0
/// @file kuairand.hpp
/// @brief Reads KuaiRand-Pure (Gao et al., CIKM 2022) from its official files.
#pragma once

#include <examples/htlnet/data/chunks.hpp>
#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/files.hpp>
#include <examples/htlnet/data/seen_rows.hpp>
#include <examples/htlnet/data/single_precision.hpp>

#include <htl/data/csv.hpp>
#include <htl/data/field_counter.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief Choices of load_kuairand().
struct KuaiRandOptions {
  int64_t min_count = 1;                        ///< a value in fewer training rows shares the field's id 0
  int64_t buckets = 32;                         ///< quantile buckets of each of the five bucketised columns
  std::string core_transform = "z_score";       ///< of watch time: none, z_score, log1p
  bool tag_bags = false;                        ///< each of a video's tags an id of its own (long form); otherwise the whole combination is one value
  const htl::FeatureMap* features = nullptr;    ///< a fitted map to use instead of fitting one; training and validation days may then be empty
  const htl::FeatureMap* statistics = nullptr;  ///< a map whose bucket edges are kept, by name
};

/// @brief The tasks: click → long_view → watch_time (core, seconds), as a full chain; watch_time names the context column "duration" (seconds).
inline htl::TaskSet kuairand_tasks(const std::string& core_transform = "z_score");

/// @brief The days of training, validation and test rows; nothing where a text is empty.
/// @throws c10::ValueError for what is no range of days, and for parts that share a day
inline std::array<std::optional<DateRange>, 3> kuairand_days(const std::string& train_dates, const std::string& valid_dates, const std::string& test_dates);

/// @brief Reads the days of three splits.
///
/// The directory holds log_standard_*.csv, user_features_pure.csv and video_features_basic_pure.csv, plain or gzip; all logs are read, in order of name.
/// Of rows that are equal in every byte, the first one counts. 43 fields: user 31 (user_id and the 30 columns of the user file in its order), item 8
/// (video_id, author_id, video_type, upload_type, video_duration, music_id, music_type, tag), context 4 (weekday, hour, tab, is_rand).
/// follow_user_num, fans_user_num, friend_user_num, register_days and video_duration are bucketised, all others are categorical. What is known only
/// after the exposure (play time, stay times, the user's other reactions) is no feature. Vocabularies and edges come from training rows only.
/// Context columns: duration (seconds), user and tab (groups). Files, columns and labels are checked; a split without rows is an error.
/// @param directory where the files are
/// @param train_dates "YYYY-MM-DD" or "YYYY-MM-DD:YYYY-MM-DD", both days included
/// @param valid_dates the same; empty = no validation rows
/// @param test_dates the same; empty = no test rows
/// @param options see there
inline Dataset load_kuairand(const std::string& directory, const std::string& train_dates, const std::string& valid_dates, const std::string& test_dates,
                             const KuaiRandOptions& options = {});

namespace kuairand {

inline constexpr std::array<std::string_view, 5> bucketised_columns = {"follow_user_num", "fans_user_num", "friend_user_num", "register_days",
                                                                       "video_duration"};
inline constexpr std::array<std::string_view, 7> video_columns = {"author_id", "video_type", "upload_type", "video_duration", "music_id", "music_type", "tag"};
inline constexpr std::array<std::string_view, 4> context_fields = {"weekday", "hour", "tab", "is_rand"};
inline constexpr std::array<std::string_view, 3> split_names = {"training", "validation", "test"};
inline constexpr size_t user_columns = 30;

inline htl::FieldCounter counter(std::string_view name, const KuaiRandOptions& options) {
  htl::FieldPlan plan{.name = std::string(name), .min_count = options.min_count, .buckets = options.buckets};
  if (std::find(bucketised_columns.begin(), bucketised_columns.end(), name) != bucketised_columns.end()) plan.kind = htl::FieldKind::bucketised;
  if (name == "tag" && options.tag_bags) {
    plan.kind = htl::FieldKind::multi_valued;
    plan.separator = ',';
  }
  keep_edges(plan, options.statistics);
  return htl::FieldCounter(plan);
}

// A feature file: one entity a row. A key's code − 1 is the entity's position; keys that only the logs know have no features.
struct Entities {
  std::vector<htl::FieldCounter> fields;  // the key's, then the columns'
  std::vector<int32_t> ids;               // of all columns, entity by entity: provisional codes until resolve()
  std::vector<size_t> ends = {0};         // where each column's ids begin, and at last where all end
  size_t size = 0;

  size_t columns() const { return fields.size() - 1; }
  bool knows(int32_t key) const { return key > 0 && static_cast<size_t>(key) <= size; }
  size_t first_column(int32_t key) const { return (static_cast<size_t>(key) - 1) * columns(); }

  // Counts every entity as often as training rows show it, by code of the key.
  void count(const std::vector<int64_t>& times) {
    for (size_t key = 1; key < times.size(); ++key) {
      fields[0].count(static_cast<int32_t>(key), times[key]);
      if (times[key] == 0 || key > size) continue;
      for (size_t f = 0, column = first_column(static_cast<int32_t>(key)); f < columns(); ++f, ++column)
        for (size_t i = ends[column]; i < ends[column + 1]; ++i) fields[f + 1].count(ids[i], times[key]);
    }
  }
  // Codes become ids.
  void resolve() {
    for (size_t column = 0; column < size * columns(); ++column)
      for (size_t i = ends[column]; i < ends[column + 1]; ++i) ids[i] = fields[column % columns() + 1].id(ids[i]);
  }
};

// `wanted` empty = all columns but the key.
inline Entities read_entities(const std::string& directory, const std::string& stem, std::string_view key, std::span<const std::string_view> wanted,
                              const KuaiRandOptions& options) {
  htl::CsvReader reader(csv_files(directory, stem).front());
  const size_t key_column = reader.column(key);
  std::vector<size_t> columns;
  for (const std::string_view name : wanted) columns.push_back(reader.column(name));
  for (size_t j = 0; wanted.empty() && j < reader.header().size(); ++j)
    if (j != key_column) columns.push_back(j);
  Entities entities;
  entities.fields.push_back(counter(key, options));
  for (const size_t j : columns) entities.fields.push_back(counter(reader.header()[j], options));
  while (reader.next()) {
    const int32_t code = entities.fields[0].encode(reader[key_column]);
    if (static_cast<size_t>(code) != entities.size + 1) reader.fail(key_column, code == 0 ? "a value" : "a value that no earlier row has");
    ++entities.size;
    for (size_t f = 0; f < columns.size(); ++f) {
      htl::FieldCounter& field = entities.fields[f + 1];
      if (field.plan().kind == htl::FieldKind::bucketised) {
        entities.ids.push_back(htl::FieldCounter::encode_number(single_or_missing(reader, columns[f])));
      } else {
        field.append_codes(reader[columns[f]], entities.ids);
      }
      entities.ends.push_back(entities.ids.size());
    }
  }
  return entities;
}

struct Rows {
  Chunks<int32_t> user, video, context;  // codes; of the context one for each of its fields
  Chunks<float> click, long_view, watch_time, duration;
};

class Reader {
 public:
  Reader(std::string directory, const std::array<std::optional<DateRange>, 3>& splits, const KuaiRandOptions& options)
      : directory_(std::move(directory)),
        options_(options),
        splits_(splits),
        users_(read_entities(directory_, "user_features_pure", "user_id", {}, options)),
        videos_(read_entities(directory_, "video_features_basic_pure", "video_id", video_columns, options)) {
    HTL_CHECK(users_.columns() == user_columns, "htlnet: expected user_id and ", user_columns, " more columns in user_features_pure of \"", directory_,
              "\", got ", users_.columns());
    for (const std::string_view name : context_fields) context_.push_back(counter(name, options));
    for (const std::string& path : csv_files(directory_, "log_standard_")) read_log(path);
    for (size_t s = 0; s < 3; ++s)
      HTL_CHECK(!splits_[s] || rows_[s].click.size() > 0, "htlnet: expected ", split_names[s], " rows of the days ", splits_[s]->first, " to ",
                splits_[s]->last, ", found none; the logs in \"", directory_, "\" hold days from ", first_day_, " to ", last_day_);
  }

  Dataset finish() {
    Dataset data{fit(), kuairand_tasks(options_.core_transform), {}, {}, {}, {}};
    data.groups.set("user", users_.fields[0].texts()).set("tab", context_[2].texts());
    for (const auto& [to, rows] : {std::pair<htl::TableData*, Rows*>{&data.train, &rows_[0]}, {&data.valid, &rows_[1]}, {&data.test, &rows_[2]}})
      *to = table(*rows);
    return data;
  }

 private:
  void read_log(const std::string& path) {
    htl::CsvReader reader(path);
    const size_t user = reader.column("user_id"), video = reader.column("video_id"), date = reader.column("date"), hourmin = reader.column("hourmin"),
                 click = reader.column("is_click"), long_view = reader.column("long_view"), play = reader.column("play_time_ms"),
                 duration = reader.column("duration_ms"), tab = reader.column("tab"), is_rand = reader.column("is_rand");
    const auto event = [&](size_t column) {
      const double value = reader.number(column);
      if (value != 0.0 && value != 1.0) reader.fail(column, "0 or 1");
      return static_cast<float>(value);
    };
    const auto seconds = [&](size_t column) {
      const double value = reader.number(column);
      if (value < 0.0) reader.fail(column, "milliseconds ≥ 0");
      return single_precision(reader, column, value / 1000.0);
    };
    while (reader.next()) {
      const int64_t day = reader.integer(date);
      const int weekday = weekday_of(day);
      if (weekday < 0) reader.fail(date, "a day YYYYMMDD");
      first_day_ = std::min(first_day_, day);
      last_day_ = std::max(last_day_, day);
      size_t s = 0;
      while (s < 3 && !(splits_[s] && splits_[s]->contains(day))) ++s;
      if (s == 3 || !seen_.add(reader.row_text())) continue;
      const int64_t time = reader.integer(hourmin);
      if (time < 0 || time >= 2400) reader.fail(hourmin, "a time HHMM");
      Rows& rows = rows_[s];
      rows.user.push_back(users_.fields[0].encode(reader[user]));
      rows.video.push_back(videos_.fields[0].encode(reader[video]));
      rows.context.push_back(context_[0].encode(std::to_string(weekday)));
      rows.context.push_back(context_[1].encode(std::to_string(time / 100)));
      rows.context.push_back(context_[2].encode(reader[tab]));
      rows.context.push_back(context_[3].encode(reader[is_rand]));
      rows.click.push_back(event(click));
      rows.long_view.push_back(event(long_view));
      rows.watch_time.push_back(seconds(play));
      rows.duration.push_back(seconds(duration));
    }
  }

  htl::FeatureMap fit() {
    std::vector<int64_t> user_times(static_cast<size_t>(users_.fields[0].distinct()) + 1, 0),
        video_times(static_cast<size_t>(videos_.fields[0].distinct()) + 1, 0);
    const Rows& train = rows_[0];
    for (size_t i = 0; i < train.click.size(); ++i) {
      ++user_times[static_cast<size_t>(train.user[i])];
      ++video_times[static_cast<size_t>(train.video[i])];
    }
    users_.count(user_times);
    videos_.count(video_times);
    for (size_t i = 0; i < train.context.size(); ++i) context_[i % context_.size()].count(train.context[i]);
    std::vector<htl::FeatureMap::Field> fields;
    for (std::vector<htl::FieldCounter>* group : {&users_.fields, &videos_.fields, &context_})
      for (htl::FieldCounter& field : *group) {
        if (options_.features) {
          field.adopt(*options_.features);
        } else {
          fields.push_back(field.fit());
        }
      }
    users_.resolve();
    videos_.resolve();
    return options_.features ? *options_.features : htl::FeatureMap(std::move(fields));
  }

  htl::TableData table(Rows& rows) const {
    const size_t n = rows.click.size(), width = users_.fields.size() + videos_.fields.size() + context_.size();
    std::vector<int32_t> bags;
    at::Tensor ids = options_.tag_bags ? at::Tensor() : at::empty({static_cast<int64_t>(n), static_cast<int64_t>(width)}, at::kInt);
    at::Tensor offsets = options_.tag_bags ? at::empty({static_cast<int64_t>(n * width) + 1}, at::kLong) : at::Tensor();
    int32_t* to = options_.tag_bags ? nullptr : ids.mutable_data_ptr<int32_t>();
    int64_t* end = options_.tag_bags ? offsets.mutable_data_ptr<int64_t>() : nullptr;
    if (end) *end++ = 0;
    const auto put = [&](int32_t id) {
      if (to) {
        *to++ = id;
      } else {
        bags.push_back(id);
        *end++ = static_cast<int64_t>(bags.size());
      }
    };
    const auto put_entity = [&](const Entities& entities, int32_t key) {
      put(entities.fields[0].id(key));
      for (size_t f = 0; f < entities.columns(); ++f) {
        if (!entities.knows(key)) {
          put(0);
          continue;
        }
        const size_t column = entities.first_column(key) + f;
        put(entities.ids[entities.ends[column]]);
        for (size_t i = entities.ends[column] + 1; i < entities.ends[column + 1]; ++i) {
          bags.push_back(entities.ids[i]);
          end[-1] += 1;
        }
      }
    };
    for (size_t i = 0; i < n; ++i) {
      put_entity(users_, rows.user[i]);
      put_entity(videos_, rows.video[i]);
      for (size_t c = 0; c < context_.size(); ++c) put(context_[c].id(rows.context[i * context_.size() + c]));
    }
    htl::Batch all;
    if (options_.tag_bags) {
      ids = at::empty({static_cast<int64_t>(bags.size())}, at::kInt);
      std::copy(bags.begin(), bags.end(), ids.mutable_data_ptr<int32_t>());
      all.fields = htl::FieldBatch::bags(ids, offsets, static_cast<int64_t>(width));
    } else {
      all.fields = htl::FieldBatch::of(ids);
    }
    all.labels.set("click", {rows.click.to_tensor()}).set("long_view", {rows.long_view.to_tensor()}).set("watch_time", {rows.watch_time.to_tensor()});
    const at::Tensor context = rows.context.to_tensor().view({-1, static_cast<int64_t>(context_.size())});
    all.labels.context.set("duration", rows.duration.to_tensor()).set("user", rows.user.to_tensor()).set("tab", context.select(1, 2).clone());
    return htl::TableData(std::move(all));
  }

  std::string directory_;
  const KuaiRandOptions& options_;
  std::array<std::optional<DateRange>, 3> splits_;
  Entities users_, videos_;
  std::vector<htl::FieldCounter> context_;
  std::array<Rows, 3> rows_;
  SeenRows seen_;
  int64_t first_day_ = 99999999, last_day_ = 0;
};

}  // namespace kuairand

inline htl::TaskSet kuairand_tasks(const std::string& core_transform) {
  return {htl::binary("click"), htl::binary("long_view").after("click"),
          htl::regression("watch_time").after("click", "long_view").core().transform(htl::label_transform(core_transform)).context({"duration"})};
}

inline std::array<std::optional<DateRange>, 3> kuairand_days(const std::string& train_dates, const std::string& valid_dates, const std::string& test_dates) {
  const std::array<std::string, 3> texts = {train_dates, valid_dates, test_dates};
  std::array<std::optional<DateRange>, 3> splits;
  for (size_t s = 0; s < 3; ++s) {
    if (texts[s].empty()) continue;
    splits[s] = DateRange::parse(texts[s]);
    for (size_t before = 0; before < s; ++before)
      HTL_CHECK(!splits[before] || splits[before]->last < splits[s]->first || splits[s]->last < splits[before]->first, "htlnet: the ",
                kuairand::split_names[before], " days ", texts[before], " and the ", kuairand::split_names[s], " days ", texts[s],
                " overlap; each part needs days of its own");
  }
  return splits;
}

inline Dataset load_kuairand(const std::string& directory, const std::string& train_dates, const std::string& valid_dates, const std::string& test_dates,
                             const KuaiRandOptions& options) {
  const std::array<std::optional<DateRange>, 3> splits = kuairand_days(train_dates, valid_dates, test_dates);
  HTL_CHECK(splits[0] || options.features, "htlnet: expected training days, got none; only with a fitted feature map can there be none");
  HTL_CHECK(splits[0] || splits[1] || splits[2], "htlnet: expected the days of at least one split, got none");
  return kuairand::Reader(directory, splits, options).finish();
}

}  // namespace htlnet
