// SPDX-License-Identifier: Apache-2.0
/// @file safetensors.hpp
/// @brief Named tensors in the safetensors format, which Python, Rust and others read without running any code.
#pragma once

#include <htl/io/json.hpp>

#include <ATen/ops/empty.h>

#include <zlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What a safetensors file holds.
struct TensorFile {
  Named<at::Tensor> tensors = {};    ///< by name; on the CPU and contiguous when read
  Named<std::string> metadata = {};  ///< texts by name; "htl.crc32" is reserved
  bool is_checked = false;           ///< when read: whether there was a checksum of save_safetensors(), which held
};

namespace detail {

static_assert(std::endian::native == std::endian::little, "the safetensors format is little-endian");

struct TensorType {
  at::ScalarType type;
  const char* name;
};
inline constexpr std::array<TensorType, 10> tensor_types = {{{at::kDouble, "F64"},
                                                             {at::kFloat, "F32"},
                                                             {at::kHalf, "F16"},
                                                             {at::kBFloat16, "BF16"},
                                                             {at::kLong, "I64"},
                                                             {at::kInt, "I32"},
                                                             {at::kShort, "I16"},
                                                             {at::kChar, "I8"},
                                                             {at::kByte, "U8"},
                                                             {at::kBool, "BOOL"}}};
inline constexpr uint64_t longest_header = 100'000'000;  // as the reference implementation

/// The checksum's place in the metadata: the CRC-32 of everything behind the header's length, these eight digits taken as zeros.
inline constexpr std::string_view checksum_key = "htl.crc32", checksum_mark = "\"htl.crc32\":\"", no_checksum = "00000000";
inline uint32_t crc32_of(uint32_t before, const void* bytes, size_t count) {
  return static_cast<uint32_t>(::crc32_z(before, static_cast<const Bytef*>(bytes), count));
}
inline std::string as_digits(uint32_t checksum) {
  std::string digits;
  for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[(checksum >> shift) & 15];
  return digits;
}

/// Where one tensor lies in the data, checked against their size.
struct TensorEntry {
  std::string name;
  at::ScalarType type;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};
struct TensorHeader {
  std::vector<TensorEntry> entries;  // in the order of their data
  Named<std::string> metadata;
};

inline TensorEntry read_tensor_entry(const std::string& name, const nlohmann::json& json, const std::string& source, uint64_t data_size) {
  const std::string where = "htl::load_safetensors: " + source + ": tensor \"" + name + "\"";
  JsonObject object(json, where);
  TensorEntry entry{name, at::kFloat, {}};
  const std::string type = object.text("dtype");
  const auto known = std::find_if(tensor_types.begin(), tensor_types.end(), [&](const TensorType& t) { return type == t.name; });
  std::vector<std::string> names;
  for (const TensorType& t : tensor_types) names.emplace_back(t.name);
  HTL_CHECK(known != tensor_types.end(), where, " has the unknown element type \"", type, "\"; known: ", quoted(names));
  entry.type = known->type;
  uint64_t elements = 1, bound = c10::elementSize(entry.type);  // bound: the product without zeros, so that no partial product overflows
  for (const nlohmann::json& size : object.list("shape")) {
    HTL_CHECK(size.is_number_unsigned(), where, ": expected whole sizes ≥ 0 in the shape, got ", size.dump());
    const auto n = size.get<uint64_t>();
    HTL_CHECK(n <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / bound, where, " has an impossible shape ", json["shape"].dump());
    bound *= std::max<uint64_t>(n, 1);
    elements *= n;
    entry.shape.push_back(static_cast<int64_t>(n));
  }
  const nlohmann::json& offsets = object.list("data_offsets");
  HTL_CHECK(offsets.size() == 2 && offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned(), where, ": expected data_offsets [begin, end], got ",
            offsets.dump());
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  HTL_CHECK(entry.begin <= entry.end && entry.end <= data_size, where, ": the offsets [", entry.begin, ", ", entry.end, ") are outside of the ", data_size,
            " bytes of data; the file is truncated or damaged");
  HTL_CHECK(entry.end - entry.begin == elements * c10::elementSize(entry.type), where, ": ", type, " of shape ", json["shape"].dump(), " takes ",
            elements * c10::elementSize(entry.type), " bytes, but the offsets span ", entry.end - entry.begin);
  object.finish();
  return entry;
}

/// Reads and checks the JSON header; data_size is what follows it.
inline TensorHeader read_tensor_header(std::string_view text, uint64_t data_size, const std::string& source) {
  const nlohmann::json json = parse_json(text, "the header of " + source, 4);
  HTL_CHECK(json.is_object(), "htl::load_safetensors: ", source, ": expected an object as header, got ", json.type_name());
  TensorHeader header;
  std::vector<std::pair<std::string, std::string>> metadata;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      HTL_CHECK(value.is_object(), "htl::load_safetensors: ", source, ": expected an object as __metadata__, got ", value.type_name());
      for (const auto& [key, content] : value.items()) {
        HTL_CHECK(content.is_string(), "htl::load_safetensors: ", source, ": expected a text as metadata \"", key, "\", got ", content.type_name());
        metadata.emplace_back(key, content.template get<std::string>());
      }
    } else {
      header.entries.push_back(read_tensor_entry(name, value, source, data_size));
    }
  }
  header.metadata = Named<std::string>(std::move(metadata));
  std::sort(header.entries.begin(), header.entries.end(),
            [](const TensorEntry& a, const TensorEntry& b) { return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name); });
  uint64_t covered = 0;
  for (size_t i = 0; i < header.entries.size(); ++i) {
    const TensorEntry& entry = header.entries[i];
    HTL_CHECK(entry.begin >= covered, "htl::load_safetensors: ", source, ": the tensors \"", header.entries[i - 1].name, "\" and \"", entry.name, "\" overlap");
    HTL_CHECK(entry.begin == covered, "htl::load_safetensors: ", source, ": ", entry.begin - covered, " bytes before tensor \"", entry.name,
              "\" belong to none");
    covered = entry.end;
  }
  HTL_CHECK(covered == data_size, "htl::load_safetensors: ", source, ": the last ", data_size - covered, " bytes belong to no tensor");
  return header;
}

/// Takes the checksum out of the metadata, and out of the header's text; nothing where a file has none.
inline std::optional<std::string> take_checksum(Named<std::string>& metadata, std::string& text) {
  const std::string* const found = metadata.find(checksum_key);
  if (!found) return std::nullopt;
  const std::string checksum = *found;
  std::vector<std::pair<std::string, std::string>> others;
  for (const auto& [key, value] : metadata)
    if (key != checksum_key) others.emplace_back(key, value);
  metadata = Named<std::string>(std::move(others));
  const size_t at = text.find(checksum_mark);
  if (at != std::string::npos && checksum.size() == no_checksum.size()) text.replace(at + checksum_mark.size(), no_checksum.size(), no_checksum);
  return checksum;
}

/// The whole format over `read(destination, count)`, which gives the next bytes of `size` in all, and `take(entry)`, which gives the next tensor.
/// @param verifies whether a checksum, where there is one, and bools are compared, for which all data are read
template <class Read, class Take>
TensorFile read_safetensors(uint64_t size, const std::string& source, Read&& read, Take&& take, bool verifies = true) {
  HTL_CHECK(size >= 8, "htl::load_safetensors: ", source, " has ", size, " bytes; expected at least the 8 of the header's length");
  uint64_t length = 0;
  read(&length, 8);
  HTL_CHECK(length <= longest_header, "htl::load_safetensors: ", source, " announces a header of ", length, " bytes; at most ", longest_header,
            " are allowed; it is not a safetensors file");
  HTL_CHECK(length <= size - 8, "htl::load_safetensors: ", source, " announces a header of ", length, " bytes and has ", size - 8,
            " left; it is truncated or not a safetensors file");
  std::string text(length, '\0');
  read(text.data(), text.size());
  HTL_CHECK(text.starts_with('{'), "htl::load_safetensors: ", source, ": expected a header that begins with {; it is not a safetensors file");
  TensorHeader header = read_tensor_header(text, size - 8 - length, source);
  std::optional<std::string> expected = take_checksum(header.metadata, text);
  if (!verifies) expected.reset();
  uint32_t checksum = crc32_of(0, text.data(), text.size());
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const TensorEntry& entry : header.entries) {
    at::Tensor tensor = take(entry);
    if (expected && tensor.nbytes() > 0) checksum = crc32_of(checksum, tensor.const_data_ptr(), tensor.nbytes());
    if (entry.type == at::kBool && verifies) {  // any other byte in a bool is undefined behaviour later on
      const auto* bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
      HTL_CHECK(std::all_of(bytes, bytes + tensor.nbytes(), [](unsigned char byte) { return byte <= 1; }), "htl::load_safetensors: ", source, ": tensor \"",
                entry.name, "\" is BOOL but holds bytes other than 0 and 1");
    }
    tensors.emplace_back(entry.name, std::move(tensor));
  }
  HTL_CHECK(!expected || *expected == as_digits(checksum), "htl::load_safetensors: ", source, " has the checksum ", as_digits(checksum), ", expected ",
            expected.value_or(""), "; it is damaged, or another program changed it and kept the metadata \"", checksum_key,
            "\": take an undamaged copy, or write it without that");
  return {Named<at::Tensor>(std::move(tensors)), header.metadata, expected.has_value()};
}

/// Tensors of their own, filled by `read`.
template <class Read>
auto into_memory(const Read& read) {
  return [&read](const TensorEntry& entry) {
    at::Tensor tensor = at::empty(entry.shape, entry.type);
    if (tensor.nbytes() > 0) read(tensor.mutable_data_ptr(), tensor.nbytes());
    return tensor;
  };
}

}  // namespace detail

/// @brief Reads named tensors and metadata. The order is that of the data in the file.
///
/// Everything is checked before memory is taken for it: the header's length and JSON (repeated keys too), types, shapes against offsets, offsets against the
/// file's size, overlaps and gaps; and the checksum, where save_safetensors() wrote one. A damaged or hostile file gives a sentence; nothing in it is ever
/// executed.
/// **Cost.** one pass over the file, no second copy.
/// @throws c10::ValueError naming file, tensor and fault
inline TensorFile load_safetensors(const std::filesystem::path& path) {
  const std::string source = quoted({path.string()});
  std::error_code error;
  HTL_CHECK(std::filesystem::is_regular_file(path, error), "htl::load_safetensors: expected a file ", source, ", found ",
            std::filesystem::exists(path, error) ? "something else" : "nothing");
  std::ifstream file(path, std::ios::binary);
  HTL_CHECK(file.is_open(), "htl::load_safetensors: can't open ", source, ": ", std::strerror(errno));
  const auto read = [&](void* destination, uint64_t count) {
    file.read(static_cast<char*>(destination), static_cast<std::streamsize>(count));
    HTL_CHECK(file.gcount() == static_cast<std::streamsize>(count), "htl::load_safetensors: ", source, " became shorter while it was read");
  };
  return detail::read_safetensors(std::filesystem::file_size(path), source, read, detail::into_memory(read));
}
/// @brief The same from bytes in memory.
/// @param bytes a whole file
/// @param source what it is, for sentences
/// @throws c10::ValueError naming tensor and fault
inline TensorFile parse_safetensors(std::string_view bytes, const std::string& source = "the bytes") {
  const auto read = [&](void* destination, uint64_t count) {
    std::memcpy(destination, bytes.data(), count);
    bytes.remove_prefix(count);
  };
  return detail::read_safetensors(bytes.size(), source, read, detail::into_memory(read));
}

/// @brief Writes named tensors and metadata atomically: after a crash there is the old file or the new one.
///
/// Tensors are laid out by falling element size, so that each is aligned in the file; otherwise in the given order. Those on a device are copied to the CPU one
/// after the other (a synchronisation each). The same content gives the same bytes. The metadata get "htl.crc32", the CRC-32 of all that follows the header's
/// length with its own eight digits as zeros, which load_safetensors() checks and takes out again; readers of other makers see one text more.
/// @throws c10::ValueError if a tensor is undefined or of a type or layout that the format lacks, a name is not UTF-8, or the file can't be written
inline void save_safetensors(const std::filesystem::path& path, const TensorFile& content) {
  struct Part {
    const std::string* name;
    const at::Tensor* tensor;
    const char* type;
    uint64_t bytes;
  };
  std::vector<Part> parts;
  for (const auto& [name, tensor] : content.tensors) {
    HTL_CHECK(name != "__metadata__", "htl::save_safetensors: the name __metadata__ is reserved by the format; rename the tensor");
    HTL_CHECK(tensor.defined(), "htl::save_safetensors: tensor \"", name, "\" is undefined; leave it out");
    HTL_CHECK(tensor.layout() == at::kStrided, "htl::save_safetensors: expected a dense tensor \"", name, "\", got layout ", tensor.layout());
    const at::ScalarType type = tensor.scalar_type();
    const auto known = std::find_if(detail::tensor_types.begin(), detail::tensor_types.end(), [&](const auto& t) { return t.type == type; });
    HTL_CHECK(known != detail::tensor_types.end(), "htl::save_safetensors: the format has no element type for tensor \"", name, "\" of type ",
              tensor.scalar_type());
    parts.push_back({&name, &tensor, known->name, static_cast<uint64_t>(tensor.nbytes())});
  }
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.tensor->element_size() > b.tensor->element_size(); });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"][std::string(detail::checksum_key)] = detail::no_checksum;
  for (const auto& [key, value] : content.metadata) {
    HTL_CHECK(key != detail::checksum_key, "htl::save_safetensors: the metadata \"", key, "\" is the checksum's place; choose another name");
    header["__metadata__"][key] = value;
  }
  auto& entries = static_cast<nlohmann::ordered_json::object_t::Container&>(
      header.get_ref<nlohmann::ordered_json::object_t&>());  // adding to the object itself would look each name up among all before
  uint64_t offset = 0;
  for (const Part& part : parts) {
    nlohmann::ordered_json entry = {{"dtype", part.type}, {"shape", part.tensor->sizes().vec()}, {"data_offsets", {offset, offset + part.bytes}}};
    entries.emplace_back(*part.name, std::move(entry));
    offset += part.bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    HTL_CHECK(false, "htl::save_safetensors: names and metadata must be UTF-8: ", error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  HTL_CHECK(length <= detail::longest_header, "htl::save_safetensors: names, shapes and metadata take ", length, " bytes; the format allows ",
            detail::longest_header);
  AtomicFile file(path);
  file.write(&length, sizeof(length));
  file.write(text.data(), text.size());
  uint32_t checksum = detail::crc32_of(0, text.data(), text.size());
  for (const Part& part : parts) {
    const at::Tensor held = part.tensor->detach().to(at::kCPU).contiguous();
    file.write(held.const_data_ptr(), held.nbytes());
    if (held.nbytes() > 0) checksum = detail::crc32_of(checksum, held.const_data_ptr(), held.nbytes());
  }
  const std::string digits = detail::as_digits(checksum);
  file.overwrite(sizeof(length) + text.find(detail::checksum_mark) + detail::checksum_mark.size(), digits.data(), digits.size());
  file.commit();
}

}  // namespace htl
