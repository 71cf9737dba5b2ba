// SPDX-License-Identifier: Apache-2.0
#include "adjuster.hpp"

#include <htl/weighting/built_in_methods.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>

namespace htlnet {

void check_adjuster_text(const std::string& text) { htl::built_in_methods().make(htl::parse_spec(text)); }

htl::AnyWeighting adjuster_of(const ModelOptions& options) {
  if (options.adjuster != "core_task") return htl::built_in_methods().make(htl::parse_spec(options.adjuster));
  htl::CoreTask method;
  method.alpha = options.alpha;
  method.gamma = options.gamma;
  method.clip_ratio = options.clip_ratio;
  if (options.norm == "after") method.norm = htl::NormReference::after_projection;
  if (options.norm == "average") method.norm = htl::NormReference::moving_average;
  if (options.several_cores == "own") method.several_cores = htl::SeveralCores::own;
  return {method, "core_task"};
}

void check_adjuster(const ModelOptions& options, const htl::TaskSet& tasks) {
  HTL_CHECK(options.adjuster != "core_task" || !tasks.cores().empty(),
            "htlnet: --adjuster core_task expects a core task, found none; mark one by core = true in the schema, or give --adjuster sum");
  const htl::AnyWeighting adjuster = adjuster_of(options);
  HTL_CHECK(options.balancer == "none" || !adjuster.observes(), "htlnet: --adjuster ", options.adjuster,
            " compares the losses before and after a step, which --balancer ", options.balancer, " changes; leave one of them out");
  htl::TaskGradients gradients = htl::task_gradients(at::eye(tasks.size(), at::kDouble));
  gradients.gramian.cores = tasks.cores();
  gradients.gramian.losses = at::ones({tasks.size()}, at::kDouble);
  gradients.gramian.generator = at::detail::createCPUGenerator(0);
  htl::AnyWeighting::State memory = adjuster.initial_state();
  adjuster.aggregate(gradients, memory);
}

}  // namespace htlnet
