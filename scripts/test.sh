#!/usr/bin/env bash
# Runs every check and test and ends with one line "N passed, M failed", and
# ", K skipped" if there are such.
# Called by `make test`. Arguments go to pytest, e.g. scripts/test.sh -k wire.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Once what runs has ended: what handles the signal itself would not end this.
trap 'exit 130' INT

passed=0
failed=0
skipped=0
failures=()

fail() {
  failed=$((failed + $1))
  failures+=("$2")
}

# check TITLE COMMAND...: one check that passes or fails as a whole.
check() {
  local title="$1"
  shift
  say "$title"
  if "$@"; then passed=$((passed + 1)); else fail 1 "$title"; fi
}

# cargo_tests LOG TITLE COMMAND...: adds up cargo's lines "test result: ok. 3 passed; 0 failed; 0 ignored; ...".
# A program that crashed has none, but is listed at the end like the others that failed.
cargo_tests() {
  local log="$BUILD/$1" title="$2" status=0 ok bad ignored
  shift 2
  say "$title"
  "$@" 2>&1 | tee "$log" || status=$?
  read -r ok bad ignored < <(awk '
    /^test result:/ {ok += $4; bad += $6; ignored += $8}
    /^test result: FAILED/ {--crashed}
    /^    `-/ {++crashed}
    END {print ok + 0, bad + (crashed > 0 ? crashed : 0), ignored + 0}' "$log")
  # What did not compile reports no failed test.
  if ((status != 0 && bad == 0)); then bad=1; fi
  passed=$((passed + ok))
  skipped=$((skipped + ignored))
  if ((bad > 0)); then fail "$bad" "$title"; fi
}

# Cargo as modules.sh calls it: with other flags it would compile llama.cpp once more.
modules_cargo() { env -u RUSTFLAGS CMAKE_INSTALL_RPATH="\$ORIGIN" cargo "$@"; }

# The code that only the library of modules has, after these are built.
modules_checks() {
  check "cargo clippy, with modules" \
    modules_cargo clippy --release --all-targets --locked --features dynamic-backends -- -D warnings
  cargo_tests cargo-test-modules.log "cargo test --lib, with modules" \
    modules_cargo test --release --locked --features dynamic-backends --lib
}

server_tests() {
  local report="$BUILD/pytest.xml" status=0 ok bad left_out
  say "Tests against the real tritonserver"
  rm -f "$report"
  "$VENV/bin/python" -m pytest "$ROOT/tests/e2e" --junit-xml="$report" "$@" || status=$?
  read -r ok bad left_out < <("$VENV/bin/python" "$ROOT/scripts/count_tests.py" "$report")
  if ((status != 0 && bad == 0)); then bad=1; fi
  passed=$((passed + ok))
  skipped=$((skipped + left_out))
  if ((bad > 0)); then fail "$bad" "pytest"; fi
}

cd "$ROOT"
scripts/setup.sh --tests
drop_outdated
check "cargo fmt --check" cargo fmt --check
check "cargo clippy" cargo clippy --release --all-targets --locked -- -D warnings
cargo_tests cargo-test.log "cargo test" cargo test --release --locked --no-fail-fast
# In this order, as both leave our library in the same place of cargo's.
if scripts/modules.sh; then
  modules_checks
  if (build_library); then server_tests "$@"; else fail 1 "building the library"; fi
else
  fail 1 "building the modules"
fi

echo
printf 'On %s with %s CPUs; %s; %s\n' \
  "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
  "$("${CXX:-c++}" --version | head -n 1)" "$(rustc --version)"
((failed == 0)) || printf 'failed: %s\n' "${failures[@]}"
summary="$passed passed, $failed failed"
if ((skipped > 0)); then summary+=", $skipped skipped"; fi
echo "$summary"
((failed == 0))
