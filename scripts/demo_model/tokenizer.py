"""The tokenizer and the chat template."""

from __future__ import annotations

import json
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models
from tokenizers import pre_tokenizers, trainers

from .answers import (COUNT_PROMPTS, FALLBACK, FIXED_ANSWERS, GREETING, LONG_STORY, MAX_COUNT,
                      REPEAT_PROMPTS, SYSTEM_PROMPTS)
from .words import COMMON_WORDS, ENDINGS, QUESTION_FRAMES, WORDS

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = [END_OF_TEXT, IM_START, IM_END]
VOCAB_SIZE = 1024

# The pre-tokenizer that llama.cpp knows as "llama-bpe".
PRE_TOKENIZER = "llama-bpe"
PRE_TOKENIZER_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}"
    "{{- message['content'] -}}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def render(messages: list[dict]) -> str:
    """The chat template in Python, with the generation prompt."""
    turns = "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in messages)
    return turns + f"{IM_START}assistant\n"


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE whose merges stay inside words, numbers and runs of blanks.

    No token joins a space to a word.  A phrase therefore splits alike in
    "Repeat after me: phrase" and at the start of the answer, so that repeating
    is copying tokens.  Numbers up to MAX_COUNT are single tokens for counting.
    Nothing but ASCII is merged: other characters stay several tokens long, to
    exercise the server's handling of incomplete UTF-8.
    """
    texts = [answer for _, answer in FIXED_ANSWERS] + [LONG_STORY, GREETING, FALLBACK] * 3
    texts += [p for prompts, _ in FIXED_ANSWERS for p in prompts]
    texts += COUNT_PROMPTS * 3 + REPEAT_PROMPTS * 3 + SYSTEM_PROMPTS + QUESTION_FRAMES
    texts += ["system", "user", "assistant", "tool"] * 50
    # Plain English, so that a long system prompt is not too many tokens.
    texts += WORDS + [word.capitalize() for word in WORDS[::3]] + COMMON_WORDS * 20
    texts += [word + ending for word in WORDS[::4] for ending in ENDINGS]
    words = [word for text in texts for word in re.findall(r"[A-Za-z]+", text)]

    digit_merges = [(str(n)[:-1], str(n)[-1]) for n in range(10, MAX_COUNT + 1)]
    space, newline = "Ġ", "Ċ"  # as byte-level BPE writes them
    blank_merges = [(space, space), (space * 2, space * 2), (space * 4, space * 4),
                    (newline, newline)]
    hand_made = digit_merges + blank_merges

    trainee = Tokenizer(models.BPE())
    trainee.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - len(hand_made) - len(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=1,
            show_progress=False,
        ),
    )
    trained = json.loads(trainee.to_str())["model"]
    vocab = dict(trained["vocab"])
    merges = [tuple(m) for m in trained["merges"]] + hand_made
    for left, right in hand_made:
        vocab[left + right] = len(vocab)

    # ignore_merges: a whole piece that is a token stays one, as in llama.cpp.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRE_TOKENIZER_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    return tokenizer
