// SPDX-License-Identifier: Apache-2.0
#include <htl/data/csv.hpp>
#include <htl/htl.hpp>
#include <htl/io/feature_map_json.hpp>
#include <htl/io/module_state.hpp>
#include <htl/io/task_graph_json.hpp>
#include <htl/io/task_set_json.hpp>

int main(int, char** argv) {
  const std::filesystem::path run = argv[1];
  const nlohmann::json manifest = htl::read_json(run / "manifest.json");
  const htl::FeatureMap features = htl::feature_map_from_json(htl::read_json(run / "features.json"));
  const htl::TaskSet tasks = htl::task_set_from_json(htl::read_json(run / "tasks.json"));
  const htl::Named<at::Tensor> weights = htl::load_safetensors(run / "model.safetensors").tensors;
  htl::FieldEmbedding embedding(features, manifest["embedding"]["dim"].get<int64_t>());
  htl::TaskGraph<> graph(tasks, htl::task_graph_options_from_json(manifest["model"]));
  htl::load_module_state(*embedding, htl::child_state(weights, "embedding"));
  htl::load_module_state(*graph, htl::child_state(weights, "graph"));
  graph->eval();
  std::vector<int32_t> ids;
  std::vector<int64_t> ends{0};
  std::vector<float> numbers;
  for (htl::CsvReader rows(argv[2]); rows.next();) {
    for (int64_t f = 0; f < features.size(); ++f, ends.push_back(static_cast<int64_t>(ids.size())))
      features.append_ids(f, rows[rows.column(features.names()[static_cast<size_t>(f)])], ids);
    for (int64_t n = 0; n < graph->options.numeric_width(); ++n)
      numbers.push_back(features.number(n, rows[rows.column(features.numeric()[static_cast<size_t>(n)].name)]));
  }
  const htl::Batch batch{htl::FieldBatch::bags(torch::tensor(ids), torch::tensor(ends), features.size())};
  const at::Tensor numeric = numbers.empty() ? at::Tensor() : torch::tensor(numbers).view({batch.rows(), -1});
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> columns;
  for (const auto& [name, value] : tasks.predict(graph->forward(embedding->forward(batch), numeric))) {
    columns.push_back(value.view({batch.rows(), -1}));
    for (int64_t k = 0; k < columns.back().size(1); ++k)
      std::printf("%s%s", columns.size() == 1 && k == 0 ? "" : ",", (value.dim() > 1 ? name + "." + std::to_string(k) : name).c_str());
  }
  const at::Tensor table = torch::cat(columns, 1);
  for (int64_t i = 0; i < table.numel(); ++i) std::printf("%c%.9g", i % table.size(1) == 0 ? '\n' : ',', table.flatten()[i].item<double>());
}
