// SPDX-License-Identifier: Apache-2.0
/// @file golden_requests.hpp
/// @brief GoldenRequests: requests with the predictions that a model gave them, to be checked where its weights are loaded.
#pragma once

#include <htl/serve/ranker.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief A few requests and what they must be answered with.
///
/// Recorded where the model was trained, saved beside the weights, checked before they serve: the wrong file, another feature map, other options or a broken
/// build show before the first user does.
///
///     golden.add(request, tasks.predict(net(batch)));
///     htl::save_safetensors("golden.safetensors", {golden.tensors(), {}});
///     htl::GoldenRequests(htl::load_safetensors("golden.safetensors").tensors).check(ranker);
class GoldenRequests {
 public:
  /// @brief None: everything passes.
  GoldenRequests() = default;
  /// @brief From what tensors() gave.
  /// @throws c10::ValueError on names that it does not give, or a request without candidates or predictions
  explicit GoldenRequests(const Named<at::Tensor>& saved);

  /// @brief Adds a request and its predictions; both are copied.
  void add(const RankRequest& request, const Predictions& predictions) {
    const auto copy = [](const FieldBatch& batch) { return FieldBatch{cloned(batch.ids), cloned(batch.offsets), cloned(batch.weights), batch.fields}; };
    Entry entry{{copy(request.shared), copy(request.candidates), cloned(request.shared_numeric), cloned(request.candidate_numeric), {}}, {}};
    for (const auto& [name, column] : request.context) entry.request.context.set(name, cloned(column));
    for (const auto& [name, prediction] : predictions) entry.predictions.set(name, cloned(prediction));
    entries_.push_back(std::move(entry));
  }
  /// @brief How many there are.
  size_t size() const { return entries_.size(); }

  /// @brief Asks a ranker all of them; every task's predictions must come out as recorded, within tolerance · max(1, |recorded|).
  /// @throws c10::ValueError naming request, task, candidate and both numbers
  void check(const Ranker& ranker, double tolerance = 1e-5) const;

  /// @brief All of it as named tensors, for a file: "0.candidates.ids", "0.predictions.click", ….
  Named<at::Tensor> tensors() const {
    std::vector<std::pair<std::string, at::Tensor>> result;
    for (size_t i = 0; i < entries_.size(); ++i) {
      const auto add = [&](const std::string& name, const at::Tensor& tensor) {
        if (tensor.defined()) result.emplace_back(std::to_string(i) + "." + name, tensor);
      };
      RankRequest request = entries_[i].request;
      for (const auto& [part, tensor] : parts_of(request)) add(part, *tensor);
      for (const auto& [name, column] : request.context) add("context." + name, column);
      for (const auto& [name, prediction] : entries_[i].predictions) add("predictions." + name, prediction);
    }
    return Named<at::Tensor>(std::move(result));
  }

 private:
  struct Entry {
    RankRequest request;
    Predictions predictions;
  };
  /// The tensors of a request that have fixed names.
  static std::vector<std::pair<std::string, at::Tensor*>> parts_of(RankRequest& request) {
    return {
        {"shared.ids", &request.shared.ids},         {"shared.offsets", &request.shared.offsets},         {"shared.weights", &request.shared.weights},
        {"candidates.ids", &request.candidates.ids}, {"candidates.offsets", &request.candidates.offsets}, {"candidates.weights", &request.candidates.weights},
        {"shared_numeric", &request.shared_numeric}, {"candidate_numeric", &request.candidate_numeric}};
  }
  static at::Tensor cloned(const at::Tensor& tensor) { return tensor.defined() ? tensor.detach().to(at::kCPU).clone() : tensor; }

  std::vector<Entry> entries_;
};

inline GoldenRequests::GoldenRequests(const Named<at::Tensor>& saved) {
  for (const auto& [name, tensor] : saved) {
    const size_t dot = name.find('.');
    const std::string digits = name.substr(0, dot), part = dot == std::string::npos ? "" : name.substr(dot + 1);
    const bool is_number = !digits.empty() && digits.size() < 7 && digits.find_first_not_of("0123456789") == std::string::npos;
    const auto index = is_number ? static_cast<size_t>(std::stol(digits)) : 0;
    HTL_CHECK(is_number && index < saved.size(), "htl::GoldenRequests: expected names such as \"0.candidates.ids\", got \"", name,
              "\"; it is no file of golden requests");
    if (index >= entries_.size()) entries_.resize(index + 1);
    Entry& entry = entries_[index];
    bool is_known = false;
    for (const auto& [known, place] : parts_of(entry.request)) {
      if (part != known) continue;
      *place = tensor;
      is_known = true;
    }
    constexpr std::string_view context = "context.", predictions = "predictions.";
    if (part.starts_with(context)) entry.request.context.set(part.substr(context.size()), tensor);
    if (part.starts_with(predictions)) entry.predictions.set(part.substr(predictions.size()), tensor);
    HTL_CHECK(is_known || part.starts_with(context) || part.starts_with(predictions), "htl::GoldenRequests: \"", name, "\" is no part of a request");
  }
  for (size_t i = 0; i < entries_.size(); ++i)
    HTL_CHECK(entries_[i].request.candidates.ids.defined() && !entries_[i].predictions.empty(), "htl::GoldenRequests: request ", i,
              " has no candidates or no predictions; the file is incomplete");
}

inline void GoldenRequests::check(const Ranker& ranker, double tolerance) const {
  RankerBuffers buffers;
  for (size_t i = 0; i < entries_.size(); ++i) {
    RankRequest request = entries_[i].request;
    request.shared.fields = static_cast<int64_t>(ranker.shared_fields().size());
    request.candidates.fields = static_cast<int64_t>(ranker.candidate_fields().size());
    const Predictions& found = ranker.rank(request, buffers);
    for (const auto& [task, recorded] : entries_[i].predictions) {
      HTL_CHECK(found.contains(task), "htl::GoldenRequests: request ", i, " has predictions of task \"", task,
                "\", which the model does not have; tasks: ", quoted(found.names()));
      const at::Tensor expected = recorded.to(at::kDouble), given = found[task].to(at::kDouble);
      HTL_CHECK(expected.sizes() == given.sizes(), "htl::GoldenRequests: request ", i, ": expected predictions of task \"", task, "\" of shape ",
                shape_of(expected), ", got ", shape_of(given));
      const at::Tensor wrong = ((given - expected).abs() <= expected.abs().clamp_min(1.0) * tolerance).logical_not().flatten();
      if (!wrong.any().item<bool>()) continue;
      const int64_t first = wrong.nonzero()[0].item<int64_t>();
      HTL_CHECK(false, "htl::GoldenRequests: request ", i, ": task \"", task, "\" is ", given.flatten()[first].item<double>(), " for candidate ",
                first / std::max<int64_t>(1, given.numel() / given.size(0)), ", expected ", expected.flatten()[first].item<double>(), " within ", tolerance,
                "; the weights, the feature map or the options are not those that it was recorded with: don't serve them");
    }
  }
}

}  // namespace htl
