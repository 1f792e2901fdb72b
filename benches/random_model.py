"""Write a model of a real shape with random weights: the same file for the same arguments.

    random_model.py PATH Q8_0|Q4_0|Q4_K_M [small|8b|tiny [N_LIKELY]]

Called by bench.sh and gpu_check.py. Nothing is learnt and nothing downloaded. The
shapes are those of llama models with a large vocabulary, a small one if none is
named: what a step costs is that of a real one, what it says is not. The tokens are
made-up words, so that a prompt of N words has about N tokens and every answer is
printable text. With N_LIKELY only so many of the words are ever said: the fewer,
the sooner an answer comes back to a word that it had and goes on as it did there.
"""

import struct
import sys
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Shape:
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    n_ff: int
    freq_base: float

    @property
    def n_head_embd(self):
        return self.n_embd // self.n_heads


SHAPES = {
    "small": Shape(30, 576, 9, 3, 1536, 100_000.0),
    "8b": Shape(32, 4096, 32, 8, 14_336, 500_000.0),
    #: So small that a check of everything around it takes no time.
    "tiny": Shape(2, 256, 4, 2, 512, 100_000.0),
}
N_VOCAB, N_CTX = 128_256, 32_768
SEED = 20_261_124

#: Standard deviation of the embeddings, and what the attention and the feed-forward part of the first
#: layer and of the later ones add to them. The first layer decides: what follows a word is a jump
#: through the vocabulary that depends on the word and, less, on those before; the later layers only
#: correct it. So an answer neither stays with one word nor changes with the last bits of a sum.
EMBD_STD = 0.02
FIRST_GAINS = (0.02, 4.0)
LATER_GAIN = 0.03

#: Every tensor begins at a multiple of this in the file.
ALIGNMENT = 32

#: What ggml calls these formats of whole files, and of tensors; how many numbers a block of the latter
#: has, and in how many bytes.
FILE_TYPES = {"Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}
TYPES = {"F32": 0, "Q8_0": 8, "Q4_0": 2, "Q4_K": 12, "Q6_K": 14}
BLOCKS = {"F32": (1, 4), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_K": (256, 144), "Q6_K": (256, 210)}

#: Of a Q4_K block, the scales and offsets of its eight parts: all 32, in ggml's packing.
Q4_K_SCALES = bytes([160] * 8 + [0] * 4)

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


def metadata(shape, kind):
    tokens, n_front = vocabulary()
    control, normal = 3, 1
    kinds = [control] * len(SPECIAL) + [normal] * (N_VOCAB - len(SPECIAL))
    return {
        "general.architecture": "llama",
        "general.name": "random weights",
        "general.file_type": FILE_TYPES[kind],
        "llama.block_count": shape.n_layers,
        "llama.context_length": N_CTX,
        "llama.embedding_length": shape.n_embd,
        "llama.feed_forward_length": shape.n_ff,
        "llama.attention.head_count": shape.n_heads,
        "llama.attention.head_count_kv": shape.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": shape.n_head_embd,
        "llama.rope.freq_base": shape.freq_base,
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


def scale(value):
    return np.array([value], "<f2").view(np.uint8)


def quantized(random, n_values, kind, std):
    """Blocks of uniformly random numbers of this standard deviation, as ggml lays them out."""
    n_values_each, n_bytes = BLOCKS[kind]
    blocks = np.empty((n_values // n_values_each, n_bytes), np.uint8)
    # As many equally likely steps, around zero, have this deviation.
    n_steps = {"Q8_0": 256, "Q4_0": 16, "Q4_K": 16, "Q6_K": 64}[kind]
    step = std / (n_steps / 12**0.5)
    front = {"Q8_0": 2, "Q4_0": 2, "Q4_K": 16, "Q6_K": 0}[kind]
    back = {"Q6_K": 18}.get(kind, 0)
    if kind == "Q4_K":
        # The steps are counted from zero, and what each part's offset is times 32 is taken off.
        blocks[:, :2], blocks[:, 2:4] = scale(step / 32), scale(step * 7.5 / 32)
        blocks[:, 4:16] = np.frombuffer(Q4_K_SCALES, np.uint8)
    elif kind == "Q6_K":
        blocks[:, -18:-2], blocks[:, -2:] = 16, scale(step / 16)
    else:
        blocks[:, :2] = scale(step)
    n_random = n_bytes - front - back
    numbers = np.frombuffer(random.bytes(len(blocks) * n_random), np.uint8).reshape(len(blocks), n_random)
    blocks[:, front : front + n_random] = numbers
    return blocks


def embeddings(random, n_embd, kind, std, n_likely):
    """The embeddings, which are the output layer, too. What is no word is never likely."""
    blocks = quantized(random, N_VOCAB * n_embd, kind, std)
    _, n_front = vocabulary()
    n_blocks_each = n_embd // BLOCKS[kind][0]
    place, step = (slice(-2, None), std * 1e-3 / 16) if kind == "Q6_K" else (slice(0, 2), std * 1e-3)
    blocks[: n_front * n_blocks_each, place] = scale(step)
    blocks[(n_front + n_likely) * n_blocks_each :, place] = scale(step)
    return blocks


def types(kind, layer, n_layers):
    """The formats of a layer's tensors: of most of them, and of those that Q4_K_M keeps more exactly."""
    if kind != "Q4_K_M":
        return kind, kind
    eighth = n_layers // 8
    is_exact = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    return "Q4_K", "Q6_K" if is_exact else "Q4_K"


def tensors(random, shape, kind, n_likely):
    """(name, shape as ggml counts it, format, function that makes it) of each tensor, in the file's order."""

    def ones(name):
        return name, (shape.n_embd,), "F32", lambda: np.ones(shape.n_embd, "<f4")

    def matrix(name, n_in, n_out, kind, gain=1.0):
        return name, (n_in, n_out), kind, lambda: quantized(random, n_in * n_out, kind, gain / n_in**0.5)

    embd_kind = "Q6_K" if kind == "Q4_K_M" else kind
    n_embd, n_kv = shape.n_embd, shape.n_head_embd * shape.n_kv_heads
    make = lambda: embeddings(random, n_embd, embd_kind, EMBD_STD, n_likely)  # noqa: E731
    yield "token_embd.weight", (n_embd, N_VOCAB), embd_kind, make
    yield ones("output_norm.weight")
    for layer in range(shape.n_layers):
        name = f"blk.{layer}."
        most, exact = types(kind, layer, shape.n_layers)
        attention_gain, feed_forward_gain = FIRST_GAINS if layer == 0 else (LATER_GAIN, LATER_GAIN)
        yield ones(name + "attn_norm.weight")
        yield matrix(name + "attn_q.weight", n_embd, n_embd, most)
        yield matrix(name + "attn_k.weight", n_embd, n_kv, most)
        yield matrix(name + "attn_v.weight", n_embd, n_kv, exact)
        yield matrix(name + "attn_output.weight", n_embd, n_embd, most, attention_gain)
        yield ones(name + "ffn_norm.weight")
        yield matrix(name + "ffn_gate.weight", n_embd, shape.n_ff, most)
        yield matrix(name + "ffn_up.weight", n_embd, shape.n_ff, most)
        yield matrix(name + "ffn_down.weight", shape.n_ff, n_embd, exact, feed_forward_gain)


def n_bytes(dimensions, kind):
    """Bytes of a tensor with what fills it up to the next one's beginning."""
    n_values, block_bytes = BLOCKS[kind]
    return -(-np.prod(dimensions, dtype=int) // n_values * block_bytes // ALIGNMENT) * ALIGNMENT


def write(path, kind, shape, n_likely=N_VOCAB):
    """Writes the file under another name first: one that is there is whole."""
    path = Path(path)
    random = np.random.default_rng(SEED)
    keys = [key(name, value) for name, value in metadata(shape, kind).items()]
    table, parts, offset = [], [], 0
    for name, dimensions, tensor_kind, make in tensors(random, shape, kind, n_likely):
        entry = struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, TYPES[tensor_kind], offset)
        table.append(text(name) + entry)
        parts.append((make, n_bytes(dimensions, tensor_kind)))
        offset += parts[-1][1]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), len(keys)) + b"".join(keys) + b"".join(table)
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(head.ljust(-(-len(head) // ALIGNMENT) * ALIGNMENT, b"\0"))
        for make, n in parts:
            data = make()
            file.write(data)
            file.write(b"\0" * (n - data.nbytes))
    unfinished.replace(path)


if __name__ == "__main__":
    _, path, kind, *more = sys.argv
    write(path, kind, SHAPES[more[0] if more else "small"], *map(int, more[1:]))
