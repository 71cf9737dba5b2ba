// SPDX-License-Identifier: Apache-2.0
// A kernel of the user's; it is compiled and linked, and needs no GPU here.
__global__ void doubled(float* values, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) values[i] *= 2.0f;
}

void launch(float* values, int count) { doubled<<<(count + 255) / 256, 256>>>(values, count); }
