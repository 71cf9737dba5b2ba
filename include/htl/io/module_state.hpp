// SPDX-License-Identifier: Apache-2.0
/// @file module_state.hpp
/// @brief Parameters and buffers of any torch::nn::Module by name, saved and loaded strictly.
#pragma once

#include <htl/io/safetensors.hpp>

#include <c10/core/GradMode.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <map>
#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// What differs between fields and the tensors of a file, collected for one sentence.
struct StateFaults {
  std::vector<std::string> missing, unexpected, different;

  static std::string describe(const at::Tensor& tensor) { return shape_of(tensor) + " " + c10::toString(tensor.scalar_type()); }
  void differs(const std::string& name, const at::Tensor& given, const at::Tensor& expected) {
    different.push_back("\"" + name + "\" is " + describe(given) + ", expected " + describe(expected));
  }
  /// @param size how many tensors were expected
  void check(std::string_view who, size_t size, std::string_view advice) const {
    std::string faults;
    const auto list = [&](const std::string& what, const std::vector<std::string>& names, bool quote) {
      constexpr size_t shown = 12;
      for (size_t i = 0; i < names.size() && i < shown; ++i) faults += (i == 0 ? "; " + what + ": " : ", ") + (quote ? "\"" + names[i] + "\"" : names[i]);
      if (names.size() > shown) faults += c10::str(" and ", names.size() - shown, " more");
    };
    list("missing", missing, true);
    list("not expected", unexpected, true);
    list("different", different, false);
    HTL_CHECK(faults.empty(), who, ": expected ", size, " tensors", faults, "; nothing was changed; ", advice);
  }
};

}  // namespace detail

/// @brief All parameters and buffers by dotted name, as PyTorch's state_dict names them. They share memory with the module.
inline Named<at::Tensor> module_state(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, at::Tensor>> state;
  for (const auto& parameter : module.named_parameters())
    if (parameter.value().defined()) state.emplace_back(parameter.key(), parameter.value());
  for (const auto& buffer : module.named_buffers())
    if (buffer.value().defined()) state.emplace_back(buffer.key(), buffer.value());
  return Named<at::Tensor>(std::move(state));
}

/// @brief The part of a state that belongs to a child, under the child's own names: of "graph.towers.…" as "graph", "towers.…".
/// @throws c10::ValueError if there is none
inline Named<at::Tensor> child_state(const Named<at::Tensor>& state, std::string_view child) {
  const std::string prefix = std::string(child) + ".";
  std::vector<std::pair<std::string, at::Tensor>> part;
  for (const auto& [name, tensor] : state)
    if (name.starts_with(prefix)) part.emplace_back(name.substr(prefix.size()), tensor);
  HTL_CHECK(!part.empty(), "htl::child_state: no name begins with \"", prefix, "\"; names begin with \"", state.empty() ? "" : state.begin()->first, "\"");
  return Named<at::Tensor>(std::move(part));
}

/// @brief Copies tensors into a module's parameters and buffers of the same names, in place: handles, optimizers and the device stay as they are.
///
/// Names, shapes and element types must fit exactly; all faults are listed in one sentence, and then nothing was changed. (torch::load of a module
/// replaces shapes and device silently.)
/// @param module where to
/// @param state what module_state() of an equal module gave, on any device
/// @throws c10::ValueError listing what is missing, what the module does not have, and what differs in shape or type
inline void load_module_state(torch::nn::Module& module, const Named<at::Tensor>& state) {
  std::map<std::string, at::Tensor> given;
  for (const auto& [name, tensor] : state) given.emplace(name, tensor);
  detail::StateFaults faults;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;
  const Named<at::Tensor> own = module_state(module);
  for (const auto& [name, into] : own) {
    const auto found = given.find(name);
    if (found == given.end() || !found->second.defined()) {
      faults.missing.push_back(name);
    } else if (into.sizes() != found->second.sizes() || into.scalar_type() != found->second.scalar_type()) {
      faults.differs(name, found->second, into);
    } else {
      copies.emplace_back(into, found->second);
    }
    if (found != given.end()) given.erase(found);
  }
  for (const auto& [name, tensor] : given) faults.unexpected.push_back(name);
  faults.check("htl::load_module_state", own.size(), "build the module with the options that the weights were made with");
  const c10::NoGradGuard no_grad;
  for (auto& [into, from] : copies) into.copy_(from);
}

/// @brief Saves a module's parameters and buffers atomically as a safetensors file.
/// @param path where to
/// @param module any module
/// @param metadata texts to keep beside them
/// @throws c10::ValueError as save_safetensors()
inline void save_module(const std::filesystem::path& path, const torch::nn::Module& module, Named<std::string> metadata = {}) {
  save_safetensors(path, {module_state(module), std::move(metadata)});
}
/// @brief Loads what save_module() wrote into an equal module, which keeps its device; returns the metadata.
/// @throws c10::ValueError as load_safetensors() and load_module_state(), naming the file
inline Named<std::string> load_module(const std::filesystem::path& path, torch::nn::Module& module) {
  const TensorFile content = load_safetensors(path);
  try {
    load_module_state(module, content.tensors);
  } catch (const c10::ValueError& error) {
    HTL_CHECK(false, "htl::load_module: \"", path.string(), "\": ", error.what_without_backtrace());
  }
  return content.metadata;
}
/// @brief save_module() of the module in a holder.
template <class Impl>
void save_module(const std::filesystem::path& path, const torch::nn::ModuleHolder<Impl>& holder, Named<std::string> metadata = {}) {
  save_module(path, *holder, std::move(metadata));
}
/// @brief load_module() into the module in a holder.
template <class Impl>
Named<std::string> load_module(const std::filesystem::path& path, torch::nn::ModuleHolder<Impl>& holder) {
  return load_module(path, *holder);
}

}  // namespace htl
