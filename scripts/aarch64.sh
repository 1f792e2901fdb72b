#!/usr/bin/env bash
# Builds the backend for aarch64 on an x86-64 machine, into build/aarch64/backends, and runs the
# library's tests emulated. Called by `make aarch64-check`. Arguments are a command for cargo instead,
# as in `scripts/aarch64.sh test --test llama_model`.
set -euo pipefail
# For every such processor: the name of this one's kind means nothing to the other compiler.
unset RUSTFLAGS
PORTABLE=1
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TARGET=aarch64-unknown-linux-gnu
FOLDER="$BUILD/aarch64/backends/llm"

[[ "$(uname -m)" == x86_64 ]] || die "this machine is no x86-64" "On an aarch64 machine, make build and make test are for it."
# CMake, bindgen and the cc crate find Debian's cross compiler by themselves.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
# Emulated, arithmetic takes a hundred times as long.
export PROPTEST_CASES="${PROPTEST_CASES:-20}"

cargo_for_target() {
  local command="$1"
  shift
  cargo "$command" --manifest-path "$ROOT/Cargo.toml" --release --locked --target "$TARGET" "$@"
}

"$ROOT/scripts/setup.sh" --aarch64
if (($#)); then
  cargo_for_target "$@"
  exit
fi
run_step aarch64-build.log "Building libtriton_llm.so for aarch64 (the first time takes some minutes: llama.cpp is compiled)" \
  cargo_for_target build --lib
mkdir -p "$FOLDER"
cp "$ROOT/target/$TARGET/release/libtriton_llm.so" "$FOLDER/.new"
mv "$FOLDER/.new" "$FOLDER/libtriton_llm.so"
say "Built $FOLDER/libtriton_llm.so. Running its tests"
# A trial starts a process, which is not emulated: the kernel would have to be told how. Emulated, hostile
# templates meet the time limit before the others.
cargo_for_target test --lib -- --skip trial::tests --skip no_template_takes_memory
