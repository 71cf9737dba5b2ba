// SPDX-License-Identifier: Apache-2.0
#include "parts_by_name.hpp"

#include <htl/balance/built_in_balancers.hpp>
#include <htl/loss/built_in_losses.hpp>
#include <htl/task/built_in_calibrators.hpp>
#include <htl/task/built_in_transforms.hpp>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

namespace htlnet {
namespace {

/// The tasks, each that is named changed by its part.
htl::TaskSet changed(const htl::TaskSet& tasks, const std::vector<std::pair<std::string, std::string>>& parts, const char* option,
                     const std::function<htl::TaskSpec(const htl::TaskSpec&, const std::string&)>& change) {
  std::vector<htl::TaskSpec> specs(tasks.begin(), tasks.end());
  for (const auto& [name, part] : parts) {
    const auto spec = std::find_if(specs.begin(), specs.end(), [&, &of = name](const htl::TaskSpec& task) { return task.name() == of; });
    HTL_CHECK(spec != specs.end(), "htlnet: ", option, " names the task \"", name, "\", which the data don't have; did you mean \"",
              htl::nearest(name, tasks.names()), "\"? Known: ", htl::quoted(tasks.names()));
    *spec = change(*spec, part);
  }
  return htl::TaskSet(std::move(specs));
}

std::vector<std::pair<std::string, std::string>> losses_of(const std::string& text) {
  return pairs_of(text, "htlnet:", "TASK=LOSS[:option=value,…][@TRANSFORM]");
}
std::vector<std::pair<std::string, std::string>> calibrators_of(const std::string& text) {
  return pairs_of(text, "htlnet:", "TASK=CALIBRATOR[:option=value,…]");
}

htl::AnyLoss loss_of(const std::string& text) { return htl::built_in_losses().make(htl::parse_spec(text.substr(0, text.find('@')))); }

}  // namespace

std::vector<std::pair<std::string, std::string>> pairs_of(const std::string& text, const char* who, const char* form) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('|', start), text.size());
    const std::string entry = text.substr(start, end - start);
    const size_t equals = entry.find('=');
    HTL_CHECK(equals != std::string::npos && equals > 0 && equals + 1 < entry.size() && entry.find(':') > equals, who, " expected ", form,
              ", several with | between them, got \"", entry, "\"");
    pairs.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
    start = end + 1;
  }
  return pairs;
}

htl::TaskSpec with_loss(const htl::TaskSpec& task, const std::string& text) {
  const size_t at = text.find('@');
  const htl::AnyLoss loss = loss_of(text);
  const htl::TaskSpec plain = task.without_losses();
  if (at != std::string::npos) return plain.transform(htl::built_in_transforms().make(htl::parse_spec(text.substr(at + 1)))).loss(loss);
  if (loss.in_label_unit()) return plain.transform(htl::no_transform()).loss(loss);
  return (task.in_label_unit() ? plain.transform(htl::ZScoreTransform{}) : plain).loss(loss);
}

void check_losses_text(const std::string& text) {
  for (const auto& [task, part] : losses_of(text)) {
    loss_of(part);
    if (const size_t at = part.find('@'); at != std::string::npos) htl::built_in_transforms().make(htl::parse_spec(part.substr(at + 1)));
  }
}
void check_calibrators_text(const std::string& text) {
  for (const auto& [task, part] : calibrators_of(text)) htl::built_in_calibrators().make(htl::parse_spec(part));
}
void check_balancer_text(const std::string& text) {
  if (text != "none") balancer_of(text);
}

htl::TaskSet with_losses(const htl::TaskSet& tasks, const std::string& text) { return changed(tasks, losses_of(text), "--loss", with_loss); }
htl::TaskSet with_calibrators(const htl::TaskSet& tasks, const std::string& text) {
  return changed(tasks, calibrators_of(text), "--calibrate",
                 [](const htl::TaskSpec& task, const std::string& part) { return task.calibration(htl::built_in_calibrators().make(htl::parse_spec(part))); });
}
bool has_calibrators(const htl::TaskSet& tasks) {
  return std::any_of(tasks.begin(), tasks.end(), [](const htl::TaskSpec& task) { return static_cast<bool>(task.calibration()); });
}
htl::AnyBalance balancer_of(const std::string& text) { return htl::built_in_balancers().make(htl::parse_spec(text)); }

}  // namespace htlnet
