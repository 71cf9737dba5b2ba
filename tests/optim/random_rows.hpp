// SPDX-License-Identifier: Apache-2.0
/// @file random_rows.hpp
/// @brief Row gradients made by hand, and small helpers of the optimizer tests.
#pragma once

#include <htl/embedding/row_table.hpp>
#include <support/seeded.hpp>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <map>
#include <string>
#include <vector>

namespace htl::test {

/// @brief Random cases with row gradients.
class Draws : public Random {
 public:
  using Random::Random;
  /// Normal numbers of an element type.
  at::Tensor normal(at::IntArrayRef sizes, at::ScalarType type) { return Random::normal(sizes, 1, type); }
  /// Some distinct rows in random order.
  at::Tensor rows(int64_t of, int64_t count) { return permutation(of).narrow(0, 0, count).clone(); }

  /// Gives a table a gradient on some random rows and returns it as a dense tensor in fp64.
  at::Tensor touch(const RowTable& table, int64_t count, double scale = 1) {
    RowGradient& gradient = table.gradient();
    gradient.rows = rows(table.rows(), count);
    gradient.values = normal({count, table.dim()}, at::kDouble).mul_(scale).to(table.weight().scalar_type());
    return dense(table);
  }
  /// A table's row gradient as a dense tensor in fp64.
  static at::Tensor dense(const RowTable& table) {
    at::Tensor all = at::zeros({table.rows(), table.dim()}, at::kDouble);
    if (table.gradient().defined()) all.index_copy_(0, table.gradient().rows, table.gradient().values.to(at::kDouble));
    return all;
  }
};

/// @brief Copies of all state tensors by name.
template <class Owner>
std::map<std::string, at::Tensor> state_of(Owner& owner) {
  std::map<std::string, at::Tensor> state;
  owner.fields([&](const char* name, at::Tensor& tensor) { state[name] = tensor.clone(); });
  return state;
}
/// @brief Loads what state_of() saved.
template <class Owner>
void load_state(Owner& owner, const std::map<std::string, at::Tensor>& state) {
  owner.fields([&](const char* name, at::Tensor& tensor) { tensor = state.at(name).clone(); });
}

/// @brief The largest |a − b| / max(1, |b|).
inline double difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  return x.numel() == 0 ? 0 : ((x - y).abs() / y.abs().clamp_min(1)).max().item<double>();
}

/// @brief Sets the number of threads for a scope.
struct Threads {
  explicit Threads(int count) : before(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before); }
  int before;
};

}  // namespace htl::test
