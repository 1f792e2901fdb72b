"""Why a row misses its target: by row, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for rows that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

EXPLANATIONS = {
    1: "The cache that all requests share makes each row look at the cells of the others; split caches (kv_unified false) "
    "do not, and llama-server's best setting has them. One repeat on a machine whose speed varied by 15 % from run to run. "
    "See docs/performance.md.",
    3: "One client: both run the same llama.cpp, one request at a time. 32 clients: as in row 1, the cells that all requests "
    "share.",
    4: "llama-server takes 16 s a client, which is what reading the prefix once takes on this machine: 7.5 times sooner "
    "would leave one second for the own tokens of all eight. Ours reads the prefix once and needs 0.6 s for each more "
    "client, which is one tile of rows at that depth.",
    6: "The cells of the seven other chats cost each row of a tile 0.6 us apiece; llama-server keeps ended chats in host "
    "memory. To do so, too, is the next step, see docs/performance.md.",
    7: "The server's threads and the client share the two cores with the engine.",
    8: "With split caches llama.cpp computes slots that are no neighbours in a batch each, and reads the weights for each. "
    "The shared cache, the default, has no such gaps.",
    14: "Measured with room for 32 rows of drafts whatever ran beside them; since then drafts fill a step up to 16 rows, and "
    "with 16 requests there are none.",
    13: "tritonserver is in our figure: without a model it holds 33 MiB.",
}
