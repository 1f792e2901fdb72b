#!/usr/bin/env bash
# Builds the backend into build/backends/llm/. Called by `make build`.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build_library
say "Built $BACKENDS/llm/libtriton_llm.so"
