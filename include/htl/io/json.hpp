// SPDX-License-Identifier: Apache-2.0
/// @file json.hpp
/// @brief JSON that is read strictly: no repeated key, no unknown key, no wrong type; every fault is a sentence that says where.
#pragma once

#include <htl/io/atomic_file.hpp>
#include <htl/task/named.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// Refuses repeated keys and deep nesting; a fault of syntax is left to the parser.
class JsonWatch : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonWatch(std::string_view source, int depth) : source_(source), depth_(depth) {}
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return start(); }
  bool start_array(std::size_t) override { return start(); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool key(string_t& name) override {
    HTL_CHECK(keys_.back().insert(name).second, "htl::parse_json: ", source_, " has the key ", nlohmann::json(name).dump(), " twice in one object");
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

 private:
  bool start() {
    HTL_CHECK(static_cast<int>(keys_.size()) <= depth_, "htl::parse_json: ", source_, " is nested more than ", depth_, " deep");
    keys_.emplace_back();
    return true;
  }
  bool end() {
    keys_.pop_back();
    return true;
  }
  std::string_view source_;
  int depth_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace detail

/// @brief Parses a text.
/// @param text UTF-8
/// @param source what it is, for sentences: a file's name
/// @param depth how deeply objects and arrays may be nested
/// @throws c10::ValueError if it is not JSON, repeats a key in an object, or is nested too deeply
inline nlohmann::json parse_json(std::string_view text, std::string_view source, int depth = 64) {
  detail::JsonWatch watch(source, depth);
  (void)nlohmann::json::sax_parse(text, &watch);  // json::parse with a callback would go through all elements of a list after each of them
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    HTL_CHECK(false, "htl::parse_json: ", source, " is not valid JSON: ", error.what());
  }
}
/// @brief Parses a file.
/// @throws c10::ValueError as read_file() and parse_json()
inline nlohmann::json read_json(const std::filesystem::path& path) { return parse_json(read_file(path), quoted({path.string()})); }
/// @brief Writes a file atomically, indented by 2.
/// @throws c10::ValueError if it can't be written, or a text in it is not UTF-8
inline void write_json(const std::filesystem::path& path, const nlohmann::ordered_json& json) {
  std::string text;
  try {
    text = json.dump(2) + "\n";
  } catch (const nlohmann::json::exception& error) {
    HTL_CHECK(false, "htl::write_json: can't write \"", path.string(), "\": ", error.what());
  }
  write_atomically(path, text);
}

namespace detail {

inline bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}
/// Any bytes as JSON: a text, or {"bytes": "hexadecimal"} where they are not UTF-8 (data files have any encoding).
inline nlohmann::ordered_json bytes_to_json(const std::string& bytes) {
  if (is_utf8(bytes)) return bytes;
  std::string digits;
  for (const char byte : bytes)
    for (const int shift : {4, 0}) digits += "0123456789abcdef"[(static_cast<unsigned char>(byte) >> shift) & 15];
  return {{"bytes", digits}};
}
inline std::string bytes_from_json(const nlohmann::json& json, const std::string& where) {
  if (json.is_string()) return json.get<std::string>();
  const bool encoded = json.is_object() && json.size() == 1 && json.contains("bytes") && json["bytes"].is_string();
  const std::string digits = encoded ? json["bytes"].get<std::string>() : "";
  HTL_CHECK(encoded && digits.size() % 2 == 0 && digits.find_first_not_of("0123456789abcdef") == std::string::npos, where,
            ": expected a text or {\"bytes\": \"hexadecimal digits\"}, got ", json.type_name());
  std::string bytes;
  const auto value = [](char digit) { return digit <= '9' ? digit - '0' : digit - 'a' + 10; };
  for (size_t i = 0; i < digits.size(); i += 2) bytes += static_cast<char>(16 * value(digits[i]) + value(digits[i + 1]));
  return bytes;
}

/// One object, read key by key; finish() refuses keys that nobody asked for.
class JsonObject {
 public:
  JsonObject(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    HTL_CHECK(json.is_object(), where_, ": expected an object, got ", json.type_name());
  }
  /// Checks {"format": …, "version": …} of a document.
  JsonObject& expect_format(const std::string& format, int64_t newest) {
    const std::string found = text("format");
    HTL_CHECK(found == format, where_, ": expected the format \"", format, "\", got \"", found, "\"");
    const nlohmann::json& version = at("version");
    HTL_CHECK(version.is_number_integer() && version.get<int64_t>() >= 1 && version.get<int64_t>() <= newest, where_, ": expected a version from 1 to ", newest,
              ", got ", version.dump(), "; it was written by a newer library or changed by hand");
    return *this;
  }
  bool has(const std::string& key) {
    asked_.push_back(key);
    return json_.contains(key);
  }
  const nlohmann::json& at(const std::string& key) {
    HTL_CHECK(has(key), where_, ": expected the key \"", key, "\", which is not there");
    return json_[key];
  }
  std::string text(const std::string& key) { return typed<std::string>(key, "a text", at(key).is_string()); }
  std::string text_or(const std::string& key, std::string missing) { return has(key) ? text(key) : std::move(missing); }
  double number(const std::string& key) { return typed<double>(key, "a number", at(key).is_number()); }
  double number_or(const std::string& key, double missing) { return has(key) ? number(key) : missing; }
  int64_t integer(const std::string& key) { return typed<int64_t>(key, "a whole number", at(key).is_number_integer()); }
  bool flag_or(const std::string& key, bool missing) { return has(key) ? typed<bool>(key, "true or false", at(key).is_boolean()) : missing; }
  const nlohmann::json& list(const std::string& key) {
    HTL_CHECK(at(key).is_array(), where_, ": expected a list under \"", key, "\", got ", at(key).type_name());
    return json_[key];
  }
  std::vector<std::string> texts(const std::string& key) { return elements<std::string>(key, &nlohmann::json::is_string, "texts"); }
  std::vector<int64_t> integers(const std::string& key) { return elements<int64_t>(key, &nlohmann::json::is_number_integer, "whole numbers"); }
  std::vector<double> numbers(const std::string& key) { return elements<double>(key, &nlohmann::json::is_number, "numbers"); }
  void finish() const {
    for (const auto& [key, value] : json_.items())
      HTL_CHECK(std::find(asked_.begin(), asked_.end(), key) != asked_.end(), where_, ": unknown key \"", key, "\"; did you mean \"", nearest(key, asked_),
                "\"?");
  }
  const std::string& where() const { return where_; }

 private:
  template <class T>
  T typed(const std::string& key, const char* expected, bool fits) {
    HTL_CHECK(fits, where_, ": expected ", expected, " under \"", key, "\", got ", json_[key].type_name());
    return json_[key].template get<T>();
  }
  template <class T>
  std::vector<T> elements(const std::string& key, bool (nlohmann::json::*fits)() const noexcept, const char* expected) {
    std::vector<T> result;
    for (const nlohmann::json& element : list(key)) {
      HTL_CHECK((element.*fits)(), where_, ": expected ", expected, " in \"", key, "\", got ", element.type_name());
      result.push_back(element.get<T>());
    }
    return result;
  }
  const nlohmann::json& json_;
  std::string where_;
  std::vector<std::string> asked_;
};

}  // namespace detail
}  // namespace htl
