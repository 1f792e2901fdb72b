"""How fast it is, beside llama-server and llama-batched-bench on the same modules. Once each, so a trend."""

import json
import subprocess
from functools import partial
from types import SimpleNamespace

import random_model
from harness import latency, prefixes, workloads
from harness.client import drive, first_token
from harness.servers import llama_server, ours
from harness.settings import BATCHED_BENCH, BENCH, Sizes
from harness.throughput import warmed_up

N_CTX = 32_768


def run(report):
    if report.on_gpu:
        plan = [("8b", "Q4_K_M"), ("8b", "Q8_0")]
        sizes, streams = Sizes(prompt_words=504, answer_tokens=256, turns=10), (1, 4, 8, 16, 32)
    else:
        plan = [("tiny", "Q4_K_M")]
        sizes = Sizes(prompt_words=24, answer_tokens=8, prefix_tokens=256, long_tokens=512, turns=3)
        streams = (1, 2)
    seconds = 60 if report.on_gpu else 0
    for shape, weights in plan:
        model = BENCH / "models" / f"{shape}-{weights}.gguf"
        name = f"{shape} {weights}"
        report.step(f"write a model of random weights, {name}", partial(write, model, shape, weights), seconds)
        # Without the model too: then the report has what was not measured.
        setting = SimpleNamespace(report=report, model=model, sizes=sizes, streams=streams, seconds=seconds)
        throughput(setting, name)
        entering(setting, name)
        if (shape, weights) == plan[-1]:
            beginnings(setting, name)
        model.unlink(missing_ok=True)


def write(model, shape, weights, notes):
    model.parent.mkdir(parents=True, exist_ok=True)
    random_model.write(model, weights, random_model.SHAPES[shape])
    notes.append(f"{model.stat().st_size / 1e9:.1f} GB")


def our_server(setting, **parameters):
    return ours(setting.model, extra=setting.report.instances(), **parameters)


def peer(setting, *arguments):
    layers = "99" if setting.report.on_gpu else "0"
    return llama_server(setting.model, "-ngl", layers, *arguments)


def prompts(setting, n):
    """Each of n clients asks once, a single one three times, as that is soon done."""
    sizes = setting.sizes
    return workloads.closed_loop(n, max(n, 3), sizes.prompt_words, sizes.answer_tokens, f"speed {n}")


def rates(setting, endpoint):
    """Answered tokens a second by the number of streams, all on one server."""
    warmed_up(endpoint)
    return {n: drive(endpoint, prompts(setting, n)).whole().tokens_per_second for n in setting.streams}


def throughput(setting, name):
    report, n_most = setting.report, max(setting.streams)
    peers_slots = ["-c", str(N_CTX), "-np", str(n_most)]

    def on_one(server):
        with server as endpoint:
            return rates(setting, endpoint)

    def on_one_each():
        found = {}
        for n in setting.streams:
            with peer(setting, "-c", str(N_CTX), "-np", str(n)) as endpoint:
                found[n] = drive(warmed_up(endpoint), prompts(setting, n)).whole().tokens_per_second
        return found

    runs = {
        "triton-llm": lambda: on_one(our_server(setting, n_parallel=n_most, n_ctx=N_CTX)),
        "llama-server with a slot for each stream": on_one_each,
        "llama-server -kvu": lambda: on_one(peer(setting, *peers_slots, "-kvu")),
        "llama-server -kvu -bs": lambda: on_one(peer(setting, *peers_slots, "-kvu", "-bs")),
        "llama-batched-bench": lambda: batched_bench(setting),
        "triton-llm, kv_unified false": lambda: on_one(
            our_server(setting, n_parallel=n_most, n_ctx=N_CTX, kv_unified="false")
        ),
    }
    columns = {column: {} for column in runs}

    def measured(column, notes):
        columns[column] = runs[column]()
        notes.append(as_note(columns[column]))

    for column in runs:
        report.step(f"speed of {name}: {column}", partial(measured, column), setting.seconds)
    mine = columns.pop("triton-llm")
    for n in setting.streams:
        peers = {peer_name: found.get(n) for peer_name, found in columns.items()}
        report.figure(f"{name}, {n} streams", "tokens/s", mine.get(n), **peers)


def as_note(found):
    return ", ".join(f"{n}: {rate:.4g}" for n, rate in found.items())


def batched_bench(setting):
    """The same prompts and answers with no server and no sampling, one wave each.

    The first token of an answer comes of its prompt's last step, so the bench
    has one step fewer to run than there are tokens.
    """
    n_answer = setting.sizes.answer_tokens
    command = [
        str(BATCHED_BENCH), "-m", str(setting.model), "-c", str(N_CTX),
        "-ngl", "99" if setting.report.on_gpu else "0",
        "-npp", str(setting.sizes.prompt_words + workloads.N_FRAME), "-ntg", str(n_answer - 1),
        "-npl", ",".join(map(str, setting.streams)), "--output-format", "jsonl",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0 and lines, f"it ended with {done.returncode}: {done.stderr[-500:]}"
    return {line["pl"]: line["pl"] * n_answer / line["t"] for line in lines}


def entering(setting, name):
    """A long prompt enters beside eight running streams: their gaps, and its own first token."""
    n_ctx = (latency.N_STREAMS + 1) * (setting.sizes.long_tokens + 1024)
    workload = latency.entering(setting, "entering")
    found = {}

    def measured(_notes):
        with our_server(setting, n_ctx=n_ctx, n_parallel=16, target_itl_ms=50) as endpoint:
            found["ours"] = drive(warmed_up(endpoint), workload)
        with peer(setting, "-c", str(n_ctx), "-np", str(latency.N_STREAMS + 1), "-kvu") as endpoint:
            found["llama-server -kvu"] = drive(warmed_up(endpoint), workload)
        gap = {who: latency.p99(one) * 1000 for who, one in found.items()}
        first = {who: first_token(one.record(latency.N_STREAMS)) * 1000 for who, one in found.items()}
        setting.report.figure(f"{name}: p99 gap of 8 streams while a prompt enters", "ms", gap.pop("ours"), **gap)
        setting.report.figure(f"{name}: that prompt's first token", "ms", first.pop("ours"), **first)

    setting.report.step(f"a long prompt beside 8 streams of {name}", measured, setting.seconds)


def beginnings(setting, name):
    """Prompts that begin alike: first tokens, as in rows 4 to 6 of the benchmarks."""
    sizes = setting.sizes
    for n in (8, 16):
        what = f"{n} clients arrive together with one prefix of {sizes.prefix_tokens} tokens: the last first token"
        together = prefixes.arrival_together(setting, n, "together")
        first_tokens(setting, f"{name}: {what}", prefixes.cells_for(setting, n), n, together, prefixes.last_first_token)

    def second(report):
        return first_token(report.record(1))

    what = f"{name}: the same prefix while its first user still generates: first token"
    alone = prefixes.second_user(setting, "second", n_first=1)
    first_tokens(setting, what, N_CTX, 4, prefixes.second_user(setting, "second"), second, alone)
    for n in (1, 8):

        def last(report):
            return prefixes.last_turns(report, n, sizes.turns - 1)

        what = f"{name}: turn {sizes.turns} of {n} chats on 4 slots: first token"
        first_tokens(setting, what, N_CTX, 4, prefixes.chats(setting, n, "chat"), last)


def first_tokens(setting, what, n_ctx, n_slots, workload, seconds_of, alone=None):
    """One figure; `alone` is the same without anybody else, which we are compared with, too."""

    def on(server, given):
        with server as endpoint:
            return seconds_of(drive(warmed_up(endpoint), given)) * 1000

    def mine(given):
        return on(our_server(setting, n_ctx=n_ctx, n_parallel=n_slots), given)

    def measured(_notes):
        peers = {"triton-llm, nobody else": mine(alone)} if alone else {}
        for flags in ([], ["-kvu"]):
            server = peer(setting, "-c", str(n_ctx), "-np", str(n_slots), *flags)
            peers[" ".join(["llama-server", *flags])] = on(server, workload)
        setting.report.figure(what, "ms", mine(workload), **peers)

    setting.report.step(what, measured, setting.seconds)
