"""The page: episodes as data, and the program in ``page/`` that plays them; it needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from agents.viewer.episode import NOBODY, Episode, partners
from agents.viewer.fleet_over_time import STATUSES
from agents.viewer.packing import floats, whole
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES, Feature

SCRIPTS = ("make", "unpack", "episode", "words", "curves", "fleet", "decisions", "player")
"""Of ``page/``, in the order in which they are read."""
TIME_STEP_S = 1e-4
SHARE_STEP = 1e-3
STEPS = {
    "requests": 1.0,
    "tokens": 1.0,
    "turns": 1.0,
    "key": 1.0,
    "0 or 1": 1.0,
    "1": SHARE_STEP,
    "s": TIME_STEP_S,
    "tokens/s": 1.0,
    "requests/s": 0.01,
}
"""Unit of a feature -> the least difference that is kept of it."""
NEVER = -1.0
"""Stands for an instant or a time that is none."""
_WHOLE = (
    "router",
    "instance",
    "request_id",
    "turn",
    "num_prompt_tokens",
    "num_output_tokens",
    "num_cached_tokens",
    "num_preemptions",
    "num_retries",
    "is_retried",
    "slo_met",
)
_TIMES = ("at_s", "arrived_at_s", "ended_at_s", "ttft_s", "tpot_s")


def page(about: Mapping[str, Any], episodes: Sequence[Episode]) -> str:
    """The whole page.

    Args:
        about: ``title``, ``command``, ``notes`` (of the workload, a list), ``warmup_s``, and ``is_replayed``:
            whether the fleet is known as it was, not only as it was scraped.
        episodes: One, or two on the same requests.
    """
    data = {
        "about": dict(about),
        "statuses": STATUSES,
        "instance_features": [_told(feature) for feature in INSTANCE_FEATURES],
        "request_features": [_told(feature) for feature in REQUEST_FEATURES],
        "episodes": [
            _packed(episode, next((other for other in episodes if other is not episode), None))
            for episode in episodes
        ],
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    held = files("agents.viewer").joinpath("page")
    read = {path.name: path.read_text(encoding="utf-8") for path in held.iterdir()}
    return Template(read["page.html"]).substitute(
        title=escape(str(about["title"])),
        style=read["page.css"],
        data=text.replace("<", "\\u003c"),  # else a name could end the element
        scripts="\n".join(f"<script>\n{read[f'{name}.js']}</script>" for name in SCRIPTS),
    )


def _told(feature: Feature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "unit": feature.unit,
        "high": feature.high,
        "staleness": feature.staleness,
        "source": feature.source,
    }


def _packed(episode: Episode, other: Episode | None) -> dict[str, Any]:
    decisions, fleet = episode.decisions, episode.fleet
    failures = sorted({"", *decisions["failure"]})
    columns = {name: whole(decisions[name]) for name in _WHOLE}
    columns |= {name: whole(decisions[name].fillna(NEVER), TIME_STEP_S) for name in _TIMES}
    columns["slo_ttft_s"] = floats(decisions["slo_ttft_s"])  # which may be infinite
    columns["propensity"] = whole(decisions["propensity"], SHARE_STEP)
    columns["failure"] = whole([failures.index(failure) for failure in decisions["failure"]])
    columns["partner"] = whole(
        np.full(len(decisions), NOBODY) if other is None else partners(decisions, other.decisions)
    )
    return {
        "policy": episode.policy,
        "names": episode.names,
        "failures": failures,
        "decisions": columns,
        "instances": [
            whole(episode.instances[..., place].T, STEPS[feature.unit])
            for place, feature in enumerate(INSTANCE_FEATURES)
        ],
        "request": [
            whole(episode.request[..., place], STEPS[feature.unit])
            for place, feature in enumerate(REQUEST_FEATURES)
        ],
        "mask": whole(episode.mask.T),
        "scores": floats(episode.scores.T),
        "propensities": whole(episode.propensities.T, SHARE_STEP),
        "fleet": {
            "at_s": whole(fleet.at_s, TIME_STEP_S),
            "num_running": whole(fleet.num_running.T),
            "num_waiting": whole(fleet.num_waiting.T),
            "frac_kv_cache_usage": whole(fleet.frac_kv_cache_usage.T, SHARE_STEP),
            "frac_prefix_hits": whole(fleet.frac_prefix_hits.T, SHARE_STEP),
            "status": whole(fleet.status.T),
            "slowdown": whole(fleet.slowdown.T, 0.01),
        },
    }
