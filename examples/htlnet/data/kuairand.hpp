// SPDX-License-Identifier: Apache-2.0
/// @file kuairand.hpp
/// @brief Reads KuaiRand-Pure (Gao et al., CIKM 2022) from its official files.
#pragma once

#include <examples/htlnet/data/chunks.hpp>
#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/id_writer.hpp>
#include <examples/htlnet/data/kuairand_files.hpp>
#include <examples/htlnet/data/seen_rows.hpp>

#include <htl/task/built_in_transforms.hpp>

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
/// Options add fields: the user's history (three lists of videos; those of a user of the training rows count once, however many rows he has, and each list is
/// a mean of its ids), which a row has if all of it is older than the row; and target statistics of all earlier rows of the logs by their clock, whichever part
/// and day those belong to.
/// Context columns: duration (seconds), user and tab (groups). Files, columns and labels are checked; a split without rows is an error.
/// @param directory where the files are
/// @param train_dates "YYYY-MM-DD" or "YYYY-MM-DD:YYYY-MM-DD", both days included
/// @param valid_dates the same; empty = no validation rows
/// @param test_dates the same; empty = no test rows
/// @param options see there
inline Dataset load_kuairand(const std::string& directory, const std::string& train_dates, const std::string& valid_dates, const std::string& test_dates,
                             const KuaiRandOptions& options = {});

namespace kuairand {

struct Rows {
  Chunks<int32_t> user, video, context, history;  // codes; of the context one for each of its fields
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
    if (options.history) history_ = read_history(directory_, options);
    if (options.target_rows != TargetRows::none) {
      statistics_.emplace(options.target_rows, options.target_strength);
      numbers_.emplace(statistics_->names(), options.numbers, options.buckets, options.statistics);
    }
    for (const std::string& path : csv_files(directory_, "log_standard_")) read_log(path);
    for (size_t s = 0; s < 3; ++s)
      HTL_CHECK(!splits_[s] || rows_[s].click.size() > 0, "htlnet: expected ", split_names[s], " rows of the days ", splits_[s]->first, " to ",
                splits_[s]->last, ", found none; the logs in \"", directory_, "\" hold days from ", first_day_, " to ", last_day_);
  }

  Dataset finish() {
    if (statistics_) values_ = statistics_->finish();
    Dataset data{fit(), kuairand_tasks(options_.core_transform), {}, {}, {}, {}};
    data.groups.set("user", users_.fields[0].texts()).set("tab", context_[2].texts());
    for (const auto& [to, s] : {std::pair<htl::TableData*, size_t>{&data.train, 0}, {&data.valid, 1}, {&data.test, 2}}) *to = table(rows_[s], values_[s]);
    return data;
  }

 private:
  void read_log(const std::string& path) {
    htl::CsvReader reader(path);
    const size_t user = reader.column("user_id"), video = reader.column("video_id"), date = reader.column("date"), hourmin = reader.column("hourmin"),
                 click = reader.column("is_click"), long_view = reader.column("long_view"), play = reader.column("play_time_ms"),
                 duration = reader.column("duration_ms"), tab = reader.column("tab"), is_rand = reader.column("is_rand"), clock = reader.column("time_ms");
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
      // what is in no part counts in statistics where its clock is earlier, whatever its date says
      if ((s == 3 && !statistics_) || !seen_.add(reader.row_text())) continue;
      const int64_t time = reader.integer(hourmin);
      if (time < 0 || time >= 2400) reader.fail(hourmin, "a time HHMM");
      const int64_t milliseconds = history_ || statistics_ ? reader.integer(clock) : 0;
      const int32_t user_code = users_.fields[0].encode(reader[user]), video_code = videos_.fields[0].encode(reader[video]);
      const std::array<int32_t, 4> context = {context_[0].encode(std::to_string(weekday)), context_[1].encode(std::to_string(time / 100)),
                                              context_[2].encode(reader[tab]), context_[3].encode(reader[is_rand])};
      const float clicked = event(click), viewed = event(long_view), watched = seconds(play), whole = seconds(duration);
      if (statistics_) {
        const auto of_video = [&](size_t column) {
          const std::span<const int32_t> ids = videos_.ids_of(video_code, column);
          return ids.empty() ? 0 : ids.front();
        };
        statistics_->add({milliseconds, user_code, video_code, of_video(author_column), of_video(tag_column), of_video(music_column), context[2], context[1],
                          clicked, viewed, watched, static_cast<uint8_t>(s)});
      }
      if (s == 3) continue;
      Rows& rows = rows_[s];
      rows.user.push_back(user_code);
      rows.video.push_back(video_code);
      for (const int32_t code : context) rows.context.push_back(code);
      if (history_) rows.history.push_back(history_->code_before(reader[user], milliseconds));
      rows.click.push_back(clicked);
      rows.long_view.push_back(viewed);
      rows.watch_time.push_back(watched);
      rows.duration.push_back(whole);
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
    std::vector<htl::FieldCounter*> counters;
    for (std::vector<htl::FieldCounter>* group : {&users_.fields, &videos_.fields, &context_})
      for (htl::FieldCounter& field : *group) counters.push_back(&field);
    if (history_) {
      std::vector<int64_t> histories(static_cast<size_t>(history_->users.fields[0].distinct()) + 1, 0);
      for (size_t i = 0; i < train.history.size(); ++i) histories[static_cast<size_t>(train.history[i])] = 1;  // once a user, however many rows he has
      histories[0] = 0;
      history_->users.count(histories);
      for (size_t f = 1; f < history_->users.fields.size(); ++f) counters.push_back(&history_->users.fields[f]);
    }
    std::vector<htl::FeatureMap::Field> fields;
    std::vector<htl::FeatureMap::Numeric> numeric;
    for (htl::FieldCounter* const field : counters) {
      if (options_.features) {
        field->adopt(*options_.features);
      } else {
        fields.push_back(field->fit());
      }
    }
    if (numbers_ && options_.features) numbers_->adopt(*options_.features);
    if (numbers_ && !options_.features) numbers_->fit(values_[0], fields, numeric);
    for (Entities* const entities : {&users_, &videos_, history_ ? &history_->users : nullptr})
      if (entities) entities->resolve();
    return options_.features ? *options_.features : htl::FeatureMap(std::move(fields), std::move(numeric));
  }

  htl::TableData table(Rows& rows, const at::Tensor& values) const {
    const size_t width =
        users_.fields.size() + videos_.fields.size() + context_.size() + (history_ ? history_columns.size() : 0) + (numbers_ ? numbers_->fields() : 0);
    IdWriter writer(static_cast<int64_t>(width), history_ ? Bags::averaged : options_.tag_bags ? Bags::summed : Bags::none);
    const auto put_entity = [&](const Entities& entities, int32_t key) {
      writer.one(entities.fields[0].id(key));
      for (size_t f = 0; f < entities.columns(); ++f) {
        if (entities.knows(key)) {
          writer.sum(entities.ids_of(key, f));
        } else {
          writer.one(0);
        }
      }
    };
    for (size_t i = 0; i < rows.click.size(); ++i) {
      put_entity(users_, rows.user[i]);
      put_entity(videos_, rows.video[i]);
      for (size_t c = 0; c < context_.size(); ++c) writer.one(context_[c].id(rows.context[i * context_.size() + c]));
      for (size_t f = 0; history_ && f < history_columns.size(); ++f) {
        if (rows.history[i] > 0) {
          writer.mean(history_->users.ids_of(rows.history[i], f));
        } else {
          writer.one(0);
        }
      }
      if (numbers_) numbers_->put(values.const_data_ptr<float>() + static_cast<int64_t>(i) * values.size(1), writer);
    }
    htl::Batch all;
    all.fields = writer.finish();
    if (numbers_) all.numeric = numbers_->numeric(values);
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
  std::optional<History> history_;
  std::optional<LogStatistics> statistics_;
  std::optional<NumberColumns> numbers_;
  std::array<at::Tensor, 3> values_;  // of the statistics, by part
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
