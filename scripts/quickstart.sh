#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up what is missing, builds the program htlnet and trains the reference model on the built-in synthetic data set. Options are those of scripts/setup.sh;
# what stands behind "--" goes to htlnet.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in *" -h "* | *" --help "*) exec scripts/setup.sh --help ;; esac
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
[ $# -eq 0 ] || shift
root=$(scripts/setup.sh "${options[@]}")
cmake --preset release -D HTL_TORCH_ROOT="$root" -D HTL_BUILD_TESTS=OFF -D HTL_BUILD_BENCHMARKS=OFF -D HTL_WARNINGS_AS_ERRORS=OFF -B build/quickstart
cmake --build build/quickstart --target htlnet
build/quickstart/examples/htlnet/htlnet train --dataset synthetic --output runs/quickstart "$@"
