#!/usr/bin/env bash
# Starts a stock tritonserver with the backend built by scripts/build.sh, says
# what to try, and stops it on Ctrl-C. Called by `make serve`; see `make help`
# for the settings.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

HOST="${HOST:-127.0.0.1}"
HTTP_PORT="${HTTP_PORT:-8000}"
GRPC_PORT="${GRPC_PORT:-8001}"
METRICS_PORT="${METRICS_PORT:-8002}"
LOG="$BUILD/server.log"
# Where to reach a server that listens there.
REACH="$HOST"
[[ "$HOST" == 0.0.0.0 ]] && REACH=127.0.0.1

check_ports() {
  local name port seen=" "
  for name in HTTP_PORT GRPC_PORT METRICS_PORT; do
    port="${!name}"
    if [[ ! "$port" =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
      die "$name is '$port': must be a number from 1 to 65535"
    fi
    [[ "$seen" != *" $port "* ]] || die "$name is $port, which another port setting uses already"
    seen+="$port "
    # With a limit, as a host that is not this machine may not answer at all.
    # shellcheck disable=SC2016
    if timeout 2 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$REACH" "$port" 2>/dev/null; then
      die "$name: port $port of $REACH is taken by another program" "Choose another one, as in: make serve $name=$((port % 60000 + 100))"
    fi
  done
}

# check_number NAME PATTERN WHAT: what a config parameter could not say is no text for config.pbtxt either.
check_number() {
  local value="${!1:-}"
  [[ -z "$value" || "$value" =~ $2 ]] || die "$1 is '$value': must be $3"
}

# parameter KEY VALUE: prints it as config.pbtxt has it; nothing for an empty value.
parameter() {
  local value="${2//\\/\\\\}"
  [[ -z "$2" ]] || printf 'parameters { key: "%s" value: { string_value: "%s" } }\n' "$1" "${value//\"/\\\"}"
}

# Prints the model repository: ours, or one made for the settings.
model_repository() {
  check_number TEMPERATURE '^([0-9]+(\.[0-9]*)?|\.[0-9]+)$' "a number from 0, such as 0.7"
  local name
  for name in N_CTX N_PARALLEL N_THREADS; do
    check_number "$name" '^[0-9]+$' "a whole number from 0"
  done
  local model="${MODEL:-}" temperature="${TEMPERATURE:-}"
  if [[ -z "$model$temperature${N_CTX:-}${N_PARALLEL:-}${N_THREADS:-}" ]]; then
    printf '%s\n' "$ROOT/triton_repo"
    return
  fi
  if [[ -n "$model" ]]; then
    [[ -e "$model" ]] || die "MODEL is '$model': there is no such file"
    [[ -f "$model" && -r "$model" ]] || die "MODEL is '$model': not a file that can be read"
    [[ "$(head -c 4 "$model" | tr -d '\0')" == GGUF ]] || die "MODEL is '$model': not a GGUF file"
  else
    # The demo, with the temperature that its own configuration has.
    model="$ROOT/triton_repo/llm_decoupled/1/demo.gguf"
    temperature="${temperature:-0}"
  fi
  # JSON wants a digit on both sides of the point.
  [[ "$temperature" != .* ]] || temperature="0$temperature"
  [[ "$temperature" != *. ]] || temperature="${temperature}0"

  local repository="$BUILD/model_repository"
  rm -rf "$repository"
  mkdir -p "$repository/llm_decoupled/1"
  {
    printf 'name: "llm_decoupled"\nbackend: "llm"\n'
    parameter model_path "$(realpath "$model")"
    parameter sampling_parameters "${temperature:+{\"temperature\": $temperature\}}"
    parameter n_ctx "${N_CTX:-}"
    parameter n_parallel "${N_PARALLEL:-}"
    parameter n_threads "${N_THREADS:-}"
  } >"$repository/llm_decoupled/config.pbtxt"
  printf '%s\n' "$repository"
}

# Prints how many tokens a request may hold, as the load's log has it.
context_window() {
  sed -n "s/.*model 'llm_decoupled': n_ctx = \([0-9]*\) tokens.*/\1/p" "$LOG" | head -n 1
}

# Called by a trap.
# shellcheck disable=SC2317
stop_server() {
  trap '' INT TERM HUP
  say "Stopping tritonserver"
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  say "Stopped"
  exit 0
}

server_failed() {
  local status=0
  wait "$server" || status=$?
  grep -E '^E[0-9]|^error|failed' "$LOG" | tail -n 10 >&2 || tail -n 20 "$LOG" >&2
  die "tritonserver ended with status $status" "Its whole log is $LOG"
}

wait_until_ready() {
  local start=$SECONDS shown=0
  until curl -sf -o /dev/null --noproxy '*' --max-time 5 "http://$REACH:$HTTP_PORT/v2/health/ready"; do
    kill -0 "$server" 2>/dev/null || server_failed
    if ((SECONDS - start >= shown + 10)); then
      shown=$((SECONDS - start))
      printf '    %4d s  still loading the model\n' "$shown"
    fi
    sleep 0.1
  done
}

print_hints() {
  local name="$REACH"
  [[ "$name" == 127.0.0.1 ]] && name=localhost
  say "Ready on http://$name:$HTTP_PORT (gRPC $GRPC_PORT, metrics $METRICS_PORT). Try in another terminal:"
  echo
  sed "s/localhost:8000/$name:$HTTP_PORT/" <<'CURL'
curl -X POST http://localhost:8000/v2/models/llm_decoupled/generate_stream \
  -H "Content-Type: application/json" \
  -H "Accept: text/event-stream" \
  -d '{
    "text_input": "[{\"role\":\"user\",\"content\":\"Say hello\"}]",
    "parameters": {"streaming": true}
  }'
CURL
  echo
  echo "python3 -m venv ~/kubrick && ~/kubrick/bin/pip install kubrick-cli"
  echo "KUBRICK_TRITON_URL=$name:$HTTP_PORT KUBRICK_TRITON_MODEL=llm_decoupled KUBRICK_CONTEXT_WINDOW=$(context_window) \\"
  echo "  ~/kubrick/bin/kubrick -p \"Say hello\" --provider triton"
  echo
  say "The server's log is $LOG. Ctrl-C stops the server."
}

check_ports
repository="$(model_repository)"
tritonserver="$(find_tritonserver)" || die "there is no tritonserver yet" "Run: make setup"
[[ -f "$BACKENDS/llm/libtriton_llm.so" ]] || die "the backend is not built yet" "Run: make build"

say "Starting $tritonserver"
# A process group of its own: Ctrl-C comes here alone, and once. The death
# signal stops it even if this script is killed outright.
set -m
setpriv --pdeathsig TERM "$tritonserver" \
  --model-repository="$repository" --backend-directory="$BACKENDS" \
  --http-address="$HOST" --http-port="$HTTP_PORT" \
  --grpc-address="$HOST" --grpc-port="$GRPC_PORT" \
  --metrics-address="$HOST" --metrics-port="$METRICS_PORT" >"$LOG" 2>&1 </dev/null &
server=$!
set +m
trap stop_server INT TERM HUP

wait_until_ready
print_hints
wait "$server" || true
server_failed
