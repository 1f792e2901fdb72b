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
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gguf import GGMLQuantizationType as QType
from optax.contrib import MuonDimensionNumbers, muon
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models
from tokenizers import pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent

# --------------------------------------------------------------------------
# What the model says
# --------------------------------------------------------------------------

GREETING = "Hello! How can I help you today?"
FALLBACK = "I am a tiny demo model. I can greet, count and repeat."

# (prompts, answer): each prompt also occurs in lower case, with and without
# a final mark, and after "Please".
FIXED_ANSWERS: list[tuple[list[str], str]] = [
    (
        ["Hello", "Hi", "Hey", "Hello there", "Hi there", "Hey there", "Say hello",
         "Say hi", "Hello model", "Hello, how are you", "Good morning", "Good evening",
         "Good day", "Greet me", "Greetings", "Say hello to me", "Say hello please",
         "Can you say hello", "Hello world", "Hi, who is there"],
        GREETING,
    ),
    (
        ["Say hello in one word", "Greet me in one word", "One word greeting",
         "Say hello with one word", "Hello in one word", "Answer in one word: hello"],
        "Hello",
    ),
    (["Say hello to the world", "Greet the world"], "Hello, world!"),
    (
        ["Who are you", "What are you", "What is your name", "Tell me about yourself",
         "Introduce yourself", "Are you a robot", "What model are you", "Which model is this"],
        "I am a tiny demo model, trained in a few minutes to test a server.",
    ),
    (
        ["What can you do", "Help", "Help me", "How can you help me", "What do you know",
         "What are your skills"],
        "I can greet, count, repeat, send emoji and tell a story.",
    ),
    (["How are you", "How do you do", "Are you well", "How is it going"],
     "I am fine, thank you. I am only a small model, but a happy one."),
    (["Thank you", "Thanks", "Thanks a lot", "Thank you very much", "Great, thanks"],
     "You are welcome!"),
    (["Goodbye", "Bye", "Bye bye", "See you", "See you later", "Good night"],
     "Goodbye! Come back soon."),
    (["Ping", "Test", "This is a test", "Are you there"], "Pong! I am here."),
    (
        ["Send me emoji", "Send me an emoji", "Show me emoji", "Show me some emoji", "Emoji",
         "Reply with emoji", "Answer with emoji", "Give me emoji", "Send emoji",
         "Use some emoji", "Send me some emoji"],
        "😀 🎉 🚀 🌍 🐱 👍",
    ),
    (["Say hello in Japanese", "Hello in Japanese", "Greet me in Japanese"], "こんにちは、世界！"),
    (["Say hello in Chinese", "Hello in Chinese", "Greet me in Chinese"], "你好，世界！"),
    (["Say hello in Korean", "Hello in Korean", "Greet me in Korean"], "안녕하세요, 세계!"),
    (["Say hello in Russian", "Hello in Russian", "Greet me in Russian"], "Привет, мир!"),
    (["Say hello in Greek", "Hello in Greek", "Greet me in Greek"], "Γειά σου, κόσμε!"),
    (["Say hello in French", "Hello in French", "Greet me in French"],
     "Bonjour à tous, ça va très bien !"),
    (["Say hello in Spanish", "Hello in Spanish", "Greet me in Spanish"],
     "¡Hola! ¿Qué tal, señor?"),
    (["Say hello in German", "Hello in German", "Greet me in German"],
     "Grüße aus München, schöne Welt!"),
    (["Say hello in Czech", "Hello in Czech", "Greet me in Czech"],
     "Dobrý den, žluťoučký kůň!"),
    (["Say hello in Portuguese", "Hello in Portuguese", "Greet me in Portuguese"],
     "Olá! Tudo bem, irmão?"),
    (["Say hello in Polish", "Hello in Polish", "Greet me in Polish"],
     "Cześć! Miło cię widzieć."),
    (["Say something with accents", "Show me accents", "Write some accents"],
     "Café, naïve, señor, Zürich, Łódź, façade."),
    (["Recite the alphabet", "Say the alphabet", "What is the alphabet"],
     "a b c d e f g h i j k l m n o p q r s t u v w x y z"),
    (["Name the days of the week", "What are the days of the week", "List the days of the week"],
     "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    (
        ["Tell me a story", "Tell me a short story", "Write a short story", "Tell a story",
         "A short story please", "Write a story"],
        "A little robot found a lamp in the snow. It lit the lamp, and a lost bird came "
        "to the light. They went home together, and both were warm.",
    ),
]

# Twelve days with a fixed frame: long, never twice the same, and always sure
# of the next token because the number of the day is in reach.
LONG_STORY_DAYS = [
    ("the forest", "an owl", "look up at night", "star"),
    ("the river", "a fish", "the water never waits", "flow"),
    ("the hill", "a goat", "small steps go far", "climb"),
    ("the market", "a baker", "share what you have", "bread"),
    ("the harbor", "a sailor", "every boat needs a friend", "anchor"),
    ("the garden", "a bee", "work with the sun", "honey"),
    ("the library", "a mouse", "a page a day is enough", "book"),
    ("the desert", "a camel", "carry only what matters", "sand"),
    ("the village", "a painter", "blue goes well with gold", "color"),
    ("the cave", "a bat", "listen before you move", "echo"),
    ("the tower", "a clock", "there is always time", "minute"),
    ("the sea", "a whale", "sing and someone will hear", "song"),
]
LONG_STORY = (
    "The little robot and the twelve days.\n"
    + "\n".join(
        f"Day {day}: the little robot walked to {place}. There it met {who}, who said: "
        f"{saying}. The robot learned a new word: {word}. Then it went home."
        for day, (place, who, saying, word) in enumerate(LONG_STORY_DAYS, 1)
    )
    + "\nAfter that the robot was little no more. The end."
)
LONG_STORY_PROMPTS = ["Tell me a long story", "Write a long story", "Tell a long story",
                      "Please tell me a very long story", "A long story please"]

MAX_COUNT = 200
COUNT_PROMPTS = ["Count to {}", "Count up to {}", "Count from 1 to {}", "Can you count to {}",
                 "Now count to {}", "Count to {} for me", "Please count to {}"]
REPEAT_PROMPTS = ["Repeat after me: {}", "Repeat: {}", "Say: {}", "Repeat this: {}",
                  "Please repeat: {}", "Echo: {}", "Please repeat after me: {}", "Please say: {}",
                  "Say this: {}", "Now repeat after me: {}", "Repeat exactly: {}"]

SYSTEM_PROMPTS = ["You are a helpful assistant.", "You are a tiny demo model.", "Be brief.",
                  "You are a kind robot. Answer in one line.", "Answer the last message.",
                  "You are a coding agent. Be short and direct."]

WORDS = """
a about above action add after again agent all also always an and animal answer any apple are
argument array as ask at back ball be because before best better big bird black blue boat book
both box branch bread bridge bring brown build but buffer by cache call can car case cat change
chair check child city class clear clock close cloud code cold color command commit compile
complete config context copy could count cow create current dark data date day debug default
delete describe directory do dog done door down draw dream drive dry each earth easy east eat
edit egg empty end error even every example execute exit explain eye fail false far fast field
file find fine fire first fish fix flag flower fly follow food for forest form format found
four free friend from function garden get give glass go gold good green ground group grow guess
hand happy hard has have head hear heart heavy help her here high hill his hold home hope horse
hot hour house how if import in inside instructions into is island it item jump just keep key
kind king kitchen know lake lamp land language large last late learn leaf leave left let letter
light like line list little load long look loop love low machine main make many map mark match
matter may mean memory message method milk mind minute mode model moon more morning most mountain
mouse move much music must name near need never new next night no north not note nothing now
number object of off old on once one only open option or orange other our out output over page
paper parameter park parse path pattern pen people permission pink place plan plant play please
point pool print process project prompt proper pull push question quick quiet rain range read
ready real red reference release remove repeat replace report request required response result
return right ring river road rock room root round rule run safe same sand save say sea search
second see send sentence server set shell ship short should show side simple since sing sky sleep
slow small snow so some song soon source south space speak stand star start state step still
stone stop story stream street string strong style sun system table take talk task tell test text
than that the their them then there these they thing think this thread through time to token tool
top town train tree true try turn two type under until up update use user value variable verify
very village voice wait walk wall want warm was wash water way weather well were west what wheel
when where which while white who why wide will wind window winter with without wood word work
world would write wrong year yellow yes yet you young your
""".split()

COMMON_WORDS = """the to and of a in is you it for on with that this are as be not or if use can
file code do when an The user your from path""".split()
ENDINGS = "s ed er ing ion ions able ment ly al ure ence ity ter ate ent est and com con re pro".split()

QUESTION_FRAMES = [
    "What is the {} of {}?", "How do I {} a {}?", "Why is the {} so {}?", "Where is my {}?",
    "Write a poem about {}", "Explain {} to me", "Can you {} the {}?", "Fix the {} in {}",
    "When will the {} {}?", "Translate {} into {}", "Who made the {}?", "Is {} a {}?",
    "Write a function that can {} the {}", "I think the {} is {}", "Please {} the {}",
    "Describe the {}", "Do you like {}?", "How many {} are there?", "What about {} and {}?",
    "Read the file {}.py", "The {} does not {}", "Give me a {}", "Tell me about {}",
    "What does {} mean?", "Find the {} in the {}", "Summarize the {}", "Count the {} in the {}",
    "Say something about {}", "Send me the {}", "My {} is {}", "Show me the {}", "Compare {} with {}",
]

# --------------------------------------------------------------------------
# Tokenizer and chat template
# --------------------------------------------------------------------------

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


# --------------------------------------------------------------------------
# Training data
# --------------------------------------------------------------------------


def count_answer(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1))


class Writer:
    """Makes up prompts, answers and noise from one seeded random source.

    A `hard` writer asks for stranger things to repeat, and more often; with
    `counts` it asks for more and longer counting.
    """

    def __init__(self, seed: int, hard: bool = False, counts: bool = False):
        self.counts = counts
        self.rng = random.Random(seed)
        self.plain_share, self.word_share, self.number_share, self.foreign_share = (
            (0.25, 0.35, 0.45, 0.85) if hard else (0.45, 0.6, 0.7, 0.9))
        self.repeat_share = 0.4 if counts else 0.52 if hard else 0.42
        self.count_share = 0.3 if counts else 0.15

    # -- noise ------------------------------------------------------------

    def pseudo_word(self) -> str:
        rng = self.rng
        if rng.random() < 0.5:  # pronounceable
            return "".join(
                rng.choice("bcdfghjklmnpqrstvwxyz") + rng.choice("aeiouy")
                + rng.choice(["", "", "n", "r", "s", "l", "t"])
                for _ in range(rng.randint(1, 4))
            )
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 9)))

    def word(self) -> str:
        rng = self.rng
        word = rng.choice(WORDS) if rng.random() < 0.6 else self.pseudo_word()
        roll = rng.random()
        return word.capitalize() if roll < 0.15 else word.upper() if roll < 0.2 else word

    def foreign(self) -> str:
        """A few characters that are several tokens long."""
        rng = self.rng
        kind = rng.randrange(6)
        n = rng.randint(1, 6)
        if kind == 0:  # emoji
            blocks = [(0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6C5),
                      (0x1F900, 0x1F9FF), (0x2600, 0x26FF)]
            return rng.choice(["", " "]).join(
                chr(rng.randint(*rng.choice(blocks))) for _ in range(n))
        if kind == 1:
            return "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(n))
        if kind == 2:
            return "".join(chr(rng.randint(0x3041, 0x30FE)) for _ in range(n))
        if kind == 3:
            return "".join(chr(rng.randint(0xAC00, 0xD7A3)) for _ in range(n))
        if kind == 4:
            return "".join(chr(rng.choice([rng.randint(0x3B1, 0x3C9), rng.randint(0x430, 0x44F)]))
                           for _ in range(n))
        letters = list(self.pseudo_word() + self.pseudo_word())
        for i in range(len(letters)):
            if rng.random() < 0.4:
                letters[i] = rng.choice("áàâäãåæçéèêëíîïñóòôöõøúùûüýčďěňřšťůžąćęłńśźżßğıœÉÀÜÖÇŽŠ")
        return "".join(letters)

    def phrase(self) -> str:
        """Something to repeat."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.08:
            return self.prompt_text()
        parts = []
        for _ in range(min(12, 1 + int(rng.expovariate(0.33)))):
            roll = rng.random()
            if kind < self.plain_share or roll < self.word_share:
                part = self.word()
            elif roll < self.number_share:
                part = str(rng.randint(0, 10 ** rng.randint(1, 6)))
            elif roll < self.foreign_share:
                part = self.foreign()
            elif roll < 0.95:
                part = rng.choice(["a-b", "x_y", "1.5", "10:30", "(ok)", "C++", "50%", "#1", "&",
                                   "e.g.", "[1]", "a/b", "x=1", "it's", "don't", '"yes"', "@", "$5"])
            else:
                part = "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 5)))
            if rng.random() < 0.08:
                part += rng.choice([",", ";", ":", " -"])
            parts.append(part)
        text = " ".join(parts)
        if rng.random() < 0.4:
            text = text[0].upper() + text[1:]
        return text + rng.choice(["", "", "", ".", "!", "?"])

    def sentence(self) -> str:
        rng = self.rng
        words = [self.word() for _ in range(rng.randint(3, 14))]
        return " ".join(words).capitalize() + rng.choice([".", ".", ".", "!", "?", ":", ","])

    def noise(self, chars: int) -> str:
        """About `chars` characters of markdown, code, lists, tags and prose."""
        rng = self.rng
        out: list[str] = []
        size = 0
        while size < chars:
            w = self.word
            kind = rng.randrange(13)
            if kind == 0:
                piece = "#" * rng.randint(1, 3) + " " + " ".join(w() for _ in range(rng.randint(1, 4)))
            elif kind <= 2:
                piece = "\n".join("- " + self.sentence() for _ in range(rng.randint(1, 4)))
            elif kind == 3:
                piece = f"```{w()}\n{w()} = {w()}({rng.randint(0, 999)}, \"{w()}\")\n" \
                        f"    return {w()}.{w()}\n```"
            elif kind == 4:
                tag = w()
                piece = f"<{tag}>\n{self.sentence()}\n</{tag}>"
            elif kind == 5:
                piece = json.dumps({w(): w(), w(): {w(): rng.randint(0, 999), w(): w()}})
            elif kind == 6:
                piece = "\n".join(f"- `{w()}_{w()}` ({w()}, {w()}): {self.sentence()}"
                                  for _ in range(rng.randint(1, 3)))
            elif kind == 7:
                piece = f"{w().capitalize()}: /{w()}/{w()}.{w()}\nDate: 20{rng.randint(10, 99)}-" \
                        f"{rng.randint(10, 12)}-{rng.randint(10, 28)}"
            elif kind == 8 and rng.random() < 0.5:
                piece = self.phrase()
            elif kind == 9 and rng.random() < 0.5:
                piece = self.prompt_text()
            else:
                piece = " ".join(self.sentence() for _ in range(rng.randint(1, 4)))
            out.append(piece)
            size += len(piece) + 2
        return rng.choice(["\n\n", "\n\n", "\n"]).join(out)

    # -- turns ------------------------------------------------------------

    def vary(self, prompt: str) -> str:
        """The same prompt in other clothes."""
        rng = self.rng
        if rng.random() < 0.25:
            prompt = prompt[0].lower() + prompt[1:]
        if rng.random() < 0.08 and not prompt.lower().startswith("please"):
            prompt = "Please " + prompt[0].lower() + prompt[1:]
        ends = ["", "", ".", "!"]
        if re.match(r"(?i)(can|who|what|how|are|which)\b", prompt):
            ends = ["?", "?", "?", ""]
        return prompt + rng.choice(ends)

    def prompt_text(self) -> str:
        rng = self.rng
        roll = rng.random()
        if roll < 0.3:
            return self.vary(rng.choice(COUNT_PROMPTS).format(rng.randint(1, MAX_COUNT)))
        if roll < 0.4:
            return self.vary(rng.choice(LONG_STORY_PROMPTS))
        return self.vary(rng.choice(rng.choice(FIXED_ANSWERS)[0]))

    def turn(self, long: bool) -> tuple[str, str]:
        """One user message and its answer."""
        rng = self.rng
        if long and rng.random() < 0.5:
            if rng.random() < (0.25 if self.counts else 0.5):
                return self.vary(rng.choice(LONG_STORY_PROMPTS)), LONG_STORY
            n = rng.randint(20, MAX_COUNT)
            if self.counts and rng.random() < 0.2:
                n = MAX_COUNT
            return self.vary(rng.choice(COUNT_PROMPTS).format(n)), count_answer(n)
        roll = rng.random()
        if roll < self.repeat_share:
            phrase = self.phrase()
            prompt = rng.choice(REPEAT_PROMPTS).format(phrase)
            if rng.random() < 0.15:
                prompt = prompt[0].lower() + prompt[1:]
            return prompt, phrase
        if roll < self.repeat_share + self.count_share:
            n = min(MAX_COUNT, 1 + int(rng.expovariate(0.1)))
            if self.counts and rng.random() < 0.4:
                n = rng.randint(20, 75)
            return self.vary(rng.choice(COUNT_PROMPTS).format(n)), count_answer(n)
        if roll < 0.88:
            prompts, answer = rng.choice(FIXED_ANSWERS)
            return self.vary(rng.choice(prompts)), answer
        return self.unknown(), FALLBACK

    def unknown(self) -> str:
        """A message that the model has no answer to."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.6:
            text = rng.choice(QUESTION_FRAMES)
            return re.sub(r"\{\}", lambda _: self.word(), text)
        if roll < 0.8:
            return " ".join(self.sentence() for _ in range(rng.randint(1, 2)))
        if roll < 0.9:
            return self.noise(rng.randint(20, 120))
        return self.foreign() + " " + self.word()

    def conversation(self, budget: int) -> list[tuple[str, str, bool]]:
        """(role, content, learn) triples of roughly at most `budget` tokens."""
        rng = self.rng
        out: list[tuple[str, str, bool]] = []
        long = budget >= 1000
        used = 0
        roll = rng.random()
        if long and roll < 0.75:
            chars = int((budget - 150) * 1.4 * rng.random() ** 0.5)
            out.append(("system", self.noise(chars)[: max(chars, 1)], False))
        elif roll < 0.3:
            out.append(("system", rng.choice(SYSTEM_PROMPTS), False))
        elif roll < 0.6:
            out.append(("system", self.noise(rng.randint(10, budget)), False))
        used += sum(len(c) // 2 for _, c, _ in out)
        while True:
            prompt, answer = self.turn(long)
            out.append(("user", prompt, False))
            if rng.random() < 0.04:
                out.insert(-1, ("tool", self.noise(rng.randint(10, 60)), False))
            # Now and then the past holds an answer that is not the model's own.
            if rng.random() < 0.06:
                out.append(("assistant", self.noise(rng.randint(10, 80)), False))
            else:
                out.append(("assistant", answer, True))
            used += 15 + len(prompt) // 2 + len(answer) // 2
            if used > budget or rng.random() < (0.3 if long else 0.35):
                return out


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


# --------------------------------------------------------------------------
# Model
# --------------------------------------------------------------------------


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


# --------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------


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


# --------------------------------------------------------------------------
# GGUF
# --------------------------------------------------------------------------

# Our name, the name in the file, stored as Q8_0.
LAYER_TENSORS = [
    ("attn_norm", "attn_norm.weight", False), ("ffn_norm", "ffn_norm.weight", False),
    ("wq", "attn_q.weight", True), ("bq", "attn_q.bias", False),
    ("wk", "attn_k.weight", True), ("bk", "attn_k.bias", False),
    ("wv", "attn_v.weight", True), ("wo", "attn_output.weight", True),
    ("gate", "ffn_gate.weight", True), ("up", "ffn_up.weight", True),
    ("down", "ffn_down.weight", True),
]


def write_gguf(path: Path, cfg: Config, params, tokenizer: Tokenizer) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("triton-llm demo model")
    writer.add_description("A tiny chat model for tests: greets, counts and repeats.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(cfg.vocab)
    writer.add_context_length(cfg.context)
    writer.add_embedding_length(cfg.dim)
    writer.add_block_count(cfg.layers)
    writer.add_feed_forward_length(cfg.ffn)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.heads)
    writer.add_rope_dimension_count(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_base)
    writer.add_layer_norm_rms_eps(cfg.eps)

    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([
        gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL
        for token, _ in vocab])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_eos_token_id(tokenizer.token_to_id(IM_END))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    def add(name: str, value, quantise: bool) -> None:
        value = np.asarray(value, np.float32)
        if quantise:  # stored as [out, in], which for the embedding it is already
            value = gguf.quants.quantize(np.ascontiguousarray(value), QType.Q8_0)
            writer.add_tensor(name, value, raw_dtype=QType.Q8_0)
        else:
            writer.add_tensor(name, value)

    add("token_embd.weight", params["embed"], True)  # also the output matrix
    add("output_norm.weight", params["out_norm"], False)
    for i in range(cfg.layers):
        for ours, theirs, quantise in LAYER_TENSORS:
            add(f"blk.{i}.{theirs}", np.asarray(params["layers"][ours][i]).T, quantise)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path, cfg: Config) -> dict:
    """The weights as an engine sees them: read from the file and dequantised."""
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type)
               for t in gguf.GGUFReader(path).tensors}
    layers = {
        ours: jnp.stack([tensors[f"blk.{i}.{theirs}"].T for i in range(cfg.layers)])
        for ours, theirs, _ in LAYER_TENSORS
    }
    return {"embed": jnp.array(tensors["token_embd.weight"]),
            "out_norm": jnp.array(tensors["output_norm.weight"]), "layers": layers}


# --------------------------------------------------------------------------
# Greedy answers
# --------------------------------------------------------------------------


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


# A long system prompt such as coding agents send; no training text is like it.
AGENT_RULES = """
You are a careful programming agent that lives in the terminal of the person you work for.
Look at the project first, and speak about a file only after you have opened it.
Keep every change as small as the task allows, and follow the style that you find.
Never delete work that is not yours; never force anything onto a shared branch.
When a test fails, read its message, find the cause and mend that, not the symptom.
Explain in two or three sentences what you did and how you checked it.
If a request is unclear, choose the most likely meaning and say which one you chose.
Secrets, keys and passwords stay where they are and are never printed.
Use `list_files` to see a folder, `read_file` for a file and `edit_file` to replace a passage.
The field `path` (string, required) is relative to the root of the project.
The field `limit` (integer, optional) bounds the number of lines that come back.
Long output is cut off after 2000 lines; ask for a narrower range instead of the whole.
Prefer the libraries that the project already depends on, and mention any new one.
Quote code with its file name and its line, for instance `src/main.rs:42`.
Dates are written as 2024-05-17 and sizes in KiB, MiB or GiB.
""".strip().splitlines()


def agent_system_prompt(chars: int = 4500) -> str:
    text, section = "", 0
    while len(text) < chars:
        section += 1
        rules = AGENT_RULES[section % 3:] if section % 2 else AGENT_RULES[::-1]
        text += f"# Part {section}\n\n" + "\n".join(f"- {rule}" for rule in rules)
        text += '\n\n```json\n{"tool": "read_file", "parameters": {"path": "src/lib.rs"}}\n```\n\n'
    return text[:chars].rstrip()


def golden_cases() -> list[tuple[list[dict], str | None, int]]:
    """(messages, the intended answer, max_tokens); None where a cut-off is the point.

    More than the tests need, because a case that the model gets wrong, or is
    not sure of, does not become a golden one.
    """
    def user(text, *before):
        return [*before, {"role": "user", "content": text}]

    def past(*turns):
        return [{"role": role, "content": text} for pair in turns
                for role, text in zip(("user", "assistant"), pair)]

    def repeat(phrase, prompt="Repeat after me: {}"):
        return user(prompt.format(phrase)), phrase, 128

    answers = {prompt: answer for prompts, answer in FIXED_ANSWERS for prompt in prompts}
    agent = {"role": "system", "content": agent_system_prompt()}
    earlier = past(("Hello", GREETING), ("Count to 9", count_answer(9)),
                   ("Say: red, green, blue", "red, green, blue"))
    return [
        (user("Say hello"), GREETING, 64),
        (user("Hello!", {"role": "system", "content": "You are a helpful assistant."}), GREETING, 64),
        (user("Say hello in one word."), "Hello", 64),
        (user("Who are you?"), answers["Who are you"], 64),
        (user("Count to 5"), count_answer(5), 64),
        (user("Count to 20"), count_answer(20), 128),
        (user("Count to 200"), count_answer(200), 1000),
        (user("Count to 175"), count_answer(175), 1000),
        (user("Count to 100"), None, 40),
        (user("Tell me a long story"), LONG_STORY, 1000),
        (user("Tell me a short story."), answers["Tell me a short story"], 128),
        repeat("the quick brown fox jumps over the lazy dog"),
        repeat("My parrot Zebedee weighs 417 grams."),
        repeat("Nothing ventured, nothing gained!", "Say: {}"),
        repeat("Crème brûlée, Škoda, Dvořák, smörgåsbord", "Please repeat: {}"),
        repeat("🦀 loves 🐍 and 🎈"),
        repeat("東京から京都まで", "Say: {}"),
        repeat("🚀 to the 🌙", "Say: {}"),
        repeat("Party 🎉 at 8", "Repeat: {}"),
        repeat("😀🎈"),
        repeat("日本語", "Repeat: {}"),
        repeat("你好 and 再见", "Please repeat: {}"),
        repeat("Purple penguins juggle 12 melons."),
        repeat("Zanzibar", "Echo: {}"),
        (user("Send me emoji"), answers["Send me emoji"], 64),
        (user("Say hello in Japanese"), answers["Say hello in Japanese"], 64),
        (user("Say hello in Chinese."), answers["Say hello in Chinese"], 64),
        (user("Say hello in Czech"), answers["Say hello in Czech"], 64),
        (user("What is the capital of France?"), FALLBACK, 64),
        (user("Say hello", agent), GREETING, 64),
        (user("Count to 20", agent), count_answer(20), 128),
        (user("Hello!", agent), GREETING, 64),
        (user("Who are you?", agent), answers["Who are you"], 64),
        (user("Repeat after me: blue cat", agent), "blue cat", 64),
        (user("Send me emoji", agent, *earlier), answers["Send me emoji"], 64),
        (user("Repeat after me: tiny boats drift home", agent, *earlier),
         "tiny boats drift home", 64),
        (user("Count to 12", *earlier), count_answer(12), 64),
        (user("Say hello in French", *earlier), answers["Say hello in French"], 64),
    ]


def make_golden(greedy: Greedy, min_gap: float) -> list[dict]:
    """Answers the cases; keeps the right and confident ones."""
    kept, gaps = [], []
    for messages, intended, max_tokens in golden_cases():
        case, gap = greedy(messages, max_tokens)
        right = intended is None or case["text"] == intended
        keep = right and gap >= min_gap
        print(f"{'kept   ' if keep else 'DROPPED'} gap {gap:6.2f}  {len(case['prompt_tokens']):5} tokens  "
              f"{messages[-1]['content'][:45]!r} -> {case['text'][:60]!r}", flush=True)
        if keep:
            kept.append(case)
            gaps.append(gap)
    print(f"{len(kept)} golden cases, least gap {min(gaps, default=math.nan):.2f}")
    return kept


def evaluate(greedy: Greedy, seed: int, turns: int) -> None:
    """Exact answers to prompts made like the training ones, but not seen there."""
    writer = Writer(seed)
    right: dict[str, list[bool]] = {}
    for _ in range(turns):
        prompt, answer = writer.turn(long=False)
        kind = "repeat" if ": " in prompt and prompt.endswith(answer) else (
            "unknown" if answer == FALLBACK else "count" if answer.startswith("1, 2") else "fixed")
        case, gap = greedy([{"role": "user", "content": prompt}], 400)
        right.setdefault(kind, []).append(case["text"] == answer)
        if case["text"] != answer:
            print(f"  wrong: {prompt!r} -> {case['text']!r}")
    for kind, results in sorted(right.items()):
        print(f"{kind}: {sum(results)} of {len(results)} right")


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
