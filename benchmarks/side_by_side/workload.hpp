// SPDX-License-Identifier: Apache-2.0
/// @file workload.hpp
/// @brief What programs of this folder share: rows of KuaiRand's shape, bare matrix products, the median.
#pragma once

#include <htl/data/table_data.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace side_by_side {

struct Vocabulary {
  std::vector<int64_t> field_sizes;
  std::vector<int64_t> sizes() const { return field_sizes; }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (size_t f = 0; f < field_sizes.size(); ++f) result.push_back("field" + std::to_string(f));
    return result;
  }
};

/// 43 fields: three quarters of the rows are users, a fifth items, the rest 41 fields of a few to a few hundred values.
inline Vocabulary kuairand_shape(int64_t rows) {
  Vocabulary vocabulary{{rows * 3 / 4, rows / 5}};
  const std::vector<int64_t> small = {2, 3, 3, 7, 8, 8, 9, 24, 2, 7, 50, 100, 340, 7, 2, 3, 5, 32, 32, 32};
  for (size_t f = 0; f < 41; ++f) vocabulary.field_sizes.push_back(small[f % small.size()]);
  return vocabulary;
}

/// @param others how many more labels like a click, "more0", …
inline htl::TableData random_rows(const Vocabulary& vocabulary, int64_t count, int64_t others = 0) {
  std::vector<at::Tensor> columns;
  for (const int64_t size : vocabulary.field_sizes) {
    const at::Tensor skewed = (at::rand({count}).pow(size > 1000 ? 2.0 : 1.0) * static_cast<double>(size)).to(at::kInt);
    columns.push_back(skewed.clamp_max(size - 1));
  }
  const at::Tensor click = (at::rand({count}) < 0.44).to(at::kFloat), view = click * (at::rand({count}) < 0.7).to(at::kFloat);
  htl::Labels labels;
  for (int64_t t = 0; t < others; ++t) labels.set("more" + std::to_string(t), {(at::rand({count}) < 0.3).to(at::kFloat)});
  labels.set("click", {click}).set("long_view", {view}).set("watch_time", {click * at::randn({count}).exp() * 30.0});
  return htl::TableData({htl::FieldBatch::of(at::stack(columns, 1).contiguous()), {}, labels});
}

/// Matrix products of a step, forward and backward, and nothing else.
class Products {
 public:
  /// A layer's: its output, its weight's gradient, and its input's where one is wanted.
  void add(int64_t rows, int64_t in, int64_t out, bool input_gradient) {
    products_.push_back({at::randn({rows, in}), at::randn({out, in}), at::empty({rows, out}), at::empty({out, in}), at::empty({rows, in}), input_gradient});
    flop_ += static_cast<double>(rows * in * out) * (input_gradient ? 6.0 : 4.0);
  }
  void run() {
    for (Product& p : products_) {
      at::mm_out(p.y, p.x, p.w.t());
      at::mm_out(p.dw, p.y.t(), p.x);
      if (p.input_gradient) at::mm_out(p.dx, p.y, p.w);
    }
  }
  double flop() const { return flop_; }

 private:
  struct Product {
    at::Tensor x, w, y, dw, dx;
    bool input_gradient;
  };
  std::vector<Product> products_;
  double flop_ = 0.0;
};

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace side_by_side
