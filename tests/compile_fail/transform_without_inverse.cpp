// SPDX-License-Identifier: Apache-2.0
// A label transform without its inverse could not give predictions in the label's unit.
// expect: LabelTransform
// expect: transform\.inverse\(values\)
#include <htl/task/task.hpp>

struct MyTransform {
  std::string name() const { return "mine"; }
  MyTransform fitted(const at::Tensor&) const { return *this; }
  bool is_fitted() const { return true; }
  at::Tensor apply(const at::Tensor& values) const { return values; }
  htl::Options statistics() const { return {}; }
  MyTransform with_statistics(const htl::Options&) const { return *this; }
};

auto task = htl::regression("watch_time").transform(MyTransform{});
