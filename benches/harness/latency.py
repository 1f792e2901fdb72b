"""Rows 7 and 12: how long others wait while a long prompt is read."""

from . import workloads
from .client import Report, drive, first_token, in_process, percentile
from .measure import Figure, alternate, best, tried_note
from .servers import llama_server, ours
from .throughput import N_CTX, warmed_up

#: Streams that run while the prompt enters.
N_STREAMS = 8
#: Ours is told so as `target_itl_ms`; it is the default.
TARGET_MS = 1000


def entering(settings, seed):
    """Streams in the background, and a long prompt that comes once the last of them streams."""
    sizes = settings.sizes
    streams = [
        workloads.session(
            workloads.turn(workloads.text(sizes.prompt_words, f"{seed} {index}"), 2000), background=True
        )
        for index in range(N_STREAMS)
    ]  # fmt: skip
    prompt = workloads.turn(workloads.own_words(sizes.long_tokens, f"{seed} long"), 4)
    return workloads.workload([*streams, workloads.session(prompt, after=N_STREAMS - 1)])


def gaps(report):
    """Seconds between two texts of a running stream, as far as they touch the time of the prompt."""
    prompt = report.record(N_STREAMS)
    begin, end = prompt["sent_ms"], prompt["arrivals_ms"][0]
    found = []
    for stream in range(N_STREAMS):
        times = report.record(stream)["arrivals_ms"]
        found += [(b - a) / 1000 for a, b in zip(times, times[1:]) if b > begin and a < end]
    return found


def p99(report):
    return percentile(gaps(report), 0.99)


def row_7(settings):
    """8 running streams while a long prompt enters"""
    n_ctx = (N_STREAMS + 1) * (settings.sizes.long_tokens + 1024)

    def mine(seed):
        with ours(settings.model, n_ctx=n_ctx, n_parallel=16, target_itl_ms=TARGET_MS) as endpoint:
            return drive(warmed_up(endpoint), entering(settings, seed))

    def peer(arguments, seed):
        given = ["-c", str(n_ctx), "-np", str(N_STREAMS + 1), *arguments]
        with llama_server(settings.model, *given) as endpoint:
            return drive(warmed_up(endpoint), entering(settings, seed))

    def bare(seed):
        return Report(in_process("run", settings.model, entering(settings, seed), 16, n_ctx, TARGET_MS))

    stages = [[["-kvu"]], [["-fa", "off"]], [["-b", "512"]]]
    arguments, tried = best([], stages, lambda more: 1 / p99(peer(more, "try")))
    results = alternate(settings.repeats, ours=mine, peer=lambda n: peer(arguments, n), bare=bare)
    prompt = {side: [first_token(r.record(N_STREAMS)) for r in results[side]] for side in results}
    figures = [
        Figure(
            "p99 gap of the streams", "s", [p99(r) for r in results["ours"]], 3.0, True, "peer/ours",
            peer=[p99(r) for r in results["peer"]],
            peer_name=" ".join(["llama-server -np", str(N_STREAMS + 1), *arguments]),
        ),
        Figure(
            "the prompt's first token", "s", prompt["ours"], 1.1, False,
            peer=prompt["bare"], peer_name="bare calls with the same chunks",
        ),
    ]  # fmt: skip
    longest = {side: max(gap for report in results[side] for gap in gaps(report)) for side in ("ours", "peer")}
    notes = [
        f"Longest gap: ours {longest['ours']:.2f} s, llama-server {longest['peer']:.2f} s. llama-server's own first "
        f"token of the prompt took {min(prompt['peer']):.1f} to {max(prompt['peer']):.1f} s.",
        f"{tried_note(tried)} (As 1 / seconds of the p99 gap.)",
        f"Ours with target_itl_ms = {TARGET_MS}.",
        "Bare calls: the same engine without a server, so the same plans run by llama.cpp with nothing around them.",
    ]
    return figures, notes


# Row 12


def arrivals(settings, seed):
    """A long prompt, and short ones that arrive all along; what has not begun when it ends is left out."""
    prompt = workloads.own_words(settings.sizes.longest_tokens, f"{seed} long")
    step_ms = 500 if settings.quick else 7000
    short = [
        workloads.session(
            workloads.turn(workloads.text(8, f"{seed} {index}"), 1), start_ms=(index + 1) * step_ms, background=True
        )
        for index in range(60)
    ]  # fmt: skip
    return workloads.workload([workloads.session(workloads.turn(prompt, 1)), *short])


def cancels(settings, seed):
    """Long prompts that are given up at some depth, and at that moment a short one that needs their slot."""
    sessions, begin = [], 0
    for after_ms in (500, 1500) if settings.quick else (4_000, 20_000, 60_000):
        prompt = workloads.own_words(settings.sizes.longest_tokens, f"{seed} {after_ms}")
        sessions.append(workloads.session(workloads.turn(prompt, 1, cancel_after_ms=after_ms), start_ms=begin))
        short = workloads.turn(workloads.text(8, f"{seed} short {after_ms}"), 1)
        sessions.append(workloads.session(short, start_ms=begin + after_ms))
        begin += after_ms + 5000
    return workloads.workload(sessions)


def answered(records):
    """Seconds to the first text of those that got one; what was cut at the end has none."""
    return [first_token(record) for record in records if record["arrivals_ms"]]


def row_12(settings):
    """a new arrival, or a cancel, while a long prompt is read and nobody decodes"""

    def arrive(seed):
        with ours(settings.model, "triton-grpc", n_ctx=N_CTX, n_parallel=8) as endpoint:
            return max(answered(drive(warmed_up(endpoint), arrivals(settings, seed)).records[1:]))

    def cancel(seed):
        with ours(settings.model, "triton-grpc", n_ctx=N_CTX, n_parallel=1) as endpoint:
            return max(answered(drive(warmed_up(endpoint), cancels(settings, seed)).records[1::2]))

    def step(seed):
        prompt = workloads.turn(workloads.own_words(settings.sizes.longest_tokens, f"{seed} long"), 1)
        given = workloads.workload([workloads.session(prompt)])
        report = in_process("run", settings.model, given, 1, N_CTX)
        return report["engine"]["longest_step_ms"] / 1000

    results = alternate(settings.repeats, arrival=arrive, cancel=cancel, step=step)
    names = {
        "step": ("the longest step", 1.0),
        "arrival": ("a new arrival's first token, at worst", 2.0),
        "cancel": ("from a cancel to the first token of who waits for the slot, at worst", 2.0),
    }
    figures = [Figure(what, "s", results[name], limit, False, "ours") for name, (what, limit) in names.items()]
    note = (
        f"A prompt of {settings.sizes.longest_tokens} tokens. What arrives waits for the rest of one step and is read "
        "in the next, so its limit is two steps of a second. Cancels go over gRPC, as Triton notices a closed HTTP "
        "connection only when it writes. The longest step is that of the engine in-process, the prompt alone."
    )
    return figures, [note]
