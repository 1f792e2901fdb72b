"""Why a row misses its target: by row, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for rows that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

EXPLANATIONS = {
    1: "Not explained: split caches, with the same attention, were 16 and 24 % faster in this run at one and at four clients, 9 "
    "and 0 % in the one before. One repeat on a machine whose speed varies by 15 %.",
    8: "With split caches llama.cpp computes slots that are no neighbours in a batch each, and reads the weights for each. "
    "The shared cache, the default, has no such gaps: there it is one repeat on a machine whose speed varies.",
    13: "tritonserver is in our figure: without a model it holds 33 MiB.",
}
