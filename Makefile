# `make` alone lists the targets. Everything they produce lies in .venv, build and target.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build modules cuda serve test fmt figures bench gpu-check aarch64-check clean

help: ## list the targets and the settings
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '%s\n' '' \
	  'Settings, given as make serve NAME=value:' \
	  '  MODEL=path.gguf     serve this model instead of the demo model' \
	  '  TEMPERATURE=0.7     N_CTX=8192          N_PARALLEL=8        N_THREADS=4' \
	  '                      the default temperature, and config parameters of these names' \
	  '  HTTP_PORT=8000      GRPC_PORT=8001      METRICS_PORT=8002' \
	  '  HOST=127.0.0.1      the address to listen on (0.0.0.0: every interface)' \
	  '  PORTABLE=1          build for any machine of this kind (x86-64: with AVX2)' \
	  '  CMAKE_CUDA_ARCHITECTURES=90a-real' \
	  '                      the GPUs that make cuda builds for, in CMake'"'"'s words' \
	  '  YES=1               install what is missing without asking' \
	  '  TRITONSERVER=path   use this tritonserver program'

setup: ## install what the build needs and fetch a stock tritonserver
	@scripts/setup.sh

build: setup ## build target/release/libtriton_llm.so and lay out build/backends
	@scripts/build.sh

modules: setup ## build for every processor of this architecture at once, into build/modules/backends
	@scripts/modules.sh

cuda: ## the same with CUDA, into build/cuda/backends; fetches a CUDA toolkit where there is none
	@scripts/setup.sh --cuda
	@scripts/modules.sh --cuda

# Its own job, so that Ctrl-C at the terminal reaches the server script and not
# make, which would report an error; setpriv so that it does not outlive make.
serve: build ## start tritonserver with the demo model (or MODEL=...)
	@set -m; setpriv --pdeathsig TERM scripts/serve.sh; exit $$?

test: ## run every check and test: format, lints, cargo, real server
	@scripts/test.sh

fmt: ## format the Rust code
	@cargo fmt

figures: build ## measure the figures of the README's table
	@scripts/setup.sh --tests
	@.venv/bin/python scripts/figures.py

bench: build ## run the benchmarks against llama-server and others (ROWS=1,4 REPEATS=5 QUICK=1)
	@scripts/bench.sh

gpu-check: setup ## pack the CUDA build for a machine with a GPU, and check it here as far as possible
	@scripts/gpu_check.sh

aarch64-check: ## build for aarch64 on x86-64, and run the library's tests emulated
	@scripts/aarch64.sh

clean: ## remove what was built (.venv stays)
	@rm -rf build target
