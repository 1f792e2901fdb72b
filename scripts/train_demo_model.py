#!/usr/bin/env python3
"""Train the tiny chat model that the demo and the end-to-end tests run.

The model has about one million parameters and the plain llama architecture.
It greets, counts, repeats what it is told, tells a short and a long story,
knows a few words of other languages and answers everything else with one
polite sentence.  It knows nothing more: its purpose is to be small enough to
live in the repository, and so sure of each greedy token that its answers are
the same byte for byte alone, in a batch and on every CPU kernel.

All of the training text is made here, nothing is downloaded.  The script
writes two files:

  demo.gguf         weights (Q8_0), tokenizer and chat template
  demo_greedy.json  greedy answers computed by this script's own forward pass
                    from the quantised weights, for the tests to compare with

The run is seeded, but another CPU adds numbers in another order and so ends
with slightly other weights; the two files always belong together.

Usage (CPU only, less than half an hour on two cores):

  pip install -r scripts/train_demo_model.requirements.txt
  python scripts/train_demo_model.py

What it is made of lies in demo_model/, beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import jax

from demo_model.golden import evaluate, make_golden
from demo_model.greedy import Greedy
from demo_model.model_file import read_gguf, write_gguf
from demo_model.network import Config, init_params
from demo_model.tokenizer import IM_END, train_tokenizer
from demo_model.training import STAGES, train

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=len(STAGES),
                        default=[stage.steps for stage in STAGES], help="steps of each stage")
    parser.add_argument("--out", type=Path,
                        default=ROOT / "triton_repo/llm_decoupled/1/demo.gguf")
    parser.add_argument("--golden", type=Path, default=ROOT / "tests/e2e/demo_greedy.json")
    parser.add_argument("--min-gap", type=float, default=2.0,
                        help="least gap between the two best logits in a golden case")
    parser.add_argument("--evaluate", type=int, default=100, metavar="N",
                        help="number of fresh prompts to test the finished model with")
    args = parser.parse_args()

    start = time.time()
    cfg = Config()
    tokenizer = train_tokenizer()
    assert tokenizer.token_to_id(IM_END) == cfg.vocab - 1
    params = init_params(cfg, args.seed)
    print(f"{sum(p.size for p in jax.tree.leaves(params)):,} parameters", flush=True)
    for number, (stage, steps) in enumerate(zip(STAGES, args.steps)):
        params = train(cfg, tokenizer, args.seed + number, replace(stage, steps=steps), params)
    write_gguf(args.out, cfg, params, tokenizer)
    print(f"wrote {args.out} ({args.out.stat().st_size:,} bytes) after {time.time() - start:.0f} s")

    greedy = Greedy(cfg, read_gguf(args.out, cfg), tokenizer)
    cases = make_golden(greedy, args.min_gap)
    args.golden.parent.mkdir(parents=True, exist_ok=True)
    args.golden.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
    print(f"wrote {args.golden}")
    evaluate(greedy, args.seed + 1000, args.evaluate)


if __name__ == "__main__":
    main()
