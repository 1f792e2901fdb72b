"""Row 14: speculative decoding, on texts that repeat themselves."""

import statistics

from . import workloads
from .client import drive, equal_texts
from .measure import Figure, alternate, say
from .servers import ours
from .throughput import N_CTX, clients, rate, warmed_up

#: Tokens of an answer, of which the later ones mostly repeat the earlier ones.
N_TOKENS = 256
#: Words in a row that must have come before for the next one to count as repeated.
N_GRAM = 2


def tell(settings, n_clients, seed, **parameters):
    sizes = settings.sizes
    n_tokens = sizes.answer_tokens if settings.quick else N_TOKENS
    workload = workloads.closed_loop(n_clients, max(4, n_clients), sizes.prompt_words, n_tokens, f"repeat {seed}")
    with ours(settings.repeating_model, n_parallel=n_clients, n_ctx=N_CTX, **parameters) as endpoint:
        return drive(warmed_up(endpoint), workload).whole()


def repeated(text):
    """The share of a text's words that also came next when the words before them last stood together."""
    words, seen, count = text.split(), {}, 0
    for end in range(N_GRAM, len(words)):
        before = tuple(words[end - N_GRAM : end])
        count += seen.get(before) == words[end]
        seen[before] = words[end]
    return count / max(1, len(words))


def row_14(settings):
    """speculative decoding of texts that repeat themselves, against none"""
    figures, notes = [], []
    for n_clients in (1, 4, 16):
        say(f"  {clients(n_clients)}")
        results = alternate(
            settings.repeats,
            drafted=lambda n: tell(settings, n_clients, n, speculative_method="ngram"),
            plain=lambda n: tell(settings, n_clients, n),
        )
        figures.append(
            Figure(
                f"ngram, {clients(n_clients)}", "tokens/s", rate(results["drafted"]), 1.0, True,
                peer=rate(results["plain"]), peer_name="without drafts",
            )
        )  # fmt: skip
        texts = [text for report in results["plain"] for text in report.texts.values()]
        notes.append(
            f"{clients(n_clients)}: {statistics.mean(map(repeated, texts)):.0%} of the words follow the two before them "
            f"as they did earlier in the answer; with and without drafts "
            f"{equal_texts(results['drafted'][0], results['plain'][0])}."
        )
    notes.append(
        "The model of the other rows, but one that ever says only a hundred of its words: an answer soon comes back "
        "to words that it had, and mostly goes on as it did there, as an edited file does."
    )
    return figures, notes
