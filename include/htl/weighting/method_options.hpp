// SPDX-License-Identifier: Apache-2.0
/// @file method_options.hpp
/// @brief MethodOptions: a gradient method's options by name, as files and command lines give them, and their form as one line of text.
/// Not in the umbrella: it belongs to methods by name, built_in_methods.hpp.
#pragma once

#include <htl/task/named.hpp>

#include <charconv>
#include <cmath>
#include <concepts>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace htl::inline v0_1_0 {

struct MethodSpec;

/// @brief The value of one option: a number, a text, true or false, a list of numbers, or a method with options of its own.
class MethodOption {
 public:
  /// @brief What it may hold.
  using Value = std::variant<double, bool, std::string, std::vector<double>, std::shared_ptr<const MethodSpec>>;

  /// @brief A number.
  template <class Number>
    requires(std::integral<Number> || std::floating_point<Number>)
  &&(!std::same_as<Number, bool>)MethodOption(Number number) : value_(static_cast<double>(number)) {}  // NOLINT(google-explicit-constructor): {{"c", 0.4}}
  /// @brief True or false.
  MethodOption(std::same_as<bool> auto flag) : value_(flag) {}  // NOLINT(google-explicit-constructor)
  /// @brief A text.
  MethodOption(const char* text) : value_(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  /// @brief A text.
  MethodOption(std::string text) : value_(std::move(text)) {}  // NOLINT(google-explicit-constructor)
  /// @brief A list of numbers.
  MethodOption(std::vector<double> numbers) : value_(std::move(numbers)) {}  // NOLINT(google-explicit-constructor)
  /// @brief A list of numbers in braces.
  MethodOption(std::initializer_list<double> numbers) : value_(std::vector(numbers)) {}  // NOLINT(google-explicit-constructor)
  /// @brief A method with options of its own.
  MethodOption(MethodSpec method);  // NOLINT(google-explicit-constructor)

  /// @brief The value.
  const Value& value() const { return value_; }
  /// @brief As parse_method() reads it; a method as its name.
  std::string text() const;

 private:
  Value value_;
};

/// @brief Options by name, each once: `{{"c", 0.4}, {"rescale", 1}, {"weights", {1.0, 2.0}}}`.
struct MethodOptions : Named<MethodOption> {
  using Named<MethodOption>::Named;
  MethodOptions() = default;
  /// @brief The given options.
  /// @throws c10::ValueError for a name that is there twice
  MethodOptions(std::initializer_list<std::pair<std::string, MethodOption>> options) : Named<MethodOption>(std::vector(options)) {}
};

/// @brief A method by its name and options.
struct MethodSpec {
  std::string name;            ///< as the registry knows it
  MethodOptions options = {};  ///< those that differ from the defaults
};

inline MethodOption::MethodOption(MethodSpec method) : value_(std::make_shared<const MethodSpec>(std::move(method))) {}

namespace detail {

/// The shortest text that reads as the same number: "0.4", "1", "inf".
inline std::string text_of_number(double number) {
  std::string text(32, '\0');
  text.resize(static_cast<size_t>(std::to_chars(text.data(), text.data() + text.size(), number).ptr - text.data()));
  return text;
}

/// A whole text as a number, infinities included.
inline bool read_option_number(std::string_view text, double& number) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && stop == text.data() + text.size() && !text.starts_with("+") && !std::isnan(number);
}

/// The pieces between separators; one empty piece for an empty text.
inline std::vector<std::string_view> split_text(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  for (size_t at = text.find(separator); at != std::string_view::npos; at = text.find(separator)) {
    pieces.push_back(text.substr(0, at));
    text.remove_prefix(at + 1);
  }
  pieces.push_back(text);
  return pieces;
}

inline MethodOption parse_option_value(std::string_view text, std::string_view whole) {
  if (text == "true" || text == "false") return text == "true";
  double number = 0.0;
  if (read_option_number(text, number)) return number;
  if (text.find(';') == std::string_view::npos) return std::string(text);
  std::vector<double> numbers;
  if (text.ends_with(';')) text.remove_suffix(1);
  for (const std::string_view piece : split_text(text, ';')) {
    HTL_CHECK(read_option_number(piece, number), "htl::parse_method: expected numbers between \";\", got \"", piece, "\" in \"", whole, "\"");
    numbers.push_back(number);
  }
  return numbers;
}

/// The option "inner.c" belongs to the method that the option "inner" names.
inline void set_option(MethodOptions& options, std::string_view key, std::string_view value, std::string_view whole) {
  const size_t dot = key.find('.');
  const std::string name(key.substr(0, dot));
  HTL_CHECK(!name.empty() && dot + 1 != key.size(), "htl::parse_method: expected the name of an option before \"=", value, "\", got \"", key, "\" in \"", whole,
            "\"");
  const MethodOption* const present = options.find(name);
  if (dot == std::string_view::npos) {
    HTL_CHECK(!present, "htl::parse_method: the option \"", name, "\" is there twice in \"", whole, "\"");
    options.set(name, parse_option_value(value, whole));
    return;
  }
  MethodSpec inner;
  if (const auto* const text = present ? std::get_if<std::string>(&present->value()) : nullptr) {
    inner.name = *text;
  } else if (const auto* const method = present ? std::get_if<std::shared_ptr<const MethodSpec>>(&present->value()) : nullptr) {
    inner = **method;
  } else {
    HTL_CHECK(false, "htl::parse_method: expected ", name, "=METHOD before \"", key, "\" in \"", whole, "\"");
  }
  set_option(inner.options, key.substr(dot + 1), value, whole);
  options.set(name, std::move(inner));
}

inline void append_options(const MethodOptions& options, const std::string& prefix, std::string& text) {
  for (const auto& [name, option] : options) {
    text += (text.find(':') == std::string::npos ? ":" : ",") + prefix;
    text += name;
    text += "=" + option.text();
    if (const auto* const method = std::get_if<std::shared_ptr<const MethodSpec>>(&option.value()))
      append_options((*method)->options, prefix + name + ".", text);
  }
}

}  // namespace detail

inline std::string MethodOption::text() const {
  if (const auto* const number = std::get_if<double>(&value_)) return detail::text_of_number(*number);
  if (const auto* const flag = std::get_if<bool>(&value_)) return *flag ? "true" : "false";
  if (const auto* const word = std::get_if<std::string>(&value_)) return *word;
  if (const auto* const method = std::get_if<std::shared_ptr<const MethodSpec>>(&value_)) return (*method)->name;
  std::string list;
  const auto& numbers = std::get<std::vector<double>>(value_);
  for (const double number : numbers) list += (list.empty() ? "" : ";") + detail::text_of_number(number);
  return numbers.size() == 1 ? list + ";" : list;
}

/// @brief A method as one line of text: `NAME[:option=value,…]`.
///
/// A value is `true` or `false`, a number ("0.4", "1e-3", "inf"), a list of numbers with ";" between them ("weights=1;2;0.5"; quote it in a shell; a list of
/// one ends with ";"), or a word. The options of a wrapped method follow it by its option's name and a dot: `cr_mogm:inner=cagrad,inner.c=0.4,decay=0.9`.
/// @throws c10::ValueError for a text without a name, an option without "=", an option that is there twice, or a broken list
inline MethodSpec parse_method(std::string_view text) {
  const size_t colon = text.find(':');
  MethodSpec result{std::string(text.substr(0, colon))};
  HTL_CHECK(!result.name.empty() && result.name.find_first_of("=, ") == std::string::npos,
            "htl::parse_method: expected NAME or NAME:option=value,option=value, got \"", text, "\"");
  if (colon == std::string_view::npos) return result;
  for (const std::string_view piece : detail::split_text(text.substr(colon + 1), ',')) {
    const size_t equals = piece.find('=');
    HTL_CHECK(equals != std::string_view::npos && equals + 1 != piece.size(), "htl::parse_method: expected option=value after \"", result.name, ":\", got \"",
              piece, "\" in \"", text, "\"");
    detail::set_option(result.options, piece.substr(0, equals), piece.substr(equals + 1), text);
  }
  return result;
}

/// @brief The text from which parse_method() makes the same method. Empty lists, and texts that would be read as something else, have none.
inline std::string method_text(const MethodSpec& method) {
  std::string text = method.name;
  detail::append_options(method.options, "", text);
  return text;
}

}  // namespace htl
