#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what building htl needs and is missing: system packages (Debian and Ubuntu, as root or with sudo; elsewhere it names them) and LibTorch.
# A LibTorch that is there is used: HTL_TORCH_ROOT, Torch_DIR, CMAKE_PREFIX_PATH, the active Python's torch. Else the pinned one is fetched by pip, once, into
# ${XDG_CACHE_HOME:-~/.cache}/htl; a HTL_TORCH_ROOT that can't be used stops it. Every package comes from where pip's own configuration says. Run again, it does
# nothing.
#
# usage: scripts/setup.sh [options]
#   --torch-version V   another version than the pinned one
#   --wheel FILE        this wheel of torch
#   --index URL         a package index for pip, instead of the configured one
#   --full              LibTorch with CUDA (about 5 GB) instead of the lean form for the CPU (about 1.3 GB); building with it needs a CUDA toolkit (nvcc)
#   --tools             also what the checks use: clang-format, clang-tidy, libFuzzer, Doxygen
#   --python            instead of LibTorch a Python for the tests with the label python (and the system packages): an environment in the cache with
#                       tests/python/requirements.txt, and torch where --full has fetched it
#   --system-only       system packages only; nothing is built after it
# The last line of its output is the directory of the LibTorch to use; with --python the interpreter.
set -euo pipefail

torch_version=2.11.0
wheel='' index='' form=cpu tools='' python='' system_only='' chosen=''

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
usage() { sed -n '3,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; }

while [ $# -gt 0 ]; do
  case $1 in
    --torch-version | --wheel | --index) [ $# -ge 2 ] || fail "$1 needs a value; see --help" ;;&
    --torch-version) torch_version=$2 chosen=1; shift ;;
    --wheel) wheel=$(realpath -e -- "$2") || fail "there is no wheel $2"; chosen=1; shift ;;
    --index) index=$2 chosen=1; shift ;;
    --full) form=cuda ;;
    --tools) tools=1 ;;
    --python) python=1 ;;
    --system-only) system_only=1 ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown option $1; see --help" ;;
  esac
  shift
done
here=$(cd "$(dirname "$0")/.." && pwd)
cxx=${CXX:-c++}

# --- system packages -------------------------------------------------------------------------------------------------------------------------------------
# Debian packages whose purpose nothing on this machine serves yet
missing_packages() {
  local version
  if ! command -v "$cxx" >/dev/null; then
    echo g++
  elif ! printf '#if !(__GNUC__ >= 12 || __clang_major__ >= 16)\n#error old\n#endif\n#include <concepts>\n' | "$cxx" -std=c++20 -E -x c++ - >/dev/null 2>&1; then
    echo g++
  fi
  version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
  [ "$(printf '%s\n' 3.25 "${version:-0}" | sort -V | head -n 1)" = 3.25 ] || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  if command -v "$cxx" >/dev/null; then
    printf '#if !__has_include(<%s>)\nmissing: %s\n#endif\n' gtest/gtest.h libgtest-dev benchmark/benchmark.h libbenchmark-dev CLI/CLI.hpp libcli11-dev \
      toml++/toml.h libtomlplusplus-dev nlohmann/json.hpp nlohmann-json3-dev zlib.h zlib1g-dev |
      "$cxx" -std=c++20 -E -P -x c++ - 2>/dev/null | sed -n 's/^missing: *//p' | tr -d ' '
  else
    echo libgtest-dev libbenchmark-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev zlib1g-dev
  fi
  if [ -n "$tools" ]; then
    command -v clang-format >/dev/null || echo clang-format
    command -v clang-tidy-16 >/dev/null || echo clang-tidy-16 clang-16
    [ -e /usr/lib/llvm-16/lib/libomp.so ] || echo libomp-16-dev
    compgen -G '/usr/lib/llvm-16/lib/clang/16*/lib/linux/libclang_rt.fuzzer-*.a' >/dev/null || echo libclang-rt-16-dev
    command -v doxygen >/dev/null || echo doxygen
  fi
  if [ -n "$python" ]; then
    if ! command -v python3 >/dev/null; then echo python3 python3-venv; elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then echo python3-venv; fi
  fi
}
install_packages() {
  local as_root=()
  [ $# -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    fail "please install what these Debian packages hold, by this system's own means, and run this again: $*"
  fi
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "these packages are missing, and without root or sudo they can't be installed; please have them installed: $*"
    as_root=(sudo)
    [ -t 0 ] || as_root=(sudo -n)
  fi
  say "installing $*"
  "${as_root[@]}" apt-get update -qq >/dev/null || fail "apt-get update failed"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    fail "apt-get could not install: $*; please install them, and run this again"
}
# shellcheck disable=SC2046 # package names are words
install_packages $(missing_packages)
left=$(missing_packages | xargs)
[ -z "$left" ] || fail "still missing after the installation: $left (a newer GCC (12) or CMake (3.25) may be needed than this system has)"
[ -z "$system_only" ] || exit 0

cache=${XDG_CACHE_HOME:-$HOME/.cache}/htl

# --- Python for its tests --------------------------------------------------------------------------------------------------------------------------------
if [ -n "$python" ]; then
  environment=$cache/python requirements=$here/tests/python/requirements.txt
  if ! cmp -s "$requirements" "$environment/requirements.txt" || ! "$environment/bin/python" -c '' 2>/dev/null; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    pip=("$environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements")
    [ -z "$index" ] || pip+=(--index-url "$index")
    "${pip[@]}" >&2 || fail "pip could not install what $requirements lists"
    cp "$requirements" "$environment" # last: an environment with it is complete
  fi
  if whole=$(realpath -qe "$cache/libtorch-cuda/.."); then
    packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    [ "$whole" = "$(cat "$packages/torch.pth" 2>/dev/null)" ] || ! PYTHONPATH=$whole "$environment/bin/python" -c 'import torch' 2>/dev/null ||
      printf '%s\n' "$whole" >"$packages/torch.pth"
  fi
  say "Python: $environment/bin/python"
  printf '%s\n' "$environment/bin/python"
  exit 0
fi

# --- LibTorch --------------------------------------------------------------------------------------------------------------------------------------------
cuda=OFF link=$cache/libtorch
[ $form = cpu ] || { cuda=ON; link=$cache/libtorch-cuda; }

# The LibTorch that CMake would find; nothing if there is none
found() { cmake -D HTL_ENABLE_CUDA=$cuda -P "$here/cmake/HtlTorch.cmake" 2>/dev/null; }
use() { say "LibTorch: $1"; printf '%s\n' "$1"; exit 0; }

if [ -z "$chosen" ]; then
  if root=$(found); then use "$root"; fi
  if [ -n "${HTL_TORCH_ROOT:-}" ]; then
    fail "$(cmake -D HTL_ENABLE_CUDA=$cuda -P "$here/cmake/HtlTorch.cmake" 2>&1 >/dev/null | sed -n 's/^  *//p' | tr '\n' ' ')Correct it, or unset it"
  fi
fi

name=torch-$torch_version-$form
[ -z "$wheel" ] || name=torch-$(basename "$wheel" .whl | cut -d- -f2)-$form-$(cksum <"$wheel" | cut -d' ' -f1)
[ -z "$index" ] || name+=-$(printf %s "$index" | cksum | cut -d' ' -f1)
mkdir -p "$cache"
# Atomic: a directory of that name is complete, since it is unpacked under another one and renamed
if [ ! -d "$cache/$name" ]; then
  if ! python3 -m pip --version >/dev/null 2>&1; then install_packages python3 python3-pip; fi
  python3 -m pip --version >/dev/null 2>&1 || fail "pip is missing for the active Python ($(command -v python3)); please install it, or give a LibTorch by HTL_TORCH_ROOT"
  exec 9>"$cache/lock"
  if command -v flock >/dev/null; then flock 9; fi
fi
if [ ! -d "$cache/$name" ]; then
  rm -rf "$cache"/.unpacking-*
  stage=$cache/.unpacking-$$
  trap 'rm -rf "$stage"' EXIT
  mkdir -p "$stage/tmp" "$stage/tree"
  pip=(env TMPDIR="$stage/tmp" python3 -m pip install --quiet --no-compile --disable-pip-version-check --root-user-action=ignore --target "$stage/tree")
  [ -z "$index" ] || pip+=(--index-url "$index")
  torch=${wheel:-torch==$torch_version}
  if [ $form = cuda ]; then
    say "fetching $torch with CUDA (about 5 GB)"
    "${pip[@]}" "$torch" >&2 || fail "pip could not install $torch"
  else
    say "fetching $torch for the CPU (about 0.6 GB)"
    "${pip[@]}" --no-deps "$torch" >&2 || fail "pip could not install $torch; another one is chosen by --torch-version, --wheel or --index"
    # libtorch_cpu.so of a CUDA wheel needs the runtime and CUPTI beside it and nothing else of CUDA; the wheel says which versions
    mapfile -t beside < <(sed -n 's/^Requires-Dist: *\(nvidia-cuda-\(runtime\|cupti\)[^; ]*\).*/\1/p
      s/^Requires-Dist: *cuda-toolkit\[[^]]*\]\(==[^; ]*\).*/cuda-toolkit[cudart,cupti]\1/p' "$stage"/tree/torch-*.dist-info/METADATA)
    if [ ${#beside[@]} -gt 0 ]; then
      "${pip[@]}" "${beside[@]}" >&2 || fail "pip could not install ${beside[*]}"
    fi
  fi
  unresolved=$(ldd "$stage/tree/torch/lib/libtorch_cpu.so" | sed -n 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p' | xargs)
  [ -z "$unresolved" ] || fail "the lean form of $torch lacks $unresolved; use --full"
  rm -rf "$stage/tree/torch/test" "$stage/tree/bin"
  mv -T "$stage/tree" "$cache/$name"
fi
# CMake finds the pinned one by this link; what an option chose is for this call
[ -n "$chosen" ] || { ln -sfn "$cache/$name/torch" "$link.$$" && mv -T "$link.$$" "$link"; }
use "$cache/$name/torch"
