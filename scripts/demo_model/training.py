"""The stages of the training, the loss and the optimiser."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon
from tokenizers import Tokenizer

from .batches import Batches
from .network import Config, forward

BUCKETS = [(8, 256), (2, 1024), (1, 3072)]  # rows, tokens per row


@dataclass(frozen=True)
class Stage:
    steps: int
    shares: tuple[float, float, float]  # of the steps, for each bucket
    short_only: float  # part of the steps that sees only the first bucket
    rate: float = 1.0  # factor on the learning rates
    plateau: float = 0.5  # part of the steps before the rates decay
    hard: bool = False  # what the Writer writes
    counts: bool = False
    stop_weight: float = 1.0  # loss weight of the token that ends an answer
    average: bool = False  # end with the mean of the weights before and after
    gap: float = 0.0  # wanted distance between the right logit and the next


# First learn the tasks, then become sure of them, in long conversations too,
# then learn to count far and to stop there.  That third stage forgets a little
# of the long conversations; averaging brings them back, and the fourth stage
# settles both.
STAGES = [
    Stage(1500, (0.75, 0.15, 0.10), short_only=0.4),
    Stage(650, (0.66, 0.17, 0.17), short_only=0.0, rate=0.6, plateau=0.3, hard=True, gap=6.0),
    Stage(350, (0.42, 0.43, 0.15), short_only=0.0, rate=0.5, plateau=0.3, hard=True, counts=True,
          stop_weight=4.0, gap=6.0, average=True),
    Stage(220, (0.42, 0.33, 0.25), short_only=0.0, rate=0.3, plateau=0.25, hard=True, counts=True,
          stop_weight=2.0, gap=6.0),
]


def loss_fn(params, cfg: Config, stage: Stage, tokens, segments, learn):
    length = tokens.shape[1] - 1
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    seg = segments[:, :-1]
    mask = jnp.tril(jnp.ones((length, length), bool)) & (seg[:, :, None] == seg[:, None, :])
    hidden, _ = forward(cfg, params, inputs, jnp.arange(length), mask)
    logits = hidden @ params["embed"].T
    end_of_answer = cfg.vocab - 1  # <|im_end|> is the last of the vocabulary
    weight = learn[:, 1:] * jnp.where(targets == end_of_answer, stage.stop_weight, 1.0)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = logits.argmax(-1) == targets
    if stage.gap:  # also ask for a distance to the second best token
        truth = jax.nn.one_hot(targets, cfg.vocab)
        gap = (logits * truth).sum(-1) - (logits - 1e9 * truth).max(-1)
        loss += 0.2 * jax.nn.relu(stage.gap - gap)
    total = jnp.maximum(weight.sum(), 1.0)  # a row may hold nothing to learn
    return (loss * weight).sum() / total, (right * weight).sum() / total


def make_optimizer(params, stage: Stage):
    """Muon for the matrices, Adam for the rest; warm-up, plateau, linear decay."""
    decay_from = int(stage.steps * stage.plateau)

    def schedule(peak):
        peak *= stage.rate
        return optax.join_schedules(
            [optax.linear_schedule(0, peak, 50), optax.constant_schedule(peak),
             optax.linear_schedule(peak, 0.01 * peak, stage.steps - decay_from)],
            [50, decay_from])

    dims = jax.tree.map(
        lambda p: MuonDimensionNumbers(reduction_axis=1, output_axis=2) if p.ndim == 3 else None,
        params)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        muon(schedule(0.02), weight_decay=0.05, adam_learning_rate=schedule(0.004),
             adam_b2=0.98, muon_weight_dimension_numbers=dims))


def train(cfg: Config, tokenizer: Tokenizer, seed: int, stage: Stage, params: dict) -> dict:
    before = jax.tree.map(jnp.copy, params)
    optimizer = make_optimizer(params, stage)
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, tokens, segments, learn):
        (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, cfg, stage, tokens, segments, learn)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, accuracy

    batches = Batches(tokenizer, seed, stage.hard, stage.counts)
    choose = random.Random(seed)
    start, recent = time.time(), {}
    for i in range(stage.steps):
        shares = stage.shares if i >= stage.steps * stage.short_only else (1, 0, 0)
        rows, length = choose.choices(BUCKETS, shares)[0]
        batch = batches.make(rows, length)
        params, state, loss, accuracy = step(
            params, state, batch.tokens, batch.segments, batch.learn)
        recent.setdefault(length, []).append((loss, accuracy))
        if (i + 1) % 50 == 0:
            stats = "  ".join(
                f"{length}: loss {np.mean([float(a) for a, _ in seen]):.4f} "
                f"right {np.mean([float(b) for _, b in seen]):.4f}"
                for length, seen in sorted(recent.items()))
            print(f"step {i + 1}/{stage.steps}  {time.time() - start:.0f} s  {stats}", flush=True)
            recent = {}
    if stage.average:
        params = jax.tree.map(lambda a, b: (a + b) / 2, before, params)
    return params
