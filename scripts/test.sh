#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up what is missing, builds the tests and the examples, and passes them. Options are those of scripts/setup.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
case " $* " in *" -h "* | *" --help "*) exec "$here/scripts/setup.sh" --help ;; esac
cuda=OFF
case " $* " in *" --full "*) cuda=ON ;; esac
root=$("$here/scripts/setup.sh" "$@") # before the change of folder: options name files as seen from here
[ -n "$root" ] || exit 0
cd "$here"
cmake --preset dev -D HTL_TORCH_ROOT="$root" -D HTL_ENABLE_CUDA=$cuda
cmake --build --preset dev
ctest --preset dev
