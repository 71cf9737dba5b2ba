// SPDX-License-Identifier: Apache-2.0
/// @file meta_operators.hpp
/// @brief What LibTorch has for the meta device in Python only: the shapes of some operators' results. One file of a program includes it.
#pragma once

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <torch/library.h>

#include <vector>

namespace htl::test::meta {

inline at::Tensor& logical(const at::Tensor& one, const at::Tensor& other, at::Tensor& out) {
  out.resize_(at::infer_size(one.sizes(), other.sizes()));
  return out;
}
inline at::Tensor& same(const at::Tensor& of, at::Tensor& out) { return logical(of, of, out); }
inline at::Tensor where(const at::Tensor& condition, const at::Tensor& yes, const at::Tensor& no) {
  const std::vector<int64_t> sizes = at::infer_size(at::infer_size(condition.sizes(), yes.sizes()), no.sizes());
  return at::empty(sizes, at::TensorOptions().dtype(at::result_type(yes, no)).device(at::kMeta));
}

TORCH_LIBRARY_IMPL(aten, Meta, library) {
  library.impl("logical_and.out", &logical);
  library.impl("logical_or.out", &logical);
  library.impl("logical_not.out", &same);
  library.impl("abs.out", &same);
  library.impl("where.self", &where);
}

}  // namespace htl::test::meta
