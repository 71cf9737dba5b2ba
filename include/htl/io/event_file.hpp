// SPDX-License-Identifier: Apache-2.0
/// @file event_file.hpp
/// @brief EventFile: scalars over the steps of a run, in the event files that TensorBoard reads; can be cut back to where a checkpoint was. POSIX.
#pragma once

#include <htl/io/append_file.hpp>
#include <htl/task/named.hpp>

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

namespace htl::inline v0_1_0 {
namespace detail {

inline constexpr std::array<uint32_t, 256> crc32c_table = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1U ? 0x82F63B78U : 0U);
    table[byte] = rest;
  }
  return table;
}();

// The CRC-32C (Castagnoli), which zlib lacks: its CRC-32 has another polynomial.
inline constexpr uint32_t crc32c_of(std::string_view bytes) {
  uint32_t rest = 0xFFFFFFFFU;
  for (const char byte : bytes) rest = rest >> 8 ^ crc32c_table[(rest ^ static_cast<unsigned char>(byte)) & 0xFFU];
  return ~rest;
}

// Protocol buffers, as far as an event needs them: a field is a key (number · 8 + wire type) and its value.
template <class Number>
void put_little_endian(std::string& to, Number number) {
  for (size_t byte = 0; byte < sizeof(Number); ++byte) to.push_back(static_cast<char>(number >> (8 * byte) & 0xFFU));
}
inline void put_varint(std::string& to, uint64_t number) {
  for (; number >= 0x80U; number >>= 7) to.push_back(static_cast<char>((number & 0x7FU) | 0x80U));
  to.push_back(static_cast<char>(number));
}
inline void put_field(std::string& to, uint64_t number, std::string_view bytes) {
  put_varint(to, number * 8 + 2);
  put_varint(to, bytes.size());
  to += bytes;
}
inline void put_field(std::string& to, uint64_t number, double value) {
  put_varint(to, number * 8 + 1);
  put_little_endian(to, std::bit_cast<uint64_t>(value));
}
inline void put_field(std::string& to, uint64_t number, float value) {
  put_varint(to, number * 8 + 5);
  put_little_endian(to, std::bit_cast<uint32_t>(value));
}

// A record: its length, the length's checksum, the bytes, their checksum. The checksums are masked, as the format asks.
inline std::string as_record(std::string_view bytes) {
  const auto masked = [](std::string_view of) { return std::rotr(crc32c_of(of), 15) + 0xA282EAD8U; };
  std::string record;
  put_little_endian(record, static_cast<uint64_t>(bytes.size()));
  put_little_endian(record, masked(std::string_view(record).substr(0, 8)));
  record += bytes;
  put_little_endian(record, masked(bytes));
  return record;
}

}  // namespace detail

/// @brief Appends events of scalars to a file that TensorBoard reads; its name must hold "tfevents".
///
/// ```cpp
/// htl::EventFile events("run/events.out.tfevents.htl");
/// events.add(step, htl::Named<double>().set("loss/click", 0.31).set("loss/long_view", 0.22));
/// ```
/// A tag's part before the first slash is the group it is shown in. What add() has returned from is in the file, as by AppendFile: size() goes into a
/// checkpoint, and keep(size) of the run that goes on from it takes away what came after, so that no step is there twice. **Cost.** about 40 bytes and one
/// write for each event, 9 bytes and the tag for each scalar of it.
class EventFile {
 public:
  /// @brief Opens a file, or makes it; nothing is cut off.
  /// @throws c10::ValueError naming the reason
  explicit EventFile(std::filesystem::path path) : file_(std::move(path)) {}

  /// @brief Adds the scalars of one step, in single precision; one that is not finite is kept as such. Nothing is added without any.
  /// @param step ≥ 0
  /// @param scalars by tag, in UTF-8
  /// @param wall_time seconds since 1970 that the event is said to be of
  /// @throws c10::ValueError below step 0, and naming the reason if it can't be written; the file is then as it was before
  void add(int64_t step, const Named<double>& scalars, double wall_time = now()) {
    HTL_CHECK(step >= 0, "htl::EventFile: expected a step ≥ 0, got ", step);
    if (scalars.empty()) return;
    std::string summary;
    for (const auto& [tag, value] : scalars) {
      std::string scalar;
      detail::put_field(scalar, 1, std::string_view(tag));
      detail::put_field(scalar, 2, static_cast<float>(value));
      detail::put_field(summary, 1, std::string_view(scalar));
    }
    std::string event;
    detail::put_field(event, 1, wall_time);
    if (step > 0) {  // a zero is left out, as in every message of the third version
      detail::put_varint(event, 2 * 8 + 0);
      detail::put_varint(event, static_cast<uint64_t>(step));
    }
    detail::put_field(event, 5, std::string_view(summary));
    file_.append((file_.size() == 0 ? detail::as_record(first_event(wall_time)) : std::string()) + detail::as_record(event));
  }
  /// @brief Cuts off everything behind the first `size` bytes, a size() of before.
  /// @throws c10::ValueError if the file is shorter than that: a part of it was lost
  void keep(int64_t size) { file_.keep(size); }
  /// @brief Makes all of it durable.
  /// @throws c10::ValueError naming the reason
  void sync() const { file_.sync(); }
  /// @brief Bytes; 0 before the first event.
  int64_t size() const { return file_.size(); }

 private:
  static double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }
  static std::string first_event(double wall_time) {
    std::string event;
    detail::put_field(event, 1, wall_time);
    detail::put_field(event, 3, std::string_view("brain.Event:2"));
    return event;
  }
  AppendFile file_;
};

}  // namespace htl
