// SPDX-License-Identifier: Apache-2.0
/// @file csv.hpp
/// @brief CsvReader: rows of a CSV file, plain or gzip, one after the other in constant memory. Needs zlib (component htl::data).
#pragma once

#include <htl/data/byte_source.hpp>
#include <htl/data/csv_scan.hpp>
#include <htl/data/number.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief How a file is written, and how much of it is held.
struct CsvOptions {
  char separator = ',';                    ///< between fields
  char quote = '"';                        ///< around fields that hold separators, quotes or line feeds; '\0' = never
  size_t block_bytes = size_t{1} << 18;    ///< how much is read at a time; a longer row makes the block grow
  size_t max_row_bytes = size_t{1} << 26;  ///< a row longer than this and than a block is an error (a quote never closed)
};

/// @brief Reads records after RFC 4180 with a header row: `while (reader.next()) use(reader[user], reader.number(price));`
///
/// Lines end in LF or CRLF; a last line without an end, a byte-order mark and blank lines (where there are two columns or more) are accepted. A quoted
/// field may hold separators, line feeds and doubled quotes; a quote anywhere else is an error. Fields are views into the block, valid until next().
/// Cost: about one pass over the bytes at memory speed, plus what the caller parses. Not thread-safe; one reader a thread.
class CsvReader {
 public:
  /// @brief Opens a file and reads its header.
  /// @throws c10::ValueError: no such file, an empty file, a column name twice, text that is not text
  explicit CsvReader(const std::string& path, CsvOptions options = {});

  /// @brief The next row; false at the end.
  /// @throws c10::ValueError naming file and line: too many or too few fields, a misplaced or unclosed quote, a zero byte, a broken gzip stream
  bool next();

  /// @brief The text of a field of the current row, unquoted.
  std::string_view operator[](size_t column) const { return fields_[column]; }
  /// @brief The number in a field.
  /// @throws c10::ValueError naming file, line and column if it is not a finite number
  double number(size_t column) const {
    double value = 0.0;
    if (!number_or_other(column, value)) fail(column, "a number");
    return value;
  }
  /// @brief Reads the number in a field if there is one.
  /// @param column the field
  /// @param value written on success only
  /// @return whether the field holds a finite number
  bool number_or_other(size_t column, double& value) const noexcept { return parse_padded_number(fields_[column], value); }
  /// @brief The whole number in a field.
  /// @throws c10::ValueError naming file, line and column if it is not one
  int64_t integer(size_t column) const {
    int64_t value = 0;
    if (!parse_integer(fields_[column], value)) fail(column, "a whole number");
    return value;
  }
  /// @brief The bytes of the current row in the file, without the line's end; unchanged where no field holds a doubled quote.
  std::string_view row_text() const { return {buffer_.data() + row_begin_, row_size_}; }

  /// @brief The column names.
  const std::vector<std::string>& header() const { return header_; }
  /// @brief The position of a column, or nothing.
  std::optional<size_t> find(std::string_view name) const {
    const auto at = std::find(header_.begin(), header_.end(), name);
    return at == header_.end() ? std::nullopt : std::optional<size_t>(static_cast<size_t>(at - header_.begin()));
  }
  /// @brief The position of a column.
  /// @throws c10::ValueError naming the nearest name
  size_t column(std::string_view name) const {
    const auto at = find(name);
    HTL_CHECK(at.has_value(), "htl::CsvReader: \"", path(), "\" has no column \"", name, "\"; did you mean \"", nearest(name, header_),
              "\"? Columns: ", quoted(header_));
    return *at;
  }
  /// @brief The file.
  const std::string& path() const { return source_.path(); }
  /// @brief The line on which the current row begins, from 1.
  int64_t line() const { return lines_before_ + std::count(buffer_.data(), buffer_.data() + row_begin_, '\n') + 1; }
  /// @brief Throws the sentence for a field that isn't what it should be.
  /// @param column the field
  /// @param expected "a number", "0 or 1"
  [[noreturn]] void fail(size_t column, std::string_view expected) const {
    HTL_CHECK(false, "htl::CsvReader: \"", path(), "\", line ", line(), ", column \"", header_[column], "\": expected ", expected, ", got \"",
              fields_[column].substr(0, 60), "\"");
  }

 private:
  bool refill();
  void scan(size_t from);
  bool take_row(size_t expected);
  void unquote(size_t column);
  std::string where() const { return c10::str("htl::CsvReader: \"", path(), "\", line ", line()); }
  size_t end_of(size_t entry) const { return ends_[entry] >> 1; }

  static constexpr size_t padding = 64;
  CsvOptions options_;
  ByteSource source_;
  std::vector<char> buffer_;    // text in [0, filled_), then padding
  std::vector<uint32_t> ends_;  // CsvScan entries of all whole rows in the block
  size_t filled_ = 0, entries_ = 0, cursor_ = 0;
  size_t next_begin_ = 0, row_begin_ = 0, row_size_ = 0;
  bool at_end_ = false;
  int64_t lines_before_ = 0;  // line feeds that have left the block
  std::vector<std::string_view> fields_;
  std::vector<std::string> header_;
};

inline CsvReader::CsvReader(const std::string& path, CsvOptions options) : options_(options), source_(path) {
  HTL_CHECK(options_.separator != options_.quote && options_.separator != '\n' && options_.separator != '\r' && options_.separator != '\0' &&
                options_.quote != '\n' && options_.quote != '\r',
            "htl::CsvReader: expected a separator and a quote that differ from each other and from line ends");
  constexpr size_t limit = size_t{1} << 30;  // field ends are kept in 32 bits, twice their position
  HTL_CHECK(options_.block_bytes > 0 && options_.block_bytes <= limit && options_.max_row_bytes < limit,
            "htl::CsvReader: expected block_bytes in [1, 2^30] and max_row_bytes < 2^30, got ", options_.block_bytes, " and ", options_.max_row_bytes);
  buffer_.resize(options_.block_bytes + padding + 1);
  while (!take_row(0)) HTL_CHECK(false, "htl::CsvReader: \"", path, "\" is empty; expected a header row");
  header_.assign(fields_.begin(), fields_.end());
  std::sort(fields_.begin(), fields_.end());  // a header may be as long as a row may be
  const auto twice = std::adjacent_find(fields_.begin(), fields_.end());
  HTL_CHECK(twice == fields_.end(), "htl::CsvReader: \"", path, "\" has the column \"", twice == fields_.end() ? std::string_view() : *twice,
            "\" twice in its header");
}

inline bool CsvReader::next() { return take_row(header_.size()); }

// Reads the next row into fields_; expected = 0 takes the row's own number of fields.
inline bool CsvReader::take_row(size_t expected) {
  for (;;) {
    if (cursor_ == entries_ && !refill()) return false;
    row_begin_ = next_begin_;
    const char* const text = buffer_.data();
    const uint32_t* const entries = ends_.data() + cursor_;
    size_t count = expected;
    // A block holds whole rows only: the row is as long as the header if its line feed is where it should be and none comes before.
    bool fits = expected > 0 && cursor_ + expected <= entries_ && text[entries[expected - 1] >> 1] == '\n';
    uint32_t any_quote = 0;
    if (fits) {
      std::string_view* const fields = fields_.data();
      size_t begin = row_begin_;
      for (size_t j = 0; j < expected; ++j) {
        const size_t end = entries[j] >> 1;
        any_quote |= entries[j];
        fits = fits && (text[end] != '\n' || j + 1 == expected);
        fields[j] = std::string_view(text + begin, end - begin);
        begin = end + 1;
      }
    }
    if (!fits) {
      count = 1;
      while (text[entries[count - 1] >> 1] != '\n') ++count;
    }
    const size_t end = entries[count - 1] >> 1;
    row_size_ = end - row_begin_;
    if (row_size_ > 0 && text[end - 1] == '\r') --row_size_;
    next_begin_ = end + 1;
    cursor_ += count;
    if (row_size_ == 0 && expected != 1) continue;  // a blank line
    if (!fits) {
      HTL_CHECK(expected == 0, where(), ": expected ", expected, " fields as in the header, got ", count);
      fields_.resize(count);
      size_t begin = row_begin_;
      for (size_t j = 0; j < count; ++j) {
        any_quote |= entries[j];
        fields_[j] = std::string_view(text + begin, (entries[j] >> 1) - begin);
        begin = (entries[j] >> 1) + 1;
      }
    }
    std::string_view& last = fields_[count - 1];
    if (row_begin_ + row_size_ < end) last.remove_suffix(1);  // the CR of CRLF
    if ((any_quote & 1) != 0)
      for (size_t j = 0; j < count; ++j)
        if ((entries[j] & 1) != 0) unquote(j);
    return true;
  }
}

inline void CsvReader::unquote(size_t column) {
  const std::string_view raw = fields_[column];
  const char quote = options_.quote;
  const auto name = [&] { return column < header_.size() ? "column \"" + header_[column] + "\"" : c10::str("field ", column + 1); };
  HTL_CHECK(raw.front() == quote, where(), ", ", name(), ": a quote inside an unquoted field, near \"", raw.substr(0, 60),
            "\"; quote the whole field and double its inner quotes");
  HTL_CHECK(raw.size() >= 2 && raw.back() == quote, where(), ", ", name(), ": text after the closing quote, near \"", raw.substr(0, 60), "\"");
  const std::string_view inner = raw.substr(1, raw.size() - 2);
  if (inner.find(quote) == std::string_view::npos) {
    fields_[column] = inner;
    return;
  }
  char* const begin = buffer_.data() + (inner.data() - buffer_.data());
  char* to = begin;
  for (size_t i = 0; i < inner.size(); ++i) {
    if (inner[i] == quote) {
      HTL_CHECK(i + 1 < inner.size() && inner[i + 1] == quote, where(), ", ", name(), ": a single quote inside a quoted field; double it");
      ++i;
    }
    *to++ = inner[i];
  }
  fields_[column] = std::string_view(begin, static_cast<size_t>(to - begin));
  std::fill(to, begin + inner.size(), ' ');  // so that no line feed is there twice when lines are counted
}

// Moves what is left of the block to the front, reads on, and finds whole rows; false at the end of the file.
inline bool CsvReader::refill() {
  if (at_end_ && next_begin_ == filled_) {
    row_begin_ = next_begin_;
    return false;
  }
  lines_before_ += std::count(buffer_.data(), buffer_.data() + next_begin_, '\n');
  std::memmove(buffer_.data(), buffer_.data() + next_begin_, filled_ - next_begin_);
  filled_ -= next_begin_;
  row_begin_ = next_begin_ = cursor_ = entries_ = 0;
  bool first_block = lines_before_ == 0 && header_.empty();
  for (size_t wanted = options_.block_bytes; entries_ == 0;) {
    HTL_CHECK(filled_ <= options_.max_row_bytes, where(), ": the row that begins here is longer than ", options_.max_row_bytes,
              " bytes; is a quote never closed?");
    if (at_end_) {
      HTL_CHECK(filled_ == 0, where(), ": a quoted field of the row that begins here is never closed");
      return false;
    }
    if (filled_ >= wanted) wanted = 2 * filled_;
    if (buffer_.size() < wanted + padding + 1) buffer_.resize(wanted + padding + 1);
    while (filled_ < wanted) {
      const size_t count = source_.read(buffer_.data() + filled_, wanted - filled_);
      at_end_ = count == 0;
      filled_ += count;
      if (at_end_) break;
    }
    if (first_block && filled_ >= 3 && std::memcmp(buffer_.data(), "\xef\xbb\xbf", 3) == 0) {
      first_block = false;  // a second one is text, wherever the block ends
      filled_ -= 3;
      std::memmove(buffer_.data(), buffer_.data() + 3, filled_);
    }
    if (at_end_ && filled_ > 0 && buffer_[filled_ - 1] != '\n') buffer_[filled_++] = '\n';
    scan(0);
  }
  return true;
}

// Finds the field ends in [from, filled_) and keeps those of whole rows.
inline void CsvReader::scan(size_t from) {
  const size_t room = filled_ - from + 72;
  if (ends_.size() < room) ends_.resize(room);
  std::memset(buffer_.data() + filled_, ' ', padding);
  CsvScan state;
  uint32_t* to = ends_.data();
  for (size_t at = from; at < filled_; at += 64) {
    CsvMarks marks = mark_csv(buffer_.data() + at, options_.separator, options_.quote);
    if (filled_ - at < 64) {  // the padding is no text
      const uint64_t inside = (uint64_t{1} << (filled_ - at)) - 1;
      marks.ends &= inside;
      marks.quotes &= inside;
    }
    if (marks.zeros != 0) {
      row_begin_ = at + static_cast<size_t>(std::countr_zero(marks.zeros));
      HTL_CHECK(false, where(), ": a zero byte, so this is no text in UTF-8 or another 8-bit code; is it the right file?");
    }
    to = state.write_ends(marks, static_cast<uint32_t>(at), to);
  }
  entries_ = static_cast<size_t>(to - ends_.data());
  while (entries_ > 0 && buffer_[end_of(entries_ - 1)] != '\n') --entries_;
}

}  // namespace htl
