// SPDX-License-Identifier: Apache-2.0
// ByteSource: an input as a file, read in pieces of two sizes; and an input as text, compressed into members, which must come back.
#include "fuzz.hpp"

#include <htl/data/byte_source.hpp>

#include <zlib.h>

#include <algorithm>
#include <string>
#include <vector>

namespace {

struct Contents {
  size_t size = 0;
  uLong checksum = 0;
  bool operator==(const Contents&) const = default;
};

bool read_all(const std::string& path, size_t piece, Contents& contents) {
  return htl::fuzz::reads([&] {
    htl::ByteSource source(path);
    std::vector<char> bytes(piece);
    while (const size_t count = source.read(bytes.data(), bytes.size())) {
      htl::fuzz::require(count <= piece, "a piece fits");
      contents.size += count;
      contents.checksum = crc32(contents.checksum, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(count));
    }
    htl::fuzz::require(source.read(bytes.data(), bytes.size()) == 0, "the end stays the end");
  });
}

std::string gzipped(std::string_view text) {
  z_stream stream{};
  htl::fuzz::require(deflateInit2(&stream, 1, Z_DEFLATED, 9 + 16, 1, Z_DEFAULT_STRATEGY) == Z_OK, "zlib starts");
  std::string packed(deflateBound(&stream, static_cast<uLong>(text.size())) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  htl::fuzz::require(deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib compresses");
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const htl::fuzz::MemoryFile file;
  const std::string_view text = htl::fuzz::text_of(data, size);
  const size_t last = size > 0 ? data[size - 1] : 0;  // as good as drawn, and the input stays a file
  Contents large, small;
  const std::string& path = file.write(text);
  const bool is_read = read_all(path, size_t{1} << 16, large);
  htl::fuzz::require(is_read == read_all(path, 17 + last, small) && (!is_read || large == small), "the same bytes in pieces of any size");

  const size_t cut = std::min(last, size);
  Contents packed;
  const std::string members = gzipped(text.substr(0, cut)) + gzipped(text.substr(cut)) + std::string(last % 3, '\0');
  htl::fuzz::require(read_all(file.write(members), 1 + last * 5, packed), "what zlib wrote is read");
  htl::fuzz::require(packed == Contents{size, crc32(0, data, static_cast<uInt>(size))}, "what zlib wrote comes back");
  return 0;
}
