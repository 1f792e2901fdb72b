"""Renders chat templates with jinja2, set up as Hugging Face's transformers 5.24 sets it up.

Called by tests/templates.rs: the templates of a folder times the conversations of conversations.json, and each line of
snippets.txt. Prints a JSON list of cases: a name, the source, the variables, and what Python makes of them.
"""

import functools
import json
import sys
from datetime import datetime
from pathlib import Path

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent


class Generation(Extension):
    """{% generation %} marks text to train on, and renders as what is in it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    env.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
    return env


@functools.cache
def compiled(source):
    return environment().from_string(source)


def rendered(source, variables):
    try:
        return {"text": compiled(source).render(**variables)}
    except Exception as error:  # whatever Python raises: the request would fail
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    conversations = json.loads((HERE / "conversations.json").read_text())
    common = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
    cases = []

    def add(name, source, variables):
        case = {"name": name, "source": source, "variables": variables}
        cases.append({**case, **rendered(source, variables)})

    for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
        for name, variables in conversations.items():
            add(f"{path.name}, {name}", path.read_text(), {**common, **variables})
    for line in (HERE / "snippets.txt").read_text().splitlines():
        if line and not line.startswith("##"):
            add(line, line.replace("¶", "\n"), {**common, **conversations["all there is"]})
    json.dump(cases, sys.stdout)


main()
