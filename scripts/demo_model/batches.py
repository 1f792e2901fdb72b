"""Conversations as rows of tokens, for the training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from .conversations import Writer
from .tokenizer import IM_END, IM_START


@dataclass
class Batch:
    tokens: np.ndarray  # [rows, length + 1]
    segments: np.ndarray  # conversation number of each token within its row
    learn: np.ndarray  # 1.0 where the token is to be predicted


class Batches:
    """Packs conversations into rows; attention stays within a conversation."""

    def __init__(self, tokenizer: Tokenizer, seed: int, hard: bool, counts: bool):
        self.writer = Writer(seed, hard, counts)
        self.tokenizer = tokenizer
        self.im_start = tokenizer.token_to_id(IM_START)
        self.im_end = tokenizer.token_to_id(IM_END)
        self.newline = tokenizer.encode("\n").ids
        self.pending: dict[int, list] = {}

    def encode(self, conversation) -> tuple[list[int], list[float]]:
        heads = self.tokenizer.encode_batch(
            [f"{role}\n" if learn else f"{role}\n{text}" for role, text, learn in conversation])
        ids: list[int] = []
        learn_mask: list[float] = []
        for (_, text, learn), head in zip(conversation, heads):
            ids += [self.im_start] + head.ids
            learn_mask += [0.0] * (1 + len(head.ids))
            answer = self.tokenizer.encode(text).ids if learn else []
            ids += answer + [self.im_end] + self.newline
            learn_mask += [float(learn)] * (len(answer) + 1) + [0.0]
        return ids, learn_mask

    def take(self, room: int, length: int):
        """An encoded conversation of at most `room` tokens, or None."""
        pending = self.pending.setdefault(length, [])
        for i, item in enumerate(pending):
            if len(item[0]) <= room:
                return pending.pop(i)
        for _ in range(3):
            item = self.encode(self.writer.conversation(length))
            if len(item[0]) <= room:
                return item
            if len(item[0]) <= length and len(pending) < 64:
                pending.append(item)
        return None

    def make(self, rows: int, length: int) -> Batch:
        width = length + 1
        tokens = np.zeros((rows, width), np.int32)
        segments = np.full((rows, width), -1, np.int32)
        learn = np.zeros((rows, width), np.float32)
        for row in range(rows):
            at = segment = 0
            while at < length - 24:
                item = self.take(width - at, length)
                if item is None:
                    if at:
                        break
                    continue
                end = at + len(item[0])
                tokens[row, at:end], learn[row, at:end] = item
                segments[row, at:end] = segment
                at, segment = end, segment + 1
        return Batch(tokens, segments, learn)
