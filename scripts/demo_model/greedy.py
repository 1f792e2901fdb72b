"""Greedy answers, computed by the forward pass of the training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from .network import Config, forward
from .tokenizer import IM_END, render


class Greedy:
    """Greedy decoding, with the gap between the two best logits at each step."""

    ROOM = 1024  # longest answer

    def __init__(self, cfg: Config, params, tokenizer: Tokenizer):
        self.cfg, self.params, self.tokenizer = cfg, params, tokenizer
        self.stop = tokenizer.token_to_id(IM_END)
        self._run = jax.jit(self._decode)

    def _decode(self, params, tokens, length, max_tokens):
        cfg, padded = self.cfg, tokens.shape[1]
        keys = padded + self.ROOM
        shape = (cfg.layers, 1, cfg.heads, keys, cfg.head_dim)
        cache = (jnp.zeros(shape), jnp.zeros(shape))

        def best_of(hidden):
            top, ids = jax.lax.top_k(params["embed"] @ hidden, 2)
            return ids[0], top[0] - top[1]

        mask = jnp.arange(keys)[None, None, :] <= jnp.arange(padded)[None, :, None]
        hidden, cache = forward(cfg, params, tokens, jnp.arange(padded), mask, cache)
        token, gap = best_of(hidden[0, length - 1])

        def unfinished(carry):
            n, token, *_ = carry
            return (n < max_tokens) & (token != self.stop)

        def advance(carry):
            n, token, gap, cache, out, gaps = carry
            out, gaps = out.at[n].set(token), gaps.at[n].set(gap)
            position = length + n
            mask = jnp.arange(keys)[None, None, :] <= position
            hidden, cache = forward(cfg, params, token[None, None], position[None], mask, cache)
            token, gap = best_of(hidden[0, 0])
            return n + 1, token, gap, cache, out, gaps

        n, token, gap, _, out, gaps = jax.lax.while_loop(
            unfinished, advance,
            (jnp.int32(0), token, gap, cache, jnp.zeros(self.ROOM, jnp.int32),
             jnp.full(self.ROOM, jnp.inf)))
        stopped = token == self.stop
        return out, n, stopped & (n < max_tokens), jnp.minimum(
            gaps.min(), jnp.where(n < max_tokens, gap, jnp.inf))

    def __call__(self, messages: list[dict], max_tokens: int) -> tuple[dict, float]:
        prompt = self.tokenizer.encode(render(messages)).ids
        padded = next(size for size in (128, 1024, 4096, self.cfg.context) if size >= len(prompt))
        tokens = np.zeros((1, padded), np.int32)
        tokens[0, : len(prompt)] = prompt
        out, n, stopped, gap = self._run(self.params, tokens, len(prompt), max_tokens)
        case = {
            "messages": messages,
            "max_tokens": max_tokens,
            "prompt_tokens": prompt,
            "text": self.tokenizer.decode(np.asarray(out[: int(n)]).tolist(),
                                          skip_special_tokens=False),
            "finish_reason": "stop" if stopped else "length",
        }
        return case, float(gap)
