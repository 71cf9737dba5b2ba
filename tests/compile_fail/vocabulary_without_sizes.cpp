// SPDX-License-Identifier: Apache-2.0
// A feature map says how many ids each field has.
// expect: FieldVocabulary
// expect: map\.sizes\(\)
#include <htl/embedding/field_embedding.hpp>

#include <string>
#include <vector>

struct MyMap {
  std::vector<std::string> names() const { return {"user"}; }
};

htl::FieldEmbeddingOptions options(MyMap{}, 8);
