"""Why a row misses its target: by row, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for rows that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

EXPLANATIONS = {
    1: "One repeat on a machine whose speed varied by 15 % from run to run: at one client it decides.",
    3: "One client: both run the same llama.cpp, one request at a time. Measured with llama.cpp's attention, as the other rows "
    "but 1, 6, 8 and 10: each row then looked at the cells of all 32 clients.",
    4: "llama-server takes 16 s a client, which is what reading the prefix once takes on this machine: 7.5 times sooner "
    "would leave one second for the own tokens of all eight. Ours reads the prefix once and needs 0.6 s for each more "
    "client, which is one tile of rows at that depth.",
    6: "Not explained: all eight chats fit into the cache, and nothing is copied. One repeat; the new tokens alone took "
    "0.151 and 0.171 s a minute apart.",
    7: "The server's threads and the client share the two cores with the engine.",
    8: "With split caches llama.cpp computes slots that are no neighbours in a batch each, and reads the weights for each. "
    "The shared cache, the default, has no such gaps: there it is one repeat on a machine whose speed varies.",
    14: "Measured with room for 32 rows of drafts whatever ran beside them; since then drafts fill a step up to 16 rows, and "
    "with 16 requests there are none.",
    2: "The batched bench has neither a server nor a scheduler, and all its prompts in one batch.",
    13: "tritonserver is in our figure: without a model it holds 33 MiB.",
}
