// SPDX-License-Identifier: Apache-2.0
/// @file shared_models.hpp
/// @brief Random models of every way in which tasks share layers and rows, and T whole backwards through them with dense tables.
#pragma once

#include <htl/gradient/backward.hpp>
#include <htl/nn/mlp.hpp>

#include <support/dense_rows.hpp>

#include <functional>
#include <string>
#include <vector>

namespace htl::test {

/// @brief How a forward splits tensors and reads tables; the brute force reads dense tables and splits nothing.
struct Ways {
  std::function<std::vector<at::Tensor>(const at::Tensor&)> split;
  std::function<std::vector<at::Tensor>(size_t)> views;  // of a table's lookup, one a task
  std::function<at::Tensor(size_t)> values;              // of a table's lookup, not split
};

/// @brief What is shared, and how.
enum class Kind {
  rows,
  product,
  bottom,
  rows_and_bottom,
  experts,
  shared_gate,
  levels,
  skip,
  unsplit,
  two_splits,
  layers,
  layers_twice,
  layers_skip,
  layers_unsplit
};
inline constexpr Kind kinds[] = {Kind::rows,        Kind::product,      Kind::bottom,      Kind::rows_and_bottom, Kind::experts,
                                 Kind::shared_gate, Kind::levels,       Kind::skip,        Kind::unsplit,         Kind::two_splits,
                                 Kind::layers,      Kind::layers_twice, Kind::layers_skip, Kind::layers_unsplit};

/// @brief Regressions t0, t1, …; the last one is the core.
inline TaskSet task_set(int64_t count) {
  std::vector<TaskSpec> tasks;
  for (int64_t t = 0; t < count; ++t) tasks.push_back(regression("t" + std::to_string(t)).core(t + 1 == count));
  return TaskSet(tasks);
}

/// @brief A random model of a kind over two tables.
struct Model {
  Kind kind;
  int64_t tasks, rows;
  std::vector<RowTable> tables;
  std::vector<FieldBatch> batches;
  std::vector<at::Tensor> named, others;     // shared parameters that are named, and those that keep the plain sum
  std::vector<std::vector<at::Tensor>> own;  // of the tasks
  std::vector<at::Tensor> targets, masks;
  Mlp lower{nullptr}, upper{nullptr};  // layers of ours

  Model(Random& random, Kind of_kind, int64_t task_count, at::ScalarType type = at::kDouble) : kind(of_kind), tasks(task_count), rows(random.integer(1, 9)) {
    const auto leaf = [&](at::IntArrayRef sizes) { return random.normal(sizes, 0.6, type).requires_grad_(); };
    tables = {RowTable(leaf({7, 3}), "items", {.padding_row = 0}), RowTable(leaf({5, 2}), "users")};
    for (const RowTable& table : tables) batches.push_back(FieldBatch::of(random.ids({rows, 2}, table.rows())));
    named = {leaf({6, 5}), leaf({5, 4}), leaf({5}), leaf({4, 4}), leaf({6, 4}), leaf({6, 4}), leaf({4, 2})};
    if (kind >= Kind::layers) {
      lower = Mlp(MlpOptions({4, 2}, {5, 4}));
      upper = Mlp(MlpOptions(4, {4}));
      lower->to(type);
      upper->to(type);
      named = lower->parameters();
      for (const at::Tensor& parameter : upper->parameters()) named.push_back(parameter);
    }
    for (int64_t t = 0; t < tasks; ++t) {
      own.push_back({leaf({4}), leaf({4, 2}), leaf({4, 4})});
      others.push_back(leaf({4, 4}));
      targets.push_back(random.normal({rows}, 1.0, type));
      masks.push_back(random.mask({rows}, random.pick<double>({0.0, 0.7, 1.0})).to(type));
    }
  }

  std::vector<at::Tensor> losses(const Ways& ways) const {
    std::vector<at::Tensor> result;
    const at::Tensor x = ways.values(0);
    const auto bottom = [&] { return (x.mm(named[0]) + named[2]).tanh().mm(named[1]).tanh(); };
    const auto layers = [&] {
      Mlp below = lower, above = upper;
      return above->forward(below->forward({x.slice(1, 0, 4), x.slice(1, 4, 6)}));
    };
    const auto add = [&](size_t t, const at::Tensor& hidden) {
      result.push_back(((hidden.sin().mv(own[t][0]) - targets[t]).square() * masks[t]).sum() / static_cast<double>(rows));
    };
    const auto each = [&](const std::function<at::Tensor(size_t)>& hidden) {
      for (size_t t = 0; t < static_cast<size_t>(tasks); ++t) add(t, hidden(t));
    };
    switch (kind) {
      case Kind::rows: {
        const auto a = ways.views(0), b = ways.views(1);
        each([&](size_t t) { return a[t].slice(1, 0, 4).tanh() * b[t].mm(own[t][2]); });
        break;
      }
      case Kind::product: {  // a task's prediction is a factor of its neighbour's, as ESMM's click rate is: two losses through one view
        const auto h = ways.split(bottom());
        const auto prediction = [&](size_t t) { return h[t].sin() * own[t][0]; };
        each([&](size_t t) { return t % 2 == 1 ? prediction(t) * prediction(t - 1) : prediction(t); });
        break;
      }
      case Kind::bottom: {
        const auto h = ways.split(bottom());
        each([&](size_t t) { return h[t]; });
        break;
      }
      case Kind::rows_and_bottom: {
        const auto h = ways.split(bottom()), r = ways.views(1);
        each([&](size_t t) { return h[t] + r[t].mm(own[t][2]); });
        break;
      }
      case Kind::experts:
      case Kind::shared_gate: {
        const auto e = ways.split(at::stack({x.mm(named[4]).tanh(), x.mm(named[5]).tanh()}, 1)), r = ways.views(1);
        each([&](size_t t) { return (r[t].mm(kind == Kind::experts ? own[t][1] : named[6] + own[t][1]).softmax(1).unsqueeze(2) * e[t]).sum(1); });
        break;
      }
      case Kind::levels: {
        const at::Tensor first = x.mm(named[4]).tanh();
        const auto level = ways.split(first), r = ways.views(1);
        std::vector<at::Tensor> streams;
        for (size_t t = 0; t < static_cast<size_t>(tasks); ++t) streams.push_back(level[t] + r[t].mm(others[t]).tanh());
        const auto top = ways.split((at::stack(streams).sum(0) + level[0]).mm(named[3]).tanh());
        each([&](size_t t) { return top[t] * streams[t]; });
        break;
      }
      case Kind::skip: {
        const at::Tensor h = bottom();
        const auto views = ways.split(h);
        each([&](size_t t) { return t % 2 == 0 ? views[t] + h.sin() : views[t]; });
        break;
      }
      case Kind::unsplit: {
        const at::Tensor h = bottom();
        each([&](size_t) { return h; });
        break;
      }
      case Kind::two_splits: {
        const at::Tensor h = bottom();
        const auto a = ways.split(h), b = ways.split(h.mm(named[3]));
        each([&](size_t t) { return a[t] * b[t]; });
        break;
      }
      case Kind::layers: {
        const auto h = ways.split(layers());
        each([&](size_t t) { return h[t]; });
        break;
      }
      case Kind::layers_twice: {  // the second one's weight has two readers
        const auto h = ways.split(Mlp(upper)->forward(layers()));
        each([&](size_t t) { return h[t]; });
        break;
      }
      case Kind::layers_skip: {
        const at::Tensor h = layers();
        const auto views = ways.split(h);
        each([&](size_t t) { return t % 2 == 0 ? views[t] + h.sin() : views[t]; });
        break;
      }
      case Kind::layers_unsplit: {
        const at::Tensor h = layers();
        each([&](size_t) { return h; });
      }
    }
    return result;
  }

  TaskLosses through(const std::function<std::vector<at::Tensor>(const at::Tensor&)>& split,
                     const std::function<std::vector<at::Tensor>(const Lookup&)>& split_rows) const {
    std::vector<Lookup> looks;
    for (size_t i = 0; i < tables.size(); ++i) looks.push_back(lookup(tables[i], batches[i]));
    const std::vector<at::Tensor> values = losses({split, [&](size_t i) { return split_rows(looks[i]); }, [&](size_t i) { return looks[i].values(); }});
    TaskLosses result;
    for (size_t t = 0; t < values.size(); ++t) result.values.set("t" + std::to_string(t), values[t]);
    std::vector<at::Tensor> active;
    for (const at::Tensor& mask : masks) active.push_back(mask.sum() > 0);
    result.active = at::stack(active);
    return result;
  }
  template <class W>
  TaskLosses through(GradientFork<W>& fork) const {
    return through([&](const at::Tensor& tensor) { return fork->split(tensor); }, [&](const Lookup& look) { return fork->split(look); });
  }

  /// @brief All shared leaves of the brute force: named parameters, tables as dense weights.
  struct Brute {
    at::Tensor jacobian;            // [T, P] of named parameters and tables
    std::vector<at::Tensor> plain;  // the summed loss's gradient of the tasks' own and the other parameters
    at::Tensor losses;              // [T]
  };
  Brute brute() const {
    std::vector<at::Tensor> weights, leaves = named, rest = others;
    std::vector<at::Tensor> looked;
    for (size_t i = 0; i < tables.size(); ++i) {
      weights.push_back(tables[i].weight().detach().to(at::kDouble).clone().requires_grad_());
      const at::Tensor entries = at::embedding(weights[i], batches[i].ids);
      const at::Tensor frozen = tables[i].padding_row() ? batches[i].ids.eq(*tables[i].padding_row()) : at::zeros_like(batches[i].ids, at::kBool);
      looked.push_back(at::where(frozen.unsqueeze(2), entries.detach(), entries).view({rows, -1}));
    }
    leaves.insert(leaves.end(), weights.begin(), weights.end());
    for (const auto& of_task : own) rest.insert(rest.end(), of_task.begin(), of_task.end());
    const auto copies = [&](const at::Tensor& tensor) { return std::vector<at::Tensor>(static_cast<size_t>(tasks), tensor); };
    const auto values = losses({copies, [&](size_t i) { return copies(looked[i]); }, [&](size_t i) { return looked[i]; }});
    Brute result;
    std::vector<at::Tensor> rows_of_j;
    at::Tensor total = at::zeros({}, at::kDouble);
    for (const at::Tensor& value : values) {
      total = total + value;
      const auto gradients = torch::autograd::grad({value}, leaves, {}, /*retain_graph=*/true, false, /*allow_unused=*/true);
      std::vector<at::Tensor> flat;
      for (size_t i = 0; i < leaves.size(); ++i) flat.push_back((gradients[i].defined() ? gradients[i] : at::zeros_like(leaves[i])).flatten());
      rows_of_j.push_back(at::cat(flat));
    }
    result.jacobian = at::stack(rows_of_j);
    result.losses = at::stack(values).detach();
    for (const at::Tensor& gradient : torch::autograd::grad({total}, rest, {}, false, false, true)) result.plain.push_back(gradient);
    for (size_t i = 0; i < rest.size(); ++i)
      if (!result.plain[i].defined()) result.plain[i] = at::zeros_like(rest[i]);
    return result;
  }

  /// @brief Widths of the Jacobian's tensors.
  std::vector<int64_t> columns() const {
    std::vector<int64_t> result;
    for (const at::Tensor& parameter : named) result.push_back(parameter.numel());
    for (const RowTable& table : tables) result.push_back(table.weight().numel());
    return result;
  }
  /// @brief Another batch: ids, targets, and which tasks have labels.
  void draw_batch(Random& random) {
    for (size_t i = 0; i < tables.size(); ++i) batches[i] = FieldBatch::of(random.ids({rows, 2}, tables[i].rows()));
    for (at::Tensor& target : targets) target = random.normal({rows}, 1.0, target.scalar_type());
    for (at::Tensor& mask : masks) mask = random.mask({rows}, random.pick<double>({0.0, 0.7, 1.0})).to(mask.scalar_type());
  }
  /// @brief What backward() wrote, in the order of the Jacobian.
  at::Tensor shared_gradient() const {
    std::vector<at::Tensor> flat;
    for (const at::Tensor& parameter : named)
      flat.push_back((parameter.grad().defined() ? parameter.grad() : at::zeros_like(parameter)).to(at::kDouble).flatten());
    for (const RowTable& table : tables) flat.push_back(dense_gradient(table).flatten());
    return at::cat(flat);
  }
  std::vector<at::Tensor> plain_gradients() const {
    std::vector<at::Tensor> rest = others, result;
    for (const auto& of_task : own) rest.insert(rest.end(), of_task.begin(), of_task.end());
    for (const at::Tensor& parameter : rest) result.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::zeros_like(parameter));
    return result;
  }
  Shared shared_set() const {
    Shared result = shared(named, tables);
    if (kind == Kind::levels) result.others_summed();
    return result;
  }
  void clear() const {
    for (const at::Tensor& parameter : named) parameter.mutable_grad() = at::Tensor();
    for (const at::Tensor& parameter : others) parameter.mutable_grad() = at::Tensor();
    for (const auto& of_task : own)
      for (const at::Tensor& parameter : of_task) parameter.mutable_grad() = at::Tensor();
    for (const RowTable& table : tables) table.gradient().clear();
  }
};

}  // namespace htl::test
