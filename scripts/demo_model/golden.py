"""The answers that the tests expect, and how well the model does on prompts made afresh."""

from __future__ import annotations

import math

from .answers import FALLBACK, FIXED_ANSWERS, GREETING, LONG_STORY, count_answer
from .conversations import Writer
from .greedy import Greedy

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
