// SPDX-License-Identifier: Apache-2.0
/// @file loss_by_name.hpp
/// @brief loss_by_name: losses as configuration files name them.
#pragma once

#include <htl/loss/binary_cross_entropy.hpp>
#include <htl/loss/huber.hpp>
#include <htl/loss/softmax_cross_entropy.hpp>
#include <htl/loss/squared_error.hpp>

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief A loss by its name and parameters: "binary_cross_entropy", "softmax_cross_entropy" (classes), "squared", "huber" (delta, 1 if not given).
///
///     tasks = {htl::regression("watch_time").loss(htl::loss_by_name("huber", htl::Named<double>().set("delta", 0.5)))};
///
/// @param name a loss's name()
/// @param parameters its numbers by name
/// @throws c10::ValueError for an unknown loss or parameter, naming the nearest, and for a missing or wrong parameter
inline AnyLoss loss_by_name(std::string_view name, const Named<double>& parameters = {}) {
  const auto expect = [&](const std::vector<std::string>& known) {
    for (const auto& [key, value] : parameters) {
      const bool takes = std::find(known.begin(), known.end(), key) != known.end();
      HTL_CHECK(takes || !known.empty(), "htl::loss_by_name: loss \"", name, "\" takes no parameters, got \"", key, "\"");
      HTL_CHECK(takes, "htl::loss_by_name: loss \"", name, "\" has no parameter \"", key, "\"; did you mean \"", nearest(key, known), "\"?");
    }
  };
  if (name == "binary_cross_entropy") {
    expect({});
    return BinaryCrossEntropy{};
  }
  if (name == "squared") {
    expect({});
    return SquaredError{};
  }
  if (name == "huber") {
    expect({"delta"});
    const double* const delta = parameters.find("delta");
    return Huber(delta ? *delta : 1.0);
  }
  if (name == "softmax_cross_entropy") {
    expect({"classes"});
    const double* const classes = parameters.find("classes");
    HTL_CHECK(classes, "htl::loss_by_name: loss \"softmax_cross_entropy\" expects the parameter \"classes\", got none");
    HTL_CHECK(*classes >= 2.0 && *classes <= 0x1p53 && std::floor(*classes) == *classes,
              "htl::loss_by_name: loss \"softmax_cross_entropy\" expects a whole number of classes ≥ 2, got ", *classes);
    return SoftmaxCrossEntropy(static_cast<int64_t>(*classes));
  }
  const std::vector<std::string> names = {"binary_cross_entropy", "softmax_cross_entropy", "squared", "huber"};
  HTL_CHECK(false, "htl::loss_by_name: unknown loss \"", name, "\"; did you mean \"", nearest(name, names), "\"? Known: ", quoted(names));
}

}  // namespace htl
