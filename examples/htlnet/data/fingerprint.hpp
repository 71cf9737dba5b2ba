// SPDX-License-Identifier: Apache-2.0
/// @file fingerprint.hpp
/// @brief A checksum of rows, by which other rows than before are noticed.
#pragma once

#include <htl/data/table_data.hpp>
#include <htl/io/safetensors.hpp>

#include <array>
#include <sstream>
#include <string>

namespace htlnet {

/// @brief What the columns are: the names of labels and their context, and the type and shape of each tensor.
inline std::string layout_of(const htl::TableData& rows) {
  std::ostringstream text;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    text << name << ' ';
    if (tensor.defined()) text << tensor.scalar_type() << ' ' << tensor.sizes();
    text << '\n';
  };
  const htl::Batch& all = rows.all();
  add("ids", all.fields.ids);
  add("offsets", all.fields.offsets);
  add("weights", all.fields.weights);
  add("numeric", all.numeric);
  for (const auto& [name, label] : all.labels.tasks) {
    add("label " + name, label.value);
    add("mask", label.mask);
    add("weight", label.weight);
  }
  for (const auto& [name, column] : all.labels.context) add("context " + name, column);
  return text.str();
}

/// @brief The CRC-32 of ids, numbers, labels and their context, as eight digits. Checkpoints of htlnet are known by it: what the columns are, its run folder
/// compares by features and tasks.
/// @param with_layout also of layout_of()
inline std::string fingerprint_of(const htl::TableData& rows, bool with_layout = false) {
  uint32_t checksum = 0;
  if (with_layout) {
    const std::string layout = layout_of(rows);
    checksum = htl::detail::crc32_of(checksum, layout.data(), layout.size());
  }
  const auto add = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.numel() == 0) return;
    const at::Tensor held = tensor.contiguous();
    checksum = htl::detail::crc32_of(checksum, held.const_data_ptr(), held.nbytes());
  };
  const htl::Batch& all = rows.all();
  for (const at::Tensor& part : {all.fields.ids, all.fields.offsets, all.fields.weights, all.numeric}) add(part);
  for (const auto& [name, label] : all.labels.tasks)
    for (const at::Tensor& part : {label.value, label.mask, label.weight}) add(part);
  for (const auto& [name, column] : all.labels.context) add(column);
  return htl::detail::as_digits(checksum);
}

}  // namespace htlnet
