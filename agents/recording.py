"""Recorders of what the programs' policies decide; ``envs.live.recorder`` says what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.live.recorder import Recorder
from envs.routing import RoutingEnv


def recorder_of(env: RoutingEnv, directory: Path, policy_version: str) -> Recorder:
    """A recorder for decisions in ``env``."""
    return Recorder(directory, env.cluster.traits, int(env.action_space.n), policy_version)  # type: ignore[attr-defined]


def digest(made_of: Mapping[str, Any]) -> str:
    """A short name of plain values: of all that a policy was made of."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
