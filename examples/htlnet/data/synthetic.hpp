// SPDX-License-Identifier: Apache-2.0
/// @file synthetic.hpp
/// @brief Synthetic recommendation logs whose true expectations are known in closed form, so that an oracle row bounds every table of results.
#pragma once

#include <examples/htlnet/data/counter_random.hpp>

#include <htl/task/task_set.hpp>

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace htlnet {

/// @brief Which story the data tell.
enum class Scenario {
  video,    ///< click → long_view → watch_time in seconds
  commerce  ///< click → purchase → amount
};

/// @brief "video", "commerce"
inline std::string to_string(Scenario scenario) { return scenario == Scenario::video ? "video" : "commerce"; }
/// @brief A scenario by name.
/// @throws c10::ValueError naming the nearest name
inline Scenario scenario_of(std::string_view name) {
  for (const Scenario known : {Scenario::video, Scenario::commerce})
    if (to_string(known) == name) return known;
  HTL_CHECK(false, "htlnet: unknown scenario \"", name, "\"; did you mean \"", htl::nearest(name, {"video", "commerce"}), "\"? Known: \"video\", \"commerce\"");
}
/// @brief The tasks of a scenario: click → long_view → watch_time, or click → purchase → amount; all three in every row, the last one the core.
inline htl::TaskSet tasks_of(Scenario scenario) {
  const std::string second = scenario == Scenario::video ? "long_view" : "purchase", value = scenario == Scenario::video ? "watch_time" : "amount";
  return {htl::binary("click"), htl::binary(second).after("click"), htl::regression(value).after("click", second).core().transform(htl::z_score())};
}

/// @brief What makes a data set: the same options give the same bytes (up to the last bit of libm's exp, log, cos).
struct SyntheticOptions {
  Scenario scenario = Scenario::video;  ///< the story
  int64_t rows = 400000;                ///< N
  uint64_t seed = 1;                    ///< of users, items and rows
};

/// @brief A row: eight raw field values, three labels, three true expectations given all fields and the time.
struct SyntheticRow {
  int32_t user = 0;          ///< 0 … 999
  int32_t segment = 0;       ///< 0 … 15, a function of the user: the signs of his taste
  int32_t item = 0;          ///< 0 … 499
  int32_t category = 0;      ///< 0 … 31, a function of the item: the signs of what it offers and of its clickbait
  int32_t author = 0;        ///< 0 … 299, a function of the item that means nothing
  float size = 0.0F;         ///< the item's duration in seconds (video) or price (commerce)
  int32_t tab = 0;           ///< 0 … 4
  int32_t hour = 0;          ///< 0 … 23
  float click = 0.0F;        ///< label 0 or 1
  float second = 0.0F;       ///< label 0 or 1: long_view or purchase
  float value = 0.0F;        ///< label: watch_time in seconds, or amount
  double true_click = 0.0;   ///< P(click | x)
  double true_second = 0.0;  ///< P(second | x)
  double true_value = 0.0;   ///< E[value | x], caps included
};

/// @brief P(standard normal < x).
inline double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
/// @brief E[min(exp(mean + sd·N), cap)], exact: e^{μ+σ²/2} Φ((ln c − μ − σ²)/σ) + c Φ((μ − ln c)/σ).
inline double capped_lognormal_mean(double mean, double sd, double cap) {
  const double edge = (std::log(cap) - mean) / sd;
  return std::exp(mean + 0.5 * sd * sd) * normal_cdf(edge - sd) + cap * normal_cdf(-edge);
}

/// @brief The users and items behind a data set. One item has two taste vectors of correlation −½: what gets it clicked is not what gets it watched,
/// so a single shared item embedding must serve two opposed directions.
class SyntheticWorld {
 public:
  static constexpr int32_t users = 1000;     ///< with activity ~ Gamma(1)
  static constexpr int32_t items = 500;      ///< with popularity ~ Zipf 0.8
  static constexpr int32_t segments = 16;    ///< of users
  static constexpr int32_t categories = 32;  ///< of items
  static constexpr int32_t authors = 300;    ///< of items
  static constexpr int32_t tabs = 5;         ///< of rows
  static constexpr int32_t hours = 24;       ///< of rows, uniform

  /// @brief Draws users and items.
  SyntheticWorld(Scenario scenario, uint64_t seed) : scenario_(scenario), seed_(seed), users_(users), items_(items) {
    double total = 0.0;
    for (int32_t u = 0; u < users; ++u) {
      CounterRandom random(seed, 1, static_cast<uint64_t>(u));
      User& user = users_[static_cast<size_t>(u)];
      for (double& taste : user.taste) taste = random.normal();
      user.click_bias = 0.5 * random.normal();
      user.watch_bias = 0.3 * random.normal();
      for (size_t k = 0; k < factors; ++k) user.segment |= (user.taste[k] > 0.0 ? 1 : 0) << k;
      user.cumulative = total += random.exponential();
    }
    for (User& user : users_) user.cumulative /= total;
    total = 0.0;
    for (int32_t i = 0; i < items; ++i) {
      CounterRandom random(seed, 2, static_cast<uint64_t>(i));
      Item& item = items_[static_cast<size_t>(i)];
      for (size_t k = 0; k < factors; ++k) {
        item.click_taste[k] = random.normal();
        item.watch_taste[k] = correlation * item.click_taste[k] + std::sqrt(1.0 - correlation * correlation) * random.normal();
        item.category |= (item.click_taste[k] > 0.0 ? 1 : 0) << k;
      }
      item.clickbait = random.normal();
      item.category |= (item.clickbait > 0.0 ? 1 : 0) << factors;
      const double log_duration = 3.3 + 0.9 * random.normal(), log_price = 3.5 + 0.8 * random.normal();
      item.size = static_cast<float>(scenario == Scenario::video ? std::clamp(std::exp(log_duration), 3.0, 600.0) : std::exp(log_price));
      item.author = random.below(authors);
      item.cumulative = total += std::pow(i + 1.0, -0.8);
    }
    for (Item& item : items_) item.cumulative /= total;
  }

  /// @brief Draws one row. A pure function of its arguments.
  /// @param index which row of the stream
  /// @param time t in [0, 1): clicks drift by −0.3 t
  /// @param stream 3 = the data set's own rows; others give fresh rows of the same world
  SyntheticRow draw(uint64_t index, double time, uint32_t stream = 3) const {
    CounterRandom random(seed_, stream, index);
    SyntheticRow row;
    row.user = pick(users_, random.uniform());
    row.item = pick(items_, random.uniform());
    const double tab = random.uniform();
    while (row.tab < tabs - 1 && tab >= tab_cumulative[static_cast<size_t>(row.tab)]) ++row.tab;
    row.hour = random.below(hours);
    const User& user = users_[static_cast<size_t>(row.user)];
    const Item& item = items_[static_cast<size_t>(row.item)];
    row.segment = user.segment;
    row.category = item.category;
    row.author = item.author;
    row.size = item.size;
    double click_affinity = 0.0, watch_affinity = 0.0;
    for (size_t k = 0; k < factors; ++k) {
      click_affinity += user.taste[k] * item.click_taste[k] / std::sqrt(static_cast<double>(factors));
      watch_affinity += user.taste[k] * item.watch_taste[k] / std::sqrt(static_cast<double>(factors));
    }
    const double hour_effect = 0.3 * std::sin(2.0 * std::numbers::pi * row.hour / hours);
    row.true_click = sigmoid((scenario_ == Scenario::video ? -0.4 : -1.2) + 1.2 * click_affinity + user.click_bias + 0.7 * item.clickbait +
                             tab_effect[static_cast<size_t>(row.tab)] + hour_effect - 0.3 * time);
    const bool clicked = random.uniform() < row.true_click;
    row.click = clicked ? 1.0F : 0.0F;
    if (scenario_ == Scenario::video) {
      watch(row, user, item, watch_affinity, clicked, random);
    } else {
      buy(row, user, item, watch_affinity, clicked, random);
    }
    return row;
  }

 private:
  static constexpr size_t factors = 4;
  static constexpr double correlation = -0.5;
  static constexpr std::array<double, tabs> tab_cumulative = {0.5, 0.75, 0.9, 0.97, 1.0};
  static constexpr std::array<double, tabs> tab_effect = {0.0, 0.4, -0.3, 0.8, -0.8};

  struct User {
    std::array<double, factors> taste{};
    double click_bias = 0.0, watch_bias = 0.0, cumulative = 0.0;
    int32_t segment = 0;
  };
  struct Item {
    std::array<double, factors> click_taste{}, watch_taste{};
    double clickbait = 0.0, cumulative = 0.0;
    float size = 0.0F;
    int32_t category = 0, author = 0;
  };

  static double sigmoid(double logit) { return 1.0 / (1.0 + std::exp(-logit)); }
  template <class Element>
  static int32_t pick(const std::vector<Element>& from, double uniform) {
    const auto found = std::upper_bound(from.begin(), from.end() - 1, uniform, [](double u, const Element& e) { return u < e.cumulative; });
    return static_cast<int32_t>(found - from.begin());
  }

  /// Watch time: log-normal after a click, else nothing or a glance that autoplay cuts at 7 s; in the end at most 3 minutes and 10 rounds.
  static void watch(SyntheticRow& row, const User& user, const Item& item, double affinity, bool clicked, CounterRandom& random) {
    const double duration = item.size, cap = std::min(180.0, 10.0 * duration), threshold = std::min(duration, 18.0), glance_cap = std::min(7.0, duration);
    const double mean = 2.6 + 0.9 * affinity + user.watch_bias - 0.6 * item.clickbait + 0.35 * std::log(duration / 27.0);
    double seconds = 0.0;
    if (clicked) {
      seconds = std::min(std::exp(mean + 0.6 * random.normal()), cap);
    } else if (random.uniform() >= 0.25) {
      seconds = std::min(2.0 * random.exponential(), glance_cap);  // never above the cap: 7 ≤ 180, d ≤ 10 d
    }
    row.second = seconds >= threshold ? 1.0F : 0.0F;
    row.value = static_cast<float>(seconds);
    // the threshold lies below the cap; a glance reaches it only where autoplay plays the whole of a video of at most 7 s
    const double long_clicked = normal_cdf((mean - std::log(threshold)) / 0.6);
    const double long_glance = duration <= 7.0 ? 0.75 * std::exp(-0.5 * duration) : 0.0;
    row.true_second = row.true_click * long_clicked + (1.0 - row.true_click) * long_glance;
    row.true_value = row.true_click * capped_lognormal_mean(mean, 0.6, cap) + (1.0 - row.true_click) * 0.75 * 2.0 * -std::expm1(-0.5 * glance_cap);
  }

  /// Purchase after a click, amount after a purchase: price times a log-normal quantity, at most 5000.
  static void buy(SyntheticRow& row, const User& user, const Item& item, double affinity, bool clicked, CounterRandom& random) {
    const double purchase = sigmoid(-1.6 + 1.2 * affinity - 0.6 * item.clickbait + 0.4 * user.watch_bias);
    const double mean = std::log(static_cast<double>(item.size)) + 0.67 * user.watch_bias - 0.18;
    const bool bought = random.uniform() < purchase && clicked;
    row.second = bought ? 1.0F : 0.0F;
    row.value = bought ? static_cast<float>(std::min(std::exp(mean + 0.6 * random.normal()), 5000.0)) : 0.0F;
    row.true_second = row.true_click * purchase;
    row.true_value = row.true_second * capped_lognormal_mean(mean, 0.6, 5000.0);
  }

  Scenario scenario_;
  uint64_t seed_;
  std::vector<User> users_;
  std::vector<Item> items_;
};

/// @brief All rows of a data set, in the order of time. O(N), in parallel; the same for any number of threads.
/// @throws c10::ValueError if rows < 1
inline std::vector<SyntheticRow> synthesize(const SyntheticOptions& options) {
  HTL_CHECK(options.rows >= 1, "htlnet: expected at least 1 synthetic row, got ", options.rows);
  const SyntheticWorld world(options.scenario, options.seed);
  std::vector<SyntheticRow> rows(static_cast<size_t>(options.rows));
  at::parallel_for(0, options.rows, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      rows[static_cast<size_t>(r)] = world.draw(static_cast<uint64_t>(r), static_cast<double>(r) / static_cast<double>(options.rows));
  });
  return rows;
}

}  // namespace htlnet
