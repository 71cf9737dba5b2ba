// SPDX-License-Identifier: Apache-2.0
/// @file data_files.hpp
/// @brief What tests of readers share: a folder for small files, where the real data sets are, and what a row holds.
#pragma once

#include <examples/htlnet/data/dataset.hpp>

#include <support/seeded.hpp>
#include <support/temporary_folder.hpp>

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace htl::test {

/// @brief A test with a folder of its own, which is removed after it.
class Files : public ::testing::Test {
 protected:
  /// @brief Writes a file, and gives its path.
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  /// @brief What a call says, with the folder's name taken out.
  template <class Call>
  std::string said(const Call& call) const {
    std::string text = sentence_of(call);
    for (size_t at; (at = text.find(folder_.string())) != std::string::npos;) text.replace(at, folder_.string().size(), "DIR");
    return text;
  }

 private:
  TemporaryFolder temporary_;

 protected:
  const std::filesystem::path folder_ = temporary_.path();
};

/// @brief Where a real data set is, if it is there; tests that need it skip where it is not.
inline std::string real_data(const std::string& name) {
  if (const char* set = std::getenv("HTL_DATA_DIR")) return std::string(set) + "/" + name;
#ifdef HTL_DEFAULT_DATA_DIR
  return std::string(HTL_DEFAULT_DATA_DIR) + "/" + name;
#else
  return "";
#endif
}

/// @brief Ids and weights of a row's field in the long form.
using Bag = std::pair<std::vector<int64_t>, std::vector<float>>;
/// @brief Reads them.
inline Bag bag(const htlnet::Dataset& data, const htl::TableData& rows, int64_t row, const std::string& field) {
  const htl::FieldBatch& all = rows.all().fields;
  const int64_t at = row * all.fields + data.features.index(field);
  Bag result;
  for (int64_t i = all.offsets[at].item<int64_t>(); i < all.offsets[at + 1].item<int64_t>(); ++i) {
    result.first.push_back(all.ids[i].item<int64_t>());
    result.second.push_back(all.weights[i].item<float>());
  }
  return result;
}

}  // namespace htl::test
