// SPDX-License-Identifier: Apache-2.0
/// @file online_retail.hpp
/// @brief Reads UCI Online Retail (Chen, 2015) as snapshots of customers: will he buy within a horizon, and for how much?
#pragma once

#include <examples/htlnet/data/chunks.hpp>
#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/files.hpp>
#include <examples/htlnet/data/id_writer.hpp>
#include <examples/htlnet/data/number_columns.hpp>
#include <examples/htlnet/data/online_retail_log.hpp>

#include <htl/loss/ziln.hpp>
#include <htl/task/built_in_transforms.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief Choices of load_online_retail().
struct OnlineRetailOptions {
  int64_t horizon_days = 90;                       ///< how far labels look ahead
  int64_t min_count = 1;                           ///< a value in fewer training rows shares the field's id 0
  int64_t buckets = 16;                            ///< quantile buckets of each number
  NumbersAs numbers = NumbersAs::both;             ///< how numbers enter
  std::optional<std::string> core_transform = {};  ///< of the spend under squared errors: none, z_score, log1p; nothing = ZILN's likelihood
  const htl::FeatureMap* features = nullptr;       ///< a fitted map to use instead of fitting one; there may then be no training and validation cut-offs
  const htl::FeatureMap* statistics = nullptr;     ///< a map whose bucket edges and stand-ins for missing numbers are kept, by name
  bool labels = true;                              ///< false = features only: the horizon may reach beyond the rows
};

/// @brief The tasks: buy → spend (core, in the shop's currency), often zero and with a long tail: by ZILN, or by squared errors where a transform is given.
inline htl::TaskSet online_retail_tasks(const std::optional<std::string>& core_transform = {}) {
  const htl::TaskSpec spend = htl::regression("spend").after("buy").core();
  return {htl::binary("buy"), core_transform ? spend.transform(htl::label_transform(*core_transform)) : spend.loss(htl::ZILN())};
}

/// @brief Days at whose first moment a customer is looked at.
using CutOffs = std::vector<std::chrono::sys_days>;

/// @brief The cut-offs of training, validation and test rows: one a month, from the first day to the last. None where a text is empty.
/// @param train,valid,test "YYYY-MM-DD" or "YYYY-MM-DD:YYYY-MM-DD"
/// @param horizon_days what is learned from a cut-off is known that many days later, and only then may the next part's first cut-off be
/// @throws c10::ValueError for what is no range of days, a day that not every month has, and a horizon that reaches beyond a later part's first cut-off
inline std::array<CutOffs, 3> online_retail_cut_offs(const std::string& train, const std::string& valid, const std::string& test, int64_t horizon_days);

/// @brief Reads online_retail*.csv, plain or gzip, and makes a row of each customer at each cut-off.
///
/// A customer has a row at a cut-off if he has one in the log strictly before it (rows without CustomerID count nowhere). Features are made of those rows
/// only: recency, frequency, amount, baskets, cancellations (see number_names), the country, the cut-off's month, and as multi-valued fields the products
/// of the last order and those most often bought. Labels are made of the rows in [cut-off, cut-off + horizon) only: `buy`, whether any is a purchase (quantity
/// and unit price positive), and `spend`, the amount of the purchases, ≥ 0, in the log's unit. Cancellations are not taken off: many undo a purchase of before
/// the cut-off, which would make a spend negative that nobody could have foreseen.
/// A row's group is its cut-off ("cut_off"); the context column "user" tells whose it is, a number in the order of customers' first rows. Vocabularies, edges
/// and means come from training rows only. Rows by cut-off, then in the order of customers' first rows.
/// @param directory where the files are
/// @param train,valid,test as in online_retail_cut_offs()
/// @param options see there
/// @throws c10::ValueError naming file, line and column of what is wrong; the cut-offs' rules; a horizon that ends after the rows do; a part without a row
inline Dataset load_online_retail(const std::string& directory, const std::string& train, const std::string& valid, const std::string& test,
                                  const OnlineRetailOptions& options = {});

namespace online_retail {

inline constexpr std::array<const char*, 3> split_names = {"training", "validation", "test"};

inline std::string day_text(std::chrono::sys_days day) {
  const std::chrono::year_month_day date(day);
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%04d-%02u-%02u", static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                static_cast<unsigned>(date.day()));
  return text.data();
}
inline int64_t seconds_of(std::chrono::sys_days day) { return day.time_since_epoch().count() * day_seconds; }

struct Rows {
  Chunks<int32_t> country, month, cut_off, user;  // codes; the last two are positions in the group's texts and in the log's customers
  std::vector<int32_t> last, most;                // codes of products, row after row
  std::vector<size_t> last_ends, most_ends;       // where each row's end
  Chunks<float> numbers, buy, spend;
  size_t count = 0;
};

class Reader {
 public:
  Reader(const std::string& directory, const std::array<CutOffs, 3>& cut_offs, const OnlineRetailOptions& options)
      : options_(options),
        log_(read_log(directory)),
        country_(plan("country", htl::FieldKind::categorical)),
        month_(plan("month", htl::FieldKind::categorical)),
        last_(plan("last_products", htl::FieldKind::multi_valued)),
        most_(plan("most_bought", htl::FieldKind::multi_valued)),
        numbers_(number_names, options.numbers, options.buckets, options.statistics) {
    for (size_t s = 0; s < 3; ++s) {
      for (const std::chrono::sys_days day : cut_offs[s]) {
        check_horizon(directory, day);
        add(day, rows_[s]);
      }
      HTL_CHECK(cut_offs[s].empty() || rows_[s].count > 0, "htlnet: expected ", split_names[s], " rows, found no customer before ",
                cut_offs[s].empty() ? "" : day_text(cut_offs[s].back()), " in \"", directory, "\"");
    }
  }

  Dataset finish() {
    std::array<at::Tensor, 3> values;
    for (size_t s = 0; s < 3; ++s)
      values[s] = rows_[s].numbers.to_tensor().view({static_cast<int64_t>(rows_[s].count), static_cast<int64_t>(number_names.size())});
    Dataset data{fit(values[0]), online_retail_tasks(options_.core_transform), {}, {}, {}, {}};
    data.groups.set("cut_off", groups_);
    for (const auto& [to, s] : {std::pair<htl::TableData*, size_t>{&data.train, 0}, {&data.valid, 1}, {&data.test, 2}}) *to = table(rows_[s], values[s]);
    return data;
  }

 private:
  htl::FieldPlan plan(const char* name, htl::FieldKind kind) const {
    return {.name = name, .kind = kind, .separator = kind == htl::FieldKind::multi_valued ? '|' : '\0', .min_count = options_.min_count};
  }

  void check_horizon(const std::string& directory, std::chrono::sys_days day) const {
    const std::chrono::sys_days end = day + std::chrono::days(options_.horizon_days);
    HTL_CHECK(!options_.labels || log_.last_time >= seconds_of(end), "htlnet: the horizon of the cut-off ", day_text(day), " ends on ", day_text(end),
              ", and the rows in \"", directory, "\" end on ",
              log_.last_time < log_.first_time
                  ? "no day"
                  : day_text(std::chrono::floor<std::chrono::days>(std::chrono::sys_seconds(std::chrono::seconds(log_.last_time)))),
              ": its labels would be cut short; take an earlier cut-off or a shorter --horizon");
  }

  void add(std::chrono::sys_days day, Rows& rows) {
    const int64_t cut_off = seconds_of(day);
    const int32_t group = static_cast<int32_t>(groups_.size()),
                  month = month_.encode(std::to_string(static_cast<unsigned>(std::chrono::year_month_day(day).month())));
    groups_.push_back(day_text(day));
    for (size_t c = 0; c < log_.customers.size(); ++c) {
      const std::vector<Event>& customer = log_.customers[c];
      const std::span<const Event> before = Log::within(customer, std::numeric_limits<int64_t>::min(), cut_off),
                                   after = Log::within(customer, cut_off, cut_off + options_.horizon_days * day_seconds);
      if (before.empty()) continue;
      const Snapshot snapshot = snapshot_of(before, cut_off);
      ++rows.count;
      rows.cut_off.push_back(group);
      rows.user.push_back(static_cast<int32_t>(c));
      rows.month.push_back(month);
      rows.country.push_back(country_.encode(log_.countries.text(snapshot.country)));
      for (const int32_t product : snapshot.last_products) rows.last.push_back(last_.encode(log_.products.text(product)));
      for (const int32_t product : snapshot.most_bought) rows.most.push_back(most_.encode(log_.products.text(product)));
      rows.last_ends.push_back(rows.last.size());
      rows.most_ends.push_back(rows.most.size());
      for (const float number : snapshot.numbers) rows.numbers.push_back(number);
      const bool buys = std::any_of(after.begin(), after.end(), [](const Event& event) { return event.is_bought; });
      rows.buy.push_back(buys ? 1.0F : 0.0F);
      rows.spend.push_back(static_cast<float>(spend_of(after)));
    }
  }

  htl::FeatureMap fit(const at::Tensor& training) {
    const std::array<htl::FieldCounter*, 4> counters = {&country_, &month_, &last_, &most_};
    if (options_.features) {
      for (htl::FieldCounter* const counter : counters) counter->adopt(*options_.features);
      numbers_.adopt(*options_.features);
      return *options_.features;
    }
    const Rows& train = rows_[0];
    for (size_t i = 0; i < train.count; ++i) {
      country_.count(train.country[i]);
      month_.count(train.month[i]);
    }
    for (const int32_t code : train.last) last_.count(code);
    for (const int32_t code : train.most) most_.count(code);
    std::vector<htl::FeatureMap::Field> fields;
    std::vector<htl::FeatureMap::Numeric> numeric;
    for (htl::FieldCounter* const counter : counters) fields.push_back(counter->fit());
    numbers_.fit(training, fields, numeric);
    return htl::FeatureMap(std::move(fields), std::move(numeric));
  }

  htl::TableData table(Rows& rows, const at::Tensor& values) const {
    IdWriter writer(4 + static_cast<int64_t>(numbers_.fields()), Bags::averaged);
    std::vector<int32_t> ids;
    const auto put_bag = [&](const htl::FieldCounter& counter, const std::vector<int32_t>& codes, const std::vector<size_t>& ends, size_t row) {
      ids.clear();
      for (size_t i = row > 0 ? ends[row - 1] : 0; i < ends[row]; ++i) ids.push_back(counter.id(codes[i]));
      if (ids.empty()) ids.push_back(0);
      writer.mean(ids);
    };
    for (size_t i = 0; i < rows.count; ++i) {
      writer.one(country_.id(rows.country[i]));
      writer.one(month_.id(rows.month[i]));
      put_bag(last_, rows.last, rows.last_ends, i);
      put_bag(most_, rows.most, rows.most_ends, i);
      numbers_.put(values.const_data_ptr<float>() + i * number_names.size(), writer);
    }
    htl::Batch all;
    all.fields = writer.finish();
    all.numeric = numbers_.numeric(values);
    if (options_.labels) all.labels.set("buy", {rows.buy.to_tensor()}).set("spend", {rows.spend.to_tensor()});
    all.labels.context.set("cut_off", rows.cut_off.to_tensor()).set("user", rows.user.to_tensor());
    return htl::TableData(std::move(all));
  }

  const OnlineRetailOptions& options_;
  Log log_;
  htl::FieldCounter country_, month_, last_, most_;
  NumberColumns numbers_;
  std::vector<std::string> groups_;
  std::array<Rows, 3> rows_;
};

}  // namespace online_retail

inline std::array<CutOffs, 3> online_retail_cut_offs(const std::string& train, const std::string& valid, const std::string& test, int64_t horizon_days) {
  HTL_CHECK(horizon_days >= 1 && horizon_days <= 36500, "htlnet: expected a horizon of 1 to 36500 days, got ", horizon_days);
  const std::array<const std::string*, 3> texts = {&train, &valid, &test};
  std::array<CutOffs, 3> parts;
  for (size_t s = 0; s < 3; ++s) {
    if (texts[s]->empty()) continue;
    const DateRange range = DateRange::parse(*texts[s]);
    const std::chrono::year_month_day last = detail::calendar_day(range.last);
    std::chrono::year_month_day day = detail::calendar_day(range.first);
    HTL_CHECK(range.first == range.last || static_cast<unsigned>(day.day()) <= 28, "htlnet: the cut-offs \"", *texts[s],
              "\" are one a month, and not every month has a day ", static_cast<unsigned>(day.day()), "; begin on a day from 1 to 28");
    for (; day <= last; day += std::chrono::months(1)) parts[s].emplace_back(day);
    for (size_t before = 0; before < s; ++before) {
      if (parts[before].empty()) continue;
      const std::chrono::sys_days early = parts[before].back(), late = parts[s].front(), end = early + std::chrono::days(horizon_days);
      HTL_CHECK(end <= late, "htlnet: the horizon of the ", online_retail::split_names[before], " cut-off ", online_retail::day_text(early), " ends on ",
                online_retail::day_text(end), ", after the ", online_retail::split_names[s], " cut-off ", online_retail::day_text(late),
                ", where its labels can't be known yet; take cut-offs at least ", horizon_days, " days apart, or a shorter --horizon");
    }
  }
  return parts;
}

inline Dataset load_online_retail(const std::string& directory, const std::string& train, const std::string& valid, const std::string& test,
                                  const OnlineRetailOptions& options) {
  const std::array<CutOffs, 3> cut_offs = online_retail_cut_offs(train, valid, test, options.horizon_days);
  HTL_CHECK(!cut_offs[0].empty() || options.features, "htlnet: expected training cut-offs, got none; only with a fitted feature map can there be none");
  HTL_CHECK(!cut_offs[0].empty() || !cut_offs[1].empty() || !cut_offs[2].empty(), "htlnet: expected the cut-offs of at least one part, got none");
  return online_retail::Reader(directory, cut_offs, options).finish();
}

}  // namespace htlnet
