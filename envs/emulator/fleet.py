"""Build an emulated cluster from configuration: groups of like instances (``conf/cluster/``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.emulator.build import InstanceConfig
from envs.emulator.cluster import EmulatedCluster
from envs.emulator.disturbed import DisturbedCluster
from envs.emulator.profile import Profile, ProfileError, load
from envs.world import World

GROUP_KEYS: dict[str, type] = {
    "count": int,
    "profile": str,
    "num_blocks": int,
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "max_model_len": int,
    "prefix_caching": bool,
    "chunked_prefill": bool,
    "long_prefill_token_threshold": int,
    "watermark": float,
    "scheduler_reserve_full_isl": bool,
    "policy": str,
    "async_scheduling": bool,
    "continue_after_self_preemption": bool,
}
"""What a group of instances may say: how many there are, their profile, and options of ``InstanceConfig``."""
FROM_PROFILE = ("num_blocks", "max_num_seqs", "max_num_batched_tokens")
"""Options that are the profile's where they are absent or null."""


def cluster(
    instances: Mapping[str, Mapping[str, Any] | None],
    block_size: int = 16,
    scrape_interval_s: float = 0.1,
    step_log_rows: int = 0,
    world: World | None = None,
    gauges_at_steps: bool = False,
) -> EmulatedCluster:
    """Build the cluster that a file of ``conf/cluster/`` describes.

    Args:
        instances: Group name -> group, a mapping with keys of ``GROUP_KEYS``; ``profile`` (a shipped name
            or the path of a file) must be there, ``count`` is 1 by default, and a group of null is left out.
            Instances are numbered in the order of the groups.
        block_size: Tokens per KV block, of every instance.
        scrape_interval_s: How often the gauges are read.
        step_log_rows: Room of the step log; 0 keeps none.
        world: What goes wrong; null: nothing can, and nothing is paid for it.
        gauges_at_steps: Whether gauges change when a step ends, as vLLM's do, or at once.

    Raises:
        ValueError: A group holds what it may not, or the world does not fit the fleet; names the group, the
            key and what to write instead.
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}, it must be at least 1")
    configs: list[InstanceConfig] = []
    for name, group in instances.items():
        if group is not None:
            configs.extend(_group_configs(name, group, block_size))
    if world is not None:
        return DisturbedCluster(
            configs, world, block_size, scrape_interval_s, step_log_rows, gauges_at_steps=gauges_at_steps
        )
    return EmulatedCluster(
        configs, block_size, scrape_interval_s, step_log_rows, gauges_at_steps=gauges_at_steps
    )


def _group_configs(name: str, group: Mapping[str, Any], block_size: int) -> list[InstanceConfig]:
    options = _checked(name, group)
    count = options.pop("count", 1)
    if count < 1:
        raise ValueError(
            f"cluster group {name!r}: count is {count}, it must be at least 1; set the group to null to"
            " leave it out"
        )
    profile = _profile(name, options.pop("profile", None))
    for key in FROM_PROFILE:
        options.setdefault(key, getattr(profile, key))
    if "num_blocks" not in group or group["num_blocks"] is None:
        options["num_blocks"] = profile.num_blocks * profile.block_size // block_size
    config = InstanceConfig(profile, **options)
    try:
        config.checked(0, block_size)
    except ValueError as error:
        raise ValueError(f"cluster group {name!r}: {str(error).removeprefix('instance 0: ')}") from None
    return [config] * count


def _checked(name: str, group: Mapping[str, Any]) -> dict[str, Any]:
    """The group's options that are not null, each of its type."""
    if not isinstance(group, Mapping):
        raise ValueError(f"cluster group {name!r} is {group!r}; write a mapping with keys {_known()}")
    options = {}
    for key, value in group.items():
        expected = GROUP_KEYS.get(key)
        if expected is None:
            raise ValueError(f"cluster group {name!r}: unknown key {key!r} (value {value!r}); use {_known()}")
        if value is None:
            continue
        accepted = (int, float) if expected is float else (expected,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
            raise ValueError(
                f"cluster group {name!r}: {key} is {value!r}; write a value of type {expected.__name__}"
            )
        options[key] = value
    return options


def _profile(name: str, name_or_path: str | None) -> Profile:
    if name_or_path is None:
        raise ValueError(f"cluster group {name!r}: profile is missing; write a shipped name or a path")
    try:
        return load(name_or_path)
    except ProfileError as error:
        raise ValueError(f"cluster group {name!r}: profile: {error}") from error


def _known() -> str:
    return ", ".join(GROUP_KEYS)
