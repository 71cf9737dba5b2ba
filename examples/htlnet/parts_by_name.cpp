// SPDX-License-Identifier: Apache-2.0
#include "parts_by_name.hpp"

#include <htl/balance/built_in_balancers.hpp>
#include <htl/data/number.hpp>
#include <htl/loss/built_in_losses.hpp>
#include <htl/task/built_in_calibrators.hpp>
#include <htl/task/built_in_transforms.hpp>

#include <algorithm>
#include <functional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

namespace htlnet {
namespace {

/// The tasks, each that is named changed by its part.
htl::TaskSet changed(const htl::TaskSet& tasks, const std::vector<std::pair<std::string, std::string>>& parts, const char* option, const char* again,
                     const std::function<htl::TaskSpec(const htl::TaskSpec&, const std::string&)>& change) {
  std::vector<htl::TaskSpec> specs(tasks.begin(), tasks.end());
  std::set<std::string> named;
  for (const auto& [name, part] : parts) {
    HTL_CHECK(named.insert(name).second, "htlnet: ", option, " names the task \"", name, "\" twice", again);
    const auto spec = std::find_if(specs.begin(), specs.end(), [&, &of = name](const htl::TaskSpec& task) { return task.name() == of; });
    HTL_CHECK(spec != specs.end(), "htlnet: ", option, " names the task \"", name, "\", which the data don't have; did you mean \"",
              htl::nearest(name, tasks.names()), "\"? Known: ", htl::quoted(tasks.names()));
    *spec = change(*spec, part);
  }
  return htl::TaskSet(std::move(specs));
}

std::vector<std::pair<std::string, std::string>> losses_of(const std::string& text) {
  return pairs_of(text, "htlnet:", "TASK=LOSS[:option=value,…][@TRANSFORM][&WEIGHT*LOSS…]");
}
std::vector<std::pair<std::string, std::string>> calibrators_of(const std::string& text) {
  return pairs_of(text, "htlnet:", "TASK=CALIBRATOR[:option=value,…]");
}

htl::AnyLoss loss_of(const std::string& text) { return htl::built_in_losses().make(htl::parse_spec(text)); }
htl::AnyLabelTransform transform_of(const std::string& text) { return htl::built_in_transforms().make(htl::parse_spec(text)); }

}  // namespace

LossText loss_text(const std::string& text, const char* who) {
  LossText result;
  const std::vector<std::string_view> parts = htl::detail::split_text(text, '&');
  const size_t at = parts[0].find('@');
  result.loss = parts[0].substr(0, at);
  if (at != std::string_view::npos) result.transform = parts[0].substr(at + 1);
  for (size_t p = 1; p < parts.size(); ++p) {
    const size_t star = parts[p].find('*');
    double weight = 1.0;
    HTL_CHECK(star == std::string_view::npos || htl::parse_number(parts[p].substr(0, star), weight), who,
              " expected WEIGHT*LOSS, or LOSS alone, after \"&\", got \"", parts[p], "\" in \"", text, "\"");
    HTL_CHECK(parts[p].find('@') == std::string_view::npos, who, " the label's transform stands behind the first loss, got \"", parts[p], "\" in \"", text,
              "\"");
    result.beside.emplace_back(weight, parts[p].substr(star == std::string_view::npos ? 0 : star + 1));
  }
  return result;
}

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
  const LossText parts = loss_text(text, "htlnet:");
  const htl::AnyLoss loss = loss_of(parts.loss);
  htl::TaskSpec changed = task.without_losses();
  if (parts.transform) {
    changed = changed.transform(transform_of(*parts.transform));
  } else if (loss.in_label_unit()) {
    changed = changed.transform(htl::no_transform());
  } else if (task.in_label_unit()) {
    changed = changed.transform(htl::ZScoreTransform{});
  }
  changed = changed.loss(loss);
  for (const auto& [weight, beside] : parts.beside) changed = changed.loss(loss_of(beside), weight);
  return changed;
}

void check_losses_text(const std::string& text) {
  for (const auto& [task, part] : losses_of(text)) {
    const LossText parts = loss_text(part, "htlnet:");
    loss_of(parts.loss);
    if (parts.transform) transform_of(*parts.transform);
    for (const auto& [weight, beside] : parts.beside) loss_of(beside);
  }
}
void check_calibrators_text(const std::string& text) {
  for (const auto& [task, part] : calibrators_of(text)) htl::built_in_calibrators().make(htl::parse_spec(part));
}
void check_balancer_text(const std::string& text) {
  if (text != "none") balancer_of(text);
}

htl::TaskSet with_losses(const htl::TaskSet& tasks, const std::string& text) {
  return changed(tasks, losses_of(text), "--loss", "; write several losses of a task as TASK=LOSS&WEIGHT*LOSS", with_loss);
}
htl::TaskSet with_calibrators(const htl::TaskSet& tasks, const std::string& text) {
  return changed(tasks, calibrators_of(text), "--calibrate", "; a task has one calibrator",
                 [](const htl::TaskSpec& task, const std::string& part) { return task.calibration(htl::built_in_calibrators().make(htl::parse_spec(part))); });
}
bool has_calibrators(const htl::TaskSet& tasks) {
  return std::any_of(tasks.begin(), tasks.end(), [](const htl::TaskSpec& task) { return static_cast<bool>(task.calibration()); });
}
htl::AnyBalance balancer_of(const std::string& text) { return htl::built_in_balancers().make(htl::parse_spec(text)); }

}  // namespace htlnet
