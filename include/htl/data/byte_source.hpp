// SPDX-License-Identifier: Apache-2.0
/// @file byte_source.hpp
/// @brief ByteSource: the bytes of a file, plain or gzip, in pieces. Needs zlib (component htl::data).
#pragma once

#include <htl/task/check.hpp>

#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Reads a file front to back; gzip is recognised by its first bytes, whatever the name, and may have several members.
class ByteSource {
 public:
  /// @brief Opens the file.
  /// @throws c10::ValueError if it can't be opened, or is an archive or table in a format that is not text
  explicit ByteSource(std::string path) : path_(std::move(path)), file_(std::fopen(path_.c_str(), "rb")), input_(size_t{1} << 16) {
    HTL_CHECK(file_ != nullptr, "htl::ByteSource: can't open \"", path_, "\": ", std::strerror(errno));
    std::setvbuf(file_.get(), nullptr, _IONBF, 0);
    fill();
    const std::string_view start(input_.data(), available_);
    gzip_ = start.size() >= 2 && start.substr(0, 2) == "\x1f\x8b";
    for (const auto& [magic, format] : {std::pair<std::string_view, const char*>{"PAR1", "a Parquet file"},
                                        {"PK\x03\x04", "a zip archive"},
                                        {"\x28\xb5\x2f\xfd", "compressed by zstd"},
                                        {"BZh", "compressed by bzip2"},
                                        {"\xfd"
                                         "7zXZ",
                                         "compressed by xz"}})
      HTL_CHECK(!start.starts_with(magic), "htl::ByteSource: \"", path_, "\" is ", format, "; expected text, plain or compressed by gzip");
    if (gzip_) {
      stream_ = std::unique_ptr<z_stream, EndInflate>(new z_stream());
      HTL_CHECK_STATE(inflateInit2(stream_.get(), 15 + 16) == Z_OK, "htl::ByteSource: zlib can't start to decompress \"", path_, "\"");
    }
  }

  /// @brief Reads up to `size` bytes.
  /// @return how many; 0 at the end only
  /// @throws c10::ValueError if reading fails or the gzip stream is broken or incomplete
  size_t read(char* to, size_t size) {
    if (gzip_) return inflate_some(to, size);
    if (available_ == 0) {
      if (at_end_) return 0;
      return read_file(to, size);
    }
    const size_t count = std::min(size, available_);
    std::memcpy(to, input_.data() + position_, count);
    position_ += count;
    available_ -= count;
    return count;
  }
  /// @brief The path as given.
  const std::string& path() const { return path_; }
  /// @brief Whether the file is compressed.
  bool is_gzip() const { return gzip_; }

 private:
  struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  struct EndInflate {
    void operator()(z_stream* stream) const {
      inflateEnd(stream);
      delete stream;
    }
  };

  size_t read_file(char* to, size_t size) {
    const size_t count = std::fread(to, 1, size, file_.get());
    HTL_CHECK(std::ferror(file_.get()) == 0, "htl::ByteSource: can't read \"", path_, "\": ", std::strerror(errno));
    at_end_ = at_end_ || count < size;
    return count;
  }
  void fill() {
    position_ = 0;
    available_ = at_end_ ? 0 : read_file(input_.data(), input_.size());
  }
  size_t inflate_some(char* to, size_t size) {
    stream_->next_out = reinterpret_cast<Bytef*>(to);
    stream_->avail_out = static_cast<uInt>(std::min(size, size_t{1} << 30));
    const uInt wanted = stream_->avail_out;
    while (stream_->avail_out == wanted && !finished_) {
      if (available_ == 0) fill();
      if (available_ == 0) {
        HTL_CHECK(between_members_, "htl::ByteSource: \"", path_, "\" ends in the middle of its gzip stream; was it copied or downloaded completely?");
        finished_ = true;
        break;
      }
      if (between_members_ && !next_member()) continue;
      stream_->next_in = reinterpret_cast<Bytef*>(input_.data() + position_);
      stream_->avail_in = static_cast<uInt>(available_);
      const int status = inflate(stream_.get(), Z_NO_FLUSH);
      position_ += available_ - stream_->avail_in;
      available_ = stream_->avail_in;
      HTL_CHECK(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR, "htl::ByteSource: the gzip stream of \"", path_, "\" is broken after ",
                stream_->total_out, " bytes of text: ", stream_->msg != nullptr ? stream_->msg : "no details");
      between_members_ = status == Z_STREAM_END;
    }
    return wanted - stream_->avail_out;
  }
  // After a member: skips zero padding, starts the next one; false if only padding was at hand.
  bool next_member() {
    while (available_ > 0 && input_[position_] == '\0') {
      ++position_;
      --available_;
      padding_ = true;
    }
    if (available_ == 0) return false;
    HTL_CHECK(!padding_ && input_[position_] == '\x1f', "htl::ByteSource: \"", path_, "\" holds something else than gzip after the end of its gzip stream");
    HTL_CHECK_STATE(inflateReset(stream_.get()) == Z_OK, "htl::ByteSource: zlib can't go on with \"", path_, "\"");
    between_members_ = false;
    return true;
  }

  std::string path_;
  std::unique_ptr<std::FILE, CloseFile> file_;
  std::vector<char> input_;
  size_t position_ = 0, available_ = 0;
  bool at_end_ = false, gzip_ = false, between_members_ = false, finished_ = false, padding_ = false;
  std::unique_ptr<z_stream, EndInflate> stream_;
};

}  // namespace htl
