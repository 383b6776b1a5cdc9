"""What is sent to ``/v1/completions`` or ``/v1/chat/completions`` for a request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from envs.cluster import Request
from envs.live.endpoint import Endpoint


def request_body(
    endpoint: Endpoint,
    model: str,
    request: Request,
    prompt: Sequence[int],
    max_tokens: int,
    cache_salt: str,
    wants_token_ids: bool,
) -> bytes:
    """Ask for exactly ``max_tokens`` tokens, streamed.

    ``cache_salt`` is vLLM's own field: only requests of equal salt share prefixes.
    """
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": cache_salt,
    }
    if endpoint.api == "chat":
        body["messages"] = [{"role": "user", "content": words(prompt)}]
    else:
        body["prompt"] = prompt
    if wants_token_ids:
        body["return_token_ids"] = True
    if endpoint.priority:
        body["priority"] = request.priority
    return json.dumps(body, separators=(",", ":")).encode()


def words(prompt: Sequence[int]) -> str:
    """A letter for each token id, with spaces between: one token each in most vocabularies."""
    return " ".join([chr(97 + token_id % 26) for token_id in prompt])
