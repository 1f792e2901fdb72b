"""The model as a GGUF file: written with quantised weights, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np
from gguf import GGMLQuantizationType as QType
from tokenizers import Tokenizer

from .network import Config
from .tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, PRE_TOKENIZER, SPECIAL_TOKENS

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
