#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up what is missing, builds the program htlnet and trains the reference model on the built-in synthetic data set, into runs/quickstart. Options are those
# of scripts/setup.sh; what stands behind "--" goes to htlnet train: its --help, another --dataset, another --output.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
options=() cuda=OFF
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    -h | --help) exec "$here/scripts/setup.sh" --help ;;
    --full) cuda=ON ;;
  esac
  options+=("$1")
  shift
done
[ $# -eq 0 ] || shift
output=(--output "$here/runs/quickstart" --overwrite)
for word in "$@"; do
  case $word in --output | --output=*) output=() ;; esac
done
root=$("$here/scripts/setup.sh" "${options[@]}")
[ -n "$root" ] || exit 0
(
  cd "$here"
  cmake --preset release -D HTL_TORCH_ROOT="$root" -D HTL_ENABLE_CUDA=$cuda -D HTL_BUILD_TESTS=OFF -D HTL_BUILD_BENCHMARKS=OFF -D HTL_WARNINGS_AS_ERRORS=OFF \
    -B build/quickstart
  cmake --build build/quickstart --target htlnet
)
"$here/build/quickstart/examples/htlnet/htlnet" train "${output[@]}" "$@"
