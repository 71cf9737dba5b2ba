// SPDX-License-Identifier: Apache-2.0
/// @file mixture.hpp
/// @brief Mixture: an information fusion unit and the columns of the first layer that read it, folded into few small matrices.
#pragma once

#include <htl/serve/detail/loops.hpp>
#include <htl/transfer/information_fusion.hpp>

#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief What a mixture needs beside its sources, for as many rows as its buffers have.
struct MixtureBuffers {
  at::Tensor image, mixed;  ///< [n, D] for the widest source
  at::Tensor weights;       ///< [n, J]
  at::Tensor terms;         ///< [n, Σ D_j] of the sources that end as few terms
};

/// @brief y += Σ_j w_j(x) x_j M_j for sources x_j [n, D_j]: fusion, its value map and a first layer's columns in one.
///
/// A fusion unit computes u_j = x_j B_j (B_j = the label embedding's rows; for representations the identity), w, and h1 of Σ_j w_j u_j; the layer then applies
/// W. Folded: M_j = B_j Vᵀ Wᵀ with the value map V; attention scores x_j F_j x_jᵀ + x_j·l_j, F_j = B_j (QᵀK + KᵀQ)/(2√O) B_jᵀ,
/// l_j = B_j (Qᵀb_K + Kᵀb_Q)/√O (what all sources share cancels in the softmax); gate scores Σ_j x_j B_j G_jᵀ + c. All products in fp64.
class Mixture {
 public:
  /// @brief Nothing flows.
  Mixture() = default;

  /// @brief Folds a unit.
  /// @param unit the fusion unit
  /// @param bases B_j [D_j, E]; empty for the identity
  /// @param layer W [H, O], the first layer's columns that read the unit
  /// @param type of the folded matrices
  Mixture(InformationFusion& unit, const std::vector<at::Tensor>& bases, const at::Tensor& layer, at::ScalarType type) {
    const InformationFusionOptions& options = unit->options;
    const size_t count = options.sources().size();
    const auto parameters = unit->named_parameters();
    const auto exact = [&](const std::string& name) { return parameters[name].detach().to(at::kDouble); };
    const bool is_equal = std::all_of(options.sources().begin(), options.sources().end(), [&](int64_t width) { return width == options.sources()[0]; });
    const bool is_concat = options.kind() == FusionKind::concat, has_own_columns = count > 1 && (is_concat || !is_equal);
    kind_ = count == 1 ? FusionKind::concat : options.kind();
    const auto fold = [&](const at::Tensor& matrix, size_t j) { return bases.empty() ? matrix : bases[j].to(at::kDouble).mm(matrix); };
    const auto kept = [&](const at::Tensor& matrix) { return matrix.to(type).contiguous(); };

    const at::Tensor wide = layer.to(at::kDouble), value = exact("value.weight");
    shift = wide.mv(exact("value.bias"));
    int64_t column = 0, gate_column = 0;
    for (size_t j = 0; j < count; ++j) {
      const int64_t width = options.sources()[j];
      const auto own = [&](const at::Tensor& matrix) { return matrix.narrow(1, has_own_columns ? column : 0, width); };
      if (j == 0 || has_own_columns || !bases.empty()) maps_.push_back(kept(fold(own(value).t(), j).mm(wide.t())));
      if (kind_ == FusionKind::attention) {
        const at::Tensor query = own(exact("query.weight")), key = own(exact("key.weight")), half = query.t().mm(key);
        const double scale = 1.0 / std::sqrt(static_cast<double>(options.outputs()));
        const at::Tensor form = fold((half + half.t()) * (0.5 * scale), j);
        forms_.push_back(kept(bases.empty() ? form : form.mm(bases[j].to(at::kDouble).t())));
        lines_.push_back(kept(fold((query.t().mv(exact("key.bias")) + key.t().mv(exact("query.bias"))).unsqueeze(1) * scale, j).squeeze(1)));
      } else if (kind_ == FusionKind::gate) {
        gates_.push_back(kept(fold(exact("gate.weight").narrow(1, gate_column, width).t(), j).t()));
        gate_column += width;
      }
      column += width;
    }
    if (kind_ == FusionKind::gate) gate_shift_ = kept(exact("gate.bias"));
    if (!bases.empty() && column_count() <= few) few_rows_ = at::cat(maps_);
  }

  /// @brief Whether something flows.
  bool is_empty() const { return maps_.empty(); }

  /// @brief Adds the mixture of the sources to y [n, H].
  void add_to(at::Tensor& y, const std::vector<at::Tensor>& sources, const MixtureBuffers& buffers) const {
    if (y.scalar_type() == at::kDouble) {
      add_rows<double>(y, sources, buffers);
    } else {
      add_rows<float>(y, sources, buffers);
    }
  }

  /// @brief [Σ D_j, H] all M_j if the sources are label weights and few; then the mixture is terms() times it. Undefined otherwise.
  const at::Tensor& few_rows() const { return few_rows_; }
  /// @brief The factors [n, Σ D_j] of few_rows(), w_j(x) x_j.
  const at::Tensor& terms(const std::vector<at::Tensor>& sources, const MixtureBuffers& buffers) const {
    if (few_rows_.scalar_type() == at::kDouble) {
      write_terms<double>(sources, buffers);
    } else {
      write_terms<float>(sources, buffers);
    }
    return buffers.terms;
  }
  /// Σ D_j up to which few_rows() is made.
  static constexpr int64_t few = 16;

  /// [H] fp64: what is the same in every row, W h1's bias.
  at::Tensor shift;

 private:
  int64_t column_count() const {
    int64_t columns = 0;
    for (const at::Tensor& map : maps_) columns += map.size(0);
    return columns;
  }

  template <class Scalar>
  void write_terms(const std::vector<at::Tensor>& sources, const MixtureBuffers& buffers) const {
    const bool is_weighted = kind_ != FusionKind::concat;
    if (is_weighted) write_weights<Scalar>(sources, buffers);
    const RowsOf<Scalar> weights(buffers.weights), to(buffers.terms);
    const int64_t rows = sources[0].size(0);
    int64_t column = 0;
    for (size_t j = 0; j < sources.size(); ++j) {
      const RowsOf<Scalar> from(sources[j]);
      for (int64_t row = 0; row < rows; ++row) {
        const Scalar weight = is_weighted ? weights[row][j] : Scalar(1);
        for (int64_t k = 0; k < from.width; ++k) to[row][column + k] = weight * from[row][k];
      }
      column += from.width;
    }
  }
  template <class Scalar>
  void add_rows(at::Tensor& y, const std::vector<at::Tensor>& sources, const MixtureBuffers& buffers) const {
    const bool is_weighted = kind_ != FusionKind::concat;
    if (is_weighted) write_weights<Scalar>(sources, buffers);
    const RowsOf<Scalar> weights(buffers.weights);
    const int64_t rows = y.size(0);
    if (maps_.size() < sources.size()) {  // one map for all: mix first
      at::Tensor mixed = first_columns(buffers.mixed, sources[0].size(1));
      const RowsOf<Scalar> to(mixed), base(sources[0]);
      for (size_t j = 1; j < sources.size(); ++j) {
        const RowsOf<Scalar> from(sources[j]);
        for (int64_t row = 0; row < rows; ++row) {
          if (j == 1) {
            set_sum(to[row], weights[row][0], base[row], weights[row][1], from[row], from.width);
          } else {
            add_scaled(to[row], weights[row][j], from[row], from.width);
          }
        }
      }
      at::addmm_out(y, y, mixed, maps_[0]);
      return;
    }
    for (size_t j = 0; j < sources.size(); ++j) {
      if (!is_weighted) {
        at::addmm_out(y, y, sources[j], maps_[j]);
        continue;
      }
      const RowsOf<Scalar> from(sources[j]);
      at::Tensor scaled = first_columns(buffers.mixed, from.width);
      const RowsOf<Scalar> to(scaled);
      for (int64_t row = 0; row < rows; ++row) set_scaled(to[row], weights[row][j], from[row], from.width);
      at::addmm_out(y, y, scaled, maps_[j]);
    }
  }

  template <class Scalar>
  void write_weights(const std::vector<at::Tensor>& sources, const MixtureBuffers& buffers) const {
    const RowsOf<Scalar> weights(buffers.weights);
    const auto count = static_cast<int64_t>(sources.size());
    const int64_t rows = sources[0].size(0);
    for (int64_t j = 0; j < count; ++j) {
      const auto slot = static_cast<size_t>(j);
      const RowsOf<Scalar> x(sources[slot]);
      if (kind_ == FusionKind::mean) {
        for (int64_t row = 0; row < rows; ++row) weights[row][j] = Scalar(1) / static_cast<Scalar>(count);
      } else if (kind_ == FusionKind::attention && maps_.size() < sources.size()) {
        if (j == 0) {
          for (int64_t row = 0; row < rows; ++row) weights[row][0] = 0;
        } else {
          write_difference<Scalar>(sources[0], sources[slot], buffers, j);
        }
      } else if (kind_ == FusionKind::attention) {
        const Scalar* const line = lines_[slot].template const_data_ptr<Scalar>();
        const RowsOf<Scalar> form(forms_[slot]);
        if (x.width <= few) {
          for (int64_t row = 0; row < rows; ++row) weights[row][j] = small_score(x[row], form, line);
          continue;
        }
        at::Tensor image = first_columns(buffers.image, x.width);
        at::mm_out(image, sources[slot], forms_[slot]);
        const RowsOf<Scalar> seen(image);
        for (int64_t row = 0; row < rows; ++row) weights[row][j] = dot(x[row], seen[row], x.width) + dot(x[row], line, x.width);
      } else {
        const RowsOf<Scalar> gate(gates_[slot]);
        const Scalar* const start = gate_shift_.const_data_ptr<Scalar>();
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t i = 0; i < count; ++i) weights[row][i] = (j == 0 ? start[i] : weights[row][i]) + dot(x[row], gate[i], x.width);
      }
    }
    if (kind_ == FusionKind::mean) return;
    for (int64_t row = 0; row < rows; ++row) {
      Scalar* const w = weights[row];
      const Scalar largest = *std::max_element(w, w + count);
      Scalar total = 0;
      for (int64_t j = 0; j < count; ++j) total += w[j] = std::exp(w[j] - largest);
      for (int64_t j = 0; j < count; ++j) w[j] /= total;
    }
  }

  /// What source j scores above the first, where both have one form F and line l: uFu − vFv + l·(u − v) = (u − v)·(F(u + v) + l), one product instead of two.
  template <class Scalar>
  void write_difference(const at::Tensor& first, const at::Tensor& other, const MixtureBuffers& buffers, int64_t j) const {
    const RowsOf<Scalar> v(first), u(other), weights(buffers.weights);
    at::Tensor sum = first_columns(buffers.mixed, u.width), image = first_columns(buffers.image, u.width);
    const RowsOf<Scalar> both(sum), seen(image);
    const Scalar* const line = lines_[0].template const_data_ptr<Scalar>();
    for (int64_t row = 0; row < first.size(0); ++row) set_sum(both[row], Scalar(1), u[row], Scalar(1), v[row], u.width);
    at::mm_out(image, sum, forms_[0]);
    for (int64_t row = 0; row < first.size(0); ++row) weights[row][j] = dot_of_difference(u[row], v[row], seen[row], line, u.width);
  }

  /// x·(F x + l) of a short row.
  template <class Scalar>
  static Scalar small_score(const Scalar* x, const RowsOf<Scalar>& form, const Scalar* line) {
    Scalar score = 0;
    for (int64_t k = 0; k < form.width; ++k) {
      Scalar seen = line[k];
      for (int64_t i = 0; i < form.width; ++i) seen += form[k][i] * x[i];
      score += x[k] * seen;
    }
    return score;
  }

  static at::Tensor first_columns(const at::Tensor& buffer, int64_t width) { return buffer.narrow(1, 0, width); }

  FusionKind kind_ = FusionKind::concat;   // concat: every weight is 1
  std::vector<at::Tensor> maps_;           // M_j [D_j, H], or one for all
  std::vector<at::Tensor> forms_, lines_;  // [D_j, D_j], [D_j]
  std::vector<at::Tensor> gates_;          // [J, D_j]
  at::Tensor gate_shift_, few_rows_;       // [J], [Σ D_j, H]
};

}  // namespace htl::detail
