// SPDX-License-Identifier: Apache-2.0
// CsvReader: wherever a block ends, the rows are the same; a number is the same with padding behind it.
#include "fuzz.hpp"

#include <htl/data/csv.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace {

using Table = std::vector<std::vector<std::string>>;

// The header and all rows before the end or the first fault
bool read_table(const std::string& path, htl::CsvOptions options, Table& table) {
  return htl::fuzz::reads([&] {
    htl::CsvReader reader(path, options);
    table.push_back(reader.header());
    int64_t line = 0;
    while (reader.next()) {
      htl::fuzz::require(reader.line() > line, "lines rise");
      line = reader.line();
      std::vector<std::string>& row = table.emplace_back();
      for (size_t j = 0; j < reader.header().size(); ++j) {
        row.emplace_back(reader[j]);
        double padded = 0.0, plain = 0.0;
        int64_t whole = 0;
        const bool is_number = reader.number_or_other(j, padded);
        htl::fuzz::require(is_number == htl::parse_number(row.back(), plain) && padded == plain, "one number:", row.back());
        if (htl::parse_integer(row.back(), whole)) htl::fuzz::require(is_number && static_cast<double>(whole) == plain, "a whole number:", row.back());
        (void)htl::is_missing(row.back());
      }
      htl::fuzz::require(reader.row_text().find('\0') == std::string_view::npos, "rows are text");
    }
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const htl::fuzz::MemoryFile file;
  const std::string& path = file.write(htl::fuzz::text_of(data, size));
  const unsigned last = size > 0 ? data[size - 1] : 0;  // as good as drawn, and the input stays a file
  htl::CsvOptions options;
  options.separator = size % 4 == 3 ? '\t' : ',';
  options.quote = size % 8 == 7 ? '\0' : '"';
  options.block_bytes = size + 1;
  Table whole, pieces;
  const bool is_read = read_table(path, options, whole);
  options.block_bytes = 1 + (last * 7 + size) % 80;
  const bool is_read_in_pieces = read_table(path, options, pieces);
  htl::fuzz::require(is_read == is_read_in_pieces, "a file is good or bad whatever the block");
  // A zero byte or a broken gzip stream is found a block ahead: up to there the rows are the same
  const auto common = static_cast<std::ptrdiff_t>(std::min(whole.size(), pieces.size()));
  htl::fuzz::require(is_read ? whole == pieces : std::equal(whole.begin(), whole.begin() + common, pieces.begin()), "the same rows whatever the block");
  return 0;
}
