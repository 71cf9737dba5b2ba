// SPDX-License-Identifier: Apache-2.0
/// @file warm_start_report.hpp
/// @brief WarmStartReport: what a warm start carried over and what it did not, for people and as JSON.
#pragma once

#include <htl/io/json.hpp>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What became of one tensor, or of a named part of one.
struct WarmStartEntry {
  /// In one word.
  enum class Outcome {
    whole,       ///< all of it, and nothing else is in it
    in_part,     ///< some of it; or all of it, and something is new
    new_here,    ///< there was none
    not_carried  ///< there was one, and nothing of it is here
  };

  std::string name;         ///< "embedding.weight", "embedding.weight, field \"user\"", "graph.towers.click.output.bias.exp_avg"
  std::string unit;         ///< what is counted: "rows", "columns", "elements"
  int64_t carried = 0;      ///< how many were carried over
  int64_t before = 0;       ///< of so many there
  int64_t now = 0;          ///< into so many here; the rest is new
  std::string reason = {};  ///< why not more of them; empty = the rest is gone, or new
  bool is_state = false;    ///< whether it is an optimizer's

  /// @brief The outcome.
  Outcome outcome() const {
    if (carried > 0) return carried == before && carried == now ? Outcome::whole : Outcome::in_part;
    return before == 0 ? Outcome::new_here : Outcome::not_carried;
  }
};

/// @brief Everything that a warm start did and did not do.
struct WarmStartReport {
  std::vector<WarmStartEntry> entries;  ///< parts in the order in which they were named, tensors in the order of the module
  std::vector<std::string> notes;       ///< sentences about what is not the same although it was carried: a label's unit, a task's parents

  /// @brief The entries of one outcome.
  std::vector<WarmStartEntry> of(WarmStartEntry::Outcome outcome) const {
    std::vector<WarmStartEntry> found;
    std::copy_if(entries.begin(), entries.end(), std::back_inserter(found), [&](const WarmStartEntry& entry) { return entry.outcome() == outcome; });
    return found;
  }
  /// @brief Lines for people: how many were carried whole, and each that was not; an optimizer's state where it went another way than its parameter.
  std::vector<std::string> lines() const {
    using Outcome = WarmStartEntry::Outcome;
    std::set<std::pair<std::string, Outcome>> parameters;
    for (const WarmStartEntry& entry : entries) parameters.emplace(entry.name, entry.outcome());
    std::vector<std::string> in_part, fresh, left;
    for (const WarmStartEntry& entry : entries) {
      const Outcome outcome = entry.outcome();
      if (entry.is_state && parameters.contains({entry.name.substr(0, entry.name.rfind('.')), outcome})) continue;
      if (outcome == Outcome::new_here) fresh.push_back("new here: " + entry.name);
      if (outcome == Outcome::not_carried) left.push_back("not carried: " + entry.name + ": " + entry.reason);
      if (outcome == Outcome::in_part)
        in_part.push_back(c10::str("carried in part: ", entry.name, ": ", entry.carried, " ", entry.unit, "; ", entry.now - entry.carried, " new, ",
                                   entry.before - entry.carried, " left behind", entry.reason.empty() ? "" : ": " + entry.reason));
    }
    std::vector<std::string> result = {c10::str("carried whole: ", of(Outcome::whole).size(), " tensors or parts of them")};
    for (const std::vector<std::string>* list : {&in_part, &fresh, &left}) result.insert(result.end(), list->begin(), list->end());
    for (const std::string& note : notes) result.push_back("note: " + note);
    return result;
  }
};

/// @brief The report as JSON (`htl.warm_start`, version 1): the lists `whole`, `in_part`, `new_here`, `not_carried` and `notes`.
inline nlohmann::ordered_json to_json(const WarmStartReport& report) {
  using Json = nlohmann::ordered_json;
  using Outcome = WarmStartEntry::Outcome;
  Json json = {{"format", "htl.warm_start"}, {"version", 1}};
  for (const auto& [key, outcome] : std::map<std::string, Outcome>{
           {"whole", Outcome::whole}, {"in_part", Outcome::in_part}, {"new_here", Outcome::new_here}, {"not_carried", Outcome::not_carried}}) {
    json[key] = Json::array();
    for (const WarmStartEntry& entry : report.of(outcome)) {
      Json element = {{"name", detail::bytes_to_json(entry.name)}};
      if (outcome == Outcome::in_part)
        element.update({{"unit", entry.unit}, {"carried", entry.carried}, {"new", entry.now - entry.carried}, {"left", entry.before - entry.carried}});
      if (!entry.reason.empty()) element["reason"] = entry.reason;
      json[key].push_back(std::move(element));
    }
  }
  json["notes"] = Json::array();
  for (const std::string& note : report.notes) json["notes"].push_back(detail::bytes_to_json(note));
  return json;
}

}  // namespace htl
