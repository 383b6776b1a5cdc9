"""What a stream of ``/v1/completions`` or ``/v1/chat/completions`` has said so far.

As vLLM's ``completion_stream_generator`` and ``chat_completion_stream_generator`` write it: one chunk per
step with what that step brought, a chunk with the usage and no choices, ``[DONE]``. What goes wrong once the
stream has begun comes as an object ``error`` in it.
"""

from __future__ import annotations

import json
from typing import Any

from envs.live.sse import MalformedStreamError

GOOD_ENDS = frozenset(("stop", "length", "repetition"))
BAD_ENDS = frozenset(("abort", "error"))
"""vLLM's ``FINISH_REASON_STRINGS`` (``vllm/v1/engine/__init__.py``)."""


class ErrorInStreamError(Exception):
    """The server reported an error in the stream, or ended it before its time.

    Args:
        what: In a few words, without anything that the server said.
        is_down: Whether it speaks against the server and not against what it was asked.
    """

    def __init__(self, what: str, is_down: bool) -> None:
        super().__init__(what)
        self.is_down = is_down


class Answer:
    """One request's answer."""

    def __init__(self) -> None:
        self.num_chunks = 0
        """Chunks that brought tokens."""
        self.token_ids: list[int] = []
        """What was said, where the request asked for it."""
        self.is_finished = False
        """Whether the server has given a reason for its end, a good one."""
        self.is_done = False
        """Whether ``[DONE]`` came."""
        self.num_prompt_tokens: int | None = None
        self.num_cached_tokens: int | None = None
        self._num_completion_tokens: int | None = None

    @property
    def num_output_tokens(self) -> int:
        """Tokens so far: as the usage says, else those that were given, else one per chunk."""
        if self._num_completion_tokens is not None:
            return self._num_completion_tokens
        return len(self.token_ids) or self.num_chunks

    def take(self, data: bytes) -> bool:
        """Take in the data of one event; return whether it brought tokens.

        Raises ``MalformedStreamError`` and ``ErrorInStreamError``.
        """
        if data == b"[DONE]":
            self.is_done = True
            return False
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            raise MalformedStreamError("data that is not JSON") from None
        if not isinstance(chunk, dict):
            raise MalformedStreamError("data that is no object")
        if error := chunk.get("error"):
            code = error.get("code") if isinstance(error, dict) else None
            code = code if isinstance(code, int) else 500
            raise ErrorInStreamError(f"error {code} in stream", code >= 500)
        try:
            if usage := chunk.get("usage"):
                self._take_usage(usage)
            return self._take_choices(chunk["choices"])
        except (KeyError, TypeError, AttributeError) as error:
            raise MalformedStreamError(f"a chunk that is not vLLM's ({type(error).__name__})") from None

    def _take_choices(self, choices: list[dict[str, Any]]) -> bool:
        num_chunks = self.num_chunks
        for choice in choices:
            self._take_choice(choice)
        return self.num_chunks > num_chunks

    def _take_choice(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if reason is not None:
            self._finish(reason)
        token_ids = choice.get("token_ids")
        if token_ids is not None:
            self.token_ids.extend(map(_count, token_ids))
            has_tokens = bool(token_ids)
        elif "delta" in choice:  # the first of a chat names the role and brings no token
            delta = choice["delta"]
            has_tokens = "role" not in delta or bool(delta.get("content"))
        else:
            has_tokens = choice["text"] is not None  # empty where a character is not whole yet
        self.num_chunks += has_tokens

    def _finish(self, reason: str) -> None:
        if reason not in GOOD_ENDS:
            told = reason if reason in BAD_ENDS else "for another reason"
            raise ErrorInStreamError(f"finished by the server: {told}", reason == "error")
        self.is_finished = True

    def _take_usage(self, usage: dict[str, Any]) -> None:
        self.num_prompt_tokens = _count(usage["prompt_tokens"])
        self._num_completion_tokens = _count(usage["completion_tokens"])
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:
            self.num_cached_tokens = min(_count(cached), self.num_prompt_tokens)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(f"{value!r} is no count")
    return value
