"""What the clients send: made-up words, so that a prompt's length is known to the token.

The same seed gives the same text. Each word begins with a space and is one
token; around them stands what the chat template adds.
"""

import random

from random_model import words

#: Some of the model's words; which ones does not matter.
WORDS = words(50_000)

#: Tokens of "<|im_start|>user\n" and of "<|im_end|>\n".
N_HEAD, N_END = 3, 2
#: Tokens that the template adds to one user message: its frame, and the head of the answer.
N_FRAME = N_HEAD + N_END + N_HEAD


def text(n_words, seed):
    return " " + " ".join(random.Random(seed).choices(WORDS, k=n_words))


def turn(user, max_tokens, **more):
    return {"user": user, "max_tokens": max_tokens, **more}


def session(*turns, **more):
    return {"turns": list(turns), **more}


def workload(sessions, concurrency=None, **more):
    """By default all sessions may run at once."""
    sessions = list(sessions)
    return {"concurrency": concurrency or len(sessions), "sessions": sessions, **more}


def closed_loop(n_clients, n_requests, n_words, max_tokens, seed):
    """Clients that each send the next prompt when they have their answer."""
    sessions = [session(turn(text(n_words, f"{seed} {index}"), max_tokens)) for index in range(n_requests)]
    return workload(sessions, n_clients)


def shared_prefix(n_tokens, seed):
    """A system prompt that makes this many tokens, with its frame."""
    return text(n_tokens - N_HEAD - N_END, f"prefix {seed}")


def own_words(n_tokens, seed):
    """A user's text that makes this many tokens, with its frame."""
    return text(n_tokens - N_FRAME, f"own {seed}")


def chatml(messages):
    """The prompt as the model's template writes it, without the head of the answer."""
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)


#: What stands between the user's text and the answer.
ANSWER_HEAD = "<|im_end|>\n<|im_start|>assistant\n"
