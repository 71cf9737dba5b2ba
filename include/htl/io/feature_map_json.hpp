// SPDX-License-Identifier: Apache-2.0
/// @file feature_map_json.hpp
/// @brief FeatureMap as JSON: a server maps raw values to ids exactly as training did.
#pragma once

#include <htl/data/feature_map.hpp>
#include <htl/io/json.hpp>

namespace htl::inline v0_1_0 {

/// @brief The map as JSON. Texts of any encoding and numbers of any size keep every bit (what is not UTF-8 becomes {"bytes": "hexadecimal"}).
inline nlohmann::ordered_json to_json(const FeatureMap& map) {
  using Json = nlohmann::ordered_json;
  Json fields = Json::array(), numeric = Json::array();
  for (const FeatureMap::Field& field : map.fields()) {
    Json json = {{"name", detail::bytes_to_json(field.name)}, {"kind", to_string(field.kind)}};
    if (field.kind == FieldKind::bucketised) {
      json["edges"] = field.edges;
    } else {
      if (field.kind == FieldKind::multi_valued) json["separator"] = detail::bytes_to_json(std::string(1, field.separator));
      Json vocabulary = Json::array();
      for (const std::string& text : field.vocabulary) vocabulary.push_back(detail::bytes_to_json(text));
      json["vocabulary"] = std::move(vocabulary);
    }
    fields.push_back(std::move(json));
  }
  for (const FeatureMap::Numeric& column : map.numeric()) numeric.push_back({{"name", detail::bytes_to_json(column.name)}, {"missing", column.missing}});
  return {{"format", "htl.feature_map"}, {"version", 1}, {"fields", std::move(fields)}, {"numeric", std::move(numeric)}};
}

/// @brief A map from what to_json() gave.
/// @throws c10::ValueError naming the key that is missing, unknown or of a wrong type, or what FeatureMap refuses
inline FeatureMap feature_map_from_json(const nlohmann::json& json) {
  detail::JsonObject document(json, "htl::feature_map_from_json");
  document.expect_format("htl.feature_map", 1);
  std::vector<FeatureMap::Field> fields;
  for (const nlohmann::json& element : document.list("fields")) {
    const std::string where = c10::str("htl::feature_map_from_json: field ", fields.size());
    detail::JsonObject object(element, where);
    FeatureMap::Field field;
    field.name = detail::bytes_from_json(object.at("name"), where + ", name");
    field.kind = field_kind(object.text("kind"));
    if (field.kind == FieldKind::bucketised) {
      field.edges = object.numbers("edges");
    } else {
      if (field.kind == FieldKind::multi_valued) {
        const std::string separator = detail::bytes_from_json(object.at("separator"), where + ", separator");
        HTL_CHECK(separator.size() == 1, where, ": expected a separator of one byte, got ", separator.size());
        field.separator = separator[0];
      }
      for (const nlohmann::json& text : object.list("vocabulary")) field.vocabulary.push_back(detail::bytes_from_json(text, where + ", vocabulary"));
    }
    object.finish();
    fields.push_back(std::move(field));
  }
  std::vector<FeatureMap::Numeric> numeric;
  for (const nlohmann::json& element : document.list("numeric")) {
    const std::string where = c10::str("htl::feature_map_from_json: numeric column ", numeric.size());
    detail::JsonObject object(element, where);
    numeric.push_back({detail::bytes_from_json(object.at("name"), where + ", name"), object.number("missing")});
    object.finish();
  }
  document.finish();
  return FeatureMap(std::move(fields), std::move(numeric));
}

}  // namespace htl
