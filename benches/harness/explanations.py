"""Why a row misses its target: by row, a sentence or two with the evidence.

Shown in the table of docs/benchmarks.md for rows that are not met. Written by
hand; `RENDER=1 make bench` writes the page again without measuring.
"""

EXPLANATIONS = {
    8: "With split caches llama.cpp computes slots that are no neighbours in a batch each, and reads the weights for each. "
    "The shared cache, the default, has no such gaps.",
    12: "Measured with steps planned for 85 % of a second on a machine whose speed varies by more. They are planned for 70 % now: "
    "0.88 and 0.89 s (two runs by hand).",
    13: "An empty tritonserver holds 33 MiB of it. What is left is less than llama-server's: by /proc/PID/smaps both map 183 MiB "
    "of weights and hold 720 MiB of KV cache and 37 MiB of vocabulary. malloc_trim gives nothing back.",
    14: "A step of the demo model takes a tenth of a millisecond for one row and, with four clients, has four of them anyway: drafts "
    "make it larger and save little. With two threads, which such a model does not have by default, they paid 2.87 times.",
}
