#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up what is missing, builds the tests and the examples, and passes them. Options are those of scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in *" -h "* | *" --help "*) exec scripts/setup.sh --help ;; esac
cuda=OFF
case " $* " in *" --full "*) cuda=ON ;; esac
root=$(scripts/setup.sh "$@")
cmake --preset dev -D HTL_TORCH_ROOT="$root" -D HTL_ENABLE_CUDA=$cuda
cmake --build --preset dev
ctest --preset dev
