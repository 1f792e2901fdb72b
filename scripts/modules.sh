#!/usr/bin/env bash
# Builds the backend as a folder that runs on every machine of this architecture: our library,
# llama.cpp's, and a module for each kind of CPU, in build/modules/backends/llm. With --cuda also CUDA's
# module, in build/cuda/backends/llm. Called by `make modules`, `make cuda` and CMake.
set -euo pipefail
# The processor is chosen when the library is loaded, not when it is built.
unset RUSTFLAGS
PORTABLE=1
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ "${1:-}" == --cuda ]]; then
  SHAPE=cuda FEATURE=cuda WITH_CUDA=ON
else
  SHAPE=modules FEATURE=dynamic-backends WITH_CUDA=OFF
fi
FOLDER="$BUILD/$SHAPE/backends/llm"
LOG="$SHAPE-build.log"

# The value of a variable in CMake's cache.
cached() { sed -n "s/^$1:[A-Z]*=//p" "$cache"; }

# True if what was compiled as CMake's cache says is what would be compiled now.
is_current() {
  [[ "$(cached CMAKE_INSTALL_RPATH)" == "$CMAKE_INSTALL_RPATH" ]] || return 1
  [[ "$SHAPE" == cuda ]] || return 0
  [[ "$(cached CMAKE_CUDA_ARCHITECTURES)" == "${CMAKE_CUDA_ARCHITECTURES:-}" && "$(cached CMAKE_CUDA_COMPILER)" == "$CUDACXX" ]]
}

if [[ "$(uname -m)" == aarch64 ]] && ! "${CC:-cc}" -march=armv9.2-a+sme -E -x c /dev/null >/dev/null 2>&1; then
  die "${CC:-cc} does not know all of the processors that llama.cpp has modules for" \
    "GCC from 14 on does: install it, and name it with CC and CXX. make build needs no more than is here."
fi

# What is passed on to llama.cpp's CMake. Its libraries find each other in one folder, as ours does.
export CMAKE_INSTALL_RPATH="\$ORIGIN"
about="for every $(uname -m) processor (ten minutes on two cores)"
if [[ "$SHAPE" == cuda ]]; then
  CUDA_PATH="$(find_cuda)" || die "there is no toolkit of CUDA 12 or later" \
    "Install one, name its folder with CUDA_PATH, or let scripts/setup.sh --cuda fetch one."
  export CUDA_PATH CUDAToolkit_ROOT="$CUDA_PATH" CUDACXX="$CUDA_PATH/bin/nvcc" PATH="$CUDA_PATH/bin:$PATH"
  about="with CUDA for ${CMAKE_CUDA_ARCHITECTURES:-all GPUs since Turing} (under an hour for each kind of GPU on two cores)"
fi

# Cargo does not notice when these change: what of this shape was compiled with others goes.
for cache in "$ROOT"/target/release/build/llama-cpp-sys-2-*/out/build/CMakeCache.txt; do
  [[ -e "$cache" && "$(cached GGML_BACKEND_DL)" == ON && "$(cached GGML_CUDA)" == "$WITH_CUDA" ]] || continue
  is_current || rm -rf "${cache%/out/build/*}"
done

build() {
  env -C "$ROOT" cargo build --release --locked --features "$FEATURE" -vv \
    --message-format=json-render-diagnostics
}

# Copies the library or module $1 into the new folder, without what only a debugger reads, and after
# it those of llama.cpp's libraries that it needs.
add() {
  local file="$FOLDER.new/$(basename "$1")" name
  [[ -e "$file" ]] && return 0
  cp -L "$1" "$file"
  strip --strip-unneeded "$file"
  for name in $(needed "$file"); do
    if [[ -e "$llama/lib/$name" ]]; then add "$llama/lib/$name"; fi
  done
}

drop_outdated
run_step "$LOG" "Building libtriton_llm.so $about" build
llama="$(grep -o '"out_dir":"[^"]*/llama-cpp-sys-2-[^"]*"' "$BUILD/$LOG" | tail -n 1 | cut -d '"' -f 4)"

rm -rf "$FOLDER.new"
mkdir -p "$FOLDER.new"
for file in "$LIBRARY" "$llama"/backends/libggml-*.so; do add "$file"; done
# Replaced, not overwritten: a running server keeps the files it has mapped.
rm -rf "$FOLDER"
mv "$FOLDER.new" "$FOLDER"
say "Built $FOLDER ($(du -sh "$FOLDER" | cut -f 1))"
