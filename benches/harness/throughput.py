"""Rows 1, 2, 3, 8 and 11: tokens a second."""

import json
import statistics
import subprocess

from . import workloads
from .client import Report, drive, equal_texts, in_process, percentile
from .measure import Figure, alternate, best, say, tried_note
from .servers import llama_server, ours, python_backend
from .settings import BATCHED_BENCH, N_THREADS

N_CTX = 32_768
#: The Python backend has one sequence at a time.
N_CTX_PYTHON = 4096


def closed_loop(settings, n_clients, seed):
    """The workload of rows 1, 2, 3 and 11. A single client asks more often, as its runs are short."""
    sizes = settings.sizes
    waves = sizes.waves * (4 if n_clients == 1 else 1)
    return workloads.closed_loop(n_clients, n_clients * waves, sizes.prompt_words, sizes.answer_tokens, seed)


def warmed_up(endpoint):
    """The server after a first request, which no figure counts."""
    drive(endpoint, workloads.closed_loop(1, 1, 8, 4, "warm-up"))
    return endpoint


def run_ours(settings, workload, n_parallel, protocol="triton-http", **parameters):
    with ours(settings.model, protocol, n_parallel=n_parallel, n_ctx=N_CTX, **parameters) as endpoint:
        return drive(warmed_up(endpoint), workload).whole()


def run_llama_server(settings, workload, arguments, n_ctx=N_CTX):
    with llama_server(settings.model, "-c", str(n_ctx), *arguments) as endpoint:
        return drive(warmed_up(endpoint), workload).whole()


def server_stages():
    """What llama-server may be given beside `-np N`: cache, attention, batch, HTTP threads, sampling."""
    return [[["-kvu"]], [["-fa", "off"]], [["-b", "512"]], [["--threads-http", "2"]], [["-bs"]]]


def best_server(settings, n_clients):
    workload = closed_loop(settings, n_clients, f"try {n_clients}")

    def score(arguments):
        return run_llama_server(settings, workload, arguments).tokens_per_second

    return best(["-np", str(n_clients)], server_stages(), score)


def rate(reports):
    return [report.tokens_per_second for report in reports]


def client_share(reports):
    """The client's processor time in a thousand tokens, for the notes."""
    cpu = statistics.median(report.cpu_seconds / report.tokens for report in reports)
    return f"{cpu * 1e6:.0f} us of client CPU a token"


def clients(count):
    return "1 client" if count == 1 else f"{count} clients"


def waits(reports):
    """What users wait for, for the notes: all requests of all runs together."""
    first = [seconds for report in reports for seconds in report.first_tokens()]
    gaps = [seconds for report in reports for seconds in report.gaps()] or [0.0]
    return (
        f"first token {statistics.median(first):.2f} s (p99 {percentile(first, 0.99):.2f} s), "
        f"gap between texts {statistics.median(gaps) * 1000:.0f} ms (p99 {percentile(gaps, 0.99) * 1000:.0f} ms)"
    )


def row_1(settings):
    """total tokens/s against llama-server's best setting"""
    targets = {1: 1.00, 4: 1.00, 8: 1.02, 16: 1.03, 32: 1.05}
    figures, notes = [], []
    for n_clients, target in targets.items():
        say(f"  {clients(n_clients)}")
        arguments, tried = best_server(settings, n_clients)
        results = alternate(
            settings.repeats,
            ours=lambda n: run_ours(settings, closed_loop(settings, n_clients, n), n_clients),
            split=lambda n: run_ours(settings, closed_loop(settings, n_clients, n), n_clients, kv_unified="false"),
            peer=lambda n: run_llama_server(settings, closed_loop(settings, n_clients, n), arguments),
        )
        figures += [
            Figure(
                f"{clients(n_clients)}, {name}", "tokens/s", rate(results[side]), target, True,
                peer=rate(results["peer"]), peer_name=f"llama-server {' '.join(arguments)}",
            )
            for side, name in {"ours": "the default", "split": "kv_unified false"}.items()
        ]  # fmt: skip
        equal = equal_texts(results["ours"][0], results["peer"][0])
        notes.append(
            f"{clients(n_clients)}: ours {waits(results['ours'])}; llama-server {waits(results['peer'])}. {equal}; "
            f"ours {client_share(results['ours'])}, llama-server {client_share(results['peer'])}. {tried_note(tried)}"
        )
    return figures, notes


# Row 2


def run_batched_bench(settings, n_prompt, n_parallel, arguments):
    """Tokens a second of llama.cpp alone for the same prompts and answers, in one wave.

    The first token of an answer comes of its prompt's last step, so the bench
    has one step fewer to run than there are tokens.
    """
    n_tokens = settings.sizes.answer_tokens
    command = [
        str(BATCHED_BENCH), "-m", str(settings.model), "-c", str(N_CTX), "-t", str(N_THREADS),
        "-npp", str(n_prompt), "-ntg", str(n_tokens - 1), "-npl", str(n_parallel),
        "--output-format", "jsonl", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"llama-batched-bench ended with {done.returncode}: {done.stderr[-500:]}")
    return n_parallel * n_tokens / json.loads(lines[-1])["t"]


def row_2(settings):
    """tokens/s against llama-batched-bench: no server, no sampling"""
    figures, notes = [], []
    n_prompt = settings.sizes.prompt_words + workloads.N_FRAME
    stages = [[["-kvu"]], [["-fa", "off"]], [["-b", "512"]]]
    for n_clients in (1, 4, 8, 16, 32):
        say(f"  {clients(n_clients)}")

        def run(arguments):
            return run_batched_bench(settings, n_prompt, n_clients, arguments)

        arguments, tried = best([], stages, run)
        results = alternate(
            settings.repeats,
            ours=lambda n: run_ours(settings, closed_loop(settings, n_clients, n), n_clients),
            peer=lambda n: run(arguments),
        )
        figures.append(
            Figure(
                clients(n_clients), "tokens/s", rate(results["ours"]), 0.95, True,
                peer=results["peer"], peer_name=" ".join(["llama-batched-bench", *arguments]),
            )
        )  # fmt: skip
        share = statistics.median(report.cpu_seconds * 1000 / report.data["wall_ms"] for report in results["ours"])
        notes.append(
            f"{clients(n_clients)}: {client_share(results['ours'])}, {share:.1%} of one core's time, "
            f"on the cores that the engine uses. {tried_note(tried)}"
        )
    return figures, notes


# Row 3


def run_python(settings, workload, flash_attn):
    with python_backend(settings.model, N_CTX_PYTHON, flash_attn) as endpoint:
        return drive(warmed_up(endpoint), workload).whole()


def row_3(settings):
    """against Triton's Python backend with llama-cpp-python"""
    figures, notes = [], []
    for n_clients, target in {1: 1.05, 8: 1.7, 32: 2.0}.items():
        say(f"  {clients(n_clients)}")
        trial = closed_loop(settings, n_clients, "try")
        tried = {f"flash_attn {kind}": run_python(settings, trial, kind).tokens_per_second for kind in ("off", "on")}
        kind = max(("off", "on"), key=lambda kind: tried[f"flash_attn {kind}"])
        results = alternate(
            settings.repeats,
            ours=lambda n: run_ours(settings, closed_loop(settings, n_clients, n), n_clients),
            peer=lambda n: run_python(settings, closed_loop(settings, n_clients, n), kind),
        )
        name = f"Python backend, flash_attn {kind}"
        common = {"target": target, "at_least": True, "peer_name": name}
        figures.append(
            Figure(clients(n_clients), "tokens/s", rate(results["ours"]), peer=rate(results["peer"]), **common)
        )
        if n_clients == 8:
            middle = {side: [statistics.median(r.first_tokens()) for r in results[side]] for side in results}
            common = {"target": 4.0, "at_least": True, "peer_name": name, "form": "peer/ours"}
            figures.append(Figure("first token at 8 clients", "s", middle["ours"], peer=middle["peer"], **common))
        notes.append(
            f"{clients(n_clients)}: {equal_texts(results['ours'][0], results['peer'][0])}. {tried_note(tried)}"
        )
    notes.append(f"The Python backend answers one request after another, each in a context of {N_CTX_PYTHON}.")
    return figures, notes


# Row 8

#: Which of 32 slots stay busy.
PATTERNS = {
    "the first eight": range(8),
    "every fourth": range(0, 32, 4),
    "the last eight": range(24, 32),
    "eight at random": (1, 2, 7, 11, 17, 22, 23, 30),
}


def pattern(settings, busy, n_sessions, seed):
    """Sessions that take the slots in order, of which only those in `busy` go on after two tokens."""
    n_tokens = settings.sizes.answer_tokens * 3
    return workloads.workload(
        workloads.session(
            workloads.turn(workloads.text(16, f"{seed} {index}"), n_tokens if index in busy else 2),
            start_ms=index * 10,
        )
        for index in range(n_sessions)
    )


def busy_rate(report, busy):
    """Tokens a second of the busy sessions, while they and nobody else run."""
    busy = [report.record(index) for index in busy]
    others = [record for record in report.records if record not in busy]
    begin = max([record["arrivals_ms"][0] for record in busy] + [record["ended_ms"] for record in others])
    end = min(record["ended_ms"] for record in busy)
    times = [time for record in busy for time in record["arrivals_ms"] if begin < time <= end]
    return len(times) * 1000 / (end - begin)


def row_8(settings):
    """8 busy of 32 slots against 8 of 8"""
    figures = []
    for kv_unified in ("true", "false"):
        cache = "shared cache" if kv_unified == "true" else "split cache"

        def run(name, n_slots, n):
            busy = PATTERNS[name]
            workload = pattern(settings, busy, n_slots, n)
            return busy_rate(run_ours(settings, workload, n_slots, kv_unified=kv_unified), busy)

        runs = {name: lambda n, name=name: run(name, 32, n) for name in PATTERNS}
        results = alternate(settings.repeats, eight=lambda n: run("the first eight", 8, n), **runs)
        for name in PATTERNS:
            figures.append(
                Figure(
                    f"{name} of 32, {cache}", "tokens/s", results[name], 0.95, True,
                    peer=results["eight"], peer_name="8 of 8 slots",
                )
            )  # fmt: skip
    note = (
        "32 requests take the slots in order of arrival; all but eight end after two tokens. Counted is the time "
        "in which the eight run alone. The shared cache is the default, the split one is `kv_unified` false."
    )
    return figures, [note]


# Row 11


def row_11(settings):
    """through Triton against the same engine in-process, 32 streams"""

    def bare(n):
        given = closed_loop(settings, 32, n)
        return Report(in_process("run", settings.model, given, 32, N_CTX))

    results = alternate(
        settings.repeats,
        bare=bare,
        http=lambda n: run_ours(settings, closed_loop(settings, 32, n), 32),
        grpc=lambda n: run_ours(settings, closed_loop(settings, 32, n), 32, "triton-grpc"),
    )
    figures = [
        Figure(
            f"32 streams over {name.upper()}", "tokens/s", rate(results[name]), 0.90, True,
            peer=rate(results["bare"]), peer_name="the engine in-process",
        )
        for name in ("http", "grpc")
    ]  # fmt: skip
    notes = [
        f"{name.upper()}: {client_share(results[name])}; {equal_texts(results[name][0], results['bare'][0])}."
        for name in ("http", "grpc")
    ]
    notes.append("The driver has its prompts as tokens before the clock starts, and sends nothing to anybody.")
    return figures, notes
