// SPDX-License-Identifier: Apache-2.0
/// @file chunks.hpp
/// @brief Chunks: a sequence that grows without ever holding two copies of itself.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

namespace htlnet {

/// @brief Values in pieces of fixed size; a vector would need up to three times the memory while it grows.
/// @tparam T a number type with a tensor type
template <class T>
class Chunks {
 public:
  /// @brief Appends a value.
  void push_back(T value) {
    if (size_ % chunk == 0) pieces_.push_back(std::make_unique_for_overwrite<T[]>(chunk));
    pieces_.back()[size_++ % chunk] = value;
  }
  /// @brief How many there are.
  size_t size() const { return size_; }
  /// @brief One of them.
  T operator[](size_t at) const { return pieces_[at / chunk][at % chunk]; }
  /// @brief All of them as a tensor [size()]; each piece is freed once copied, and nothing is left.
  at::Tensor to_tensor() {
    at::Tensor result = at::empty({static_cast<int64_t>(size_)}, c10::CppTypeToScalarType<T>::value);
    T* to = result.mutable_data_ptr<T>();
    size_t left = size_;
    for (auto& piece : pieces_) {
      const size_t count = std::min(left, chunk);
      to = std::copy_n(piece.get(), count, to);
      left -= count;
      piece.reset();
    }
    pieces_.clear();
    size_ = 0;
    return result;
  }

 private:
  static constexpr size_t chunk = size_t{1} << 18;
  std::vector<std::unique_ptr<T[]>> pieces_;
  size_t size_ = 0;
};

}  // namespace htlnet
