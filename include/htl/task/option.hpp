// SPDX-License-Identifier: Apache-2.0
/// @file option.hpp
/// @brief Options: the options of a method, loss, transform or balancer by name, as files and command lines give them.
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

struct Spec;

/// @brief The value of one option: a number, a text, true or false, a list of numbers, or something named with options of its own.
class Option {
 public:
  /// @brief What it may hold.
  using Value = std::variant<double, bool, std::string, std::vector<double>, std::shared_ptr<const Spec>>;

  /// @brief A number.
  template <class Number>
    requires(std::integral<Number> || std::floating_point<Number>)
  &&(!std::same_as<Number, bool>)Option(Number number) : value_(static_cast<double>(number)) {}  // NOLINT(google-explicit-constructor): {{"c", 0.4}}
  /// @brief True or false.
  Option(std::same_as<bool> auto flag) : value_(flag) {}  // NOLINT(google-explicit-constructor)
  /// @brief A text.
  Option(const char* text) : value_(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  /// @brief A text.
  Option(std::string text) : value_(std::move(text)) {}  // NOLINT(google-explicit-constructor)
  /// @brief A list of numbers.
  Option(std::vector<double> numbers) : value_(std::move(numbers)) {}  // NOLINT(google-explicit-constructor)
  /// @brief A list of numbers in braces.
  Option(std::initializer_list<double> numbers) : value_(std::vector(numbers)) {}  // NOLINT(google-explicit-constructor)
  /// @brief Something named with options of its own.
  Option(Spec spec);  // NOLINT(google-explicit-constructor)

  /// @brief The value.
  const Value& value() const { return value_; }
  /// @brief As parse_spec() reads it; a Spec as its name.
  std::string text() const;
  /// @brief The number.
  /// @throws c10::TypeError if it is none
  double number() const {
    const auto* const held = std::get_if<double>(&value_);
    HTL_CHECK_TYPE(held, "expected a number, got ", kind(), " ", text());
    return *held;
  }
  /// @brief The list of numbers.
  /// @throws c10::TypeError if it is none
  const std::vector<double>& numbers() const {
    const auto* const held = std::get_if<std::vector<double>>(&value_);
    HTL_CHECK_TYPE(held, "expected a list of numbers, got ", kind(), " ", text());
    return *held;
  }
  /// @brief Whether both hold the same.
  friend bool operator==(const Option& a, const Option& b);

 private:
  const char* kind() const {
    static constexpr const char* kinds[] = {"the number", "the flag", "the text", "the numbers", "the name"};
    return kinds[value_.index()];
  }
  Value value_;
};

/// @brief Options by name, each once: `{{"c", 0.4}, {"rescale", 1}, {"weights", {1.0, 2.0}}}`.
struct Options : Named<Option> {
  using Named<Option>::Named;
  Options() = default;
  /// @brief The given options.
  /// @throws c10::ValueError for a name that is there twice
  Options(std::initializer_list<std::pair<std::string, Option>> options) : Named<Option>(std::vector(options)) {}
};

/// @brief A method, loss, transform or balancer by its name and options.
struct Spec {
  std::string name;      ///< as its registry knows it
  Options options = {};  ///< those that differ from the defaults
};

inline Option::Option(Spec spec) : value_(std::make_shared<const Spec>(std::move(spec))) {}

namespace detail {

/// The shortest text that reads as the same number: "0.4", "1", "inf".
inline std::string text_of_number(double number) {
  std::string text(32, '\0');
  text.resize(static_cast<size_t>(std::to_chars(text.data(), text.data() + text.size(), number).ptr - text.data()));
  return text;
}

}  // namespace detail

/// @brief Whether both hold the same.
inline bool operator==(const Option& a, const Option& b) {
  const auto* const one = std::get_if<std::shared_ptr<const Spec>>(&a.value_);
  const auto* const other = std::get_if<std::shared_ptr<const Spec>>(&b.value_);
  if (!one || !other) return a.value_ == b.value_;
  const Options &first = (*one)->options, &second = (*other)->options;
  return (*one)->name == (*other)->name && std::equal(first.begin(), first.end(), second.begin(), second.end());
}

inline std::string Option::text() const {
  if (const auto* const number = std::get_if<double>(&value_)) return detail::text_of_number(*number);
  if (const auto* const flag = std::get_if<bool>(&value_)) return *flag ? "true" : "false";
  if (const auto* const word = std::get_if<std::string>(&value_)) return *word;
  if (const auto* const spec = std::get_if<std::shared_ptr<const Spec>>(&value_)) return (*spec)->name;
  std::string list;
  const auto& numbers = std::get<std::vector<double>>(value_);
  for (const double number : numbers) {  // += and not +, for which GCC 12 warns of what can't happen
    if (!list.empty()) list += ';';
    list += detail::text_of_number(number);
  }
  if (numbers.size() == 1) list += ';';
  return list;
}

}  // namespace htl
