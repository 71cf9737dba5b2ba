// SPDX-License-Identifier: Apache-2.0
/// @file seen_rows.hpp
/// @brief SeenRows: which rows of a log were read before, at 16 bytes a slot.
#pragma once

#include <htl/data/shuffle.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace htlnet {

/// @brief The texts of rows that were seen, as 128 bits each: two of a billion rows are taken for equal by mistake with a probability of 1e-21.
class SeenRows {
 public:
  /// @brief Whether a row is new.
  bool add(std::string_view text) {
    if (slots_.size() < 2 * (size_ + 1)) grow();
    return place(fingerprint(text));
  }

 private:
  using Print = std::pair<uint64_t, uint64_t>;
  Print fingerprint(std::string_view text) const {
    uint64_t low = text.size(), high = ~low;
    for (size_t i = 0; i < text.size(); i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, text.data() + i, std::min<size_t>(8, text.size() - i));
      low = mix_(low + word);
      high = mix_(high ^ (word * 0x9E3779B97F4A7C15u));
    }
    return {low, high | 1};  // never the empty slot
  }
  bool place(const Print& print) {
    size_t at = print.first & (slots_.size() - 1);
    for (; slots_[at].second != 0; at = (at + 1) & (slots_.size() - 1))
      if (slots_[at] == print) return false;
    slots_[at] = print;
    ++size_;
    return true;
  }
  void grow() {
    std::vector<Print> old(slots_.empty() ? 1024 : 2 * slots_.size());
    old.swap(slots_);
    size_ = 0;
    for (const Print& print : old)
      if (print.second != 0) place(print);
  }
  htl::CounterRandom mix_{0, 0};  // a bijection of 64 bits
  std::vector<Print> slots_;
  size_t size_ = 0;
};

}  // namespace htlnet
