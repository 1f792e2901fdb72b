"""Why a row misses its target: by row, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for rows that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

EXPLANATIONS = {
    1: "One repeat on a machine whose speed varied by 15 % from run to run. By default all requests share the cache, and each "
    "row has to look at the cells of the others: 32 short requests without anything in common are where that costs most. "
    "Split caches (kv_unified false) do not have that price, and llama-server's best setting has them. See "
    "docs/performance.md.",
    3: "One client: both run the same llama.cpp, one request at a time. 32 clients: as in row 1, the cells that all requests "
    "share.",
    4: "llama-server takes 16 s a client, which is what reading the prefix once takes on this machine: 7.5 times sooner "
    "would leave one second for the own tokens of all eight. Ours reads the prefix once and needs 0.6 s for each more "
    "client, which is one tile of rows at that depth.",
    6: "A chat comes back from host memory into cells above those of the one before it, which leaves only then; attention "
    "looks at every cell up to the highest, empty ones included. See docs/performance.md.",
    7: "The server's threads and the client share the two cores with the engine.",
    8: "With split caches llama.cpp computes slots that are no neighbours in a batch each, and reads the weights for each. "
    "The shared cache, the default, has no such gaps.",
    14: "Measured with room for 32 rows of drafts whatever ran beside them; since then drafts fill a step up to 16 rows, and "
    "with 16 requests there are none.",
    10: "23 us before ended sequences went to host memory: here each answer of 64 tokens leaves some 170 tokens to copy, 2 ms, "
    "which nobody comes back for.",
    2: "The batched bench has neither a server nor a scheduler, and all its prompts in one batch.",
    13: "tritonserver is in our figure: without a model it holds 33 MiB.",
}
