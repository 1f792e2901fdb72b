"""Write a model of a real shape with random weights: the same file for the same arguments.

    random_model.py PATH Q8_0|Q4_0

Called by bench.py. Nothing is learnt and nothing downloaded. The shape is that
of a small llama model with a large vocabulary: what a step costs is that of a
real one, what it says is not. The tokens are made-up words, so that a prompt of
N words has about N tokens and every answer is printable text.
"""

import struct
import sys
from itertools import islice, product
from pathlib import Path

import numpy as np

N_LAYERS, N_EMBD, N_HEADS, N_KV_HEADS, N_FF = 30, 576, 9, 3, 1536
N_VOCAB, N_CTX = 128_256, 32_768
SEED = 20_261_124

#: Standard deviation of the embeddings, and what the attention and the feed-forward part of the first
#: layer and of the later ones add to them. The first layer decides: what follows a word is a jump
#: through the vocabulary that depends on the word and, less, on those before; the later layers only
#: correct it. So an answer neither stays with one word nor changes with the last bits of a sum.
EMBD_STD = 0.02
FIRST_GAINS = (0.02, 4.0)
LATER_GAIN = 0.03

BLOCK = 32

#: What ggml calls these formats, in tensors and in whole files.
F32 = 0
TYPES = {"Q8_0": (8, 7), "Q4_0": (2, 2)}

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ROLES = ["system", "user", "assistant"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def words(count):
    """The first `count` made-up words, of three syllables each."""
    syllables = ["".join(pair) for pair in product("bcdfghjklmnpqrstvwxz", "aeiou")]
    # The first syllable changes fastest, so that neighbours do not look alike.
    return ["".join(reversed(parts)) for parts in islice(product(syllables, repeat=3), count)]


def byte_letters():
    """The letter that stands for each byte in byte-level vocabularies: itself if it can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in seen]
    return {**{byte: chr(byte) for byte in seen}, **{byte: chr(0x100 + n) for n, byte in enumerate(hidden)}}


def vocabulary():
    """All tokens, and how many at the front are no words."""
    letters = byte_letters()
    front = [*SPECIAL, *(letters[byte] for byte in range(0x100)), *ROLES]
    space = letters[ord(" ")]
    return [*front, *(space + word for word in words(N_VOCAB - len(front)))], len(front)


# The container


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name, value):
    """One entry of the header; the kind follows from Python's type."""
    if isinstance(value, bool):
        return text(name) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return text(name) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return text(name) + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    if isinstance(value[0], str):
        return text(name) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return text(name) + struct.pack("<IIQ", 9, 5, len(value)) + np.array(value, "<i4").tobytes()


def metadata(file_type):
    tokens, n_front = vocabulary()
    control, normal = 3, 1
    kinds = [control] * len(SPECIAL) + [normal] * (N_VOCAB - len(SPECIAL))
    return {
        "general.architecture": "llama",
        "general.name": "random weights",
        "general.file_type": file_type,
        "llama.block_count": N_LAYERS,
        "llama.context_length": N_CTX,
        "llama.embedding_length": N_EMBD,
        "llama.feed_forward_length": N_FF,
        "llama.attention.head_count": N_HEADS,
        "llama.attention.head_count_kv": N_KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": N_EMBD // N_HEADS,
        "llama.rope.freq_base": 100_000.0,
        "llama.vocab_size": N_VOCAB,
        "tokenizer.ggml.model": "gpt2",
        # Takes a word that is a token as it is, so no merges are needed to reach it.
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["Ġ b"],
        "tokenizer.ggml.eos_token_id": SPECIAL.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": SPECIAL.index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


# The weights


def quantized(random, n_values, kind, std):
    """Blocks of uniformly random numbers of this standard deviation, as ggml lays them out."""
    n_blocks = n_values // BLOCK
    n_bytes = BLOCK if kind == "Q8_0" else BLOCK // 2
    blocks = np.empty((n_blocks, 2 + n_bytes), np.uint8)
    # 256 or 16 equally likely steps around zero have this deviation.
    steps = (256 if kind == "Q8_0" else 16) / 12**0.5
    blocks[:, :2] = np.array([std / steps], "<f2").view(np.uint8)
    blocks[:, 2:] = np.frombuffer(random.bytes(n_blocks * n_bytes), np.uint8).reshape(n_blocks, n_bytes)
    return blocks


def embeddings(random, kind, std):
    """The embeddings, which are the output layer, too. What is no word is never likely."""
    blocks = quantized(random, N_VOCAB * N_EMBD, kind, std)
    _, n_front = vocabulary()
    n_quiet = n_front * N_EMBD // BLOCK
    blocks[:n_quiet, :2] = np.array([std * 1e-3], "<f2").view(np.uint8)
    return blocks


def tensors(random, kind):
    """(name, shape as ggml counts it, type, bytes) of each tensor, in the file's order."""
    ggml_type, _ = TYPES[kind]
    ones = np.ones(N_EMBD, "<f4").tobytes()

    def matrix(name, n_in, n_out, gain=1.0):
        std = gain / n_in**0.5
        return name, (n_in, n_out), ggml_type, quantized(random, n_in * n_out, kind, std).tobytes()

    yield "token_embd.weight", (N_EMBD, N_VOCAB), ggml_type, embeddings(random, kind, EMBD_STD).tobytes()
    yield "output_norm.weight", (N_EMBD,), F32, ones
    n_kv = N_EMBD // N_HEADS * N_KV_HEADS
    for layer in range(N_LAYERS):
        name = f"blk.{layer}."
        attention_gain, feed_forward_gain = FIRST_GAINS if layer == 0 else (LATER_GAIN, LATER_GAIN)
        yield name + "attn_norm.weight", (N_EMBD,), F32, ones
        yield matrix(name + "attn_q.weight", N_EMBD, N_EMBD)
        yield matrix(name + "attn_k.weight", N_EMBD, n_kv)
        yield matrix(name + "attn_v.weight", N_EMBD, n_kv)
        yield matrix(name + "attn_output.weight", N_EMBD, N_EMBD, attention_gain)
        yield name + "ffn_norm.weight", (N_EMBD,), F32, ones
        yield matrix(name + "ffn_gate.weight", N_EMBD, N_FF)
        yield matrix(name + "ffn_up.weight", N_EMBD, N_FF)
        yield matrix(name + "ffn_down.weight", N_FF, N_EMBD, feed_forward_gain)


def write(path, kind):
    """Writes the file under another name first: one that is there is whole."""
    path = Path(path)
    random = np.random.default_rng(SEED)
    _, file_type = TYPES[kind]
    keys = [key(name, value) for name, value in metadata(file_type).items()]
    table, weights, offset = [], [], 0
    for name, shape, ggml_type, data in tensors(random, kind):
        dimensions = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, ggml_type, offset)
        table.append(text(name) + dimensions)
        weights.append(data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0"))
        offset += len(weights[-1])
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), len(keys)) + b"".join(keys) + b"".join(table)
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(head.ljust(-(-len(head) // BLOCK) * BLOCK, b"\0"))
        file.writelines(weights)
    unfinished.replace(path)


if __name__ == "__main__":
    _, path, kind = sys.argv
    write(path, kind)
