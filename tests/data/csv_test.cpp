// SPDX-License-Identifier: Apache-2.0
/// @file csv_test.cpp
/// @brief Numbers from text, plain and gzip bytes, CSV rows: random tables come back whole, bad files get a sentence.

#include <htl/data/csv.hpp>

#include <support/seeded.hpp>

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

namespace {

using htl::CsvOptions;
using htl::CsvReader;
using htl::test::Random;
using htl::test::sentence_of;
using Table = std::vector<std::vector<std::string>>;

class Csv : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("htl_csv_test_" + std::to_string(reinterpret_cast<uintptr_t>(this)) + "_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& text, const std::string& name = "table.csv") const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  static std::string gzipped(const std::string& text) {
    z_stream stream{};
    EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    std::string packed(deflateBound(&stream, static_cast<uLong>(text.size())), '\0');
    std::string copy = text;
    stream.next_in = reinterpret_cast<Bytef*>(copy.data());
    stream.avail_in = static_cast<uInt>(copy.size());
    stream.next_out = reinterpret_cast<Bytef*>(packed.data());
    stream.avail_out = static_cast<uInt>(packed.size());
    EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
    packed.resize(stream.total_out);
    deflateEnd(&stream);
    return packed;
  }
  static Table rows_of(CsvReader& reader) {
    Table rows;
    while (reader.next()) {
      rows.emplace_back();
      for (size_t j = 0; j < reader.header().size(); ++j) rows.back().emplace_back(reader[j]);
    }
    return rows;
  }
  Table read(const std::string& text, CsvOptions options = {}) const {
    CsvReader reader(write(text), options);
    return rows_of(reader);
  }
  // What reading a whole file says; empty if nothing is wrong.
  std::string sentence(const std::string& bytes, CsvOptions options = {}) const {
    const std::string path = write(bytes);
    try {
      CsvReader reader(path, options);
      rows_of(reader);
    } catch (const c10::Error& error) {
      std::string text = error.what_without_backtrace();
      const size_t at = text.find(path);
      return at == std::string::npos ? text : text.replace(at, path.size(), "FILE");
    }
    return "";
  }
  std::filesystem::path folder_;
};

std::string random_field(Random& random, char separator) {
  static const std::vector<std::string> words = {"",           "0",    "-1.5",       "abc",      "a b", " ", "é", "x,y",
                                                 "\"",         "\"\"", "two\nlines", "cr\r\nlf", "\n",  ",", ";", "long text that is longer than sixteen bytes",
                                                 "\"quoted\"", "\r\nx"};
  std::string text;
  for (int64_t n = random.integer(0, 3); n > 0; --n) text += words[static_cast<size_t>(random.integer(0, static_cast<int64_t>(words.size()) - 1))];
  if (random.integer(0, 9) == 0) text += separator;
  return text;
}
// A field that holds a special byte must be quoted; others are at times.
std::string written(const std::string& field, Random& random, char separator) {
  const bool special = field.find_first_of(std::string("\"\r\n") + separator) != std::string::npos;
  if (!special && random.integer(0, 4) > 0) return field;
  std::string text = "\"";
  for (const char c : field) text += c == '"' ? std::string("\"\"") : std::string(1, c);
  return text + "\"";
}
struct RandomCase {
  std::string text;
  std::vector<std::string> header;
  Table rows;
};
RandomCase random_case(Random& random, char separator) {
  RandomCase made;
  const size_t columns = static_cast<size_t>(random.integer(1, 7));
  const auto line = [&](const std::vector<std::string>& fields) {
    for (size_t j = 0; j < fields.size(); ++j) made.text += (j > 0 ? std::string(1, separator) : "") + written(fields[j], random, separator);
    made.text += random.integer(0, 1) == 0 ? "\n" : "\r\n";
  };
  for (size_t j = 0; j < columns; ++j) made.header.push_back("c" + std::to_string(j) + random_field(random, separator));
  line(made.header);
  for (int64_t r = random.integer(0, 12); r > 0; --r) {
    made.rows.emplace_back();
    for (size_t j = 0; j < columns; ++j) made.rows.back().push_back(random_field(random, separator));
    line(made.rows.back());
    if (columns > 1 && random.integer(0, 9) == 0) made.text += "\n";
  }
  const bool ends_with_value = made.rows.empty() || columns > 1 || !made.rows.back()[0].empty();
  if (ends_with_value && random.integer(0, 2) == 0) made.text.resize(made.text.size() - (made.text.ends_with("\r\n") ? 2 : 1));
  if (random.integer(0, 3) == 0) made.text = "\xef\xbb\xbf" + made.text;
  return made;
}

TEST_F(Csv, RandomTablesComeBackWholeAtEveryBlockSizePlainAndGzip) {
  Random random(11);
  for (int i = 0; i < 400; ++i) {
    const char separator = ",;\t|"[random.integer(0, 3)];
    const RandomCase made = random_case(random, separator);
    const size_t block = static_cast<size_t>(random.integer(0, 2) == 0 ? random.integer(1, 9) : random.integer(10, 300));
    for (const bool packed : {false, true}) {
      CsvReader reader(write(packed ? gzipped(made.text) : made.text), {.separator = separator, .block_bytes = block});
      ASSERT_EQ(reader.header(), made.header) << i << "\n" << made.text;
      ASSERT_EQ(rows_of(reader), made.rows) << i << " block " << block << "\n" << made.text;
      ASSERT_FALSE(reader.next());
    }
  }
}

TEST_F(Csv, EveryBlockBoundaryGivesTheSameRowsAndLines) {
  Random random(5);
  std::string text = "a,b\n";
  std::vector<int64_t> lines;
  Table rows;
  for (int64_t r = 0, line = 2; r < 30; ++r) {
    rows.push_back({random_field(random, ','), random_field(random, ',')});
    lines.push_back(line);
    std::string row = written(rows.back()[0], random, ',') + "," + written(rows.back()[1], random, ',') + "\r\n";
    line += std::count(row.begin(), row.end(), '\n');
    text += row;
  }
  const std::string path = write(text);
  for (size_t block = 1; block <= text.size() + 2; ++block) {
    CsvReader reader(path, {.block_bytes = block});
    for (size_t r = 0; r < rows.size(); ++r) {
      ASSERT_TRUE(reader.next());
      ASSERT_EQ(reader[0], rows[r][0]) << block;
      ASSERT_EQ(reader[1], rows[r][1]) << block;
      ASSERT_EQ(reader.line(), lines[r]) << block;
    }
    ASSERT_FALSE(reader.next());
  }
}

TEST_F(Csv, QuotesAroundChunksOf64BytesAreFollowed) {
  for (size_t length = 50; length < 150; ++length)
    for (const std::string& inner : {std::string(","), std::string("\n"), std::string("\"\"")}) {
      const std::string fill(length, 'x');
      const std::string shown = inner == "\"\"" ? "\"" : inner;
      ASSERT_EQ(read("a,b\n" + fill + ",\"" + fill + inner + fill + "\"\n1,2\n"), (Table{{fill, fill + shown + fill}, {"1", "2"}})) << length;
    }
}

TEST_F(Csv, QuotesCanBeSwitchedOff) { EXPECT_EQ(read("a\tb\n5\" pipe\t\"x\n", {.separator = '\t', .quote = '\0'}), (Table{{"5\" pipe", "\"x"}})); }

TEST_F(Csv, OneColumnKeepsEmptyRowsAndMoreColumnsSkipBlankLines) {
  EXPECT_EQ(read("a\n1\n\n2\n"), (Table{{"1"}, {""}, {"2"}}));
  EXPECT_EQ(read("a,b\n\n1,2\n\r\n\n3,4"), (Table{{"1", "2"}, {"3", "4"}}));
  EXPECT_EQ(read("a,b"), Table{});
}

TEST_F(Csv, RowTextIsTheLineWithoutItsEnd) {
  CsvReader reader(write("a,b\n1,\"x\ny\"\r\n3,4"));
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.row_text(), "1,\"x\ny\"");
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.row_text(), "3,4");
}

TEST_F(Csv, GzipMayHaveSeveralMembersAndPadding) {
  CsvReader reader(write(gzipped("a,b\n1,") + gzipped("") + gzipped("2\n") + std::string(512, '\0')));
  EXPECT_EQ(rows_of(reader), (Table{{"1", "2"}}));
}

TEST_F(Csv, OneByteOrderMarkIsTakenWhereverABlockEnds) {
  const std::string path = write(
      "\xef\xbb\xbf\xef\xbb\xbf"
      "a,b\n1,2\n");
  for (const size_t block : {1, 2, 3, 4, 5, 6, 7, 100}) {
    CsvReader reader(path, {.block_bytes = block});
    EXPECT_EQ(reader.header(), (std::vector<std::string>{"\xef\xbb\xbf"
                                                         "a",
                                                         "b"}))
        << block;
  }
}

TEST_F(Csv, AHeaderOfManyColumnsIsReadInTheTimeOfSortingIt) {
  std::string header = "c0", row = "0";
  for (int i = 1; i < 300'000; ++i) {
    header += ",c" + std::to_string(i);
    row += "," + std::to_string(i);
  }
  CsvReader reader(write(header + "\n" + row + "\n"));  // with each name compared to all before it, minutes
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.header().back(), "c299999");
  EXPECT_EQ(reader.integer(299'999), 299'999);
}

TEST_F(Csv, BadFilesGetASentence) {
  const std::string big = [] {
    std::string text = "a,b\n";
    for (int i = 0; i < 40000; ++i) text += std::to_string(i * 7919 % 10007) + "," + std::to_string(i) + "\n";
    return text;
  }();
  const std::string packed = gzipped(big);
  EXPECT_EQ(sentence(""), "htl::CsvReader: \"FILE\" is empty; expected a header row");
  EXPECT_EQ(sentence("\xef\xbb\xbf"), "htl::CsvReader: \"FILE\" is empty; expected a header row");
  EXPECT_EQ(sentence(gzipped("")), "htl::CsvReader: \"FILE\" is empty; expected a header row");
  EXPECT_EQ(sentence("a,b,a\n"), "htl::CsvReader: \"FILE\" has the column \"a\" twice in its header");
  EXPECT_EQ(sentence("a,b\n1,2\n3\n"), "htl::CsvReader: \"FILE\", line 3: expected 2 fields as in the header, got 1");
  EXPECT_EQ(sentence("a,b\n1,\"x\n\ny\"\n3,4,5\n"), "htl::CsvReader: \"FILE\", line 5: expected 2 fields as in the header, got 3");
  EXPECT_EQ(sentence("a,b\n1,\"open\n2,3\n"), "htl::CsvReader: \"FILE\", line 2: a quoted field of the row that begins here is never closed");
  EXPECT_EQ(
      sentence("a,b\n1,5\" pipe\n2,6\" pipe\n"),
      "htl::CsvReader: \"FILE\", line 2, column \"b\": a quote inside an unquoted field, near \"5\" pipe\n2,6\" pipe\"; quote the whole field and double its "
      "inner quotes");
  EXPECT_EQ(sentence("a,b\n1,\"x\"y\n"), "htl::CsvReader: \"FILE\", line 2, column \"b\": text after the closing quote, near \"\"x\"y\"");
  EXPECT_EQ(sentence("a,b\n1,\"x\"y\"z\"\n"), "htl::CsvReader: \"FILE\", line 2, column \"b\": a single quote inside a quoted field; double it");
  EXPECT_EQ(sentence(std::string("a,b\n1,\0\n", 8)),
            "htl::CsvReader: \"FILE\", line 2: a zero byte, so this is no text in UTF-8 or another 8-bit code; is it the right file?");
  EXPECT_EQ(sentence("a,b\n1,\"" + std::string(3000, 'x') + "\"\n", {.block_bytes = 512, .max_row_bytes = 2000}),
            "htl::CsvReader: \"FILE\", line 2: the row that begins here is longer than 2000 bytes; is a quote never closed?");
  EXPECT_EQ(sentence(packed.substr(0, packed.size() / 2)),
            "htl::ByteSource: \"FILE\" ends in the middle of its gzip stream; was it copied or downloaded completely?");
  EXPECT_EQ(sentence(packed.substr(0, packed.size() - 1)),
            "htl::ByteSource: \"FILE\" ends in the middle of its gzip stream; was it copied or downloaded completely?");
  EXPECT_EQ(sentence(packed + "garbage"), "htl::ByteSource: \"FILE\" holds something else than gzip after the end of its gzip stream");
  std::string broken = packed;
  broken[packed.size() - 6] = static_cast<char>(broken[packed.size() - 6] ^ 1);  // the checksum
  EXPECT_EQ(sentence(broken),
            "htl::ByteSource: the gzip stream of \"FILE\" is broken after " + std::to_string(big.size()) + " bytes of text: incorrect data check");
  EXPECT_EQ(sentence("PAR1xxxx"), "htl::ByteSource: \"FILE\" is a Parquet file; expected text, plain or compressed by gzip");
  EXPECT_EQ(sentence("PK\x03\x04xx"), "htl::ByteSource: \"FILE\" is a zip archive; expected text, plain or compressed by gzip");
  EXPECT_EQ(sentence("a,b\n", {.separator = '"'}), "htl::CsvReader: expected a separator and a quote that differ from each other and from line ends");
  EXPECT_EQ(sentence("a,b\n", {.block_bytes = (size_t{1} << 30) + 1}),
            "htl::CsvReader: expected block_bytes in [1, 2^30] and max_row_bytes < 2^30, got 1073741825 and 67108864");
}

TEST_F(Csv, MissingFilesColumnsAndNumbersGetASentence) {
  EXPECT_EQ(sentence_of([&] { CsvReader reader((folder_ / "none.csv").string()); }),
            "htl::ByteSource: can't open \"" + (folder_ / "none.csv").string() + "\": No such file or directory");
  EXPECT_EQ(sentence_of([&] { CsvReader reader(folder_.string()); }), "htl::ByteSource: can't read \"" + folder_.string() + "\": Is a directory");
  const std::string path = write("user_id,price\n7,cheap\n1.5,3e2\n");
  CsvReader reader(path);
  EXPECT_EQ(sentence_of([&] { reader.column("usr_id"); }),
            "htl::CsvReader: \"" + path + "\" has no column \"usr_id\"; did you mean \"user_id\"? Columns: \"user_id\", \"price\"");
  EXPECT_FALSE(reader.find("usr_id").has_value());
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.integer(0), 7);
  EXPECT_EQ(sentence_of([&] { reader.number(1); }), "htl::CsvReader: \"" + path + "\", line 2, column \"price\": expected a number, got \"cheap\"");
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(sentence_of([&] { reader.integer(0); }), "htl::CsvReader: \"" + path + "\", line 3, column \"user_id\": expected a whole number, got \"1.5\"");
  EXPECT_EQ(reader.number(1), 300.0);
}

TEST_F(Csv, DamagedFilesNeverCrashOrHang) {
  Random random(3);
  for (int i = 0; i < 600; ++i) {
    std::string bytes = random_case(random, ',').text;
    if (i % 2 == 0) bytes = gzipped(bytes);
    for (int64_t n = random.integer(1, 6); n > 0; --n) {
      const size_t at = static_cast<size_t>(random.integer(0, static_cast<int64_t>(bytes.size()) - 1));
      if (random.integer(0, 2) == 0)
        bytes.resize(at + 1);
      else
        bytes[at] = static_cast<char>(random.integer(0, 255));
    }
    const std::string said = sentence(bytes, {.block_bytes = static_cast<size_t>(random.integer(1, 100)), .max_row_bytes = 5000});
    ASSERT_TRUE(said.empty() || said.starts_with("htl::")) << said;
  }
}

TEST(Number, AgreesWithTheCLibraryBitForBit) {
  Random random(9);
  for (int i = 0; i < 200000; ++i) {
    std::string text = random.integer(0, 2) == 0 ? "-" : "";
    for (int64_t n = random.integer(0, 18); n > 0; --n) text += static_cast<char>('0' + random.integer(0, 9));
    if (random.integer(0, 1) == 0) {
      text += ".";
      for (int64_t n = random.integer(0, 12); n > 0; --n) text += static_cast<char>('0' + random.integer(0, 9));
    }
    if (random.integer(0, 3) == 0) text += "e" + std::to_string(random.integer(-40, 40));
    const std::string digits = text.substr(text.starts_with('-') ? 1 : 0);
    const bool is_number = !digits.empty() && digits[0] != 'e' && !digits.starts_with(".e") && digits != ".";
    double value = 12345.0;
    ASSERT_EQ(htl::parse_number(text, value), is_number) << text;
    const std::string padded = text + "0123456789abcdef";
    double same = 12345.0;
    ASSERT_EQ(htl::parse_padded_number(std::string_view(padded).substr(0, text.size()), same), is_number) << text;
    ASSERT_EQ(std::memcmp(&value, &same, sizeof value), 0) << text;
    if (!is_number) {
      ASSERT_EQ(value, 12345.0);
      continue;
    }
    const double expected = std::strtod(text.c_str(), nullptr);
    ASSERT_EQ(std::memcmp(&value, &expected, sizeof value), 0) << text;
  }
}

TEST(Number, EveryByteAmongDigitsIsSeen) {
  for (size_t size = 1; size <= 16; ++size)
    for (size_t at = 0; at < size; ++at)
      for (int byte = 0; byte < 256; ++byte) {
        std::string text(size, '7');
        text[at] = static_cast<char>(byte);
        double plain = 1.0, padded = 1.0;
        const bool is_number = htl::parse_number(text, plain);
        const std::string more = text + "0000000000000000";
        ASSERT_EQ(htl::parse_padded_number(std::string_view(more).substr(0, size), padded), is_number) << text;
        ASSERT_EQ(plain, padded) << text;
      }
}

TEST(Number, RefusesWhatIsNotOne) {
  double value = 0.0;
  for (const char* text : {"",    " ",   "-",    "+",   ".",   "e5",   "1e",    "1x",  "x1",    "--1", "+-1",
                           "-+1", "1 2", "0x10", "inf", "nan", "-inf", "1e999", "1,5", "1.2.3", "١",   "12345678901234567890x"})
    EXPECT_FALSE(htl::parse_number(text, value) ||
                 htl::parse_padded_number(std::string_view((std::string(text) + std::string(16, '7')).data(), std::strlen(text)), value))
        << text;
  for (const char* text : {" 7 ", "+7", "7.", "07", "\t7", "7e0", "0.7e1", "00000000000000000000007"}) {
    ASSERT_TRUE(htl::parse_number(text, value)) << text;
    EXPECT_EQ(value, 7.0) << text;
  }
  ASSERT_TRUE(htl::parse_number("-0", value));
  EXPECT_TRUE(std::signbit(value));
  ASSERT_TRUE(htl::parse_number("9007199254740993", value));
  EXPECT_EQ(value, 9007199254740992.0);
  int64_t whole = 0;
  for (const char* text : {"", "1.0", "+", "+-1", "9223372036854775808", "x"}) EXPECT_FALSE(htl::parse_integer(text, whole)) << text;
  EXPECT_TRUE(htl::parse_integer(" -9223372036854775808 ", whole));
  EXPECT_EQ(whole, std::numeric_limits<int64_t>::min());
  EXPECT_TRUE(htl::parse_integer("+12", whole));
  EXPECT_EQ(whole, 12);
  for (const char* text : {"", " ", "nan", "NaN", "NA", "n/a", "NULL", "None"}) EXPECT_TRUE(htl::is_missing(text)) << text;
  for (const char* text : {"0", "x", "nane", "-", "no"}) EXPECT_FALSE(htl::is_missing(text)) << text;
}

}  // namespace
