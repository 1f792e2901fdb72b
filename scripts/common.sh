# Sourced by the other scripts: where things lie, how they speak to the user,
# and the one build command that all of them share.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
BUILD="$ROOT/build"
VENV="$ROOT/.venv"
LIBRARY="$ROOT/target/release/libtriton_llm.so"
BACKENDS="$BUILD/backends"
mkdir -p "$BUILD"

# Other flags would build llama.cpp a second time, so there is one set for all.
if [[ "${PORTABLE:-0}" != 1 && "${RUSTFLAGS:-}" != *target-cpu=* ]]; then
  export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }-C target-cpu=native"
fi
# Headers of ours before the compiler's own; .cargo/config.toml has them for a cargo that is called by hand.
# Once, though one script calls another: llama.cpp is compiled anew for another CPATH.
[[ "${CPATH:-}:" == "$ROOT/include/compiler:"* ]] || export CPATH="$ROOT/include/compiler${CPATH:+:$CPATH}"
# First, as a distribution's cargo may be too old, and there or not: a script
# that has sourced this may call setup.sh, which installs rustup.
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf '\033[1m==>\033[0m %s\n' "$*" | if [[ -t 1 ]]; then cat; else sed $'s/\033[^m]*m//g'; fi; }

die() {
  printf 'error: %s\n' "$1" >&2
  shift
  (($#)) && printf '       %s\n' "$@" >&2
  exit 1
}

# confirm QUESTION: true if the user agrees; YES=1 answers for them.
confirm() {
  [[ "${YES:-0}" == 1 ]] && return 0
  [[ -t 0 ]] || return 1
  local answer
  read -r -p "$1 [Y/n] " answer
  [[ -z "$answer" || "$answer" == [yY]* ]]
}

# How stop_step sends a signal; what runs under sudo wants sudo for it.
step_kill=(kill)

# Ends the step whose process group is $1, and this script with it. Called by a trap.
# shellcheck disable=SC2317
stop_step() {
  trap '' INT TERM HUP
  "${step_kill[@]}" -TERM -- "-$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
  exit 130
}

# run_step LOG TITLE COMMAND...: runs COMMAND with its output in build/LOG and
# shows how long it has taken and its latest line: every second on a terminal,
# every half minute elsewhere. On failure the end of the log is shown.
run_step() {
  local log="$BUILD/$1" title="$2" start=$SECONDS pid status=0 shown=0 elapsed line
  shift 2
  say "$title"
  # A process group of its own, so that a signal can end all of it: background
  # jobs ignore Ctrl-C otherwise, and cargo's compilers outlive cargo.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  set +m
  trap 'stop_step "$pid"' INT TERM HUP
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    elapsed=$((SECONDS - start))
    if ((elapsed > shown)); then
      line="$(tail -n 1 "$log" | tr -d '\r\n' | cut -c 1-60)"
      if [[ -t 1 ]]; then
        printf '\r\033[K    %4d s  %s' "$elapsed" "$line"
        shown=$elapsed
      elif ((elapsed >= shown + 30)); then
        printf '    %4d s  %s\n' "$elapsed" "$line"
        shown=$elapsed
      fi
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM HUP
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
  if ((status != 0)); then
    tail -n 30 "$log" >&2
    die "this step failed with status $status: $title" "The whole log is $log"
  fi
}

if [[ -n "${TRITONSERVER:-}" ]]; then
  [[ -f "$TRITONSERVER" && -x "$TRITONSERVER" ]] ||
    die "TRITONSERVER is '$TRITONSERVER': not a program that can be run"
  TRITONSERVER="$(realpath "$TRITONSERVER")"
fi

# The CUDA toolkit that setup.sh --cuda fetches where none is installed.
TOOLKIT="$BUILD/cuda-toolkit"

# True if the folder $1 has CUDA 12 or later: llama.cpp names GPUs that an earlier one does not know.
has_cuda() {
  local major
  major="$("$1/bin/nvcc" --version 2>/dev/null | sed -n 's/.* release \([0-9]*\)\..*/\1/p')"
  ((${major:-0} >= 12))
}

# Prints the folder of the CUDA toolkit to use; fails if there is none yet.
find_cuda() {
  local folder nvcc
  nvcc="$(command -v nvcc || true)"
  for folder in "${CUDA_PATH:-}" "${nvcc%/bin/nvcc}" /usr/local/cuda "$TOOLKIT/nvidia/cu13"; do
    if [[ -n "$folder" ]] && has_cuda "$folder"; then
      realpath -s "$folder"
      return 0
    fi
  done
  return 1
}

# Prints the tritonserver program to use; fails if there is none yet.
find_tritonserver() {
  local program
  for program in "${TRITONSERVER:-}" /opt/tritonserver/bin/tritonserver \
    "$VENV"/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver; do
    if [[ -n "$program" && -x "$program" ]]; then
      printf '%s\n' "$program"
      return 0
    fi
  done
  return 1
}

# Prints the files that a program or library asks the loader for.
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

# Cargo does not notice when the headers of CPATH change: llama.cpp that was compiled with others goes.
drop_outdated() {
  local cache
  for cache in "$ROOT"/target/release/build/llama-cpp-sys-2-*/out/build/CMakeCache.txt; do
    if [[ -e "$cache" && -n "$(find "$ROOT/include/compiler" -type f -newer "$cache" -print -quit)" ]]; then
      rm -rf "${cache%/out/build/*}"
      # Links that now lead nowhere, and which the crate would not replace.
      rm -f "$ROOT"/target/release/{,deps/,examples/}lib{ggml,ggml-base,llama,llama-common}.so
    fi
  done
}

# Says so where this processor has AMX and the compiler does not know it.
say_without_amx() {
  local compiler="${CXX:-c++}"
  [[ "${PORTABLE:-0}" != 1 ]] && grep -qsw amx_int8 /proc/cpuinfo || return 0
  "$compiler" -march=native -dM -E -x c++ /dev/null 2>/dev/null | grep -q __AMX_INT8__ ||
    say "Without this processor's AMX, which $("$compiler" --version | head -n 1) does not know: GCC from 11 on does"
}

# Builds the library and lays it out as Triton expects a backend directory. In the repository's folder, as
# cargo reads .cargo/config.toml from where it is called.
build_library() {
  drop_outdated
  say_without_amx
  run_step cargo-build.log "Building libtriton_llm.so (the first time takes some minutes: llama.cpp is compiled)" \
    env -C "$ROOT" cargo build --release --locked
  mkdir -p "$BACKENDS/llm"
  # Replaced, not overwritten: a running server keeps the file it has mapped.
  cp "$LIBRARY" "$BACKENDS/llm/.new"
  mv "$BACKENDS/llm/.new" "$BACKENDS/llm/libtriton_llm.so"
}
