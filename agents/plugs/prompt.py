"""What is known of a request before it is routed, read off an OpenAI body without a tokenizer.

Routers rarely have their instances' tokenizer, so a prompt is its bytes: ``BYTES_PER_TOKEN`` of them count as
a token, as in vllm-router (``ttft_aware`` and ``smetric``: 4 characters per token). The estimate is of the
prompt's length alone; which prompts share a prefix is exact but for the chat template. A prompt of token ids
is counted exactly.

Nothing in here raises for what a client sends: what cannot be read is taken as text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

BYTES_PER_TOKEN = 4
TOKENS_PER_KEY = 64
"""As in training (``envs.prefix_index``) and in llm-d, whose blocks are of at least 64 tokens."""
MAX_KEYED_TOKENS = 131_072
"""Of a prompt, what its prefix is compared by; llm-d's limit."""
SESSION_HEADER, TENANT_HEADER = "x-session-id", "x-tenant-id"


class Prompt(NamedTuple):
    """A request to be routed."""

    num_prompt_tokens: int
    keys: Sequence[Hashable] = ()
    """Chained: equal keys = equal whole prefix, one per ``TOKENS_PER_KEY`` full tokens."""
    session_key: int = -1
    """24 bits of its session's identity; -1 without session."""
    turn: int = 1
    """Position in its session."""
    tenant: Hashable = ""


def of_body(body: Any, headers: Mapping[str, str] | None = None) -> Prompt:
    """Read the body of a completion or chat completion.

    Args:
        body: Parsed from JSON.
        headers: In lower case. ``x-session-id`` and ``x-tenant-id`` are read, else the body's ``session_id``
            and ``user``.
    """
    body = body if isinstance(body, Mapping) else {"prompt": body}
    headers = headers or {}
    session = headers.get(SESSION_HEADER) or body.get("session_id")
    tenant = headers.get(TENANT_HEADER) or body.get("user") or ""
    messages = body.get("messages")
    turn = 1
    if isinstance(messages, list):
        turn = max(1, sum(isinstance(each, Mapping) and each.get("role") == "user" for each in messages))
        content = _chat(messages, body.get("tools"))
    else:
        content = _completion(body.get("prompt") or body.get("input"))
    return Prompt(
        num_prompt_tokens=max(1, -(-len(content) // BYTES_PER_TOKEN)),
        keys=keys_of(content),
        session_key=-1 if session is None or session == "" else session_key(str(session)),
        turn=turn,
        tenant=str(tenant)[:256],
    )


def keys_of(content: bytes) -> list[bytes]:
    """Chained keys of a prompt's bytes: of each the hash of all up to there, 8 bytes of BLAKE2b."""
    size = TOKENS_PER_KEY * BYTES_PER_TOKEN
    chain, keys = hashlib.blake2b(digest_size=8), []
    for end in range(size, min(len(content), MAX_KEYED_TOKENS * BYTES_PER_TOKEN) + 1, size):
        chain.update(content[end - size : end])
        keys.append(chain.copy().digest())
    return keys


def session_key(session: str) -> int:
    """24 bits of a session's name."""
    digest = hashlib.blake2b(session.encode(errors="replace"), digest_size=3).digest()
    return int.from_bytes(digest, "little")


def _chat(messages: Sequence[Any], tools: Any) -> bytes:
    parts = [_text(tools)] if tools else []  # chat templates put them first
    for message in messages:
        if isinstance(message, Mapping):
            parts += [str(message.get("role", "")), _text(message.get("content"))]
            if calls := message.get("tool_calls"):
                parts.append(_text(calls))
        else:
            parts.append(_text(message))
    return "\n".join(parts).encode(errors="replace")


def _completion(prompt: Any) -> bytes:
    if isinstance(prompt, list) and prompt and all(type(each) is int for each in prompt):
        ids = np.array([each & 0xFFFFFFFF for each in prompt], np.uint32)
        return ids.astype("<u4").tobytes()  # BYTES_PER_TOKEN each
    return _text(prompt).encode(errors="replace")


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "\n".join(str(part["text"]) for part in content)
    try:
        return json.dumps(content, default=str)
    except (ValueError, RecursionError):
        return ""
