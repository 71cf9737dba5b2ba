// SPDX-License-Identifier: Apache-2.0
/// @file option_reader.hpp
/// @brief OptionReader: how a factory takes its options, with a sentence for each that is wrong.
/// Not in the umbrella: it belongs to things by name, registry.hpp.
#pragma once

#include <htl/task/option.hpp>

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Which numbers an option takes; NaN never. `{.low = 0.0, .high = 1.0, .open_high = true}` is [0, 1).
struct OptionRange {
  double low = -std::numeric_limits<double>::infinity();  ///< the smallest
  double high = std::numeric_limits<double>::infinity();  ///< the largest
  bool open_low = false;                                  ///< the smallest itself is none of them
  bool open_high = false;                                 ///< the largest itself is none of them
  bool infinite = false;                                  ///< infinities are taken where the ends allow them
  /// @brief Whether a number is taken.
  bool contains(double x) const {
    return (open_low ? x > low : x >= low) && (open_high ? x < high : x <= high) && (infinite || std::abs(x) <= std::numeric_limits<double>::max());
  }
  /// @brief "≥ 0", "in [0, 1)", "that is finite".
  std::string text() const {
    const bool from = low > -std::numeric_limits<double>::infinity(), to = high < std::numeric_limits<double>::infinity();
    if (from && to) return (open_low ? "in (" : "in [") + detail::text_of_number(low) + ", " + detail::text_of_number(high) + (open_high ? ")" : "]");
    if (from) return (open_low ? "> " : "≥ ") + detail::text_of_number(low);
    if (to) return (open_high ? "< " : "≤ ") + detail::text_of_number(high);
    return infinite ? "that is not NaN" : "that is finite";
  }
};

namespace detail {

inline constexpr OptionRange kNotNegative{.low = 0.0};
inline constexpr OptionRange kPositive{.low = 0.0, .open_low = true};
inline constexpr OptionRange kPart{.low = 0.0, .high = 1.0};                      // [0, 1]
inline constexpr OptionRange kDecay{.low = 0.0, .high = 1.0, .open_high = true};  // [0, 1)
inline constexpr OptionRange kRate{.low = 0.0, .high = 1.0, .open_low = true};    // (0, 1]

}  // namespace detail

/// @brief Gives a factory its options one by one, by name; what nobody asked for is then refused by finish().
///
///     const double c = options.number("c", 0.4, {.low = 0.0});
///
/// Every fault is a c10::ValueError that names who reads, the option, what was expected and what came.
class OptionReader {
 public:
  /// @brief Reads options.
  /// @param who begins every sentence: `htl::MethodRegistry: weighting "cagrad"`
  /// @param options what was given; must outlive the reader
  OptionReader(std::string who, const Options& options) : who_(std::move(who)), options_(&options) {}

  /// @brief A number, or the default where it was not given.
  double number(std::string_view name, double standard, const OptionRange& range = {}) {
    const Option* const option = find(name);
    if (!option) return standard;
    const auto* const value = std::get_if<double>(&option->value());
    HTL_CHECK(!value || range.infinite || !std::isinf(*value), expected(name), "a finite number, got ", option->text());
    HTL_CHECK(value && range.contains(*value), expected(name), "a number ", range.text(), ", got ", option->text());
    return *value;
  }
  /// @brief A number that must be given.
  double number(std::string_view name, const OptionRange& range) {
    given(name, "a number");
    return number(name, 0.0, range);
  }
  /// @brief A whole number, or the default.
  int64_t integer(std::string_view name, int64_t standard, const OptionRange& range = {}) {
    const Option* const option = find(name);
    if (!option) return standard;
    const auto* const value = std::get_if<double>(&option->value());
    HTL_CHECK(value && std::abs(*value) <= 0x1p53 && std::floor(*value) == *value && range.contains(*value), expected(name), "a whole number ", range.text(),
              ", got ", option->text());
    return static_cast<int64_t>(*value);
  }
  /// @brief A whole number that must be given.
  int64_t integer(std::string_view name, const OptionRange& range = {}) {
    given(name, "a whole number");
    return integer(name, 0, range);
  }
  /// @brief A task's position, or nothing where it was not given.
  std::optional<int64_t> position(std::string_view name) { return find(name) ? std::optional(integer(name, 0, {.low = 0.0})) : std::nullopt; }
  /// @brief true or false, or the default.
  bool flag(std::string_view name, bool standard) {
    const Option* const option = find(name);
    if (!option) return standard;
    const auto* const value = std::get_if<bool>(&option->value());
    HTL_CHECK(value, expected(name), "true or false, got ", option->text());
    return *value;
  }
  /// @brief One of several words, or the default: `choice("order", {{"ascending", Order::ascending}, …}, Order::random)`. A word may be a number's text.
  template <class Choice>
  Choice choice(std::string_view name, const std::vector<std::pair<std::string, Choice>>& choices, Choice standard) {
    const Option* const option = find(name);
    if (!option) return standard;
    std::vector<std::string> words;
    for (const auto& [word, value] : choices) {
      const bool is_word = !std::holds_alternative<std::vector<double>>(option->value()) &&
                           !std::holds_alternative<std::shared_ptr<const Spec>>(option->value());  // a word with options of its own
      if (is_word && option->text() == word) return value;
      words.push_back(word);
    }
    HTL_CHECK(false, expected(name), "one of ", quoted(words), ", got \"", option->text(), "\"; did you mean \"", nearest(option->text(), words), "\"?");
  }
  /// @brief A list of numbers, or the default; a single number is a list of one.
  std::vector<double> numbers(std::string_view name, std::vector<double> standard, const OptionRange& range = {}) {
    return find(name) ? numbers(name, range) : std::move(standard);
  }
  /// @brief A list of numbers that must be given.
  std::vector<double> numbers(std::string_view name, const OptionRange& range = {}) {
    const Option& option = given(name, "numbers");
    const auto* const list = std::get_if<std::vector<double>>(&option.value());
    const auto* const single = std::get_if<double>(&option.value());
    HTL_CHECK(list || single, expected(name), "numbers, got ", option.text());
    std::vector<double> result = list ? *list : std::vector{*single};
    for (const double value : result) {
      HTL_CHECK(range.infinite || !std::isinf(value), expected(name), "finite numbers, got ", option.text());
      HTL_CHECK(range.contains(value), expected(name), "numbers ", range.text(), ", got ", option.text());
    }
    return result;
  }
  /// @brief A list of whole numbers, or the default; a single number is a list of one.
  std::vector<int64_t> integers(std::string_view name, std::vector<int64_t> standard, const OptionRange& range = {}) {
    const Option* const option = find(name);
    if (!option) return standard;
    std::vector<int64_t> result;
    for (const double value : numbers(name, range)) {
      HTL_CHECK(std::abs(value) <= 0x1p53 && std::floor(value) == value, expected(name), "whole numbers ", range.text(), ", got ", option->text());
      result.push_back(static_cast<int64_t>(value));
    }
    return result;
  }
  /// @brief A word that must be given: a name of a column or task.
  std::string word(std::string_view name, std::string_view what) {
    const Option& option = given(name, what);
    const auto* const held = std::get_if<std::string>(&option.value());
    HTL_CHECK(held, expected(name), what, ", got ", option.text());
    return *held;
  }
  /// @brief A word, or the default.
  std::string word_or(std::string_view name, std::string standard, std::string_view what) { return find(name) ? word(name, what) : std::move(standard); }
  /// @brief Whether an option was given.
  bool has(std::string_view name) { return find(name); }
  /// @brief Something named, with or without options of its own, that must be given.
  Spec spec(std::string_view name, std::string_view what) {
    const Option& option = given(name, what);
    if (const auto* const held = std::get_if<std::shared_ptr<const Spec>>(&option.value())) return **held;
    const auto* const held = std::get_if<std::string>(&option.value());
    HTL_CHECK(held, expected(name), what, ", got ", option.text());
    return {*held, {}};
  }

  /// @brief Refuses what a factory finds wrong in all options together.
  void check(bool condition, std::string_view sentence) const { HTL_CHECK(condition, who_, " ", sentence); }
  /// @brief Refuses the options that nobody asked for.
  void finish() const {
    for (const auto& [name, option] : *options_) {
      HTL_CHECK(asked(name) || !asked_.empty(), who_, " takes no options, got \"", name, "\"");
      HTL_CHECK(asked(name), who_, " has no option \"", name, "\"; did you mean \"", nearest(name, asked_), "\"? Options: ", quoted(asked_));
    }
  }

 private:
  bool asked(std::string_view name) const { return std::find(asked_.begin(), asked_.end(), name) != asked_.end(); }
  const Option* find(std::string_view name) {
    if (!asked(name)) asked_.emplace_back(name);
    return options_->find(name);
  }
  const Option& given(std::string_view name, std::string_view what) {
    const Option* const option = find(name);
    if (!option) refuse_misspelled();
    HTL_CHECK(option, who_, " expects ", what, " as the option \"", name, "\", got none",
              options_->empty() ? "" : " (given: " + quoted(options_->names()) + ")");
    return *option;
  }
  /// A name that is nearly one of those asked for is why that one is missing; of others the factory may ask later.
  void refuse_misspelled() const {
    for (const auto& [name, option] : *options_) {
      const std::string meant = nearest(name, asked_);
      const size_t distance = detail::edit_distance(name, meant);
      HTL_CHECK(asked(name) || distance > 2 || 2 * distance > name.size(), who_, " has no option \"", name, "\"; did you mean \"", meant, "\"?");
    }
  }
  std::string expected(std::string_view name) const { return who_ + ", option \"" + std::string(name) + "\": expected "; }

  std::string who_;
  const Options* options_;
  std::vector<std::string> asked_;
};

}  // namespace htl
