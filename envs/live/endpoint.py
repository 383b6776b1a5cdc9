"""One vLLM server, as a configuration names it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

APIS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
"""What requests may be sent to."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an instance is reached and what is known of it; what is None the server or the profile says."""

    name: str
    url: str
    """Up to the port (or the path that a proxy adds), without ``/v1``."""
    profile: str | None = None
    """A shipped name or a path: where the speeds among the traits are from; without one they are 0."""
    model: str | None = None
    """As ``/v1/models`` lists it; None: the first there."""
    api_key_env: str | None = None
    """The environment variable that holds the API key. The key itself is kept nowhere."""
    api: str = "completions"
    """``completions`` sends token ids, with a trace's blocks; ``chat`` sends text of about that length."""
    priority: bool = False
    """Whether requests carry their priority; servers without ``--scheduling-policy priority`` refuse that."""
    time_scale: float = 1.0
    """How many times slower than its profile: of a modelled device that is slowed down."""
    async_scheduling: bool = True
    """For its twin: whether it schedules a step while the last one runs. vLLM does on GPUs, not on CPUs."""
    kv_events: str | None = None
    """ZMQ address at which it publishes its KV events, as the subscriber connects."""
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    num_blocks: int | None = None
    block_size: int | None = None
    max_model_len: int | None = None
    prefix_caching: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        try:
            parts = urlsplit(self.url)
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_good = False
        if "@" in self.url:
            raise ValueError(
                f"endpoint {self.name!r}: there is a password in its url; put the API key into an environment"
                " variable and that one's name into api_key_env"
            )
        if "?" in self.url or "#" in self.url:  # which may hold a key, and is not repeated
            raise ValueError(
                f"endpoint {self.name!r}: its url has a query or a fragment; write it like http://host:8000"
            )
        if not is_good:
            raise ValueError(f"endpoint {self.name!r}: url is {self.url!r}; write it like http://host:8000")
        object.__setattr__(self, "url", self.url.rstrip("/").removesuffix("/v1"))
        if self.api not in APIS:
            raise ValueError(f"{self}: api is {self.api!r}, it must be {' or '.join(APIS)}")
        if not 0.0 < self.time_scale < float("inf"):
            raise ValueError(f"{self}: time_scale is {self.time_scale}, it must be a positive number")
        for key in ("max_num_seqs", "max_num_batched_tokens", "num_blocks", "block_size", "max_model_len"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{self}: {key} is {value}, it must be at least 1")

    def __str__(self) -> str:
        return f"endpoint {self.name!r} ({self.url})"

    def headers(self) -> dict[str, str]:
        """What every request to it carries. Raises ``ValueError`` where the API key is not there."""
        headers = {"Accept-Encoding": "identity"}  # a proxy that compresses holds tokens back
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env, "")
            if not key or not key.isprintable():
                raise ValueError(
                    f"{self}: the environment variable {self.api_key_env}, which its api_key_env names, holds"
                    " no API key; export it"
                )
            headers["Authorization"] = f"Bearer {key}"
        return headers
