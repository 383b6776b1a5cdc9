"""A tiny Llama to serve: a configuration and a tokenizer of one token per byte, and no weights.

vLLM serves it with ``--load-format dummy``. Nothing is downloaded and nothing trained, so the same bytes come
out everywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

VOCAB_SIZE = 512
SPECIAL_TOKENS = ("<s>", "</s>", "<unk>")
MAX_MODEL_LEN = 131072
"""The longest context that a server of it may be given."""


def make(directory: Path) -> Path:
    """Make the model's directory, whole or not at all, and return it. One that is there is kept."""
    files = {f"{name}.json": json.dumps(content, indent=1) for name, content in _contents().items()}
    if directory.is_dir() and all(_read(directory / name) == text for name, text in files.items()):
        return directory
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _contents() -> dict[str, dict[str, Any]]:
    """Name of a file, without its ending -> what it holds."""
    begin, end, unknown = SPECIAL_TOKENS
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": MAX_MODEL_LEN,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "attention_bias": False,
        "mlp_bias": False,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": begin,
        "eos_token": end,
        "unk_token": unknown,
        "model_max_length": MAX_MODEL_LEN,
        "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:",
    }
    return {"config": config, "tokenizer_config": tokenizer_config, "tokenizer": _tokenizer()}


def _tokenizer() -> dict[str, Any]:
    """Byte-level BPE as the ``tokenizers`` package keeps it: the special tokens, the bytes, some pairs."""
    alphabet = _byte_alphabet()
    num_pairs = VOCAB_SIZE - len(SPECIAL_TOKENS) - len(alphabet)
    pairs = list(islice(product(ascii_lowercase, repeat=2), num_pairs))
    tokens = [*SPECIAL_TOKENS, *alphabet, *("".join(pair) for pair in pairs)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **flags, "special": True}
            for number, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [list(pair) for pair in pairs],
        },
    }


def _byte_alphabet() -> list[str]:
    """One printable character for each byte, as byte-level BPE writes them; ASCII's own come first."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]
