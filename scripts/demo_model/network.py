"""The model: its shape, its first weights, its forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from .tokenizer import VOCAB_SIZE


@dataclass(frozen=True)
class Config:
    vocab: int = VOCAB_SIZE
    dim: int = 128
    layers: int = 4
    heads: int = 4
    ffn: int = 384
    context: int = 16384
    rope_base: float = 500000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def init_params(cfg: Config, seed: int) -> dict:
    keys = iter(jax.random.split(jax.random.key(seed), 16))

    def matrix(n_in: int, n_out: int):
        return jax.random.normal(next(keys), (cfg.layers, n_in, n_out)) / math.sqrt(n_in)

    d, f, n = cfg.dim, cfg.ffn, cfg.layers
    layers = {
        "attn_norm": jnp.ones((n, d)), "ffn_norm": jnp.ones((n, d)),
        "wq": matrix(d, d), "wk": matrix(d, d), "wv": matrix(d, d), "wo": jnp.zeros((n, d, d)),
        "bq": jnp.zeros((n, d)), "bk": jnp.zeros((n, d)),
        "gate": matrix(d, f), "up": matrix(d, f), "down": jnp.zeros((n, f, d)),
    }
    params = {
        "embed": jax.random.normal(next(keys), (cfg.vocab, d)) / math.sqrt(d),
        "out_norm": jnp.ones(d),
        "layers": layers,
    }
    start_as_copier(cfg, params, np.random.default_rng(seed))
    return params


def start_as_copier(cfg: Config, params: dict, rng: np.random.Generator) -> None:
    """Lets the first two layers begin close to a circuit that repeats text.

    Repeating means: find the place where the last few tokens occurred before
    and say what came next.  Gradient descent finds this by itself, but only
    after a long plateau, which this start skips; training then shapes it.

    Layer 0, head k, looks k + 1 tokens back: with RoPE, a constant key and the
    same vector turned by k + 1 positions as a constant query peak at that
    distance.  The head stores a 32-number hash of the token it finds there.
    Layer 1 compares the hashes of the latest three tokens with those before
    each earlier position, and passes on the embedding of the best match.
    """
    d, hd, heads = cfg.dim, cfg.head_dim, cfg.heads
    layers = {name: np.array(value) for name, value in params["layers"].items()}

    def orthogonal(n):
        return np.linalg.qr(rng.normal(size=(n, n)))[0]

    freqs = np.asarray(rope_frequencies(cfg))
    strength = 8.0
    for head in range(heads):
        angle, at = (head + 1) * freqs, head * hd
        layers["bk"][0, at:at + hd:2] = strength
        layers["bq"][0, at:at + hd:2] = strength * np.cos(angle)
        layers["bq"][0, at + 1:at + hd:2] = -strength * np.sin(angle)
    layers["wq"][0] *= 0.1
    layers["wk"][0] *= 0.1
    hash_ = orthogonal(d)[:, :hd]
    slots = orthogonal(d)  # rows k * hd and following: where head k stores its hash
    layers["wv"][0] = np.tile(hash_, heads)
    layers["wo"][0] = 0.15 * slots

    # Only slowly turning RoPE pairs can compare tokens at any distance.
    slow = np.arange(hd) >= hd // 4
    for head in range(heads):
        columns = slice(head * hd, (head + 1) * hd)
        query, key = np.zeros((d, hd)), np.zeros((d, hd))
        for back in range(3):
            mix = rng.normal(size=(hd, hd)) / math.sqrt(hd) * slow
            here = hash_ if back == 0 else slots[(back - 1) * hd:back * hd].T
            query += here @ mix
            key += slots[back * hd:(back + 1) * hd].T @ mix
        layers["wq"][1][:, columns], layers["wk"][1][:, columns] = 2 * query, 2 * key
    turn = orthogonal(d)
    layers["wv"][1], layers["wo"][1] = turn, 0.15 * turn.T
    params["layers"] = {name: jnp.array(value) for name, value in layers.items()}


def rope_frequencies(cfg: Config) -> jax.Array:
    return cfg.rope_base ** (-jnp.arange(0, cfg.head_dim, 2) / cfg.head_dim)


def rms_norm(x, gain, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * gain


def rope(x, cos, sin):
    """Rotates neighbouring pairs, the order llama.cpp uses for this architecture."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def forward(cfg: Config, params, tokens, positions, mask, cache=None):
    """Hidden states [batch, time, dim] and the updated key/value cache.

    `mask` is [batch, time, keys].  With a cache (pair of [layers, batch, heads,
    keys, head_dim]) the new keys are stored at `positions[0]` and following.
    """
    batch, time_ = tokens.shape
    angles = positions[:, None] * rope_frequencies(cfg)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    bias = jnp.where(mask, 0.0, -1e9)[:, None]

    def heads(x):
        return x.reshape(batch, time_, cfg.heads, cfg.head_dim).transpose(0, 2, 1, 3)

    def layer(x, inputs):
        p, kv = inputs
        h = rms_norm(x, p["attn_norm"], cfg.eps)
        q = rope(heads(h @ p["wq"] + p["bq"]), cos, sin) / math.sqrt(cfg.head_dim)
        k = rope(heads(h @ p["wk"] + p["bk"]), cos, sin)
        v = heads(h @ p["wv"])
        if kv is not None:
            at = (0, 0, positions[0], 0)
            k = jax.lax.dynamic_update_slice(kv[0], k, at)
            v = jax.lax.dynamic_update_slice(kv[1], v, at)
        # The softmax by hand: dividing after the product with v is faster on CPU.
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) + bias
        scores = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        mixed = jnp.einsum("bhqk,bhkd->bhqd", scores, v) / scores.sum(-1, keepdims=True)
        x = x + mixed.transpose(0, 2, 1, 3).reshape(batch, time_, cfg.dim) @ p["wo"]
        h = rms_norm(x, p["ffn_norm"], cfg.eps)
        x = x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
        return x, None if kv is None else (k, v)

    x, cache = jax.lax.scan(layer, params["embed"][tokens], (params["layers"], cache))
    return rms_norm(x, params["out_norm"], cfg.eps), cache
