"""Build a live cluster from configuration (``conf/cluster/live.yaml``)."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from envs.live.cluster import LiveCluster
from envs.live.endpoint import Endpoint
from envs.live.limits import Limits

_HINTS = typing.get_type_hints(Endpoint)
KEYS = tuple(field.name for field in fields(Endpoint) if field.name != "name")
"""What may be said of an endpoint; ``Endpoint`` says what each means."""


def cluster(
    endpoints: str | Mapping[str, Any],
    scrape_interval_s: float = 0.1,
    speed_factor: float | None = None,
    connect_timeout_s: float = 5.0,
    first_token_timeout_s: float = 120.0,
    token_timeout_s: float = 30.0,
    request_timeout_s: float = 600.0,
    scrape_timeout_s: float = 1.0,
    unhealthy_after: int = 3,
    keep_token_times: bool = False,
) -> LiveCluster:
    """Build the cluster that ``conf/cluster/live.yaml`` describes.

    Args:
        endpoints: Name -> its url, or a mapping with keys of ``KEYS``, of which ``url`` must be there; null
            leaves one out. Or the path of a JSON file of that form. Instances are numbered in this order.
        scrape_interval_s: As of ``LiveCluster``, like ``keep_token_times``.
        speed_factor: Cluster seconds per second; null: 1 over the endpoints' ``time_scale``.
        connect_timeout_s: As of ``Limits``, like all that follow.
        first_token_timeout_s: For a request's first token.
        token_timeout_s: For each further one.
        request_timeout_s: For the whole answer.
        scrape_timeout_s: For metrics.
        unhealthy_after: Failures in a row.
        keep_token_times: Keep the instant of every chunk.

    Raises:
        ValueError: The file cannot be read, an endpoint holds what it may not, or cannot be reached.
    """
    if not isinstance(unhealthy_after, int) or isinstance(unhealthy_after, bool):
        raise ValueError(f"unhealthy_after is {unhealthy_after}, it must be a whole number")
    limits = Limits(
        connect_timeout_s=connect_timeout_s,
        first_token_timeout_s=first_token_timeout_s,
        token_timeout_s=token_timeout_s,
        request_timeout_s=request_timeout_s,
        scrape_timeout_s=scrape_timeout_s,
        unhealthy_after=unhealthy_after,
    )
    described = endpoints_of(endpoints)
    scales = sorted({each.time_scale for each in described})
    if speed_factor is None and len(scales) > 1:
        raise ValueError(
            f"the endpoints' time_scale are {scales}: give all the same, or say the speed_factor to use"
        )
    speed_factor = 1.0 / scales[0] if speed_factor is None else speed_factor
    return LiveCluster(described, scrape_interval_s, speed_factor, limits, keep_token_times)


def endpoints_of(endpoints: str | Mapping[str, Any]) -> list[Endpoint]:
    """Read a mapping of names to endpoints, or the file that holds one; what is null is left out.

    Raises ``ValueError`` naming the endpoint, the key and the mend.
    """
    given = _read(Path(endpoints)) if isinstance(endpoints, str) else endpoints
    described = [endpoint(name, entry) for name, entry in given.items() if entry is not None]
    if not described:
        raise ValueError("there are no endpoints; name at least one, like {a: {url: http://host:8000}}")
    return described


def endpoint(name: str, entry: Any) -> Endpoint:
    """Read one entry: a url, or a mapping. Raises ``ValueError`` naming the key and what to write instead."""
    if isinstance(entry, str):
        entry = {"url": entry}
    if not isinstance(entry, Mapping):
        raise ValueError(f"endpoint {name!r} is {entry!r}; write its url, or a mapping with url")
    if entry.get("url") is None:
        raise ValueError(f"endpoint {name!r} has no url; write its url, or a mapping with url")
    options: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in KEYS:
            raise ValueError(f"endpoint {name!r}: unknown key {key!r}; use {', '.join(KEYS)}")
        if value is None:
            continue
        wanted = next(
            part for part in typing.get_args(_HINTS[key]) or (_HINTS[key],) if part is not type(None)
        )
        accepted = (int, float) if wanted is float else (wanted,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(
                f"endpoint {name!r}: {key} is {value!r}; write a value of type {wanted.__name__}"
            )
        options[key] = value
    return Endpoint(name=str(name), **options)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except FileNotFoundError:
        raise ValueError(
            f"endpoints: there is no file {path}; write one, start local servers with"
            " python -m envs.live.serve, or give a mapping of names to urls"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"endpoints: {path}: {error}") from None
    if not isinstance(given, Mapping):
        raise ValueError(f"endpoints: {path} holds no mapping of names to endpoints")
    return given


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, which may say a name twice and mean the last."""
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice; give each its own name")
    return given
