#!/usr/bin/env bash
# Sets up the benchmarks and their peers, then runs them. Called by `make bench`.
#
# llama-server and llama-batched-bench are built on the llama.cpp of our own
# crate. The crate leaves the programs' few source files out, so these come
# from the source package of llama-cpp-python, which is a peer itself.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BENCH="$BUILD/bench"
PEERS="$ROOT/benches/peers"
REQUIREMENTS="$PEERS/requirements.txt"
SOURCE="$BENCH/llama.cpp"
PROGRAMS="$BENCH/llama.cpp-build"
JOBS="$(nproc)"
CMAKE_FLAGS=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF)
mkdir -p "$BENCH/models"

# True if row $1 is to run.
wants() { [[ -z "${ROWS:-}" || ",$ROWS," == *",$1,"* ]]; }

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
  rm -rf "$SOURCE" "$PROGRAMS" "$BENCH/unpacked"
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

compile_programs() {
  cmake -S "$SOURCE" -B "$PROGRAMS" "${CMAKE_FLAGS[@]}"
  cmake --build "$PROGRAMS" -j "$JOBS" --target llama-server llama-batched-bench
}

build_programs() {
  local crate stamp wanted
  crate="$(crate_source)"
  stamp="$BENCH/llama.cpp.stamp"
  wanted="$(printf '%s\n' "$crate" "${CMAKE_FLAGS[*]}" && cat "$PEERS/CMakeLists.txt" "$REQUIREMENTS")"
  [[ "$(cat "$stamp" 2>/dev/null)" == "$wanted" ]] && return 0
  run_step bench-source.log "Laying out llama.cpp's source" lay_out_source "$crate"
  run_step bench-programs.log "Building llama-server and llama-batched-bench (some ten minutes on two cores)" compile_programs
  printf '%s\n' "$wanted" >"$stamp"
}

install_python_peer() {
  cmp -s "$REQUIREMENTS" "$BENCH/venv/.requirements" && return 0
  run_step bench-python.log "Building llama-cpp-python (some minutes)" \
    pip install "$(package)" -r "$REQUIREMENTS"
  cp "$REQUIREMENTS" "$BENCH/venv/.requirements"
}

build_client() {
  run_step bench-client.log "Building the load client" \
    cargo build --release --locked --manifest-path "$ROOT/benches/client/Cargo.toml" --target-dir "$BENCH/client"
}

# The path of the program changes with its build, so it is copied to a known one.
build_in_process() {
  run_step bench-in-process.log "Building the driver without a server" \
    cargo build --manifest-path "$ROOT/Cargo.toml" --release --locked --bench in_process --message-format=json-render-diagnostics
  cp "$(grep -o '"executable":"[^"]*/in_process-[^"]*"' "$BUILD/bench-in-process.log" | tail -n 1 | cut -d '"' -f 4)" "$BENCH/in_process"
}

make_models() {
  local kind file
  for kind in Q8_0 Q4_0; do
    file="$BENCH/models/random-$kind.gguf"
    [[ "$file" -nt "$ROOT/benches/random_model.py" ]] ||
      run_step bench-models.log "Writing a random model, $kind" \
        "$VENV/bin/python" "$ROOT/benches/random_model.py" "$file" "$kind"
  done
}

if [[ "${RENDER:-0}" != 1 ]]; then
  "$ROOT/scripts/setup.sh" --tests
  make_venv
  fetch_package
  build_programs
  if wants 3; then install_python_peer; fi
  build_client
  build_in_process
  make_models
fi
exec "$VENV/bin/python" "$ROOT/benches/bench.py" "$@"
