// SPDX-License-Identifier: Apache-2.0
/// @file warm_start.hpp
/// @brief WarmStart: an earlier model's weights and optimizer state in a model that has grown since, with a report of what was carried over.
#pragma once

#include <htl/io/training_state.hpp>
#include <htl/io/warm_start_report.hpp>

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Where the indices of one dimension come from. Weights and optimizer state of a parameter use the same.
struct IndexMap {
  /// What an index starts as that comes from nowhere. (Optimizer state of such an index is 0.)
  enum class New {
    as_initialised,  ///< what the module drew
    zero             ///< 0
  };

  int64_t before = 0;                  ///< how many indices there were
  std::vector<int64_t> source = {};    ///< for each index now the one before; −1 = it is new
  New fresh = New::as_initialised;     ///< what new indices start as …
  std::vector<int64_t> stand_in = {};  ///< … unless they start as a copy of this index before; −1, or an empty list = they do not

  /// @brief How many indices come from one before.
  int64_t carried() const {
    return std::count_if(source.begin(), source.end(), [](int64_t from) { return from >= 0; });
  }
  /// @brief How many there are now.
  int64_t now() const { return static_cast<int64_t>(source.size()); }
};

/// @brief What names its state by parameter: RowAdagrad, LazyAdam, FusedAdam.
template <class O>
concept OptimizerOfParameters = HasFields<O> &&(
    requires(const O& optimizer) { optimizer.parameters(); } || requires(const O& optimizer) { optimizer.tables(); });

namespace detail {

/// Shows every field of an optimizer with the name that the module has for its parameter: visit(parameter, field, tensor).
template <OptimizerOfParameters Optimizer, class Visit>
void each_optimizer_field(const torch::nn::Module& module, Optimizer& optimizer, const Visit& visit) {
  std::map<const c10::TensorImpl*, std::string> names;
  for (const auto& parameter : module.named_parameters()) names.emplace(parameter.value().unsafeGetTensorImpl(), parameter.key());
  std::vector<const c10::TensorImpl*> parameters;
  if constexpr (requires { optimizer.tables(); }) {
    for (const auto& table : optimizer.tables()) parameters.push_back(table.weight().unsafeGetTensorImpl());
  } else {
    for (const at::Tensor& parameter : optimizer.parameters()) parameters.push_back(parameter.unsafeGetTensorImpl());
  }
  size_t count = 0;  // the fields of one parameter follow each other: "PREFIX.field"
  std::string prefix;
  optimizer.fields([&](const std::string& name, at::Tensor& tensor) {
    const size_t dot = name.rfind('.');
    if (count == 0 || name.compare(0, dot, prefix) != 0) ++count;
    prefix = name.substr(0, dot);
    const auto found = names.find(parameters.at(count - 1));
    HTL_CHECK(found != names.end(), "htl::optimizer_state: expected an optimizer of the module's parameters, got one of ", shape_of(tensor),
              " that the module has no name for (its \"", name, "\"); give it the module that the optimizer was made for");
    visit(found->second, name.substr(dot + 1), tensor);
  });
}

}  // namespace detail

/// @brief An optimizer's state by the names of the module's parameters: "PARAMETER.field", as in "graph.towers.click.output.bias.exp_avg".
///
/// FusedAdam and TrainingState name it by position, which says nothing once a model has grown. The tensors share memory with the optimizer.
/// @param module what named the parameters
/// @param optimizer a RowAdagrad, LazyAdam or FusedAdam of them
/// @throws c10::ValueError if the module does not have one of the optimizer's parameters
template <OptimizerOfParameters Optimizer>
Named<at::Tensor> optimizer_state(const torch::nn::Module& module, Optimizer& optimizer) {
  std::vector<std::pair<std::string, at::Tensor>> state;
  detail::each_optimizer_field(module, optimizer, [&](const std::string& parameter, const std::string& field, at::Tensor& tensor) {
    state.emplace_back(parameter + "." + field, tensor);
  });
  return Named<at::Tensor>(std::move(state));
}

/// @brief Yesterday's weights and optimizer state in today's model, tensor by tensor of the same name.
///
/// ```cpp
/// htl::WarmStart start;
/// start.map("embedding.weight", 0, htl::map_vocabularies(yesterday, today));   // rows by text; io/warm_start_maps.hpp has maps of features and task graphs
/// start.load(*net, htl::load_safetensors("yesterday.safetensors").tensors);
/// start.load_optimizer(*net, rows, state);                                     // state: what optimizer_state() gave
/// for (const std::string& line : start.report().lines()) std::cout << line << "\n";
/// ```
/// A tensor is copied where its name, element type and unmapped sizes are the same; along a mapped dimension index by index. Whatever is not copied whole is
/// in the report: in part, new here and left as initialised, or not carried and why. **Device.** Tensors may lie anywhere; they are moved to the module's.
/// **Cost.** One pass over what is copied, and a copy of each mapped tensor's carried indices.
class WarmStart {
 public:
  /// @brief Maps a dimension of a parameter or buffer, and of its optimizer state.
  /// @param name of a tensor of the new module
  /// @param dimension 0 = rows, 1 = columns, …
  /// @param map where its indices come from
  /// @throws c10::ValueError if that dimension is mapped already, or the map names an index that there was not
  WarmStart& map(const std::string& name, int64_t dimension, IndexMap map) {
    HTL_CHECK(dimension >= 0, kWho, ": expected a dimension ≥ 0 of \"", name, "\", got ", dimension);
    const auto check = [&](const std::vector<int64_t>& indices) {
      for (const int64_t from : indices)
        HTL_CHECK(from >= -1 && from < map.before, kWho, ": the map of \"", name, "\" names index ", from, ", expected −1 or one in [0, ", map.before, ")");
    };
    check(map.source);
    check(map.stand_in);
    HTL_CHECK(map.stand_in.empty() || map.stand_in.size() == map.source.size(), kWho, ": the map of \"", name, "\" has ", map.source.size(),
              " indices and stand-ins for ", map.stand_in.size(), "; give one for each, or none");
    HTL_CHECK(maps_[name].emplace(dimension, std::move(map)).second, kWho, ": dimension ", dimension, " of \"", name, "\" is mapped already");
    return *this;
  }
  /// @brief Leaves tensors out whose names begin so, and the optimizer state that belongs to them.
  WarmStart& leave(std::string prefix, std::string reason) {
    left_.emplace_back(std::move(prefix), std::move(reason));
    return *this;
  }
  /// @brief Adds a line about a named part of a tensor to the report.
  WarmStart& add(WarmStartEntry entry) {
    report_.entries.push_back(std::move(entry));
    return *this;
  }
  /// @brief Adds a sentence to the report.
  WarmStart& note(std::string sentence) {
    report_.notes.push_back(std::move(sentence));
    return *this;
  }

  /// @brief Copies weights and buffers into a module, in place.
  /// @param module freshly initialised: what does not come from the earlier model stays as it is
  /// @param before what module_state() of the earlier model gave
  /// @throws c10::IndexError if a mapped tensor is not in the module, c10::ValueError if it has another size than its map; nothing was changed then
  void load(torch::nn::Module& module, const Named<at::Tensor>& before) {
    const Named<at::Tensor> own = module_state(module);
    for (const auto& [name, maps] : maps_) {
      const at::Tensor& tensor = own[name];
      for (const auto& [dimension, map] : maps)
        HTL_CHECK(dimension < tensor.dim() && tensor.size(dimension) == map.now(), kWho, ": the map of dimension ", dimension, " of \"", name, "\" is for ",
                  map.now(), " indices, got a tensor of shape ", shape_of(tensor), "; make the map from what the module was made from");
    }
    const c10::NoGradGuard no_grad;
    std::map<std::string, at::Tensor> given(before.begin(), before.end());
    for (const auto& [name, tensor] : own) {
      at::Tensor into = tensor;
      if (carry(name, name, into, given, false)) carried_.insert(name);
    }
    list_rest(given);
    has_loaded_ = true;
  }

  /// @brief Copies an optimizer's state by the same maps; new indices have none yet.
  /// @param module the one that load() was given
  /// @param optimizer freshly made for it
  /// @param before what optimizer_state() gave; what does not belong to this optimizer's parameters is not looked at
  /// @throws c10::Error before load(); c10::ValueError as optimizer_state()
  template <OptimizerOfParameters Optimizer>
  void load_optimizer(const torch::nn::Module& module, Optimizer& optimizer, const Named<at::Tensor>& before) {
    HTL_CHECK_STATE(has_loaded_, kWho, ": expected load() before load_optimizer(); state belongs to the weights that were carried");
    const c10::NoGradGuard no_grad;
    std::map<std::string, at::Tensor> given(before.begin(), before.end()), of_these;
    std::set<std::string> parameters;
    detail::each_optimizer_field(module, optimizer, [&](const std::string& parameter, const std::string& field, at::Tensor& tensor) {
      parameters.insert(parameter);
      carry(parameter + "." + field, parameter, tensor, given, true);
    });
    for (const auto& [name, tensor] : given)
      if (parameters.contains(name.substr(0, name.rfind('.')))) of_these.emplace(name, tensor);
    list_rest(of_these);
  }

  /// @brief What was carried over so far, and what was not.
  const WarmStartReport& report() const { return report_; }

 private:
  static constexpr const char* kWho = "htl::WarmStart";
  using Maps = std::map<int64_t, IndexMap>;

  /// Fills one tensor from the one of its name, takes that out of `given`, and lists it. Returns whether anything was copied.
  bool carry(const std::string& name, const std::string& parameter, at::Tensor& into, std::map<std::string, at::Tensor>& given, bool is_state) {
    WarmStartEntry entry{.name = name, .unit = "elements", .now = into.numel(), .is_state = is_state};
    Maps maps;
    if (const auto mapped = maps_.find(parameter); mapped != maps_.end())
      for (const auto& [dimension, map] : mapped->second)
        if (dimension < into.dim()) maps.emplace(dimension, map);
    const auto found = given.find(name);
    if (found == given.end()) {
      report_.entries.push_back(std::move(entry));
      return false;
    }
    const at::Tensor from = found->second;
    given.erase(found);
    entry.before = from.numel();
    entry.reason = why_not(name, parameter, into, from, maps, is_state);
    if (entry.reason.empty()) {
      entry.carried = entry.now;
      for (const auto& [dimension, map] : maps) entry.carried = map.now() == 0 ? 0 : entry.carried / map.now() * map.carried();
      if (maps.size() == 1) {
        const auto& [dimension, map] = *maps.begin();
        entry.unit = dimension == 0 ? "rows" : dimension == 1 ? "columns" : "indices";
        entry.carried = map.carried();
        entry.before = map.before;
        entry.now = map.now();
      }
      if (entry.carried > 0) {
        copy(into, from.to(into.device()), maps, is_state);
      } else {
        entry.reason = "none of its " + entry.unit + " is here";
      }
    }
    const bool copied = entry.carried > 0;
    report_.entries.push_back(std::move(entry));
    return copied;
  }

  std::string why_not(const std::string& name, const std::string& parameter, const at::Tensor& into, const at::Tensor& from, const Maps& maps,
                      bool is_state) const {
    for (const auto& [prefix, reason] : left_)
      if (name.starts_with(prefix)) return reason;
    if (is_state && !carried_.contains(parameter)) return "its parameter was not carried";
    bool fits = from.defined() && from.dim() == into.dim() && from.scalar_type() == into.scalar_type();
    for (int64_t d = 0; fits && d < into.dim(); ++d) {
      const auto map = maps.find(d);
      fits = from.size(d) == (map == maps.end() ? into.size(d) : map->second.before);
    }
    if (fits) return {};
    std::string expected;
    for (int64_t d = 0; d < into.dim(); ++d) {
      const auto map = maps.find(d);
      expected += (d == 0 ? "" : ", ") + std::to_string(map == maps.end() ? into.size(d) : map->second.before);
    }
    return "expected [" + expected + "] " + c10::toString(into.scalar_type()) + ", it was " + detail::StateFaults::describe(from);
  }

  static void copy(at::Tensor& into, const at::Tensor& from, const Maps& maps, bool is_state) {
    const auto numbers = [&](const std::vector<int64_t>& indices) { return at::tensor(indices, at::kLong).to(into.device()); };
    std::vector<std::pair<int64_t, at::Tensor>> places;  // the indices that are filled, by dimension
    at::Tensor values = from;
    for (const auto& [dimension, map] : maps) {
      std::vector<int64_t> filled, sources, fresh;
      for (size_t i = 0; i < map.source.size(); ++i) {
        const int64_t source = map.source[i] >= 0 || is_state || map.stand_in.empty() ? map.source[i] : map.stand_in[i];
        (source >= 0 ? filled : fresh).push_back(static_cast<int64_t>(i));
        if (source >= 0) sources.push_back(source);
      }
      if (is_state || map.fresh == IndexMap::New::zero) into.index_fill_(dimension, numbers(fresh), 0);
      values = values.index_select(dimension, numbers(sources));
      places.emplace_back(dimension, numbers(filled));
    }
    put(into, values, places, 0);
  }
  static void put(at::Tensor& into, const at::Tensor& values, const std::vector<std::pair<int64_t, at::Tensor>>& places, size_t next) {
    if (next == places.size()) {
      into.copy_(values);
      return;
    }
    const auto& [dimension, indices] = places[next];
    at::Tensor part = values;
    if (next + 1 < places.size()) {
      part = into.index_select(dimension, indices);
      put(part, values, places, next + 1);
    }
    into.index_copy_(dimension, indices, part);
  }

  void list_rest(const std::map<std::string, at::Tensor>& given) {
    for (const auto& [name, tensor] : given)
      report_.entries.push_back({.name = name, .unit = "elements", .before = std::max<int64_t>(1, tensor.numel()), .reason = "it is not in this model"});
  }

  std::map<std::string, Maps> maps_;
  std::vector<std::pair<std::string, std::string>> left_;
  std::set<std::string> carried_;
  WarmStartReport report_;
  bool has_loaded_ = false;
};

}  // namespace htl
