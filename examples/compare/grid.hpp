// SPDX-License-Identifier: Apache-2.0
/// @file grid.hpp
/// @brief What is compared: kinds of models, the controls that are always among them, and the rates that tuning tries.
#pragma once

#include <examples/htlnet/data/counter_random.hpp>

#include <htl/task/check.hpp>
#include <htl/task/spec_text.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace compare {

inline constexpr const char* as_the_data_say = "as_is";                                   // --losses: the core task as the data set has it
inline constexpr const char* plain_loss = "squared@z_score";                              // of the controls
inline constexpr std::array<const char*, 3> bounds = {"oracle", "additive", "averages"};  // kinds without a network, beside those of --predictions

/// @brief One row of the tables: everything about a model but its seed. All parts are texts as the command line gives them.
struct Kind {
  std::string model = {};
  std::string adjuster = "sum";
  std::string loss = plain_loss;  ///< LOSS@TRANSFORM of the core regressions
  std::string balancer = "none";
  std::string task = {};  ///< the only task that it learns; empty = all
  friend bool operator==(const Kind&, const Kind&) = default;

  /// @brief What has no network: it has no seed and learns nothing by steps.
  static Kind bound(std::string name) { return {std::move(name), "", "", "", ""}; }
  /// @brief Whether it is one.
  bool is_bound() const { return adjuster.empty(); }
  /// @brief Its parts with "+" between them.
  std::string label() const {
    if (is_bound()) return model;
    return model + "+" + adjuster + "+" + loss + "+" + balancer + (task.empty() ? "" : "+only_" + task);
  }
};

/// @brief A list of specs: "sum,cagrad:c=0.4,rescale=1|mgda" is sum; cagrad:c=0.4,rescale=1; mgda.
///
/// "|" always separates. A comma separates unless an option follows it: option=value without a name and a colon before it.
/// @throws c10::ValueError for an empty entry
inline std::vector<std::string> split_specs(std::string_view text) {
  std::vector<std::string> specs;
  for (const std::string_view part : htl::detail::split_text(text, '|')) {
    bool first = true;
    for (const std::string_view piece : htl::detail::split_text(part, ',')) {
      const bool is_option = piece.find('=') < piece.find(':');  // npos is the greatest
      if (is_option && !first) {
        specs.back() += "," + std::string(piece);
      } else {
        HTL_CHECK(!piece.empty(), "compare: expected names with \",\" or \"|\" between them, got \"", text, "\"");
        specs.emplace_back(piece);
      }
      first = false;
    }
  }
  return specs;
}

/// @brief A file name for a label: letters, digits and "_.@=,+-" stay; where others were replaced, or it is long, a checksum tells it from its like.
inline std::string file_name_of(const std::string& label) {
  std::string name;
  uint64_t checksum = 14695981039346656037u;  // FNV-1a
  for (const char c : label) {
    checksum = (checksum ^ static_cast<unsigned char>(c)) * 1099511628211u;
    const bool stays =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("_.@=,+-").find(c) != std::string_view::npos;
    name += stays ? c : '_';
  }
  if (name == label && name.size() <= 120) return name;
  name = name.substr(0, 120) + "-";
  for (int shift = 28; shift >= 0; shift -= 4) name += "0123456789abcdef"[(checksum >> shift) & 15];
  return name;
}

/// @brief What --tune chooses.
struct Rates {
  double row_lr = 0.0, dense_lr = 0.0, weight_decay = 0.0, dropout = 0.0;
  friend bool operator==(const Rates&, const Rates&) = default;
};

/// @brief The rates that every kind tries: the given ones first, then draws, log-uniform: of the rows' rate from a tenth to three times the given one, of the
/// dense one from a fifth to five times, weight decay from [1e-6, 1e-2]; and dropout from [0, .3].
inline std::vector<Rates> draws_of(const Rates& given, int64_t count) {
  std::vector<Rates> draws;
  for (int64_t d = 0; d < count; ++d) {
    htlnet::CounterRandom random(0, 0, static_cast<uint64_t>(d));
    const auto between = [&](double low, double high) { return low * std::pow(high / low, random.uniform()); };
    Rates rates = given;
    if (d > 0) {
      rates.row_lr = given.row_lr * between(0.1, 3.0);
      rates.dense_lr = given.dense_lr * between(0.2, 5.0);
      rates.weight_decay = between(1e-6, 1e-2);
      rates.dropout = 0.3 * random.uniform();
    }
    draws.push_back(rates);
  }
  return draws;
}

/// @brief One training: a kind, its seed and its rates.
struct Cell {
  Kind kind;
  uint64_t seed = 0;
  Rates rates;
  int64_t draw = -1;  ///< of tuning; -1 = none

  /// @brief The name of its folder.
  std::string name() const {
    if (kind.is_bound()) return kind.model;
    return file_name_of(kind.label()) + "+seed" + std::to_string(seed) + (draw < 0 ? "" : "+draw" + std::to_string(draw));
  }
};

/// @brief What the grid is made of.
struct GridParts {
  std::vector<std::string> models, adjusters, losses, balancers;
  std::vector<std::string> tasks;             ///< those that get a single-task model
  bool has_core = true;                       ///< whether there is a core task
  bool has_core_regression = true;            ///< whether a core task is a regression, so that --losses are for it
  bool is_synthetic = false;                  ///< whether the best expectations are known
  std::vector<std::string> predictions = {};  ///< names of those that were made outside
};

/// @brief Every combination, then the controls that are not among them, the single-task models (of the core by the first loss), and the bounds.
inline std::vector<Kind> kinds_of(const GridParts& parts) {
  std::vector<Kind> kinds;
  const auto add = [&](Kind kind) {
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(std::move(kind));
  };
  for (const std::string& model : parts.models)
    for (const std::string& adjuster : parts.adjusters)
      for (const std::string& loss : parts.losses)
        for (const std::string& balancer : parts.balancers) add({model, adjuster, loss, balancer, ""});
  const std::string plain = parts.has_core_regression ? plain_loss : as_the_data_say;
  add({"shared_embedding", "sum", plain, "none", ""});
  if (parts.has_core) add({"shared_embedding", "core_task", plain, "none", ""});
  add({"htlnet", "sum", plain, "none", ""});
  for (const std::string& task : parts.tasks) add({"shared_embedding", "sum", parts.losses.empty() ? plain : parts.losses.front(), "none", task});
  for (const std::string& name : parts.predictions) add(Kind::bound(name));
  if (parts.is_synthetic) add(Kind::bound("additive"));
  add(Kind::bound(parts.is_synthetic ? "oracle" : "averages"));
  return kinds;
}

/// @brief The position of the kind that others are compared with.
/// @param wanted the beginning of a label, up to a "+"; empty = htlnet+core_task, or the first kind where the grid has none
/// @throws c10::ValueError naming the nearest label
inline size_t reference_of(const std::vector<Kind>& kinds, const std::string& wanted) {
  const std::string text = wanted.empty() ? "htlnet+core_task" : wanted;
  std::vector<std::string> beginnings;  // of as many parts as were given
  for (size_t k = 0; k < kinds.size(); ++k) {
    const std::string label = kinds[k].label();
    if (!kinds[k].task.empty()) continue;
    if (label == text || label.starts_with(text + "+")) return k;
    size_t end = label.find('+');
    for (auto parts = std::count(text.begin(), text.end(), '+'); parts > 0 && end != std::string::npos; --parts) end = label.find('+', end + 1);
    beginnings.push_back(label.substr(0, end));
  }
  HTL_CHECK(wanted.empty(), "compare: --reference \"", wanted, "\" is not in the grid; did you mean \"", htl::nearest(wanted, beginnings), "\"?");
  return 0;
}

}  // namespace compare
