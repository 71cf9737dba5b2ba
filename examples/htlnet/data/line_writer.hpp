// SPDX-License-Identifier: Apache-2.0
/// @file line_writer.hpp
/// @brief LineWriter: a text file of numbers, written in blocks.
#pragma once

#include <htl/io/atomic_file.hpp>

#include <array>
#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>

namespace htlnet {

/// @brief A text as a field of a CSV file: in quotes where it needs them.
inline std::string csv_text(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

/// @brief A text file that is written in blocks and takes its name when it is whole.
class LineWriter {
 public:
  explicit LineWriter(const std::filesystem::path& path) : file_(path) {}
  LineWriter& operator<<(std::string_view text) {
    buffer_ += text;
    if (buffer_.size() > (size_t{1} << 20)) flush();
    return *this;
  }
  /// The shortest text that reads back as the same number.
  template <class Number>
  requires std::is_arithmetic_v<Number> LineWriter& operator<<(Number number) {
    std::array<char, 32> text{};
    const char* const end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
    return *this << std::string_view(text.data(), static_cast<size_t>(end - text.data()));
  }
  void commit() {
    flush();
    file_.commit();
  }

 private:
  void flush() {
    file_.write(buffer_.data(), buffer_.size());
    buffer_.clear();
  }
  htl::AtomicFile file_;
  std::string buffer_;
};

}  // namespace htlnet
