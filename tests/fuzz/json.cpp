// SPDX-License-Identifier: Apache-2.0
// JSON, and what is read from it: a feature map, a set of tasks, and the options of their graph. What is written of them gives the same again.
#include "fuzz.hpp"

#include <htl/io/feature_map_json.hpp>
#include <htl/io/task_graph_json.hpp>
#include <htl/io/task_set_json.hpp>

#include <optional>
#include <string>

namespace {

void check_map(const nlohmann::json& json) {
  std::optional<htl::FeatureMap> map;
  if (!htl::fuzz::reads([&] { map = htl::feature_map_from_json(json); })) return;
  htl::fuzz::require(htl::feature_map_from_json(htl::parse_json(htl::to_json(*map).dump(), "a map")) == *map, "the same map");
  for (int64_t field = 0; field < map->size(); ++field) {
    const auto& vocabulary = map->fields()[static_cast<size_t>(field)].vocabulary;
    if (map->fields()[static_cast<size_t>(field)].kind != htl::FieldKind::categorical) continue;
    for (size_t i = 0; i < vocabulary.size(); ++i) htl::fuzz::require(map->id(field, vocabulary[i]) == static_cast<int32_t>(i + 1), "a text's id is its place");
  }
}

void check_tasks(const nlohmann::json& json) {
  std::optional<htl::TaskSet> tasks;
  if (!htl::fuzz::reads([&] { tasks = htl::task_set_from_json(json); })) return;
  const std::string text = htl::to_json(*tasks).dump();
  htl::fuzz::require(htl::to_json(htl::task_set_from_json(htl::parse_json(text, "tasks"))).dump() == text, "the same tasks:", text);
}

void check_graph(const nlohmann::json& json) {
  std::optional<htl::TaskGraphOptions> options;
  if (!htl::fuzz::reads([&] { options = htl::task_graph_options_from_json(json); })) return;
  const std::string text = htl::to_json(*options).dump();
  htl::fuzz::require(htl::to_json(htl::task_graph_options_from_json(htl::parse_json(text, "options"))).dump() == text, "the same options:", text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  nlohmann::json json;
  if (!htl::fuzz::reads([&] { json = htl::parse_json(htl::fuzz::text_of(data, size), "the input"); })) return 0;
  htl::fuzz::require(htl::parse_json(json.dump(), "the same") == json, "the same JSON");
  check_map(json);
  check_tasks(json);
  check_graph(json);
  return 0;
}
