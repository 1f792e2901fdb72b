"""Why a row misses its target: by row, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for rows that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

EXPLANATIONS = {
    1: "The cache that all requests share makes each row look at the cells of the others: with split caches "
    "(kv_unified false) the same engine gave 183 tokens/s at 16 clients and 177 at 32. See docs/performance.md.",
    5: "The own tokens take as long without another stream beside them, so it is not the waiting; open, see "
    "docs/performance.md.",
    7: "The server's threads and the client share the two cores with the engine. llama-server reads the prompt in 37 to "
    "42 s, in steps that its streams wait 4 s for; not yet looked into.",
    13: "tritonserver is in our figure: without a model it holds 33 MiB, more than the 25 that we have above llama-server.",
}
