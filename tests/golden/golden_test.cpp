// SPDX-License-Identifier: Apache-2.0
// Gradient methods against numbers that others computed: every *.json of the folder that HTL_GOLDEN_DIR names, tests/golden without it. README.md says what
// a file holds.
#include <htl/io/json.hpp>
#include <htl/weighting/built_in_methods.hpp>

#include <support/seeded.hpp>
#include <support/temporary_folder.hpp>

#include <cstdlib>
#include <filesystem>
#include <map>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

struct Case {
  AnyWeighting method = Sum{};
  std::vector<Tensor> jacobians;            // one for each batch, [T, P]
  std::vector<Tensor> history;              // of earlier calls
  std::vector<Tensor> losses;               // one for each call
  std::vector<int64_t> columns;             // widths of the shared tensors; empty: one
  std::optional<std::vector<double>> draw;  // GradDrop's U, one number or P
  int64_t calls = 1;
  Tensor gradient, weights;  // expected; undefined where nothing is expected
  double tolerance = 0.0;
};

Tensor matrix_of(const nlohmann::json& json, const std::string& where) {
  HTL_CHECK(json.is_array() && !json.empty(), where, ": expected a matrix, got ", json.dump());
  std::vector<Tensor> rows;
  for (const nlohmann::json& row : json) {
    std::vector<double> numbers;
    HTL_CHECK(row.is_array(), where, ": expected a row of numbers, got ", row.dump());
    for (const nlohmann::json& number : row) {
      HTL_CHECK(number.is_number(), where, ": expected a number, got ", number.dump());
      numbers.push_back(number.get<double>());
    }
    HTL_CHECK(rows.empty() || rows.front().size(0) == static_cast<int64_t>(numbers.size()), where, ": expected rows of one length");
    rows.push_back(at::tensor(numbers, at::kDouble));
  }
  return at::stack(rows);
}

Spec spec_of(const nlohmann::json& json, const std::string& where);

Options options_of(const nlohmann::json& json, const std::string& where) {
  HTL_CHECK(json.is_object(), where, ": expected an object of options, got ", json.dump());
  Options options;
  for (const auto& [name, value] : json.items()) {
    if (value.is_number()) {
      options.set(name, value.get<double>());
    } else if (value.is_boolean()) {
      options.set(name, value.get<bool>());
    } else if (value.is_string()) {
      options.set(name, value.get<std::string>());
    } else if (value.is_object()) {
      options.set(name, spec_of(value, where + ", option \"" + name + "\""));
    } else {
      const Tensor list = matrix_of(nlohmann::json::array({value}), where + ", option \"" + name + "\"")[0].contiguous();
      options.set(name, std::vector<double>(list.const_data_ptr<double>(), list.const_data_ptr<double>() + list.numel()));
    }
  }
  return options;
}

/// A case without an order means the ascending one: the methods' own default is a random one, of which a file can't know the numbers.
void settle_order(Spec& method) {
  if ((method.name == "pcgrad" || method.name == "gradvac") && !method.options.find("order") && !method.options.find("given"))
    method.options.set("order", "ascending");
}

/// "name", or {"method": "name", "options": {…}}.
Spec spec_of(const nlohmann::json& json, const std::string& where) {
  Spec result;
  if (json.is_string()) {
    result.name = json.get<std::string>();
  } else {
    htl::detail::JsonObject object(json, where);
    result.name = object.text("method");
    if (object.has("options")) result.options = options_of(object.at("options"), where);
    object.finish();
  }
  settle_order(result);
  return result;
}

std::vector<Tensor> matrices_of(const nlohmann::json& json, const std::string& where) {
  std::vector<Tensor> result;
  for (const nlohmann::json& element : json) result.push_back(matrix_of(element, where));
  return result;
}

Case case_of(const nlohmann::json& json, const std::string& where, const MethodRegistry& methods) {
  htl::detail::JsonObject object(json, where);
  Case result;
  Spec method{object.text("method"), {}};
  if (object.has("options")) method.options = options_of(object.at("options"), where);
  if (object.has("inner")) method.options.set("inner", spec_of(object.at("inner"), where));
  settle_order(method);
  result.method = methods.make(method);
  HTL_CHECK(object.has("jacobian") != object.has("jacobians"), where, ": expected \"jacobian\" or \"jacobians\"");
  result.jacobians = object.has("jacobian") ? std::vector{matrix_of(object.at("jacobian"), where)} : matrices_of(object.list("jacobians"), where);
  if (object.has("history")) result.history = matrices_of(object.list("history"), where);
  const auto calls = object.has("calls") ? object.integer("calls") : 1;
  HTL_CHECK(calls >= 1, where, ": expected calls ≥ 1, got ", calls);
  result.calls = calls;
  const auto total = calls + static_cast<int64_t>(result.history.size());
  if (object.has("losses")) {
    const bool each = object.list("losses").at(0).is_array();
    const Tensor losses = matrix_of(each ? object.list("losses") : nlohmann::json::array({object.list("losses")}), where);
    HTL_CHECK(!each || losses.size(0) == total, where, ": expected losses for each of ", total, " calls, got ", losses.size(0));
    for (int64_t c = 0; c < total; ++c) result.losses.push_back(losses[each ? c : 0]);
  }
  if (object.has("columns")) result.columns = object.integers("columns");
  if (object.has("uniform")) {
    result.draw = object.at("uniform").is_array() ? object.numbers("uniform") : std::vector{object.number("uniform")};
    HTL_CHECK(result.method.get_if<GradDrop>(), where, ": a draw \"uniform\" is for graddrop, got ", result.method.name());
  }
  htl::detail::JsonObject expected(object.at("expected"), where + ", expected");
  if (expected.has("gradient")) result.gradient = at::tensor(expected.numbers("gradient"), at::kDouble);
  if (expected.has("weights")) result.weights = at::tensor(expected.numbers("weights"), at::kDouble);
  expected.finish();
  HTL_CHECK(result.gradient.defined() || result.weights.defined(), where, ": expected a gradient or weights to compare with, got none");
  const bool apart = result.columns.size() > 1 && !result.method.sees_gradients();
  HTL_CHECK(!result.weights.defined() || !apart, where, ": method \"", result.method.name(), "\" has weights of its own in each of ", result.columns.size(),
            " tensors; expect a gradient alone");
  result.tolerance = object.number("tolerance");
  HTL_CHECK(result.tolerance >= 0.0 && result.tolerance <= 0.1, where, ": expected a tolerance in [0, 0.1], got ", result.tolerance);
  HTL_CHECK(!object.text("source").empty(), where, ": expected a source, got none");
  object.finish();
  return result;
}

/// The cases of one text.
std::vector<Case> cases_of(const nlohmann::json& json, const std::string& where, const MethodRegistry& methods) {
  htl::detail::JsonObject file(json, where);
  std::vector<Case> result;
  for (const nlohmann::json& element : file.list("cases")) {
    const std::string at = where + ", case " + std::to_string(result.size());
    result.push_back(case_of(element, at + (element.is_object() && element.contains("method") ? " (" + element["method"].dump() + ")" : ""), methods));
  }
  if (file.has("about")) (void)file.text("about");
  file.finish();
  HTL_CHECK(!result.empty(), where, ": expected cases, got none");
  return result;
}

/// One call: the shared gradient [P] and the weights.
SharedGradient call(const Case& one, const std::vector<Tensor>& batches, const std::vector<int64_t>& columns, int64_t step, AnyWeighting::State& state) {
  TaskGradients gradients = task_gradients(batches.back(), columns);
  if (batches.size() > 1) gradients.gramian.cross = batches[0].mm(batches[1].t());
  if (!one.losses.empty()) gradients.gramian.losses = one.losses[static_cast<size_t>(step)];
  gradients.gramian.step = step;
  if (one.draw) {
    const Tensor draw = at::tensor(*one.draw, at::kDouble);
    std::vector<Tensor> parts;
    int64_t first = 0;
    for (const TaskGradients::Part& part : gradients.parts) {
      parts.push_back(draw.size(0) == 1 ? draw : draw.narrow(0, first, part.values.size(2)));
      first += part.values.size(2);
    }
    return one.method.get_if<GradDrop>()->aggregate_with(gradients, parts);
  }
  return one.method.aggregate(gradients, state);
}

/// The last of a case's calls. Batches have the meaning that htl::backward gives them: the first two make the products, the last one is weighed.
SharedGradient result_of(const Case& one, const std::vector<Tensor>& jacobians, const std::vector<Tensor>& history, const std::vector<int64_t>& columns) {
  HTL_CHECK(!jacobians.empty() && static_cast<int64_t>(jacobians.size()) <= one.method.batches(), "expected 1 … ", one.method.batches(),
            " Jacobians for method \"", one.method.name(), "\", got ", jacobians.size());
  AnyWeighting::State state = one.method.initial_state();
  SharedGradient result;
  const auto before = static_cast<int64_t>(history.size());
  for (int64_t step = 0; step < before + one.calls; ++step) {
    if (step > 0 && one.method.observes() && !one.losses.empty()) one.method.observe(one.losses[static_cast<size_t>(step)], state);
    result = call(one, step < before ? std::vector{history[static_cast<size_t>(step)]} : jacobians, columns, step, state);
  }
  return result;
}

std::string difference(const char* what, const Tensor& got, const Tensor& expected, double tolerance) {
  if (!expected.defined()) return "";
  if (!got.defined()) return std::string("there is no ") + what;
  if (got.sizes() != expected.sizes()) return std::string(what) + " of shape " + shape_of(got) + ", expected " + shape_of(expected);
  const double bound = tolerance * std::max(1.0, expected.abs().max().item<double>());
  const Tensor apart = (got - expected).abs();
  if (apart.le(bound).all().item<bool>()) return "";  // NaN is not
  std::ostringstream text;
  text.precision(10);
  text << what << " [";
  for (int64_t i = 0; i < got.size(0); ++i) text << (i ? ", " : "") << got[i].item<double>();
  text << "], expected [";
  for (int64_t i = 0; i < got.size(0); ++i) text << (i ? ", " : "") << expected[i].item<double>();
  text << "], which is " << apart.max().item<double>() << " away, more than " << bound;
  return text.str();
}

/// What is wrong with a method's result; empty where it is as expected.
std::string fault_of(const Case& one) {
  Tensor gradient, weights;
  if (one.columns.size() > 1 && !one.method.sees_gradients()) {  // each tensor by itself, with a memory of its own
    std::vector<Tensor> parts;
    int64_t first = 0;
    for (const int64_t width : one.columns) {
      const auto narrowed = [&](const std::vector<Tensor>& matrices) {
        std::vector<Tensor> result;
        for (const Tensor& matrix : matrices) result.push_back(matrix.narrow(1, first, width));
        return result;
      };
      parts.push_back(result_of(one, narrowed(one.jacobians), narrowed(one.history), {}).parts.front().values.flatten());
      first += width;
    }
    HTL_CHECK(first == one.jacobians.front().size(1), "expected columns of together ", one.jacobians.front().size(1), ", got ", first);
    gradient = at::cat(parts);
  } else {
    const SharedGradient result = result_of(one, one.jacobians, one.history, one.columns);
    std::vector<Tensor> parts;
    for (const SharedGradient::Part& part : result.parts) parts.push_back(part.values.flatten());
    gradient = at::cat(parts);
    weights = result.weights;
  }
  const std::string of_gradient = difference("gradient", gradient, one.gradient, one.tolerance);
  return of_gradient.empty() ? difference("weights", weights, one.weights, one.tolerance) : of_gradient;
}

std::filesystem::path folder() {
  const char* const given = std::getenv("HTL_GOLDEN_DIR");
  return given && *given ? given : HTL_GOLDEN_DEFAULT;
}

/// The cases of all files of a folder, by file and number.
std::map<std::string, Case> cases_in(const std::filesystem::path& directory, const MethodRegistry& methods) {
  std::map<std::string, Case> result;
  HTL_CHECK(std::filesystem::is_directory(directory), "HTL_GOLDEN_DIR: there is no folder \"", directory.string(), "\"");
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() != ".json") continue;
    const std::string file = entry.path().filename().string();
    std::vector<Case> cases = cases_of(read_json(entry.path()), file, methods);
    for (size_t i = 0; i < cases.size(); ++i) result.emplace(file + ", case " + std::to_string(i), std::move(cases[i]));
  }
  HTL_CHECK(!result.empty(), "HTL_GOLDEN_DIR: there is no *.json in \"", directory.string(), "\"");
  return result;
}

class Golden : public Seeded {};

TEST_F(Golden, MethodsGiveTheNumbersOfTheFiles) {
  std::map<std::string, int64_t> counts;
  int64_t wrong = 0;
  for (const auto& [where, one] : cases_in(folder(), built_in_methods())) {
    ++counts[one.method.name()];
    std::string fault;
    try {
      fault = fault_of(one);
    } catch (const c10::Error& error) {
      fault = error.what_without_backtrace();
    }
    if (!fault.empty() && ++wrong <= 30) ADD_FAILURE() << where << ", " << one.method.name() << ": " << fault;
  }
  EXPECT_EQ(wrong, 0) << "of all cases";
  if (folder() != HTL_GOLDEN_DEFAULT) return;
  for (const std::string& name : built_in_methods().names()) {
    if (name == "random") continue;  // its numbers are nobody's
    EXPECT_GE(counts[name], 5) << name << ": cases were lost";
  }
  for (const auto& [method, count] : counts) RecordProperty(method, std::to_string(count));
}

std::string refused(const std::string& text) {
  return sentence_of([&] {
    for (const Case& one : cases_of(parse_json(text, "a.json"), "a.json", built_in_methods())) {
      const std::string fault = fault_of(one);
      HTL_CHECK(fault.empty(), fault);
    }
  });
}
std::string refused_case(const std::string& keys) { return refused(R"({"cases": [{)" + keys + "}]}"); }
const std::string good =
    R"("method": "sum", "jacobian": [[1, 2], [3, 4]], "expected": {"gradient": [4, 6], "weights": [1, 1]}, "tolerance": 0, "source": "addition")";

TEST_F(Golden, ComparesNumberByNumber) {
  EXPECT_EQ(refused_case(good), "no error");
  const auto with = [](const std::string& expected, const std::string& tolerance) {
    return refused_case(R"("method": "sum", "jacobian": [[1, 2], [3, 4]], "expected": {)" + expected + R"(}, "tolerance": )" + tolerance +
                        R"(, "source": "addition")");
  };
  EXPECT_TRUE(contains(with(R"("gradient": [4, 6.1])", "1e-3"), "gradient [4, 6], expected [4, 6.1], which is 0.1"));
  EXPECT_EQ(with(R"("gradient": [4, 6.1])", "0.0165"), "no error") << "the tolerance is relative to the largest number above 1";
  EXPECT_TRUE(contains(with(R"("gradient": [4, 6.1])", "0.0163"), "away, more than 0.09943"));
  EXPECT_TRUE(contains(with(R"("gradient": [4, 6, 0])", "1e-3"), "gradient of shape [2], expected [3]"));
  EXPECT_TRUE(contains(with(R"("gradient": [4, 6], "weights": [1, 0.5])", "1e-3"), "weights [1, 1], expected [1, 0.5]"));
  EXPECT_TRUE(contains(refused_case(R"("method": "trimmed_mean", "jacobian": [[1]], "expected": {"weights": [1]}, "tolerance": 0, "source": "s")"),
                       "there is no weights"));
}

TEST_F(Golden, TheLastOfTwoBatchesIsWeighed) {
  // λ = 1/2 − ½ (A 1/2), A = [[0, 2], [0, 0]] made of both batches: [0, 1/2], which the projection moves to [1/4, 3/4]
  const auto modo = [](const std::string& gradient) {
    return refused_case(R"("method": "modo", "options": {"gamma": 0.5, "rho": 0}, "jacobians": [[[1], [0]], [[0], [2]]], "expected": {"gradient": )" +
                        gradient + R"(, "weights": [0.25, 0.75]}, "tolerance": 1e-12, "source": "by hand")");
  };
  EXPECT_EQ(modo("[1.5]"), "no error");
  EXPECT_TRUE(contains(modo("[0.25]"), "gradient [1.5], expected [0.25]")) << "which the first batch would give";
}

TEST_F(Golden, WithoutAnOrderTheOrderIsAscending) {
  const std::string j3 = "[[1, 2, -1, 0], [-2, 1, 0.5, 1], [0.5, -1, 3, -2]]";
  const auto named = [&](const std::string& method) {
    return refused_case(R"("method": )" + method + R"(, "jacobian": )" + j3 +
                        R"(, "expected": {"weights": [1.833333, 1.54, 1.531579]}, "tolerance": 1e-6, "source": "the catalogue")");
  };
  for (int repetition = 0; repetition < 10; ++repetition)  // a random order is this one once in eight times
    for (const std::string method : {R"("pcgrad")", R"("gradvac", "options": {"beta": 0.5})", R"("cr_mogm", "inner": "pcgrad")",
                                     R"("cr_mogm", "inner": {"method": "gradvac", "options": {"beta": 0.1}})", R"("pcgrad", "options": {"given": [0, 1, 2]})"})
      EXPECT_EQ(named(method), "no error") << method;
  EXPECT_TRUE(contains(named(R"("pcgrad", "options": {"order": "descending"})"), "weights [1.998245", "expected [1.833333"));
}

TEST_F(Golden, RefusesFilesThatSayNothing) {
  EXPECT_TRUE(contains(refused("{}"), R"(expected the key "cases")"));
  EXPECT_TRUE(contains(refused(R"({"cases": []})"), "expected cases, got none"));
  EXPECT_TRUE(contains(refused(R"({"cases": [{}], "case": []})"), R"(expected the key "method")"));
  EXPECT_TRUE(contains(refused(R"({"cases": [{)" + good + R"(}], "comment": ""})"), R"(unknown key "comment")"));
  EXPECT_TRUE(contains(refused_case(good + R"(, "losess": [1, 2])"), R"(a.json, case 0 ("sum"): unknown key "losess"; did you mean "losses"?)"));
  EXPECT_TRUE(contains(refused_case(good + R"(, "options": {"c": 1})"), R"(weighting "sum" takes no options, got "c")"));
  EXPECT_TRUE(contains(refused_case(good + R"(, "uniform": 0.5)"), R"("uniform" is for graddrop, got sum)"));
  EXPECT_TRUE(contains(refused_case(good + R"(, "columns": [1, 1])"), "expect a gradient alone"));
  EXPECT_TRUE(contains(refused_case(good + R"(, "calls": 0)"), "expected calls ≥ 1"));
  EXPECT_TRUE(contains(refused_case(good + R"(, "calls": 2, "losses": [[1, 2]])"), "losses for each of 2 calls, got 1"));
  EXPECT_TRUE(contains(refused_case(R"("method": "summ", "jacobian": [[1]], "expected": {"gradient": [1]}, "tolerance": 0, "source": "s")"),
                       R"(unknown weighting "summ"; did you mean "sum"?)"));
  const auto without = [](const std::string& key, const std::string& value) {
    std::string text = good;
    const size_t at = text.find("\"" + key + "\"");
    return refused_case(text.substr(0, at) + text.substr(std::min(text.size(), at + key.size() + value.size() + 6)));
  };
  EXPECT_TRUE(contains(without("tolerance", "0"), R"(expected the key "tolerance")"));
  EXPECT_TRUE(contains(without("method", R"("sum")"), R"(expected the key "method")"));
  EXPECT_TRUE(contains(without("jacobian", "[[1, 2], [3, 4]]"), R"(expected "jacobian" or "jacobians")"));
  EXPECT_TRUE(
      contains(refused_case(R"("method": "sum", "jacobian": [[1]], "expected": {}, "tolerance": 0, "source": "s")"), "a gradient or weights to compare"));
  EXPECT_TRUE(contains(refused_case(R"("method": "sum", "jacobian": [[1]], "expected": {"gradients": [1]}, "tolerance": 0, "source": "s")"),
                       R"(unknown key "gradients")"));
  EXPECT_TRUE(
      contains(refused_case(R"("method": "sum", "jacobian": [[1]], "expected": {"gradient": [1]}, "tolerance": 0, "source": "")"), "a source, got none"));
  EXPECT_TRUE(contains(refused_case(R"("method": "sum", "jacobian": [[1], [1, 2]], "expected": {"gradient": [1]}, "tolerance": 0, "source": "s")"),
                       "rows of one length"));
  EXPECT_TRUE(contains(refused_case(R"("method": "sum", "jacobians": [[[1]], [[1]]], "expected": {"gradient": [1]}, "tolerance": 0, "source": "s")"),
                       R"(expected 1 … 1 Jacobians for method "sum", got 2)"));
  const auto modo = [](const std::string& jacobians) {
    return refused_case(R"("method": "modo", "jacobians": )" + jacobians + R"(, "expected": {"weights": [1]}, "tolerance": 0, "source": "s")");
  };
  for (const std::string batches : {"[[[1]]]", "[[[1]], [[1]]]", "[[[1]], [[1]], [[1]]]"}) EXPECT_EQ(modo(batches), "no error");
  EXPECT_TRUE(contains(modo("[[[1]], [[1]], [[1]], [[1]]]"), R"(expected 1 … 3 Jacobians for method "modo", got 4)"));
}

TEST_F(Golden, RefusesFoldersWithoutCases) {
  const TemporaryFolder empty;
  EXPECT_TRUE(contains(sentence_of([&] { cases_in(empty.path(), built_in_methods()); }), "there is no *.json"));
  EXPECT_TRUE(contains(sentence_of([&] { cases_in(empty.path() / "nowhere", built_in_methods()); }), "there is no folder"));
}

}  // namespace
