// SPDX-License-Identifier: Apache-2.0
/// @file built_in_transforms.hpp
/// @brief built_in_transforms: the registry of the library's own label transforms; label_transform: one of them by name.
///
/// Not in the umbrella: one that chooses transforms by name includes it.
#pragma once

#include <htl/task/box_cox.hpp>
#include <htl/task/chained_transform.hpp>
#include <htl/task/clipped_transform.hpp>
#include <htl/task/grouped_transform.hpp>
#include <htl/task/min_max.hpp>
#include <htl/task/registry.hpp>
#include <htl/task/smeared_transform.hpp>

namespace htl::inline v0_1_0 {

/// @brief Label transforms by name; see Registry.
class TransformRegistry : public Registry<AnyLabelTransform> {
 public:
  /// @brief An empty one; built_in_transforms() has the library's own.
  TransformRegistry() : Registry("htl::label_transform", "transform", "a transform") {}
};

/// @brief All label transforms of the library by name, unfitted. A new registry: add your own to it.
///
/// | name | transform | options |
/// |---|---|---|
/// | `none` | IdentityTransform | |
/// | `z_score` | ZScoreTransform | |
/// | `log1p` | Log1pTransform | |
/// | `min_max` | MinMaxTransform | |
/// | `box_cox` | BoxCoxTransform | `shift`, `lambda`: fitted if not given |
/// | `quantile` | QuantileTransform | `points`, `normal` |
/// | `chained` | ChainedTransform | `first`, `second`: transforms |
/// | `clipped` | ClippedTransform | `inner`: a transform; `upper`, `lower`: levels |
/// | `grouped` | GroupedTransform | `inner`: a transform; `column`, `buckets` or `edges`, `min_rows` |
/// | `smeared` | SmearedTransform | `inner`: a transform |
///
/// The options of an inner transform follow it by a dot: `chained:first=log1p,second=z_score`, `grouped:inner=quantile,inner.points=101,column=duration`.
inline TransformRegistry built_in_transforms() {
  using Reader = SpecReader<AnyLabelTransform>;
  TransformRegistry registry;
  registry.add("none", [](OptionReader&) { return no_transform(); });
  registry.add("z_score", [](OptionReader&) { return z_score(); });
  registry.add("log1p", [](OptionReader&) { return log1p(); });
  registry.add("min_max", [](OptionReader&) { return min_max(); });
  registry.add("box_cox", [](OptionReader& options) {
    BoxCoxTransform transform{.shift = options.number("shift", BoxCoxTransform{}.shift)};
    if (options.has("lambda")) transform.given = options.number("lambda", 1.0);
    return transform;
  });
  registry.add("quantile", [](OptionReader& options) {
    return QuantileTransform{.points = options.integer("points", QuantileTransform{}.points, {.low = 2.0}), .normal = options.flag("normal", false)};
  });
  registry.add("chained", [](Reader& options) { return ChainedTransform{options.wrapped("first"), options.wrapped("second")}; });
  registry.add("clipped", [](Reader& options) {
    const double upper = options.number("upper", ClippedTransform{}.upper, detail::kRate), lower = options.number("lower", 0.0, detail::kDecay);
    options.check(lower < upper, "expects lower < upper");
    return ClippedTransform{.upper = upper, .lower = lower, .inner = options.wrapped("inner")};
  });
  registry.add("grouped", [](Reader& options) {
    GroupedTransform transform{.column = options.word("column", "a column's name")};
    transform.given = options.numbers("edges", std::vector<double>{});
    options.check(std::is_sorted(transform.given.begin(), transform.given.end()), "expects edges in ascending order");
    options.check(transform.given.empty() || !options.has("buckets"), "expects edges or a number of buckets, got both");
    transform.buckets = options.integer("buckets", transform.buckets, {.low = 1.0});
    transform.min_rows = options.integer("min_rows", transform.min_rows, {.low = 1.0});
    transform.inner = options.wrapped("inner");
    return transform;
  });
  registry.add("smeared", [](Reader& options) { return SmearedTransform{options.wrapped("inner")}; });
  return registry;
}

/// @brief One of the library's transforms by its name and options, unfitted.
/// @throws c10::ValueError for an unknown transform or option, naming the nearest, and for a missing or wrong option
inline AnyLabelTransform label_transform(std::string_view name, const Options& options = {}) { return built_in_transforms().make(name, options); }

}  // namespace htl
