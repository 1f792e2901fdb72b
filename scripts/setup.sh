#!/usr/bin/env bash
# Installs what the build and the server need, as far as it is missing:
# Debian packages, Rust, a Python environment in .venv and a stock tritonserver.
# With --tests also what the end-to-end tests need, with --cuda also a CUDA toolkit, with --aarch64
# also a compiler for that architecture and its emulator.
# Does nothing when all is there.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SERVER_WHEEL="nvidia-pytriton==0.7.0" # carries tritonserver 2.51.0
# Older stock servers that the tests also load the backend into: 2.41.0 and 2.44.0.
OLDER_SERVER_WHEELS=("nvidia-pytriton==0.5.0" "nvidia-pytriton==0.5.5")
REQUIREMENTS="$ROOT/tests/e2e/requirements.txt"
TEMPLATES="$ROOT/tests/templates/requirements.txt"
REAL_MODEL="$ROOT/tests/e2e/model.requirements.txt"

# CUDA 13.0 as NVIDIA's wheels have it: the compiler, the headers, and what is linked against.
CUDA_WHEELS=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
  nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96 nvidia-cublas==13.0.2.14)

with_tests=0
with_cuda=0
with_aarch64=0
[[ "${1:-}" == --tests ]] && with_tests=1
[[ "${1:-}" == --cuda ]] && with_cuda=1
[[ "${1:-}" == --aarch64 ]] && with_aarch64=1

# True if one of these files exists.
any_exists() {
  local file
  for file in "$@"; do
    [[ -e "$file" ]] && return 0
  done
  return 1
}

# True if bindgen will find libclang, and libclang its own headers. The folders
# are those that bindgen searches, and libclang-cpp.so is not the library.
has_libclang() {
  [[ -n "${LIBCLANG_PATH:-}" ]] && return 0
  any_exists /usr/{lib*,lib*/*,lib*/*/*,local/lib*,local/lib*/*,local/lib*/*/*,local/llvm*/lib*}/libclang{,-[0-9]*}.so* &&
    any_exists /usr/{lib*,lib*/llvm*/lib*,local/lib*,local/llvm*/lib*}/clang/*/include/stddef.h
}

# Prints a Python from 3.9 on that can make virtual environments.
find_python() {
  local python
  for python in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
    [[ -n "$python" ]] || continue
    if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
      printf '%s\n' "$python"
      return 0
    fi
  done
  return 1
}

# -n: a step that runs in the background cannot ask for a password.
as_root() {
  if (($(id -u) == 0)); then "$@"; else sudo -n "$@"; fi
}

apt_install() {
  as_root apt-get update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

install_packages() {
  local missing=()
  command -v cmake >/dev/null || missing+=(cmake)
  command -v make >/dev/null || missing+=(make)
  { command -v c++ && command -v cc; } >/dev/null || missing+=(build-essential)
  has_libclang || missing+=(libclang-dev)
  command -v curl >/dev/null || missing+=(curl ca-certificates)
  # NVIDIA's image has its own server, so there Python is for the tests and for wheels only.
  if ((with_tests + with_cuda)) || [[ ! -x "$VENV/bin/python" && ! -x /opt/tritonserver/bin/tritonserver ]]; then
    find_python >/dev/null || missing+=(python3 python3-venv)
  fi
  # Of an older processor, and only where that is one of this machine's kind.
  if ((with_tests)) && [[ "$(uname -m)" == x86_64 ]]; then command -v qemu-x86_64 >/dev/null || missing+=(qemu-user); fi
  if ((with_aarch64)); then
    command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
    command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
    [[ -e /usr/aarch64-linux-gnu/include/stdio.h ]] || missing+=(libc6-dev-arm64-cross)
  fi
  ((${#missing[@]})) || return 0

  local command="apt-get install ${missing[*]}"
  command -v apt-get >/dev/null ||
    die "these are missing: ${missing[*]}" "Install them with your system's package manager (the names are Debian's)."
  if (($(id -u) != 0)); then
    command -v sudo >/dev/null ||
      die "these packages are missing: ${missing[*]}" "Run as root: $command"
    confirm "Missing packages: ${missing[*]}. Install them with sudo?" ||
      die "these packages are missing: ${missing[*]}" "Install them with: sudo $command"
    sudo -v # asks for the password here, where it can be seen
    step_kill=(sudo -n kill)
  fi
  run_step setup-apt.log "Installing ${missing[*]}" apt_install "${missing[@]}"
  step_kill=(kill)
}

# True if cargo is at least the version that Cargo.toml asks for.
has_cargo() {
  local wanted have
  command -v cargo >/dev/null || return 1
  wanted="$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$ROOT/Cargo.toml")"
  have="$(cd "$ROOT" && cargo --version 2>/dev/null | cut -d ' ' -f 2)"
  [[ -n "$have" && "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" == "$wanted" ]]
}

rustup_install() {
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy
}

install_rust() {
  has_cargo && return 0
  local what="Rust's cargo is not installed"
  command -v cargo >/dev/null && what="$(cargo --version) is too old"
  confirm "$what. Install the current Rust for this user with rustup (https://rustup.rs)?" ||
    die "$what" "Install Rust from https://rustup.rs, then run this again."
  run_step setup-rust.log "Installing Rust with rustup" rustup_install
  hash -r # forget where an older cargo was
  has_cargo || die "cargo is still not usable after rustup ran" "See $BUILD/setup-rust.log"
}

# What `make test` calls besides cargo; a minimal toolchain lacks them.
install_components() {
  local missing=() what
  cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
  cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
  ((${#missing[@]})) || return 0
  what="the tests need ${missing[*]}, which $(cargo --version) lacks"
  command -v rustup >/dev/null ||
    die "$what" "Install them from where cargo came, or Rust from https://rustup.rs."
  confirm "${what^}. Install with rustup?" ||
    die "$what" "Install with: rustup component add ${missing[*]}"
  run_step setup-rust.log "Installing ${missing[*]} with rustup" rustup component add "${missing[@]}"
}

# Rust's standard library for aarch64.
install_target() {
  local target=aarch64-unknown-linux-gnu
  [[ -e "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]] && return 0
  command -v rustup >/dev/null ||
    die "$(rustc --version) has no standard library for $target" "Install it from where Rust came, or Rust from https://rustup.rs."
  run_step setup-rust.log "Installing Rust's standard library for aarch64 with rustup" rustup target add "$target"
}

make_venv() {
  local python
  python="$(find_python)" || die "no Python from 3.9 on that can make virtual environments" \
    "Install python3 and python3-venv, or name one with PYTHON=path."
  # A python that has gone since leaves a .venv that cannot start.
  "$VENV/bin/python" -c '' 2>/dev/null ||
    run_step setup-venv.log "Making the Python environment .venv" "$python" -m venv --clear "$VENV"
}

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

fetch_server() {
  find_tritonserver >/dev/null && return 0
  make_venv
  # Without its dependencies: only the server in it is used, not its Python code.
  run_step setup-server.log "Fetching a stock tritonserver (55 MB)" pip install --no-deps "$SERVER_WHEEL"
  chmod +x "$VENV"/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver
  local program missing
  program="$(find_tritonserver)" || die "$SERVER_WHEEL has no tritonserver for this machine"
  missing="$(ldd "$program" | awk '/not found/ {print $1}' | sort -u | tr '\n' ' ')"
  [[ -z "$missing" ]] || die "$program needs libraries that this system lacks: $missing"
}

# llama.cpp's chat templates, of which its crate has none; the rest of the package is dropped again.
lay_out_templates() {
  local folder="$BUILD/templates"
  rm -rf "$folder"
  pip download --no-deps --no-binary llama-cpp-python --require-hashes -d "$folder/package" -r "$TEMPLATES"
  tar -xzf "$folder"/package/*.tar.gz -C "$folder" --strip-components=5 \
    --wildcards '*/vendor/llama.cpp/models/templates/*.jinja'
  rm -r "$folder/package"
  cp "$TEMPLATES" "$folder/requirements.txt"
}

fetch_templates() {
  cmp -s "$TEMPLATES" "$BUILD/templates/requirements.txt" && return 0
  run_step setup-templates.log "Fetching llama.cpp's chat templates for the tests (77 MB)" lay_out_templates
}

# A small real model; nothing else of its package is used, so nothing is that the package needs.
lay_out_real_model() {
  local folder="$BUILD/real_model"
  rm -rf "$folder"
  pip install --no-deps --no-compile --require-hashes --target "$folder" -r "$REAL_MODEL"
  cp "$REAL_MODEL" "$folder/requirements.txt"
}

fetch_real_model() {
  cmp -s "$REAL_MODEL" "$BUILD/real_model/requirements.txt" && return 0
  run_step setup-model.log "Fetching SmolLM2-135M-Instruct for the tests (93 MB)" lay_out_real_model
}

fetch_test_requirements() {
  local stamp="$VENV/.requirements" wheels=("${OLDER_SERVER_WHEELS[@]}") wheel folder
  make_venv
  if ! cmp -s "$REQUIREMENTS" "$stamp"; then
    run_step setup-tests.log "Installing the Python packages of the tests" pip install -r "$REQUIREMENTS"
    cp "$REQUIREMENTS" "$stamp"
  fi
  # Where the machine has a server of its own, the stock one is not there yet.
  any_exists "$VENV"/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver || wheels+=("$SERVER_WHEEL")
  for wheel in "${wheels[@]}"; do
    folder="$VENV/servers/${wheel##*==}"
    if [[ ! -x "$folder/pytriton/tritonserver/bin/tritonserver" ]]; then
      run_step setup-servers.log "Fetching the stock tritonserver of $wheel for the tests" \
        pip install --no-deps --upgrade --target "$folder" "$wheel"
      chmod +x "$folder/pytriton/tritonserver/bin/tritonserver"
    fi
  done
}

# A library that has the names of the driver's functions, for the linker: only a machine with a
# driver has the real one. Whoever calls it is told so, as by NVIDIA's own: error 34.
make_driver_stub() {
  local toolkit="$1"
  mkdir -p "$toolkit/lib/stubs"
  cc -E "$toolkit/include/cuda.h" | grep -oE '\bcu[A-Z][A-Za-z0-9_]* *\(' | tr -d ' (' | sort -u |
    sed 's/.*/int &(void) { return 34; }/' |
    cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$toolkit/lib/stubs/libcuda.so" -x c -
}

# The wheels unpack to one tree, which lacks what nvcc and CMake look for besides:
# lib64, the names of libraries without their version, the driver's library.
lay_out_toolkit() {
  local toolkit="$TOOLKIT/nvidia/cu13" library
  rm -rf "$TOOLKIT"
  pip install --no-deps --no-compile --target "$TOOLKIT" "${CUDA_WHEELS[@]}"
  ln -s lib "$toolkit/lib64"
  for library in "$toolkit"/lib/lib*.so.*; do
    ln -s "$(basename "$library")" "${library%%.so.*}.so"
  done
  make_driver_stub "$toolkit"
  printf '%s\n' "${CUDA_WHEELS[@]}" >"$TOOLKIT/wheels"
}

fetch_cuda() {
  local found
  if found="$(find_cuda)" && [[ "$found" != "$TOOLKIT"/* ]]; then return 0; fi
  [[ "$(cat "$TOOLKIT/wheels" 2>/dev/null)" == "$(printf '%s\n' "${CUDA_WHEELS[@]}")" ]] && return 0
  make_venv
  run_step setup-cuda.log "Fetching a CUDA toolkit (550 MB)" lay_out_toolkit
}

install_packages
install_rust
if ((with_tests)); then install_components; fi
if ((with_aarch64)); then install_target; fi
fetch_server
if ((with_tests)); then
  fetch_test_requirements
  fetch_templates
  fetch_real_model
fi
if ((with_cuda)); then fetch_cuda; fi
