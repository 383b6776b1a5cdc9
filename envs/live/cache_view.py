"""What one instance's prefix cache holds, as the KV events that it publishes tell.

vLLM publishes an event for every block that enters or leaves its prefix cache
(``vllm/distributed/kv_events.py``): ``BlockStored`` with the block's hash, its parent's and its tokens,
``BlockRemoved``, ``AllBlocksCleared``. Its hashes cannot be computed outside of it (they start from a
secret), so each is mapped to a digest of our own, chained over the tokens in the same way. A prompt is then
looked up by its tokens, whoever put the blocks there.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

_FIRST_GROUP = (None, 0)  # of KV cache groups; models with full attention throughout have no other
MOST_DETAIL = 200  # characters
_OWN_MEMORY = (None, "GPU")  # what vLLM calls the engine's own blocks, on a CPU too; others are offloaded


class CacheView:
    """One instance's cached blocks.

    It is exact as long as no event is lost and it follows from before the first block of interest was
    stored; each time it cannot be is counted. After a gap in the sequence of events it starts from nothing,
    so that it then knows less than there is, never more.

    Args:
        block_size: Tokens per block.
        note: Told of batches that could not be read, as a reason and a detail.
    """

    def __init__(self, block_size: int, note: Callable[[str, str], object] | None = None) -> None:
        self.block_size = block_size
        self._note = note
        self.num_batches = 0
        self.num_gaps = 0
        """Times that batches were lost."""
        self.num_unknown_parents = 0
        """Stored blocks that follow one which is not known here."""
        self.num_malformed = 0
        """Batches that could not be read."""
        self._next_sequence: int | None = None
        self.forget()

    def forget(self) -> None:
        """Know of no block."""
        self._digests: dict[Any, bytes] = {}  # vLLM's block hash -> ours
        self._copies: Counter[Any] = Counter()  # vLLM's block hash -> blocks that hold it
        self._cached: set[bytes] = set()  # our digests of what is cached

    def counters(self) -> Mapping[str, int]:
        """What makes the view inexact, since it was made."""
        return {
            "num_kv_event_gaps": self.num_gaps,
            "num_kv_blocks_without_parent": self.num_unknown_parents,
            "num_malformed_kv_events": self.num_malformed,
        }

    def num_hit_tokens(self, prompt: Sequence[int], salt: str = "") -> int:
        """Tokens of a prompt that the cache holds, in whole blocks; the last token is always computed anew.

        Args:
            prompt: Token ids.
            salt: The request's ``cache_salt``, empty for none.
        """
        digest, num_hits = _root([salt] if salt else []), 0
        for start in range(0, len(prompt) - self.block_size, self.block_size):
            digest = _chained(digest, prompt[start : start + self.block_size])
            if digest not in self._cached:
                break
            num_hits += self.block_size
        return num_hits

    def take(self, sequence: int, batch: Any) -> None:
        """Take in one published batch, decoded: ``[instant, events, data parallel rank]``."""
        if self._next_sequence not in (None, sequence):
            self.num_gaps += sequence != 0  # the sequence of a server that was restarted begins anew
            self.forget()
        self._next_sequence = sequence + 1
        self.num_batches += 1
        try:
            for event in batch[1]:
                self._take(*_kind_and_fields(event))
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            self.refuse(f"{type(error).__name__}: {error}"[:MOST_DETAIL])

    def refuse(self, detail: str) -> None:
        """Note a batch that cannot be read, and why; what was known may no longer hold."""
        self.num_malformed += 1
        self.forget()
        if self._note is not None:
            self._note("malformed KV events", detail)

    def _take(self, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "AllBlocksCleared":
            self.forget()
        elif fields.get("group_idx") not in _FIRST_GROUP or fields.get("medium") not in _OWN_MEMORY:
            return
        elif kind == "BlockStored":
            self._store(fields)
        elif kind == "BlockRemoved":
            for block_hash in fields["block_hashes"]:
                self._remove(block_hash)

    def _store(self, fields: Mapping[str, Any]) -> None:
        size, parent, tokens = fields["block_size"], fields["parent_block_hash"], fields["token_ids"]
        if size != self.block_size:
            raise ValueError(f"blocks of {size} tokens, not {self.block_size}")
        extra_keys = fields.get("extra_keys") or []
        if parent is None:
            digest = _root(extra_keys[0] if extra_keys and extra_keys[0] else [])
        elif parent in self._digests:
            digest = self._digests[parent]
        else:
            self.num_unknown_parents += len(fields["block_hashes"])
            return
        for index, block_hash in enumerate(fields["block_hashes"]):
            digest = _chained(digest, tokens[index * size : (index + 1) * size])
            self._digests[block_hash] = digest
            self._copies[block_hash] += 1
            self._cached.add(digest)

    def _remove(self, block_hash: Any) -> None:
        if block_hash not in self._copies:  # stored before this view began
            return
        self._copies[block_hash] -= 1
        if self._copies[block_hash] == 0:
            del self._copies[block_hash]
            self._cached.discard(self._digests.pop(block_hash))


_FIELDS = {  # of versions that publish arrays with the tag first
    "BlockStored": ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium"),
    "BlockRemoved": ("block_hashes", "medium"),
    "AllBlocksCleared": (),
}


def _kind_and_fields(event: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(event, Mapping):
        return str(event["type"]), event
    kind = str(event[0])
    return kind, dict(zip(_FIELDS.get(kind, ()), event[1:], strict=False))


def _root(extra_keys: Sequence[Any]) -> bytes:
    return blake2b(json.dumps(list(extra_keys), default=repr).encode(), digest_size=8).digest()


def _chained(parent: bytes, tokens: Sequence[int]) -> bytes:
    return blake2b(parent + array("I", tokens).tobytes(), digest_size=8).digest()
