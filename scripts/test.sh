#!/usr/bin/env bash
# Runs every check and test and ends with one line "N passed, M failed".
# Called by `make test`. Arguments go to pytest, e.g. scripts/test.sh -k wire.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

passed=0
failed=0
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

# Adds up cargo's lines "test result: ok. 3 passed; 0 failed; ...".
cargo_tests() {
  local log="$BUILD/cargo-test.log" status=0 ok bad
  say "cargo test"
  cargo test --release --locked 2>&1 | tee "$log" || status=$?
  read -r ok bad < <(awk '/^test result:/ {ok += $4; bad += $6} END {print ok + 0, bad + 0}' "$log")
  # A program that crashed or did not compile reports no failed test.
  if ((status != 0 && bad == 0)); then bad=1; fi
  passed=$((passed + ok))
  if ((bad > 0)); then fail "$bad" "cargo test"; fi
}

server_tests() {
  local report="$BUILD/pytest.xml" status=0 ok bad
  say "Tests against the real tritonserver"
  rm -f "$report"
  "$VENV/bin/python" -m pytest "$ROOT/tests/e2e" --junit-xml="$report" "$@" || status=$?
  read -r ok bad < <("$VENV/bin/python" "$ROOT/scripts/count_tests.py" "$report")
  if ((status != 0 && bad == 0)); then bad=1; fi
  passed=$((passed + ok))
  if ((bad > 0)); then fail "$bad" "pytest"; fi
}

cd "$ROOT"
scripts/setup.sh --tests
check "cargo fmt --check" cargo fmt --check
check "cargo clippy" cargo clippy --release --all-targets --locked -- -D warnings
cargo_tests
if (build_library); then
  server_tests "$@"
else
  fail 1 "building the library"
fi

echo
((failed == 0)) || printf 'failed: %s\n' "${failures[@]}"
echo "$passed passed, $failed failed"
((failed == 0))
