// SPDX-License-Identifier: Apache-2.0
/// @file vocabulary.hpp
/// @brief Vocabulary: distinct texts numbered in the order in which they came; StringIndex: the hash table beneath it.
#pragma once

#include <htl/task/check.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Open-addressing index from texts to the numbers 0, 1, 2, …; the texts themselves stay with the caller.
///
/// A text of at most seven bytes is its own key, so that most look-ups touch one slot and nothing else; of a longer one the key holds 56 bits of hash,
/// and the text is compared. Linear probing at load ≤ 3/4; 16 bytes a slot; growing needs no text.
class StringIndex {
 public:
  /// @brief The key of a text; the same on every machine of the same byte order.
  static uint64_t key(std::string_view text) noexcept {
    const size_t size = text.size();
    if (size < 8) return short_word(text.data(), size) | (static_cast<uint64_t>(size) << 56);
    uint64_t state = 0x9E3779B97F4A7C15u ^ (static_cast<uint64_t>(size) * 0xD6E8FEB86659FD93u);
    size_t at = 0;
    for (; at + 8 <= size; at += 8) state = fold(state ^ word(text.data() + at), 0xA0761D6478BD642Fu);
    if (at < size) state = fold(state ^ word(text.data() + size - 8), 0xE7037ED1A0B428DBu);
    return state | long_text;
  }

  /// @brief The number of a text, or −1.
  /// @param text what is looked for
  /// @param key_of_text key(text)
  /// @param text_of the text of a number
  template <class TextOf>
  int32_t find(std::string_view text, uint64_t key_of_text, const TextOf& text_of) const noexcept {
    if (slots_.empty()) return -1;
    const size_t mask = slots_.size() - 1;
    for (size_t at = start(key_of_text);; at = (at + 1) & mask) {
      const Slot& slot = slots_[at];
      if (slot.number < 0) return -1;
      if (slot.key != key_of_text) continue;
      if (key_of_text < long_text || std::string_view(text_of(slot.number)) == text) return slot.number;
    }
  }

  /// @brief Adds the next number, size(), for a text that is not there yet.
  void add(uint64_t key_of_text) {
    HTL_CHECK(size_ < std::numeric_limits<int32_t>::max() - 1,
              "htl::StringIndex: expected less than 2^31 distinct texts; pool rare values before they come here");
    reserve(static_cast<size_t>(size_) + 1);
    place({key_of_text, size_++});
  }
  /// @brief Makes room for so many texts at once.
  void reserve(size_t count) {
    size_t slots = std::max<size_t>(slots_.size(), 16);
    while (3 * slots < 4 * count) slots *= 2;
    if (slots == slots_.size()) return;
    std::vector<Slot> old(slots);
    old.swap(slots_);
    shift_ = 64 - std::countr_zero(slots);
    for (const Slot& slot : old)
      if (slot.number >= 0) place(slot);
  }
  /// @brief How many texts are in.
  int32_t size() const noexcept { return size_; }

 private:
  struct Slot {
    uint64_t key = 0;
    int32_t number = -1;
  };
  static constexpr uint64_t long_text = uint64_t{0xFF} << 56;
  static uint64_t word(const char* text) noexcept {
    uint64_t value = 0;
    std::memcpy(&value, text, 8);
    return value;
  }
  // The bytes of a text of at most seven, without reading beyond it: pieces that overlap hold the same bytes there.
  static uint64_t short_word(const char* text, size_t size) noexcept {
    if (size >= 4) {
      uint32_t first = 0, last = 0;
      std::memcpy(&first, text, 4);
      std::memcpy(&last, text + size - 4, 4);
      return first | (static_cast<uint64_t>(last) << (8 * (size - 4)));
    }
    if (size == 0) return 0;
    const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(text[i])) << (8 * i); };
    return byte(0) | byte(size / 2) | byte(size - 1);
  }
  static uint64_t fold(uint64_t a, uint64_t b) noexcept {
    __extension__ typedef unsigned __int128 Wide;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  size_t start(uint64_t key_of_text) const noexcept { return static_cast<size_t>(fold(key_of_text ^ 0x8BB84B93962EACC9u, 0x9E3779B97F4A7C15u) >> shift_); }
  void place(const Slot& slot) noexcept {
    const size_t mask = slots_.size() - 1;
    size_t at = start(slot.key);
    while (slots_[at].number >= 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }

  std::vector<Slot> slots_;
  int shift_ = 64;
  int32_t size_ = 0;
};

/// @brief Distinct texts, numbered 0, 1, 2, … in the order of their first add(). All bytes lie in one piece of memory.
class Vocabulary {
 public:
  /// @brief The number of a text, or −1 where it is not there.
  int32_t find(std::string_view text) const noexcept {
    return index_.find(text, StringIndex::key(text), [this](int32_t number) { return this->text(number); });
  }
  /// @brief The number of a text, which is added if it is new.
  int32_t add(std::string_view text) {
    const uint64_t key = StringIndex::key(text);
    const int32_t present = index_.find(text, key, [this](int32_t number) { return this->text(number); });
    if (present >= 0) return present;
    index_.add(key);
    bytes_.append(text);
    ends_.push_back(bytes_.size());
    return index_.size() - 1;
  }
  /// @brief The text of a number in [0, size()). Valid until the next add().
  std::string_view text(int32_t number) const noexcept {
    const size_t at = static_cast<size_t>(number);
    const size_t begin = at == 0 ? 0 : ends_[at - 1];
    return {bytes_.data() + begin, ends_[at] - begin};
  }
  /// @brief How many distinct texts there are.
  int32_t size() const noexcept { return index_.size(); }

 private:
  StringIndex index_;
  std::string bytes_;
  std::vector<size_t> ends_;
};

}  // namespace htl
