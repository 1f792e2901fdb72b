# Sourced by bench.sh and gpu_check.sh: builds the programs that we are compared with.
#
# llama-server and llama-batched-bench are built on the llama.cpp of our own
# crate. The crate leaves the programs' few source files out, so these come
# from the source package of llama-cpp-python, which is a peer itself.
# shellcheck shell=bash

BENCH="$BUILD/bench"
PEERS="$ROOT/benches/peers"
REQUIREMENTS="$PEERS/requirements.txt"
SOURCE="$BENCH/llama.cpp"
JOBS="$(nproc)"
CMAKE_FLAGS=(-DCMAKE_BUILD_TYPE=Release -DLLAMA_OPENSSL=OFF
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF)

# Where cargo keeps the source of the llama.cpp that our library holds.
crate_source() {
  local manifest
  manifest="$(cargo metadata --manifest-path "$ROOT/Cargo.toml" --format-version 1 --locked |
    grep -o '"manifest_path":"[^"]*/llama-cpp-sys-2-[^"]*/Cargo.toml"' | cut -d '"' -f 4)"
  [[ -n "$manifest" ]] || die "cargo metadata does not name llama-cpp-sys-2"
  printf '%s\n' "${manifest%/Cargo.toml}/llama.cpp"
}

# The variables are for what is built from source.
pip() {
  CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" CMAKE_BUILD_PARALLEL_LEVEL="$JOBS" \
    "$BENCH/venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"
}

make_venv() {
  "$BENCH/venv/bin/python" -c '' 2>/dev/null ||
    run_step bench-venv.log "Making the Python environment of the peers" "$VENV/bin/python" -m venv --clear "$BENCH/venv"
}

# Prints the source package of llama-cpp-python, once it is there.
package() { find "$BENCH/package" -name '*.tar.gz' 2>/dev/null | head -n 1; }

fetch_package() {
  cmp -s "$REQUIREMENTS" "$BENCH/package/requirements.txt" && return 0
  rm -rf "$BENCH/package"
  run_step bench-package.log "Fetching the source of llama-cpp-python (77 MB)" \
    pip download --no-deps --no-binary llama-cpp-python -d "$BENCH/package" "$(grep '^llama-cpp-python' "$REQUIREMENTS")"
  cp "$REQUIREMENTS" "$BENCH/package/requirements.txt"
}

# The crate's llama.cpp with the two programs put in, and what they share with each other only.
lay_out_source() {
  local crate="$1" inner part
  rm -rf "$SOURCE" "$BENCH/unpacked"
  cp -a "$crate" "$SOURCE"
  mkdir -p "$BENCH/unpacked" "$SOURCE/scripts"
  tar -xzf "$(package)" -C "$BENCH/unpacked" --strip-components=1 --wildcards '*/vendor/llama.cpp/tools/*' '*/ui-assets.cmake'
  inner="$BENCH/unpacked/vendor/llama.cpp"
  for part in server batched-bench ui mtmd; do
    rm -rf "$SOURCE/tools/$part"
    cp -a "$inner/tools/$part" "$SOURCE/tools/"
  done
  cp "$inner/scripts/ui-assets.cmake" "$SOURCE/scripts/"
  cp "$PEERS/CMakeLists.txt" "$SOURCE/tools/CMakeLists.txt"
  rm -rf "$BENCH/unpacked"
}

# True if the stamp $1 says what $2 does; else what it stands for is to be made anew.
is_made() { [[ "$(cat "$1" 2>/dev/null)" == "$2" ]]; }

compile_programs() {
  local folder="$1"
  shift
  rm -rf "$folder"
  cmake -S "$SOURCE" -B "$folder" "${CMAKE_FLAGS[@]}" "$@"
  cmake --build "$folder" -j "$JOBS" --target llama-server llama-batched-bench
}

# build_programs FOLDER OPTION...: builds the two programs in FOLDER, with these options of CMake.
build_programs() {
  local folder="$1" crate source
  shift
  crate="$(crate_source)"
  source="$(printf '%s\n' "$crate" && cat "$PEERS/CMakeLists.txt" "$REQUIREMENTS")"
  if ! is_made "$SOURCE.stamp" "$source"; then
    run_step bench-source.log "Laying out llama.cpp's source" lay_out_source "$crate"
    printf '%s\n' "$source" >"$SOURCE.stamp"
  fi
  if ! is_made "$folder.stamp" "$source $*"; then
    run_step bench-programs.log "Building llama-server and llama-batched-bench (some ten minutes on two cores)" \
      compile_programs "$folder" "$@"
    printf '%s\n' "$source $*" >"$folder.stamp"
  fi
}
