// SPDX-License-Identifier: Apache-2.0
/// @file toml_file.hpp
/// @brief TOML files that strangers wrote.
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

namespace htlnet {

/// @brief A parsed file. A dotted key makes a table in a table for each dot, and toml++ goes through them by recursion: so many would exhaust the stack.
/// @throws toml::parse_error if it can't be opened, is not TOML, or has more dots than any honest file
inline toml::table read_toml(const std::string& path) {
  constexpr std::ptrdiff_t most_dots = 20'000;
  std::ifstream file(path, std::ios::binary);
  if (std::count(std::istreambuf_iterator<char>(file), {}, '.') > most_dots)
    throw toml::parse_error("expected at most 20000 dots in the file", toml::source_region{{1, 1}, {1, 1}, std::make_shared<const std::string>(path)});
  return toml::parse_file(path);
}

}  // namespace htlnet
