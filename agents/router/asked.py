"""What a router reads off a client's request: how long its prompt is, and which prompts it goes on from.

A router has no tokenizer. Prompts of text count ``BYTES_PER_TOKEN`` bytes of UTF-8 as a token, as llm-d's
and aibrix's estimates do; prompts of token ids are counted exactly. What is hashed is the text alone, in the
order in which the model reads it, so that neither the order of JSON's keys nor sampling parameters hide that
one conversation goes on from another.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

import envs.emulator  # noqa: F401 (it says where compiled functions are kept)

BYTES_PER_TOKEN = 4
"""Of English in the vocabularies of today's models; also the bytes in which a token id is hashed."""
BLOCK_SIZE = 16
"""Tokens per block hash, vLLM's default."""
NUM_TENANTS = 1024
"""Tenants that are told apart; those beyond share a number by hash, so that memory is bounded."""
NO_TENANT = 0


class BadRequestError(ValueError):
    """A body that no OpenAI-compatible server would take; the message is for the client."""


class Asked(NamedTuple):
    """A request as the router sees it."""

    model: str
    is_stream: bool
    num_prompt_tokens: int
    block_hashes: NDArray[np.int64]
    """Chained: equal hash, equal whole prefix."""
    session_id: int
    """-1 without session."""
    turn: int
    tenant: int


class Identity(NamedTuple):
    """Names of the headers by which a router knows sessions and tenants."""

    session_header: str = "x-session-id"
    tenant_header: str = "x-tenant-id"


def asked(path: str, body: bytes, headers: Mapping[str, str], identity: Identity) -> Asked:
    """Read a request to ``/v1/chat/completions``, ``/v1/completions`` or ``/v1/embeddings``.

    Raises ``BadRequestError`` for a body that is not JSON, names no prompt, or is not of these forms.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the body is not JSON") from error
    if not isinstance(content, dict):
        raise BadRequestError("the body is not a JSON object")
    model, stream = content.get("model"), content.get("stream")
    model = "" if model is None else model  # vLLM too takes null for none
    if not isinstance(model, str) or stream not in (None, True, False) or not _is_text(model):
        raise BadRequestError("model must be a string and stream true or false")
    turn = 1
    try:
        if path.endswith("/chat/completions"):
            prompt, turn = _of_chat(content)
        else:
            prompt = _of_prompt(content["input" if path.endswith("/embeddings") else "prompt"])
    except KeyError as error:
        raise BadRequestError(f"{error.args[0]} is missing") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadRequestError("the prompt is neither text nor token ids") from error
    session, tenant = headers.get(identity.session_header), headers.get(identity.tenant_header)
    return Asked(
        model=model,
        is_stream=bool(stream),
        num_prompt_tokens=max(1, -(-len(prompt) // BYTES_PER_TOKEN)),
        block_hashes=block_hashes(prompt),
        session_id=-1 if session is None else _number(session),
        turn=turn,
        tenant=NO_TENANT if tenant is None else tenant_number(tenant),
    )


def tenant_number(name: str) -> int:
    """What stands for a tenant in observations."""
    return 1 + _number(name) % (NUM_TENANTS - 1)


def block_hashes(prompt: bytes) -> NDArray[np.int64]:
    """One hash per full block of a prompt, chained."""
    size = BLOCK_SIZE * BYTES_PER_TOKEN
    words = np.frombuffer(prompt, np.uint64, count=len(prompt) // size * (size // 8))
    return _chained(words, size // 8)


@njit(cache=True)
def _chained(words: NDArray[np.uint64], words_per_block: int) -> NDArray[np.int64]:
    """Multiply-and-xor over 64-bit words, finished as in splitmix64 (Steele et al. 2014) at each block."""
    hashes = np.empty(words.shape[0] // words_per_block, np.int64)
    chain = np.uint64(0x9E3779B97F4A7C15)
    for block in range(hashes.shape[0]):
        for word in words[block * words_per_block : (block + 1) * words_per_block]:
            chain = (chain ^ word) * np.uint64(0xBF58476D1CE4E5B9)
            chain ^= chain >> np.uint64(29)
        chain = (chain ^ (chain >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        chain ^= chain >> np.uint64(31)
        hashes[block] = np.int64(chain)
    return hashes


def _of_chat(content: Mapping[str, Any]) -> tuple[bytes, int]:
    """What the model reads of a conversation, and which turn of it this is."""
    messages = content["messages"]
    if not isinstance(messages, list) or not messages:
        raise TypeError
    parts = [_json(content["tools"])] if content.get("tools") else []
    turn = 1
    for message in messages:
        role, said = message["role"], message.get("content")
        turn += role == "assistant"
        parts.append(f"\x1e{role}\x1f")
        parts.append(said if isinstance(said, str) else _json(said))
        if message.get("tool_calls"):
            parts.append(_json(message["tool_calls"]))
    return "".join(parts).encode("utf-8", "surrogatepass"), turn


def _of_prompt(prompt: Any) -> bytes:
    """Text or token ids; of a list of prompts all, one after the other."""
    if isinstance(prompt, str):
        return prompt.encode("utf-8", "surrogatepass")
    if not isinstance(prompt, list) or not prompt:
        raise TypeError
    if isinstance(prompt[0], int):
        return array("I", prompt).tobytes()
    return b"".join(map(_of_prompt, prompt))


def _is_text(text: str) -> bool:
    """Whether it has no lone surrogates, which JSON may hold and nothing can be written with."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _number(name: str) -> int:
    """A number below 2^63 that stands for a name."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()) >> 1
