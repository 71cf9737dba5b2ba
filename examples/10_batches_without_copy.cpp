// SPDX-License-Identifier: Apache-2.0
// Your own batches without a copy: ids by DLPack, a label column by the Arrow C data interface. The memory goes back to its owner with the last tensor on it.
#include <htl/data/table_data.hpp>

#include <ATen/DLConvertor.h>
#include <torch/torch.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

struct ArrowSchema {  // the interface's two structs; Arrow's own header has them too
  const char *format, *name, *metadata;
  int64_t flags, n_children;
  ArrowSchema **children, *dictionary;
  void (*release)(ArrowSchema*);
  void* private_data;
};
struct ArrowArray {
  int64_t length, null_count, offset, n_buffers, n_children;
  const void** buffers;
  ArrowArray **children, *dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};

/// A float32 column as a label. Takes the array over, as the interface asks: its struct is copied, and the original's release cleared.
htl::Label import_label(ArrowArray& array, const ArrowSchema& schema) {
  TORCH_CHECK(std::strcmp(schema.format, "f") == 0, "column ", schema.name, ": expected float32, got the Arrow format ", schema.format);
  auto* const owned = new ArrowArray(std::exchange(array, {}));
  const auto give_back = [owned](void*) {
    owned->release(owned);
    delete owned;
  };
  auto* const values = static_cast<float*>(const_cast<void*>(owned->buffers[1])) + owned->offset;
  htl::Label label{torch::from_blob(values, {owned->length}, give_back, torch::kFloat)};
  if (const auto* bits = static_cast<const uint8_t*>(owned->buffers[0]); bits && owned->null_count != 0) {
    label.mask = torch::empty({owned->length}, torch::kBool);  // the only copy: Arrow packs eight rows into a byte, a mask has a byte a row
    for (int64_t i = 0, bit = owned->offset; i < owned->length; ++i, ++bit) label.mask.mutable_data_ptr<bool>()[i] = bits[bit / 8] >> bit % 8 & 1;
  }
  return label;
}

// What stands for the other library: its memory, and the functions that free it.
constexpr int64_t kRows = 1000, kFields = 3;
int freed = 0;
struct Ids {
  std::vector<int64_t> values = std::vector<int64_t>(kRows * kFields, 1);
  std::array<int64_t, 2> shape{kRows, kFields}, strides{kFields, 1};
  DLManagedTensor managed{{values.data(), {kDLCPU, 0}, 2, {kDLInt, 64, 1}, shape.data(), strides.data(), 0}, this, free};
  static void free(DLManagedTensor* self) { ++freed, delete static_cast<Ids*>(self->manager_ctx); }
};
struct Column {
  std::vector<float> values = std::vector<float>(kRows, 12.0F);
  std::vector<uint8_t> valid = std::vector<uint8_t>(kRows / 8, 0b01111111);  // every eighth row is null
  std::array<const void*, 2> buffers{valid.data(), values.data()};
  ArrowArray array{kRows, kRows / 8, 0, 2, 0, buffers.data(), nullptr, nullptr, free, this};
  static void free(ArrowArray* self) { ++freed, delete static_cast<Column*>(self->private_data); }
};
const ArrowSchema watch_time{"f", "watch_time", nullptr, 2, 0, nullptr, nullptr, nullptr, nullptr};

int main() {
  auto* const ids = new Ids;
  auto* const column = new Column;
  const void *const id_memory = ids->values.data(), *const label_memory = column->values.data();
  {
    htl::Batch batch{htl::FieldBatch::of(at::fromDLPack(&ids->managed))};  // DLPack 1: at::fromDLPackVersioned
    batch.labels.set("watch_time", import_label(column->array, watch_time));
    const htl::Label& label = batch.labels["watch_time"];
    std::printf("same memory: ids %s, labels %s; %d of %d labels are observed\n", batch.fields.ids.const_data_ptr() == id_memory ? "yes" : "no",
                label.value.const_data_ptr() == label_memory ? "yes" : "no", label.mask.sum().item<int>(), static_cast<int>(batch.rows()));
    const htl::TableData data(std::move(batch));  // so do a data set in memory and its slices; shuffled batches are copies
    std::printf("a data set too: %s; freed so far: %d\n", data.slice(0, 10).all().fields.ids.const_data_ptr() == id_memory ? "yes" : "no", freed);
  }
  std::printf("freed with the last tensor: %d\n", freed);
  return 0;
}
