"""Model repositories in temporary folders, made of text and the demo model."""

import json
import os
import shutil

from server import MODEL, ROOT

DEMO = ROOT / "triton_repo" / MODEL / "1" / "demo.gguf"


def config(name=MODEL, extra="", **parameters):
    """The smallest config.pbtxt, with config parameters and more text if given.

    Greedy unless told otherwise, so that texts can be compared.
    """
    values = {"sampling_parameters": '{"temperature": 0}', **parameters}
    lines = [f'name: "{name}"', 'backend: "llm"']
    for key, value in values.items():
        if value is not None:
            lines.append(f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(str(value))} }} }}")
    return "\n".join([*lines, extra, ""])


def make_model(repository, text=None, name=MODEL, gguf=DEMO, library=None):
    """Adds a model and returns its version folder.

    `text` is its config.pbtxt (None: the smallest, "": no file), `gguf` a file
    to link or bytes to write, None for no model file.
    """
    version = repository / name / "1"
    version.mkdir(parents=True)
    if text is None:
        text = config(name)
    if text:
        (repository / name / "config.pbtxt").write_text(text)
    if isinstance(gguf, bytes):
        (version / "model.gguf").write_bytes(gguf)
    elif gguf is not None:
        os.symlink(gguf, version / "demo.gguf")
    if library:
        shutil.copy(library, version / "libtriton_llm.so")
    return version
