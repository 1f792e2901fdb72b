"""Why a figure misses its target: by row and a part of its name, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for figures that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

GAPS = (
    "With split caches llama.cpp computes only neighbouring slots together: each gap between busy slots reads the weights once "
    "more. The shared cache, the default, has no such gaps."
)

EXPLANATIONS = {
    (8, "every fourth of 32, split"): GAPS,
    (8, "at random of 32, split"): GAPS,
    (8, "of 32, split"): "The busy slots are neighbours and computed together. The single runs lie between 0.56 and 1.04: the "
    "machine's speed varies by more than what is missed.",
    (13, "resident"): "An empty tritonserver holds 33 MiB of it. What is left is less than llama-server's: by /proc/PID/smaps both "
    "map 183 MiB of weights and hold 720 MiB of KV cache and 37 MiB of vocabulary. malloc_trim gives nothing back.",
}


def explanation(row, what):
    """The sentence for a figure of that name; nothing where none is written."""
    found = (text for (known, part), text in EXPLANATIONS.items() if known == row and part in what)
    return next(found, "")
