// SPDX-License-Identifier: Apache-2.0
/// @file registry.hpp
/// @brief Registry: methods, losses, transforms or balancers by name.
/// Not in the umbrella: a translation unit that makes things by name includes it with the list of them.
#pragma once

#include <htl/task/option_reader.hpp>
#include <htl/task/spec_text.hpp>

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

/// @brief The options of something that a registry makes; what it wraps is made by the same registry.
template <class Made>
class SpecReader : public OptionReader {
 public:
  /// @brief For Registry.
  SpecReader(std::string who, std::string noun, const Options& options, std::function<Made(const Spec&)> make)
      : OptionReader(std::move(who), options), noun_(std::move(noun)), make_(std::move(make)) {}
  /// @brief What this one wraps; it must be given, as a name or with options of its own.
  Made wrapped(std::string_view name) { return make_(spec(name, noun_)); }

 private:
  std::string noun_;
  std::function<Made(const Spec&)> make_;
};

/// @brief Things by name, with factories that read their options. A value: nothing global, a copy is independent.
///
///     htl::MethodRegistry methods = htl::built_in_methods();
///     methods.add("mine", [](htl::OptionReader& options) { return htl::AnyWeighting(Mine{.c = options.number("c", 0.4)}); });
///     htl::AnyWeighting method = methods.make("mine", {{"c", 0.5}});
///     method = methods.make(htl::parse_spec("cagrad:c=0.4,rescale=1"));
/// @tparam Made what it makes, a value
template <class Made>
class Registry {
 public:
  /// @brief Makes one from its options.
  using Factory = std::function<Made(SpecReader<Made>&)>;

  /// @brief An empty one.
  /// @param who begins every sentence: "htl::MethodRegistry"
  /// @param noun what it makes: "weighting"
  /// @param article noun with its article: "a method"
  Registry(std::string who, std::string noun, std::string article) : who_(std::move(who)), noun_(std::move(noun)), article_(std::move(article)) {}

  /// @brief Adds one.
  /// @param name without ":", "=", "," and blanks, so that a command line can name it
  /// @param factory reads its options, each by name
  /// @param taken what to do if the name is there
  /// @throws c10::ValueError for a name that is there, or that a command line can't write
  Registry& add(std::string name, Factory factory, NameTaken taken = NameTaken::refuse) {
    HTL_CHECK(!name.empty() && name.find_first_of(":=,; \t\n") == std::string::npos, who_,
              ": expected a name without \":\", \"=\", \",\", \";\" and blanks, got \"", name, "\"");
    HTL_CHECK(taken == NameTaken::replace || !factories_.contains(name), who_, ": there is ", article_, " \"", name,
              "\" already; take another name, or give NameTaken::replace");
    factories_.set(std::move(name), std::move(factory));
    return *this;
  }
  /// @brief One by its name and options; where it can be called by a name, it is called by that.
  /// @throws c10::ValueError for an unknown name or option, naming the nearest, and for a value of the wrong type or out of its range
  Made make(std::string_view name, const Options& options = {}) const {
    const Factory* const factory = factories_.find(name);
    HTL_CHECK(factory, who_, ": unknown ", noun_, " \"", name, "\"; did you mean \"", nearest(name, names()), "\"? Known: ", quoted(names()));
    SpecReader<Made> reader(who_ + ": " + noun_ + " \"" + std::string(name) + "\"", article_, options, [this](const Spec& inner) { return make(inner); });
    Made made = (*factory)(reader);
    reader.finish();
    if constexpr (requires { made.named(std::string(name)); }) return made.named(std::string(name));
    return made;
  }
  /// @brief The same for a Spec, as parse_spec() reads it.
  Made make(const Spec& spec) const { return make(spec.name, spec.options); }
  /// @brief Whether there is one of that name.
  bool contains(std::string_view name) const { return factories_.contains(name); }
  /// @brief All names, in the order in which they were added.
  std::vector<std::string> names() const { return factories_.names(); }

 private:
  std::string who_, noun_, article_;
  Named<Factory> factories_;
};

}  // namespace htl
