// SPDX-License-Identifier: Apache-2.0
/// @file dense_rows.hpp
/// @brief The naive meaning of lookups and row gradients: matrices as wide as the table.
#pragma once

#include <htl/embedding/lookup.hpp>

#include <support/seeded.hpp>

#include <string>
#include <vector>

namespace htl::test {

/// @brief A lookup as the matrix A [B·F, R] of coefficients: values = A · weight. `trained` leaves frozen entries out.
struct DenseLookup {
  at::Tensor all;      ///< what is looked up
  at::Tensor trained;  ///< what gets a gradient
  int64_t fields = 0;  ///< F

  /// @brief [B, F·d], differentiable in the weight as LibTorch differentiates a matrix product.
  at::Tensor values(const at::Tensor& weight, int64_t rows) const {
    return (trained.mm(weight) + (all - trained).mm(weight.detach())).view({rows, fields * weight.size(1)});
  }
};

/// @brief Entry by entry, from the definition: bags leave the padding row out, as nn::EmbeddingBag does.
inline DenseLookup dense_lookup(const FieldBatch& batch, const std::vector<FieldRows>& fields, int64_t table_rows,
                                std::optional<int64_t> padding = std::nullopt, Pooling pooling = Pooling::sum, UnknownIds unknown = UnknownIds::error) {
  const auto count = static_cast<int64_t>(fields.size());
  const int64_t bags = batch.rows() * count;
  DenseLookup dense{at::zeros({bags, table_rows}, at::kDouble), at::zeros({bags, table_rows}, at::kDouble), count};
  auto all = dense.all.accessor<double, 2>(), trained = dense.trained.accessor<double, 2>();
  const at::Tensor flat = batch.ids.to(at::kLong).flatten(),
                   factors = batch.weights.defined() ? batch.weights.to(at::kDouble) : at::ones_like(flat, at::kDouble);
  const at::Tensor starts = batch.is_short() ? at::arange(bags + 1) : batch.offsets;
  const auto ids = flat.accessor<int64_t, 1>(), offsets = starts.accessor<int64_t, 1>();
  const auto weights = factors.accessor<double, 1>();
  for (int64_t bag = 0; bag < bags; ++bag) {
    const FieldRows& field = fields[static_cast<size_t>(bag % count)];
    const int64_t begin = offsets[bag], end = offsets[bag + 1];
    const auto id_of = [&](int64_t n) { return unknown == UnknownIds::map_to_zero && (ids[n] < 0 || ids[n] >= field.size) ? 0 : ids[n]; };
    const auto left_out = [&](int64_t n) { return !batch.is_short() && field.first_row + id_of(n) == padding.value_or(-1); };
    double sum = 0.0;
    for (int64_t n = begin; n < end; ++n)
      if (!left_out(n)) sum += weights[n];
    for (int64_t n = begin; n < end; ++n) {
      if (left_out(n)) continue;
      const int64_t id = id_of(n), row = field.first_row + id;
      const double coefficient = pooling == Pooling::mean && !batch.is_short() ? weights[n] / (sum != 0.0 ? sum : 1.0) : weights[n];
      all[bag][row] += coefficient;
      if (!(id == 0 && field.frozen_zero) && row != padding.value_or(-1)) trained[bag][row] += coefficient;
    }
  }
  return dense;
}

/// @brief Random ids of random bags (or one id a field), with many repetitions.
inline FieldBatch random_field_batch(Random& random, int64_t rows, const std::vector<FieldRows>& fields, at::ScalarType weight_type = at::kDouble) {
  const auto count = static_cast<int64_t>(fields.size());
  const at::ScalarType id_type = random.pick<at::ScalarType>({at::kInt, at::kLong});
  if (random.chance(0.5)) {
    at::Tensor ids = at::zeros({rows, count}, at::kLong);
    for (int64_t f = 0; f < count; ++f) ids.select(1, f).copy_(random.ids({rows}, fields[static_cast<size_t>(f)].size));
    return FieldBatch::of(ids.to(id_type));
  }
  std::vector<int64_t> ids, offsets = {0};
  for (int64_t bag = 0; bag < rows * count; ++bag) {
    for (int64_t n = random.integer(0, 3); n > 0; --n) ids.push_back(random.integer(0, fields[static_cast<size_t>(bag % count)].size - 1));
    offsets.push_back(static_cast<int64_t>(ids.size()));
  }
  const auto entries = static_cast<int64_t>(ids.size());
  return FieldBatch::bags(at::tensor(ids, at::kLong).to(id_type), at::tensor(offsets, at::kLong), count,
                          random.chance(0.6) ? random.uniform({entries}, 0.1, 2.0, weight_type) : at::Tensor());
}

/// @brief The table's row gradient as a dense [R, d] in fp64; fails where a row comes twice.
inline at::Tensor dense_gradient(const RowTable& table) {
  at::Tensor dense = at::zeros({table.rows(), table.dim()}, at::kDouble);
  const RowGradient& gradient = table.gradient();
  if (!gradient.defined()) return dense;
  const at::Tensor once = at::zeros({table.rows()}, at::kLong).index_add_(0, gradient.rows, at::ones_like(gradient.rows));
  EXPECT_TRUE(gradient.valid.defined() || once.le(1).all().item<bool>()) << "a row stands twice in the row gradient";
  return dense.index_add_(0, gradient.rows, gradient.values.to(at::kDouble));
}

/// @brief Sets LibTorch's thread count for a scope.
class Threads {
 public:
  /// @brief n threads until the end of the scope.
  explicit Threads(int count) : former_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(former_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int former_;
};

}  // namespace htl::test
