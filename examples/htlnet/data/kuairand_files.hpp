// SPDX-License-Identifier: Apache-2.0
/// @file kuairand_files.hpp
/// @brief The files of KuaiRand-Pure beside its logs: features of users and videos, and what users did before the logs begin.
#pragma once

#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/files.hpp>
#include <examples/htlnet/data/kuairand_statistics.hpp>
#include <examples/htlnet/data/number_columns.hpp>
#include <examples/htlnet/data/single_precision.hpp>

#include <htl/data/csv.hpp>
#include <htl/data/field_counter.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace htlnet {

/// @brief Choices of load_kuairand().
struct KuaiRandOptions {
  int64_t min_count = 1;                        ///< a value in fewer training rows shares the field's id 0
  int64_t buckets = 32;                         ///< quantile buckets of each of the five bucketised columns
  std::string core_transform = "z_score";       ///< of watch time: none, z_score, log1p
  bool tag_bags = false;                        ///< each of a video's tags an id of its own (long form); otherwise the whole combination is one value
  bool history = false;                         ///< also what the user watched, liked and watched long before the logs, from user_history*.csv
  TargetRows target_rows = TargetRows::none;    ///< also target statistics, see kuairand_statistics.hpp, and of which rows
  double target_strength = 20.0;                ///< of their smoothing, in rows
  NumbersAs numbers = NumbersAs::buckets;       ///< how target statistics enter
  const htl::FeatureMap* features = nullptr;    ///< a fitted map to use instead of fitting one; training and validation days may then be empty
  const htl::FeatureMap* statistics = nullptr;  ///< a map whose bucket edges are kept, by name
};

namespace kuairand {

inline constexpr std::array<std::string_view, 5> bucketised_columns = {"follow_user_num", "fans_user_num", "friend_user_num", "register_days",
                                                                       "video_duration"};
inline constexpr std::array<std::string_view, 7> video_columns = {"author_id", "video_type", "upload_type", "video_duration", "music_id", "music_type", "tag"};
inline constexpr size_t author_column = 0, music_column = 4, tag_column = 6;                                     // of these
inline constexpr std::array<std::string_view, 3> history_columns = {"watch_seq", "like_seq", "long_watch_seq"};  // videos between spaces
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
  if (std::find(history_columns.begin(), history_columns.end(), name) != history_columns.end()) {
    plan.kind = htl::FieldKind::multi_valued;
    plan.separator = ' ';
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
  // The ids of a column; none for an unknown entity.
  std::span<const int32_t> ids_of(int32_t key, size_t column) const {
    if (!knows(key)) return {};
    const size_t at = first_column(key) + column;
    return std::span(ids).subspan(ends[at], ends[at + 1] - ends[at]);
  }

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

// `wanted` empty = all columns but the key. `each` sees every row.
inline Entities read_entities(const std::string& directory, const std::string& stem, std::string_view key, std::span<const std::string_view> wanted,
                              const KuaiRandOptions& options, const std::function<void(const htl::CsvReader&)>& each = {}) {
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
    if (each) each(reader);
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

// What users did before the logs: three lists of videos a user, and when the last of it was.
struct History {
  Entities users;
  std::vector<int64_t> last_time;  // by code − 1, milliseconds

  // The user's code if all of it was before a row's time; otherwise, and for a user without one, 0: the row has no history.
  int32_t code_before(std::string_view user, int64_t time) {
    const int32_t code = users.fields[0].encode(user);
    return users.knows(code) && last_time[static_cast<size_t>(code) - 1] < time ? code : 0;
  }
};
inline History read_history(const std::string& directory, const KuaiRandOptions& options) {
  History history;
  history.users = read_entities(directory, "user_history", "user_id", history_columns, options,
                                [&](const htl::CsvReader& reader) { history.last_time.push_back(reader.integer(reader.column("last_time_ms"))); });
  return history;
}

}  // namespace kuairand
}  // namespace htlnet
