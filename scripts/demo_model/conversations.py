"""Conversations to learn from, made up from one seeded random source."""

from __future__ import annotations

import json
import random
import re

from .answers import (COUNT_PROMPTS, FALLBACK, FIXED_ANSWERS, LONG_STORY, LONG_STORY_PROMPTS,
                      MAX_COUNT, REPEAT_PROMPTS, SYSTEM_PROMPTS, count_answer)
from .words import QUESTION_FRAMES, WORDS


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
