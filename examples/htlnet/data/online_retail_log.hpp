// SPDX-License-Identifier: Apache-2.0
/// @file online_retail_log.hpp
/// @brief The rows of UCI Online Retail by customer, what is known of a customer before a time, and what he buys after it.
#pragma once

#include <examples/htlnet/data/files.hpp>

#include <htl/data/csv.hpp>
#include <htl/data/vocabulary.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace htlnet::online_retail {

inline constexpr int64_t day_seconds = 86400;
inline constexpr size_t most_products = 20;  // of a multi-valued field

/// @brief A line of an invoice.
struct Event {
  int64_t time = 0;        ///< seconds since 1970, in the shop's own clock
  int32_t invoice = 0;     ///< code
  int32_t product = 0;     ///< code
  int32_t country = 0;     ///< code
  double amount = 0.0;     ///< quantity times unit price
  bool is_cancel = false;  ///< the invoice's number begins with C
  bool is_bought = false;  ///< quantity and unit price are positive: gifts, returns and corrections are no purchase
};

/// @brief The numbers of a snapshot, in order. Days, counts and amounts come as log(1 + x); NaN where there is none.
inline const std::vector<std::string> number_names = {"days_since_order", "orders",          "spend_before",        "tenure_days", "mean_basket",
                                                      "last_basket",      "cancelled_share", "days_between_orders", "products",    "orders_30_days",
                                                      "spend_30_days",    "orders_90_days",  "spend_90_days"};

/// @brief What is known of a customer.
struct Snapshot {
  std::vector<float> numbers;          ///< as number_names
  int32_t country = 0;                 ///< of the last row
  std::vector<int32_t> last_products;  ///< of the last order, in its order, at most 20
  std::vector<int32_t> most_bought;    ///< by falling number of orders, later ones first, at most 20
};

/// @brief Sums up a customer's rows. All that a snapshot knows is what it is given: the caller hands over the rows before the cut-off.
/// @param before rows in the order of time, at least one, each strictly before the cut-off
/// @param cut_off seconds since 1970
inline Snapshot snapshot_of(std::span<const Event> before, int64_t cut_off);

/// @brief The amount of the rows that are purchases; nothing is taken off for cancellations. 0 without a purchase.
inline double spend_of(std::span<const Event> rows) {
  double spend = 0.0;
  for (const Event& event : rows)
    if (event.is_bought) spend += event.amount;
  return spend;
}

/// @brief All rows that have a customer.
struct Log {
  std::vector<std::vector<Event>> customers;  ///< in the order of their first row; each one's rows in the order of time
  htl::Vocabulary products, countries;        ///< texts by code
  int64_t first_time = std::numeric_limits<int64_t>::max();
  int64_t last_time = std::numeric_limits<int64_t>::min();  ///< of all rows, with a customer or without

  /// @brief The rows of a customer in [from, to).
  static std::span<const Event> within(const std::vector<Event>& rows, int64_t from, int64_t to) {
    const auto at = [&](int64_t time) { return std::lower_bound(rows.begin(), rows.end(), time, [](const Event& e, int64_t t) { return e.time < t; }); };
    return {at(from), at(to)};
  }
};

/// @brief Reads "YYYY-MM-DD HH:MM" or "YYYY-MM-DD HH:MM:SS" as seconds since 1970; false for other text.
inline bool parse_time(std::string_view text, int64_t& seconds) {
  constexpr std::string_view form = "dddd-dd-dd dd:dd:dd";
  if (text.size() != 16 && text.size() != 19) return false;
  std::array<int64_t, 6> parts{};
  for (size_t i = 0, part = 0; i < text.size(); ++i) {
    if (form[i] != 'd') {
      if (text[i] != form[i]) return false;
      ++part;
    } else {
      if (text[i] < '0' || text[i] > '9') return false;
      parts[part] = parts[part] * 10 + (text[i] - '0');
    }
  }
  const std::chrono::year_month_day day = htlnet::detail::calendar_day(parts[0] * 10000 + parts[1] * 100 + parts[2]);
  if (!day.ok() || parts[3] > 23 || parts[4] > 59 || parts[5] > 59) return false;
  seconds = std::chrono::sys_days(day).time_since_epoch().count() * day_seconds + parts[3] * 3600 + parts[4] * 60 + parts[5];
  return true;
}

/// @brief Reads all files of a directory.
/// @throws c10::ValueError naming file, line and column of what is wrong
inline Log read_log(const std::string& directory) {
  Log log;
  htl::Vocabulary customers, invoices;
  for (const std::string& path : csv_files(directory, "online_retail")) {
    htl::CsvReader reader(path);
    const size_t invoice = reader.column("InvoiceNo"), product = reader.column("StockCode"), quantity = reader.column("Quantity"),
                 date = reader.column("InvoiceDate"), price = reader.column("UnitPrice"), customer = reader.column("CustomerID"),
                 country = reader.column("Country");
    while (reader.next()) {
      Event event;
      if (!parse_time(reader[date], event.time)) reader.fail(date, "a time YYYY-MM-DD HH:MM:SS");
      log.first_time = std::min(log.first_time, event.time);
      log.last_time = std::max(log.last_time, event.time);
      if (htl::is_missing(reader[customer])) continue;
      const double pieces = reader.number(quantity), each = reader.number(price);
      if (reader[product].find('|') != std::string_view::npos) reader.fail(product, "a code without \"|\"");
      event.invoice = invoices.add(reader[invoice]);
      event.product = log.products.add(reader[product]);
      event.country = log.countries.add(reader[country]);
      event.amount = pieces * each;
      if (std::abs(event.amount) > 1e15) reader.fail(price, "a price of which the quantity makes at most 1e15");
      event.is_cancel = reader[invoice].starts_with('C');
      event.is_bought = !event.is_cancel && pieces > 0.0 && each > 0.0;
      const size_t code = static_cast<size_t>(customers.add(reader[customer]));
      if (code == log.customers.size()) log.customers.emplace_back();
      log.customers[code].push_back(event);
    }
  }
  for (std::vector<Event>& rows : log.customers) std::stable_sort(rows.begin(), rows.end(), [](const Event& a, const Event& b) { return a.time < b.time; });
  return log;
}

inline Snapshot snapshot_of(std::span<const Event> before, int64_t cut_off) {
  struct Bought {
    int64_t orders = 0, last_time = 0;
    int32_t last_invoice = -1;
  };
  std::unordered_set<int32_t> orders, cancels;
  std::map<int32_t, Bought> products;  // by code, so that ties have an order of their own
  double spend = 0.0, spend_30 = 0.0, spend_90 = 0.0, last_basket = 0.0;
  int64_t first_order = 0, last_order = 0, orders_30 = 0, orders_90 = 0;
  int32_t last_invoice = -1;
  for (const Event& event : before) {
    if (event.is_cancel) cancels.insert(event.invoice);
    if (!event.is_bought) continue;
    const int64_t age = cut_off - event.time;
    if (orders.insert(event.invoice).second) {
      if (orders.size() == 1) first_order = event.time;
      last_order = event.time;
      last_invoice = event.invoice;
      orders_30 += age <= 30 * day_seconds ? 1 : 0;
      orders_90 += age <= 90 * day_seconds ? 1 : 0;
    }
    spend += event.amount;
    spend_30 += age <= 30 * day_seconds ? event.amount : 0.0;
    spend_90 += age <= 90 * day_seconds ? event.amount : 0.0;
    Bought& bought = products[event.product];
    bought.orders += bought.last_invoice != event.invoice ? 1 : 0;
    bought.last_invoice = event.invoice;
    bought.last_time = event.time;
  }
  Snapshot snapshot;
  snapshot.country = before.back().country;
  for (const Event& event : before) {
    if (!event.is_bought || event.invoice != last_invoice) continue;
    last_basket += event.amount;
    std::vector<int32_t>& last = snapshot.last_products;
    if (last.size() < most_products && std::find(last.begin(), last.end(), event.product) == last.end()) last.push_back(event.product);
  }
  std::vector<std::pair<int32_t, Bought>> ranked(products.begin(), products.end());
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    return a.second.orders != b.second.orders ? a.second.orders > b.second.orders : a.second.last_time > b.second.last_time;
  });
  for (size_t i = 0; i < std::min(ranked.size(), most_products); ++i) snapshot.most_bought.push_back(ranked[i].first);

  const double count = static_cast<double>(orders.size()), missing = std::numeric_limits<double>::quiet_NaN();
  const auto days = [](int64_t seconds) { return static_cast<double>(seconds) / static_cast<double>(day_seconds); };
  const auto number = [&](bool is_known, double value) { return static_cast<float>(is_known ? std::log1p(value) : missing); };
  const bool has_order = !orders.empty();
  snapshot.numbers = {number(has_order, days(cut_off - last_order)),
                      number(true, count),
                      number(true, spend),
                      number(true, days(cut_off - before.front().time)),
                      number(has_order, spend / count),
                      number(has_order, last_basket),
                      static_cast<float>(static_cast<double>(cancels.size()) / std::max(1.0, count + static_cast<double>(cancels.size()))),
                      number(orders.size() > 1, days(last_order - first_order) / (count - 1.0)),
                      number(true, static_cast<double>(products.size())),
                      number(true, static_cast<double>(orders_30)),
                      number(true, spend_30),
                      number(true, static_cast<double>(orders_90)),
                      number(true, spend_90)};
  return snapshot;
}

}  // namespace htlnet::online_retail
