#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats all C++ files; with --check it only lists, and fails for, those that differ. clang-format 14 decides (other versions break lines elsewhere).
set -euo pipefail
cd "$(dirname "$0")/.."
tool=clang-format
! command -v clang-format-14 >/dev/null || tool=clang-format-14
files() { git ls-files -co --exclude-standard -z -- '*.hpp' '*.cpp' '*.cuh' '*.cu'; }
case ${1:-} in
  --check) files | xargs -0 -r "$tool" --dry-run --Werror ;;
  '') files | xargs -0 -r "$tool" -i ;;
  *) echo "usage: scripts/format.sh [--check]" >&2; exit 2 ;;
esac
