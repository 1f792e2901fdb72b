#!/usr/bin/env bash
# Sets up the benchmarks and their peers, then runs them. Called by `make bench`.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/peers.sh
source "$(dirname "${BASH_SOURCE[0]}")/peers.sh"

mkdir -p "$BENCH/models"

# True if row $1 is to run.
wants() { [[ -z "${ROWS:-}" || ",$ROWS," == *",$1,"* ]]; }

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
    env -C "$ROOT" cargo build --release --locked --bench in_process --message-format=json-render-diagnostics
  cp "$(grep -o '"executable":"[^"]*/in_process-[^"]*"' "$BUILD/bench-in-process.log" | tail -n 1 | cut -d '"' -f 4)" "$BENCH/in_process"
}

# Writes the model $1, in the format $2, unless it is there; the arguments after them go to the script as well.
make_model() {
  local file="$BENCH/models/$1-$2.gguf"
  [[ "$file" -nt "$ROOT/benches/random_model.py" ]] ||
    run_step bench-models.log "Writing a model of random weights: $1, $2" \
      "$VENV/bin/python" "$ROOT/benches/random_model.py" "$file" "${@:2}"
}

make_models() {
  local kind
  for kind in Q8_0 Q4_0; do
    make_model random "$kind"
    # So few words that its answers repeat themselves.
    make_model repeating "$kind" small 100
  done
}

if [[ "${RENDER:-0}" != 1 ]]; then
  "$ROOT/scripts/setup.sh" --tests
  make_venv
  fetch_package
  build_programs "$BENCH/llama.cpp-build" -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF
  if wants 3; then install_python_peer; fi
  build_client
  build_in_process
  make_models
fi
exec "$VENV/bin/python" "$ROOT/benches/bench.py" "$@"
