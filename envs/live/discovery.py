"""What servers say of themselves at the start: which model, and how large."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from envs.cluster import InstanceTraits
from envs.emulator.profile import Profile, ProfileError, load
from envs.emulator.step_time import decode_step_s, prefill_tokens_per_s
from envs.live.client import Client, NoAnswerError
from envs.live.endpoint import Endpoint
from envs.live.limits import Limits
from envs.live.metrics import cache_config

FALLBACK = {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
"""Where neither the endpoint nor a profile says, as no server does: vLLM's ``SchedulerConfig``, roughly."""


class Known(NamedTuple):
    """An instance as it is asked and as policies see it."""

    model: str
    traits: InstanceTraits


class Said(NamedTuple):
    """What a server says of itself."""

    models: list[dict[str, Any]]
    cache_config: dict[str, str]


def discover(endpoints: Sequence[Endpoint], limits: Limits, speed_factor: float) -> list[Known]:
    """Ask every endpoint, all at once.

    Raises:
        ValueError: One cannot be reached, refuses, or leaves open what must be known; names the endpoint and
            the mend.
    """

    async def all_of_them() -> list[Said]:
        return await asyncio.gather(*[ask(each, limits, speed_factor) for each in endpoints])

    with ThreadPoolExecutor(1) as pool:  # the caller may have a loop of its own, as notebooks do
        said = pool.submit(asyncio.run, all_of_them()).result()
    return [known(*each) for each in zip(endpoints, said, strict=True)]


async def ask(endpoint: Endpoint, limits: Limits, speed_factor: float = 1.0) -> Said:
    """Ask one endpoint. Raises ``ValueError`` where it cannot be reached or refuses; names the mend."""
    client = Client(endpoint, limits, speed_factor)
    try:
        models = listed_models(endpoint, await client.get("/v1/models", limits.connect_timeout_s))
        return Said(models, cache_config(await _metrics(client)))
    except NoAnswerError as error:
        raise ValueError(f"{endpoint}: {error}; {error.mend or _mend(error.status)}") from None
    finally:
        await client.close()


def known(endpoint: Endpoint, said: Said) -> Known:
    """What is known of an instance. Raises ``ValueError`` where something is left open; names the mend."""
    models = said.models
    entry = models[0] if endpoint.model is None else {m["id"]: m for m in models}.get(endpoint.model)
    if entry is None:
        raise ValueError(
            f"{endpoint}: model is {endpoint.model!r}, the server has {', '.join(m['id'] for m in models)}"
        )
    return Known(entry["id"], _traits(endpoint, entry, said.cache_config))


async def _metrics(client: Client) -> str:
    try:
        return await client.get("/metrics", client.limits.connect_timeout_s)
    except NoAnswerError as error:
        if error.status is None:
            raise
        return ""  # then the configuration must say it all


def listed_models(endpoint: Endpoint, text: str) -> list[dict[str, Any]]:
    """Of the answer to ``/v1/models``, each with its ``id``. Raises ``ValueError`` where that is none."""
    try:
        models: list[dict[str, Any]] = json.loads(text)["data"]
        if models and all(isinstance(model["id"], str) for model in models):
            return models
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{endpoint}: /v1/models lists no model; is it the url of an OpenAI-compatible server?")


def _mend(status: int | None) -> str:
    if status is None:
        return "start the server, or mend the endpoint's url"
    if status in (401, 403):
        return "put the name of the environment variable that holds the API key into api_key_env"
    return "is it the url of an OpenAI-compatible server?"


def _traits(endpoint: Endpoint, model: dict[str, Any], config: dict[str, str]) -> InstanceTraits:
    profile = _profile(endpoint)
    said: dict[str, int | None] = {
        "num_blocks": _usable_blocks(config.get("num_gpu_blocks")),
        "block_size": _whole(config.get("block_size")),
        "max_model_len": _whole(model.get("max_model_len")),
        "max_num_seqs": profile.max_num_seqs if profile else FALLBACK["max_num_seqs"],
        "max_num_batched_tokens": (
            profile.max_num_batched_tokens if profile else FALLBACK["max_num_batched_tokens"]
        ),
    }
    _check_against(endpoint, said["block_size"], said["max_model_len"])
    sizes = {key: getattr(endpoint, key) or value for key, value in said.items()}
    missing = [key for key, value in sizes.items() if value is None]
    if missing:
        raise ValueError(
            f"{endpoint}: the server does not say its {', '.join(missing)}; set it for the endpoint"
        )
    prefix_caching = endpoint.prefix_caching
    if prefix_caching is None:
        prefix_caching = config.get("enable_prefix_caching", "True") == "True"
    whole = {key: int(value) for key, value in sizes.items() if value is not None}
    return InstanceTraits(
        name=endpoint.name,
        prefix_caching=prefix_caching,
        prefill_tokens_per_s=(
            prefill_tokens_per_s(profile.law, whole["max_num_batched_tokens"]) if profile else 0.0
        ),
        decode_step_s=decode_step_s(profile.law) if profile else 0.0,
        **whole,
    )


def _check_against(endpoint: Endpoint, block_size: int | None, max_model_len: int | None) -> None:
    """Refuse sizes with which prompts would not hit, or would be refused: the server knows them better."""
    if block_size is not None and endpoint.block_size not in (None, block_size):
        raise ValueError(
            f"{endpoint}: block_size is {endpoint.block_size}, the server says {block_size}; leave it out"
        )
    if max_model_len is not None and (endpoint.max_model_len or 0) > max_model_len:
        raise ValueError(
            f"{endpoint}: max_model_len is {endpoint.max_model_len}, the server takes {max_model_len}; leave"
            " it out, or set it no higher"
        )


def _profile(endpoint: Endpoint) -> Profile | None:
    try:
        return None if endpoint.profile is None else load(endpoint.profile)
    except ProfileError as error:
        raise ValueError(f"{endpoint}: profile: {error}") from error


def _usable_blocks(num_gpu_blocks: object) -> int | None:
    """Leave out the null block, which vLLM counts and no request has (``vllm/v1/core/block_pool.py``)."""
    number = _whole(num_gpu_blocks)
    return None if number is None else max(number - 1, 1)


def _whole(value: object) -> int | None:
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number if number > 0 else None
