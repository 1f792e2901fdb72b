"""How things are compared: candidates tried once each, then turn by turn; what a figure is."""

import statistics
import sys
import time
from dataclasses import asdict, dataclass, field


def say(text):
    """Progress, for whoever watches."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


@dataclass
class Figure:
    """One line of the table: ours beside a peer's, or beside a limit.

    `ours` and `peer` have a value for each repeat. `form` says what is held
    against `target`: "ours/peer", "peer/ours", or "ours" alone.
    """

    what: str
    unit: str
    ours: list
    target: float
    at_least: bool
    form: str = "ours/peer"
    peer: list = field(default_factory=list)
    peer_name: str = ""

    def held(self):
        """What is compared with the target, for each repeat."""
        if self.form == "ours":
            return self.ours
        pairs = zip(self.ours, self.peer)
        return [a / b if self.form == "ours/peer" else b / a for a, b in pairs]

    def is_met(self):
        value = statistics.median(self.held())
        return value >= self.target if self.at_least else value <= self.target

    def as_dict(self):
        return {**asdict(self), "held": self.held(), "met": self.is_met()}


def alternate(repeats, **runs):
    """Runs each in turn, `repeats` times over: ABAB. A run gets the repeat's number.

    Returns the results of each by its name. The order within a turn changes, so
    that none is always first.
    """
    results = {name: [] for name in runs}
    for repeat in range(repeats):
        names = list(runs) if repeat % 2 == 0 else list(reversed(runs))
        for name in names:
            begin = time.monotonic()
            results[name].append(runs[name](repeat))
            say(f"    {repeat + 1} of {repeats}: {name}, {time.monotonic() - begin:.0f} s")
    return results


def best(start, stages, score):
    """The best arguments, found stage by stage; a higher score is better.

    `start` are the arguments that are always given, alone the peer's default.
    Each stage lists further arguments to try on top of the best so far.
    Returns (arguments, what each candidate scored). One that fails to run is
    left out, with its error in place of a score.
    """
    tried = {}

    def attempt(arguments):
        name = " ".join(arguments) or "the default"
        try:
            tried[name] = score(arguments)
            say(f"    tried {name}: {tried[name]:.4g}")
        except RuntimeError as error:
            tried[name] = None
            say(f"    tried {name}: {error}")
        return tried[name]

    found, value = list(start), attempt(start)
    for stage in stages:
        base = list(found)
        for more in stage:
            candidate = [*base, *more]
            reached = attempt(candidate)
            if reached is not None and (value is None or reached > value):
                found, value = candidate, reached
    if value is None:
        raise RuntimeError("the peer runs with none of its settings")
    return found, tried


def tried_note(tried):
    scores = ", ".join(f"`{name}` {'failed' if score is None else f'{score:.4g}'}" for name, score in tried.items())
    return f"Settings tried once each: {scores}."
