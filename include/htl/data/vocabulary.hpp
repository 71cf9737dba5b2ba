// SPDX-License-Identifier: Apache-2.0
/// @file vocabulary.hpp
/// @brief Vocabulary: distinct texts numbered in the order in which they came; StringIndex: the hash table beneath it.
#pragma once

#include <htl/task/check.hpp>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace htl {

/// @brief Open-addressing index from texts to the numbers 0, 1, 2, …; the texts themselves stay with the caller.
///
/// Linear probing at load ≤ 1/2; 8 bytes a slot (32 bits of hash, 32 bits of number), so that growing needs no text.
class StringIndex {
 public:
  /// @brief A 32-bit hash of a text; the same on every machine of the same byte order.
  static uint32_t hash(std::string_view text) noexcept {
    const char* at = text.data();
    size_t left = text.size();
    uint64_t state = 0x9E3779B97F4A7C15u ^ (static_cast<uint64_t>(left) * 0xD6E8FEB86659FD93u);
    for (; left >= 8; at += 8, left -= 8) {
      uint64_t word = 0;
      std::memcpy(&word, at, 8);
      state = fold(state ^ word, 0xA0761D6478BD642Fu);
    }
    uint64_t tail = 0;
    if (left >= 4) {
      uint32_t low = 0, high = 0;
      std::memcpy(&low, at, 4);
      std::memcpy(&high, at + left - 4, 4);
      tail = (static_cast<uint64_t>(high) << 32) | low;
    } else if (left > 0) {
      const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(at[i])); };
      tail = byte(0) | (byte(left / 2) << 8) | (byte(left - 1) << 16);
    }
    return static_cast<uint32_t>(fold(state ^ tail, 0xE7037ED1A0B428DBu) >> 32);
  }

  /// @brief The number of a text, or −1.
  /// @param text what is looked for
  /// @param hash_of_text hash(text)
  /// @param text_of the text of a number
  template <class TextOf>
  int32_t find(std::string_view text, uint32_t hash_of_text, const TextOf& text_of) const noexcept {
    if (slots_.empty()) return -1;
    const size_t mask = slots_.size() - 1;
    for (size_t at = hash_of_text >> shift_;; at = (at + 1) & mask) {
      const uint64_t slot = slots_[at];
      if (slot == 0) return -1;
      if (static_cast<uint32_t>(slot >> 32) != hash_of_text) continue;
      const int32_t number = static_cast<int32_t>(static_cast<uint32_t>(slot) - 1);
      if (std::string_view(text_of(number)) == text) return number;
    }
  }

  /// @brief Adds the next number, size(), for a text that is not there yet.
  void add(uint32_t hash_of_text) {
    if (slots_.size() < 2 * (static_cast<size_t>(size_) + 1)) grow(slots_.empty() ? 16 : 2 * slots_.size());
    place((static_cast<uint64_t>(hash_of_text) << 32) | (static_cast<uint32_t>(size_) + 1));
    ++size_;
  }
  /// @brief Makes room for so many texts at once.
  void reserve(size_t count) {
    size_t slots = 16;
    while (slots < 2 * count) slots *= 2;
    if (slots > slots_.size()) grow(slots);
  }
  /// @brief How many texts are in.
  int32_t size() const noexcept { return size_; }

 private:
  static uint64_t fold(uint64_t a, uint64_t b) noexcept {
    __extension__ typedef unsigned __int128 Wide;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  void place(uint64_t slot) noexcept {
    const size_t mask = slots_.size() - 1;
    size_t at = static_cast<uint32_t>(slot >> 32) >> shift_;
    while (slots_[at] != 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
  void grow(size_t slots) {
    HTL_CHECK(slots <= (size_t{1} << 32), "htl::StringIndex: expected at most 2^31 distinct texts; pool rare values before they come here");
    std::vector<uint64_t> old(slots, 0);
    old.swap(slots_);
    shift_ = 32;
    for (size_t n = slots; n > 1; n /= 2) --shift_;
    for (const uint64_t slot : old)
      if (slot != 0) place(slot);
  }

  std::vector<uint64_t> slots_;
  int shift_ = 32;
  int32_t size_ = 0;
};

/// @brief Distinct texts, numbered 0, 1, 2, … in the order of their first add(). All bytes lie in one piece of memory.
class Vocabulary {
 public:
  /// @brief The number of a text, or −1 where it is not there.
  int32_t find(std::string_view text) const noexcept {
    return index_.find(text, StringIndex::hash(text), [this](int32_t number) { return this->text(number); });
  }
  /// @brief The number of a text, which is added if it is new.
  int32_t add(std::string_view text) {
    const uint32_t hash = StringIndex::hash(text);
    const int32_t present = index_.find(text, hash, [this](int32_t number) { return this->text(number); });
    if (present >= 0) return present;
    index_.add(hash);
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
