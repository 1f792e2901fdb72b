"""Why a row misses its target: by row, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for rows that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

EXPLANATIONS = {
    1: "Noise, by all that is known: one repeat on a machine whose speed varies by 25 %. Twelve rounds in turn in one process "
    "had one stream at 78 tokens/s on the shared cache and 81 on split ones, four at 115 and 116.",
    8: "With split caches llama.cpp computes slots that are no neighbours in a batch each, and reads the weights for each. "
    "The shared cache, the default, has no such gaps: there it is one repeat on a machine whose speed varies.",
    13: "tritonserver is in our figure: without a model it holds 33 MiB.",
}
