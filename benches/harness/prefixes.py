"""Rows 4, 5 and 6: prompts that begin alike."""

import statistics

from . import workloads
from .client import drive, first_token, suffix_seconds
from .measure import Figure, alternate, best, say, tried_note
from .servers import llama_server, ours
from .throughput import warmed_up

#: What a user adds to a shared prefix, in tokens.
N_OWN = 64
N_ANSWER = 8


def last_first_token(report):
    """Seconds until every client has its first token."""
    records = report.whole().records
    return (max(r["arrivals_ms"][0] for r in records) - min(r["sent_ms"] for r in records)) / 1000


def arrival_together(settings, n_clients, seed):
    system = workloads.shared_prefix(settings.sizes.prefix_tokens, seed)
    return workloads.workload(
        workloads.session(
            workloads.turn(workloads.own_words(N_OWN, f"{seed} {index}"), N_ANSWER), system=system
        )
        for index in range(n_clients)
    )  # fmt: skip


def cells_for(settings, n_clients):
    """A cache that holds every client's whole prompt, shared or not, in parts of 256."""
    n_tokens = settings.sizes.prefix_tokens + N_OWN + N_ANSWER
    return -(-n_tokens // 256) * 256 * n_clients


def row_4(settings):
    """N clients arrive together with one shared prefix: the last client's first token"""
    figures, notes, arguments = [], [], None
    for n_clients, target in {8: 7.5, 16: 12.0}.items():
        say(f"  {n_clients} clients")
        n_ctx = cells_for(settings, n_clients)

        def peer(more, seed):
            given = ["-c", str(n_ctx), "-np", str(n_clients), *more]
            with llama_server(settings.model, *given) as endpoint:
                return last_first_token(drive(warmed_up(endpoint), arrival_together(settings, n_clients, seed)))

        def mine(seed):
            with ours(settings.model, n_ctx=n_ctx, n_parallel=n_clients) as endpoint:
                return last_first_token(drive(warmed_up(endpoint), arrival_together(settings, n_clients, seed)))

        if arguments is None:
            stages = [[["-kvu"]], [["-fa", "off"]], [["-b", "512"]]]
            arguments, tried = best([], stages, lambda more: 1 / peer(more, "try"))
            notes.append(f"{tried_note(tried)} (At 8 clients, as 1 / seconds.)")
        results = alternate(settings.repeats, ours=mine, peer=lambda n: peer(arguments, n))
        figures.append(
            Figure(
                f"{n_clients} clients", "s", results["ours"], target, True, "peer/ours",
                peer=results["peer"], peer_name=" ".join(["llama-server -np", str(n_clients), *arguments]),
            )
        )  # fmt: skip
    notes.append(f"Prefix of {settings.sizes.prefix_tokens} tokens, {N_OWN} own tokens, {N_ANSWER} tokens of answer.")
    return figures, notes


def second_user(settings, seed, n_first=4000):
    """A user whose prefix is that of another, who has begun an answer of `n_first` tokens."""
    system = workloads.shared_prefix(settings.sizes.prefix_tokens, seed)
    first = workloads.turn(workloads.own_words(28, f"{seed} first"), n_first)
    second = workloads.turn(workloads.own_words(N_OWN, f"{seed} second"), N_ANSWER)
    return workloads.workload([
        workloads.session(first, system=system, background=True),
        workloads.session(second, system=system, after=0),
    ])  # fmt: skip


def row_5(settings):
    """the same prefix while the first user is still generating: first token"""

    def mine(seed):
        with ours(settings.model, n_ctx=32_768, n_parallel=4) as endpoint:
            return first_token(drive(warmed_up(endpoint), second_user(settings, seed)).record(1))

    def suffix(seed):
        _, second = second_user(settings, seed)["sessions"]
        history = workloads.chatml([("system", second["system"])])
        return suffix_seconds(settings.model, history, f"<|im_start|>user\n{second['turns'][0]['user']}{workloads.ANSWER_HEAD}")

    def peer(seed):
        with llama_server(settings.model, "-c", "32768", "-np", "4") as endpoint:
            return first_token(drive(warmed_up(endpoint), second_user(settings, seed)).record(1))

    results = alternate(settings.repeats, ours=mine, peer=suffix)
    figure = Figure(
        "first token of the second user", "s", results["ours"], 1.3, False,
        peer=results["peer"], peer_name="the own tokens alone",
    )  # fmt: skip
    notes = [
        SUFFIX_NOTE,
        f"llama-server -np 4 needed {peer(0):.1f} s for it (one run).",
    ]
    return [figure], notes


SUFFIX_NOTE = (
    "The reference is the model alone, with our attention: the history is computed in one sequence, then the clock runs over the new "
    "tokens of the same sequence, up to the choice of a token. Nobody else runs and nothing is sent, so what the "
    "server adds, waiting for the step under way and sharing steps with others included, counts against us."
)


# Row 6


def chats(settings, n_chats, seed):
    def turns(chat):
        return [
            workloads.turn(workloads.own_words(N_OWN, f"{seed} {chat} {number}"), 32)
            for number in range(settings.sizes.turns)
        ]

    sessions = [workloads.session(*turns(chat)) for chat in range(n_chats)]
    return workloads.workload(sessions, interleaved=True)


def last_turn(settings, given, report, chat):
    """The prompt of a chat's last turn: what was said before, and what is new in it."""
    *before, last = given["sessions"][chat]["turns"]
    history = []
    for number, turn in enumerate(before):
        history += [("user", turn["user"]), ("assistant", report.record(chat, number)["text"])]
    # The end of the last answer is new, too: no step has computed it yet.
    history = workloads.chatml(history).removesuffix("<|im_end|>\n")
    return history, f"<|im_end|>\n<|im_start|>user\n{last['user']}{workloads.ANSWER_HEAD}"


def last_turns(report, n_chats, last):
    """Seconds to the first token of the last turn, the median of the chats."""
    return statistics.median(first_token(report.record(chat, last)) for chat in range(n_chats))


def row_6(settings):
    """a chat of many turns, the whole history sent each time: first token of the last turn"""
    figures, notes = [], [SUFFIX_NOTE]
    last = settings.sizes.turns - 1
    for n_chats, name in {1: "one chat", 8: "8 chats interleaved on 4 slots"}.items():
        say(f"  {name}")
        mine, alone, reports = [], [], []
        for repeat in range(settings.repeats):
            given = chats(settings, n_chats, repeat)
            with ours(settings.model, n_ctx=32_768, n_parallel=4) as endpoint:
                report = drive(warmed_up(endpoint), given).whole()
            mine.append(last_turns(report, n_chats, last))
            alone.append(suffix_seconds(settings.model, *last_turn(settings, given, report, 0)))
            reports.append(report)
            say(f"    {repeat + 1} of {settings.repeats}: {mine[-1]:.3f} s, the new tokens alone {alone[-1]:.3f} s")
        figures.append(
            Figure(f"turn {last + 1}, {name}", "s", mine, 1.3, False, peer=alone, peer_name="the new tokens alone")
        )
        worst = max(first_token(report.record(chat, last)) for report in reports for chat in range(n_chats))
        with llama_server(settings.model, "-c", "32768", "-np", "4") as endpoint:
            peer = drive(warmed_up(endpoint), chats(settings, n_chats, 0)).whole()
        theirs = last_turns(peer, n_chats, last)
        cached = reports[0].record(0, last)
        notes.append(
            f"{name}: the slowest first token of a last turn took {worst:.3f} s; {cached['cached_tokens']} of "
            f"{cached['prompt_tokens']} tokens of the prompt were cached; llama-server -np 4 took {theirs:.3f} s (one run)."
        )
    return figures, notes
