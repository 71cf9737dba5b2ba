// SPDX-License-Identifier: Apache-2.0
/// @file training_state.hpp
/// @brief TrainingState: everything that a training remembers, as named tensors, to be saved and to be put back.
#pragma once

#include <htl/io/module_state.hpp>
#include <htl/task/state_owner.hpp>

#include <ATen/core/Generator.h>
#include <ATen/ops/from_blob.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>

#include <concepts>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What names its tensors once: `part.fields(visit)` calls `visit("name", tensor)` for each. Our optimizers, averages, forks and loaders do.
template <class P>
concept HasFields = requires(P& part) {
  part.fields([](const char*, at::Tensor&) {});
};

/// @brief The parts of a training that remember something. It refers to them, and owns nothing: they must outlive it.
///
/// ```cpp
/// htl::TrainingState state;
/// state.add("model", *net).add("rows", rows).add("dense", dense).add("loader", loader);
/// state.add("rng", at::detail::getDefaultCPUGenerator()).add("step", step);
/// ```
/// tensors() collects what they hold as "part.field", load() puts it back: in place where a tensor is there, so that handles, devices and optimizers stay.
/// Schedules are pure functions of the step: there is nothing to save but that.
class TrainingState {
 public:
  /// @brief Parameters and buffers of a module, and the state of every StateOwner below it: forks with their methods.
  TrainingState& add(std::string name, torch::nn::Module& module) {
    return add_part(std::move(name), [&module](const Show& show) {
      for (auto& [field, tensor] : module_state(module)) show(field, tensor, Shape::fixed);
      if (auto* owner = dynamic_cast<StateOwner*>(&module))
        owner->visit_state([&](const std::string& field, at::Tensor& tensor) { show(field, tensor, Shape::fixed); });
      for (const auto& child : module.named_modules(std::string(), /*include_self=*/false))
        if (auto* owner = dynamic_cast<StateOwner*>(child.value().get()))
          owner->visit_state([&](const std::string& field, at::Tensor& tensor) { show(child.key() + "." + field, tensor, Shape::fixed); });
    });
  }
  /// @brief A module in its holder.
  template <class Impl>
  TrainingState& add(std::string name, const torch::nn::ModuleHolder<Impl>& holder) {
    return add(std::move(name), static_cast<torch::nn::Module&>(*holder.ptr()));
  }
  /// @brief An optimizer of LibTorch, as the bytes that torch::save writes. They come back right; that they are the same bytes in every run is not promised,
  /// since LibTorch names its entries by addresses.
  TrainingState& add(std::string name, torch::optim::Optimizer& optimizer) {
    return add_part(std::move(name), [&optimizer](const Show& show) {
      torch::serialize::OutputArchive archive;
      optimizer.save(archive);
      std::ostringstream stream;
      archive.save_to(stream);
      std::string bytes = stream.str();
      at::Tensor field = at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size())}, at::kByte).clone();
      const at::Tensor saved = field;
      show("archive", field, Shape::free);
      if (field.is_same(saved)) return;
      torch::serialize::InputArchive loaded;
      loaded.load_from(static_cast<const char*>(field.const_data_ptr()), static_cast<size_t>(field.numel()));
      optimizer.load(loaded);
    });
  }
  /// @brief Whatever names its fields.
  template <HasFields Part>
    requires(!std::derived_from<Part, torch::nn::Module> && !std::derived_from<Part, torch::optim::Optimizer>)
  TrainingState& add(const std::string& name, Part& part) {
    return add_part(name, [&part](const Show& show) { part.fields([&](const std::string& field, at::Tensor& tensor) { show(field, tensor, Shape::fixed); }); });
  }
  /// @brief A generator of random numbers: LibTorch's default one of a device (`at::detail::getDefaultCPUGenerator()`), or one's own.
  TrainingState& add(std::string name, at::Generator generator) {
    return add_part(std::move(name), [generator](const Show& show) mutable {
      at::Tensor drawn = generator.get_state();
      const at::Tensor before = drawn.clone();
      show("generator", drawn, Shape::fixed);
      if (!drawn.equal(before)) generator.set_state(drawn);
    });
  }
  /// @brief A tensor.
  TrainingState& add(std::string name, at::Tensor& tensor) {
    return add_part(std::move(name), [&tensor](const Show& show) { show(std::string(), tensor, Shape::fixed); });
  }
  /// @brief A whole number.
  TrainingState& add(const std::string& name, int64_t& number) { return add_number(name, number, at::kLong); }
  /// @brief A number; any value comes back with all its bits.
  TrainingState& add(const std::string& name, double& number) { return add_number(name, number, at::kDouble); }
  /// @brief A flag.
  TrainingState& add(const std::string& name, bool& flag) { return add_number(name, flag, at::kBool); }

  /// @brief All fields, "part.field" or "part", in the order of add(). Modules' and optimizers' tensors share memory with them: save before the next step.
  ///
  /// A field that is not there yet (a method's memory before its first step) is an empty BOOL tensor named "part.field.undefined".
  /// @throws c10::ValueError if two fields have one name; whatever a part throws that can't be saved now
  Named<at::Tensor> tensors() const {
    std::vector<std::pair<std::string, at::Tensor>> all;
    each([&](const std::string& name, at::Tensor& field, Shape) {
      if (field.defined()) {
        all.emplace_back(name, field);
      } else {
        all.emplace_back(name + undefined, at::empty({0}, at::kBool));
      }
    });
    return Named<at::Tensor>(std::move(all));
  }

  /// @brief Puts back what tensors() gave, on any device.
  ///
  /// Names, shapes and element types are compared first: where they don't fit, one sentence lists all faults and nothing is changed.
  /// @throws c10::ValueError listing what is missing, not expected, or different
  void load(const Named<at::Tensor>& saved) const {
    std::map<std::string, at::Tensor> given;
    for (const auto& [name, tensor] : saved) given.emplace(name, tensor);
    const std::map<std::string, at::Tensor> all = given;
    detail::StateFaults faults;
    size_t count = 0;
    each([&](const std::string& name, at::Tensor& field, Shape shape) {
      ++count;
      const auto found = given.find(name);
      if (found == given.end()) {
        if (given.erase(name + undefined) == 0) faults.missing.push_back(name);
        return;
      }
      const at::Tensor& tensor = found->second;
      const bool same_shape = shape == Shape::free || !field.defined() || field.sizes() == tensor.sizes();
      if (!same_shape || (field.defined() && field.scalar_type() != tensor.scalar_type())) faults.differs(name, tensor, field);
      given.erase(found);
    });
    for (const auto& [name, tensor] : given) faults.unexpected.push_back(name);
    faults.check("htl::TrainingState", count, "build everything with the options that the state was saved with");
    const c10::NoGradGuard no_grad;
    each([&](const std::string& name, at::Tensor& field, Shape shape) {
      const auto found = all.find(name);
      if (found == all.end()) {
        field = at::Tensor();
      } else if (shape == Shape::fixed && field.defined()) {
        field.copy_(found->second);
      } else {
        field = found->second.clone();
      }
    });
  }

 private:
  static constexpr const char* undefined = ".undefined";
  enum class Shape { fixed, free };
  using Show = std::function<void(const std::string& field, at::Tensor& tensor, Shape shape)>;
  struct Part {
    std::string name;
    std::function<void(const Show&)> show;
  };

  TrainingState& add_part(std::string name, std::function<void(const Show&)> show) {
    HTL_CHECK(!name.empty(), "htl::TrainingState: expected a name for each part, got an empty one");
    for (const Part& part : parts_) HTL_CHECK(part.name != name, "htl::TrainingState: there is a part \"", name, "\" already; choose another name");
    parts_.push_back({std::move(name), std::move(show)});
    return *this;
  }
  template <class Number>
  TrainingState& add_number(const std::string& name, Number& number, at::ScalarType type) {
    return add_part(name, [&number, type](const Show& show) {
      at::Tensor field = at::scalar_tensor(number, type);
      show(std::string(), field, Shape::fixed);
      number = field.item<Number>();
    });
  }
  void each(const Show& show) const {
    for (const Part& part : parts_)
      part.show([&](const std::string& field, at::Tensor& tensor, Shape shape) { show(field.empty() ? part.name : part.name + "." + field, tensor, shape); });
  }

  std::vector<Part> parts_;
};

}  // namespace htl
