"""Row 14: speculative decoding, on a text that repeats itself."""

from repository import DEMO

from . import workloads
from .client import drive
from .measure import Figure, alternate
from .servers import ours
from .throughput import client_share, rate, warmed_up

#: The demo model answers with twelve days that each take the same course, in about 900 tokens.
STORY = "Tell me a long story"
N_TOKENS = 700


def tell(settings, n_clients, **parameters):
    n_tokens = settings.sizes.answer_tokens if settings.quick else N_TOKENS
    n_sessions = max(8, 2 * n_clients)
    sessions = [workloads.session(workloads.turn(STORY, n_tokens)) for _ in range(n_sessions)]
    # As many threads as such a small model has by default.
    with ours(DEMO, n_parallel=n_clients, n_threads=0, **parameters) as endpoint:
        return drive(warmed_up(endpoint), workloads.workload(sessions, n_clients)).whole()


def row_14(settings):
    """speculative decoding of a text that repeats itself, against none"""
    figures, notes = [], []
    for n_clients in (1, 4, 16):
        results = alternate(
            settings.repeats,
            drafted=lambda n: tell(settings, n_clients, speculative_method="ngram"),
            plain=lambda n: tell(settings, n_clients),
        )
        texts = [text for reports in results.values() for report in reports for text in report.texts.values()]
        figures.append(
            Figure(
                f"ngram, {n_clients} clients", "tokens/s", rate(results["drafted"]), 1.0, True,
                peer=rate(results["plain"]), peer_name="without drafts",
            )
        )  # fmt: skip
        notes.append(
            f"{n_clients} clients: {len(set(texts))} different text in {len(texts)} answers; "
            f"{client_share(results['drafted'])}."
        )
    notes.append(
        "The demo model instead of the random one, whose texts never repeat. Its steps take a tenth of a "
        "millisecond, so what is around them weighs more than with any model that people use."
    )
    return figures, notes
