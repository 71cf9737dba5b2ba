// SPDX-License-Identifier: Apache-2.0
/// @file spec_text.hpp
/// @brief A Spec as one line of text, and back: how a command line names a method, loss, transform or balancer.
/// Not in the umbrella: it belongs to things by name, registry.hpp.
#pragma once

#include <htl/task/option.hpp>

namespace htl::inline v0_1_0 {

namespace detail {

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

inline Option parse_option_value(std::string_view text, std::string_view whole) {
  if (text == "true" || text == "false") return text == "true";
  double number = 0.0;
  if (read_option_number(text, number)) return number;
  if (text.find(';') == std::string_view::npos) return std::string(text);
  std::vector<double> numbers;
  if (text.ends_with(';')) text.remove_suffix(1);
  for (const std::string_view piece : split_text(text, ';')) {
    HTL_CHECK(read_option_number(piece, number), "htl::parse_spec: expected numbers between \";\", got \"", piece, "\" in \"", whole, "\"");
    numbers.push_back(number);
  }
  return numbers;
}

/// The option "inner.c" belongs to what the option "inner" names.
inline void set_option(Options& options, std::string_view key, std::string_view value, std::string_view whole) {
  const size_t dot = key.find('.');
  const std::string name(key.substr(0, dot));
  HTL_CHECK(!name.empty() && dot + 1 != key.size(), "htl::parse_spec: expected the name of an option before \"=", value, "\", got \"", key, "\" in \"", whole,
            "\"");
  const Option* const present = options.find(name);
  if (dot == std::string_view::npos) {
    HTL_CHECK(!present, "htl::parse_spec: the option \"", name, "\" is there twice in \"", whole, "\"");
    options.set(name, parse_option_value(value, whole));
    return;
  }
  Spec inner;
  if (const auto* const text = present ? std::get_if<std::string>(&present->value()) : nullptr) {
    inner.name = *text;
  } else if (const auto* const spec = present ? std::get_if<std::shared_ptr<const Spec>>(&present->value()) : nullptr) {
    inner = **spec;
  } else {
    HTL_CHECK(false, "htl::parse_spec: expected ", name, "=NAME before \"", key, "\" in \"", whole, "\"");
  }
  set_option(inner.options, key.substr(dot + 1), value, whole);
  options.set(name, std::move(inner));
}

inline void append_options(const Options& options, const std::string& prefix, std::string& text) {
  for (const auto& [name, option] : options) {
    text += (text.find(':') == std::string::npos ? ":" : ",") + prefix;
    text += name;
    text += "=" + option.text();
    if (const auto* const inner = std::get_if<std::shared_ptr<const Spec>>(&option.value())) append_options((*inner)->options, prefix + name + ".", text);
  }
}

}  // namespace detail

/// @brief A Spec from one line of text: `NAME[:option=value,…]`.
///
/// A value is `true` or `false`, a number ("0.4", "1e-3", "inf"), a list of numbers with ";" between them ("weights=1;2;0.5"; quote it in a shell; a list of
/// one ends with ";"), or a word. The options of something wrapped follow it by its option's name and a dot: `cr_mogm:inner=cagrad,inner.c=0.4,decay=0.9`.
/// @throws c10::ValueError for a text without a name, an option without "=", an option that is there twice, or a broken list
inline Spec parse_spec(std::string_view text) {
  const size_t colon = text.find(':');
  Spec result{std::string(text.substr(0, colon))};
  HTL_CHECK(!result.name.empty() && result.name.find_first_of("=, ") == std::string::npos,
            "htl::parse_spec: expected NAME or NAME:option=value,option=value, got \"", text, "\"");
  if (colon == std::string_view::npos) return result;
  for (const std::string_view piece : detail::split_text(text.substr(colon + 1), ',')) {
    const size_t equals = piece.find('=');
    HTL_CHECK(equals != std::string_view::npos && equals + 1 != piece.size(), "htl::parse_spec: expected option=value after \"", result.name, ":\", got \"",
              piece, "\" in \"", text, "\"");
    detail::set_option(result.options, piece.substr(0, equals), piece.substr(equals + 1), text);
  }
  return result;
}

/// @brief The text from which parse_spec() makes the same. Empty lists, and texts that would be read as something else, have none.
inline std::string spec_text(const Spec& spec) {
  std::string text = spec.name;
  detail::append_options(spec.options, "", text);
  return text;
}

}  // namespace htl
