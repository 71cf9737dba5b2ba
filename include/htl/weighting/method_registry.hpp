// SPDX-License-Identifier: Apache-2.0
/// @file method_registry.hpp
/// @brief MethodRegistry: gradient methods by name.
/// Not in the umbrella: it belongs to methods by name, built_in_methods.hpp.
#pragma once

#include <htl/weighting/option_reader.hpp>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What happens to a name that is there already.
enum class NameTaken {
  refuse,  ///< a sentence
  replace  ///< the new one takes its place
};

/// @brief Gradient methods by name, with factories that read their options. A value: nothing global, a copy is independent.
///
///     htl::MethodRegistry methods = htl::built_in_methods();
///     methods.add("mine", [](htl::OptionReader& options) { return htl::AnyWeighting(Mine{.c = options.number("c", 0.4)}); });
///     htl::AnyWeighting method = methods.make("mine", {{"c", 0.5}});
///     method = methods.make(htl::parse_method("cagrad:c=0.4,rescale=1"));
class MethodRegistry {
 public:
  /// @brief Makes a method from its options.
  using Factory = std::function<AnyWeighting(OptionReader&)>;

  /// @brief Adds a method.
  /// @param name without ":", "=", "," and blanks, so that a command line can name it
  /// @param factory reads its options, each by name
  /// @param taken what to do if the name is there
  /// @throws c10::ValueError for a name that is there, or that a command line can't write
  MethodRegistry& add(std::string name, Factory factory, NameTaken taken = NameTaken::refuse) {
    HTL_CHECK(!name.empty() && name.find_first_of(":=,; \t\n") == std::string::npos,
              "htl::MethodRegistry: expected a name without \":\", \"=\", \",\", \";\" and "
              "blanks, got \"",
              name, "\"");
    HTL_CHECK(taken == NameTaken::replace || !factories_.contains(name), "htl::MethodRegistry: there is a method \"", name,
              "\" already; take another name, or give NameTaken::replace");
    factories_.set(std::move(name), std::move(factory));
    return *this;
  }
  /// @brief A method by its name and options; it is called by that name.
  /// @throws c10::ValueError for an unknown name or option, naming the nearest, and for a value of the wrong type or out of its range
  AnyWeighting make(std::string_view name, const MethodOptions& options = {}) const {
    const Factory* const factory = factories_.find(name);
    HTL_CHECK(factory, "htl::MethodRegistry: unknown weighting \"", name, "\"; did you mean \"", nearest(name, names()), "\"? Known: ", quoted(names()));
    OptionReader reader(std::string(name), options, [this](const MethodSpec& inner) { return make(inner); });
    const AnyWeighting method = (*factory)(reader);
    reader.finish();
    return method.named(std::string(name));
  }
  /// @brief The same for a parsed method.
  AnyWeighting make(const MethodSpec& method) const { return make(method.name, method.options); }
  /// @brief Whether there is a method of that name.
  bool contains(std::string_view name) const { return factories_.contains(name); }
  /// @brief All names, in the order in which they were added.
  std::vector<std::string> names() const { return factories_.names(); }

 private:
  Named<Factory> factories_;
};

}  // namespace htl
