#!/usr/bin/env bash
# Packs what `make cuda` builds, with a server, its peers and the checks, into build/gpu-check: two files
# for a machine that has a GPU and nothing else of ours. Then runs them here, on the CPU where there is
# no GPU. Called by `make gpu-check`; its arguments go to gpu_check.py.
set -euo pipefail
# All of it is to run on another machine.
unset RUSTFLAGS
PORTABLE=1
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/peers.sh
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"

# One generation of GPUs, as the package has a limit: 90a is Hopper's.
export CMAKE_CUDA_ARCHITECTURES="${CMAKE_CUDA_ARCHITECTURES:-90a-real}"
MAX_BYTES=64000000
PACKAGE="$BUILD/gpu-check"
TREE="$PACKAGE/triton-llm"
PROGRAMS="$BENCH/llama.cpp-modules"
# Where the harness of the benchmarks looks for them.
PACKED_PROGRAMS="$TREE/build/bench/llama.cpp-build/bin"

build_client() {
  cargo build --release --locked --manifest-path "$ROOT/benches/client/Cargo.toml" --target-dir "$BENCH/client-portable"
}

# Copies these files of the repository to the same place in the package.
add_sources() { (cd "$ROOT" && cp --parents -r "$@" "$TREE"); }

# The server program, and of the libraries that its wheel has those that it loads.
add_server() {
  local program site
  program="$(echo "$VENV"/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver)"
  site="${program%/pytriton/*}"
  (cd "$site" && cp --parents "${program#"$site/"}" $(ldd "$program" | grep -o 'nvidia_pytriton.libs/[^ ]*' | sort -u) "$TREE/server")
}

# Copies the program or library $1 of the peers, and after it those that it needs.
add_program() {
  local file="$PACKED_PROGRAMS/$1" name
  [[ -e "$PROGRAMS/bin/$1" && ! -e "$file" ]] || return 0
  cp -L "$PROGRAMS/bin/$1" "$file"
  strip --strip-unneeded "$file"
  for name in $(needed "$file"); do add_program "$name"; done
}

# The peers, which compute with the very files that our library computes with.
add_programs() {
  local file
  mkdir -p "$PACKED_PROGRAMS"
  for file in "$TREE"/build/backends/llm/libggml*.so* "$TREE"/build/backends/llm/libllama.so*; do
    ln -s "../../../backends/llm/${file##*/}" "$PACKED_PROGRAMS/"
  done
  add_program llama-server
  add_program llama-batched-bench
}

pack() {
  rm -rf "$PACKAGE"
  mkdir -p "$TREE/build/backends" "$TREE/build/bench/client/release" "$TREE/server"
  add_sources scripts/gpu_check benches/random_model.py benches/harness triton_repo \
    tests/e2e/{server,http_stream,repository}.py tests/e2e/demo_greedy.json tests/e2e/seed/stream.sh
  cp -r "$BUILD/cuda/backends/llm" "$TREE/build/backends/"
  cp "$BENCH/client-portable/release/bench-client" "$TREE/build/bench/client/release/"
  add_server
  add_programs
  git -C "$ROOT" describe --always --dirty >"$TREE/commit"
  find "$TREE" -name __pycache__ -prune -exec rm -rf {} +
  XZ_OPT="-9e" tar -C "$PACKAGE" -cJf "$PACKAGE/triton-llm.tar.xz" --owner 0 --group 0 triton-llm
  rm -rf "$TREE"
  cp "$ROOT/scripts/gpu_check/gpu_check.py" "$PACKAGE/"
}

"$ROOT/scripts/setup.sh" --tests
"$ROOT/scripts/setup.sh" --cuda
"$ROOT/scripts/modules.sh" --cuda
make_venv
fetch_package
# No modules of their own.
build_programs "$PROGRAMS" -DGGML_NATIVE=OFF -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_CPU=OFF -DGGML_OPENMP=OFF \
  '-DCMAKE_INSTALL_RPATH=$ORIGIN' -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON
run_step gpu-check-client.log "Building the load client" build_client
run_step gpu-check-pack.log "Packing (a few minutes)" pack
n_bytes="$(cat "$PACKAGE"/* | wc -c)"
((n_bytes <= MAX_BYTES)) || die "$PACKAGE has $n_bytes bytes: the limit is $MAX_BYTES"
say "Packed into $PACKAGE ($n_bytes bytes). On a machine with a GPU: python3 gpu_check.py"

where=()
nvidia-smi -L 2>/dev/null | grep -q '^GPU' || where=(--cpu)
exec "$VENV/bin/python" "$PACKAGE/gpu_check.py" "${where[@]}" "$@"
