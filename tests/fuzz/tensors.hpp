// SPDX-License-Identifier: Apache-2.0
/// @file tensors.hpp
/// @brief Named tensors compared bit by bit, without an operator of LibTorch.
#pragma once

#include <htl/io/safetensors.hpp>

#include <cstring>

namespace htl::fuzz {

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.nbytes() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}
inline bool same_content(const TensorFile& a, const TensorFile& b) {
  if (a.tensors.size() != b.tensors.size() || a.metadata.size() != b.metadata.size()) return false;
  for (const auto& [name, tensor] : a.tensors) {
    const at::Tensor* const other = b.tensors.find(name);
    if (other == nullptr || !same_bits(tensor, *other)) return false;
  }
  for (const auto& [key, text] : a.metadata) {
    const std::string* const other = b.metadata.find(key);
    if (other == nullptr || *other != text) return false;
  }
  return true;
}

}  // namespace htl::fuzz
