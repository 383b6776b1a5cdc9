"""Writes a policy's bundle only if it decides as the policy itself does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.export import bundle, writing
from agents.export.card import Card
from agents.export.parity import compare, compare_onnx
from envs.observation import Observation


def write(directory: Path, export: writing.Export, card: Card, seen: Sequence[Observation]) -> None:
    """Write the bundle; one that is there is replaced.

    Args:
        directory: Of the bundle.
        export: What goes into it.
        card: Becomes its ``card.md``, with how the comparison went.
        seen: Observations that it is tried on.

    Raises:
        ValueError: It decides otherwise than the policy somewhere, or cannot be exported.
        OSError: It cannot be written; what was there before still is.
    """

    def describe(part: Path) -> str:
        loaded = bundle.load(part)
        parities = {
            "policy.npz, by NumPy": compare(export.policy, loaded, seen),
            "policy.onnx, by onnxruntime": compare_onnx(loaded, part / bundle.MODEL, seen),
        }
        for file, parity in parities.items():
            print(f"{file}: {parity.num_observations:,} decisions, {parity.num_different} different")
            if not parity.holds:
                raise ValueError(
                    f"{export.name}: {file} decides otherwise than the policy: {parity.num_different} of"
                    f" {parity.num_observations} decisions, scores by up to {parity.worst_score:.1e};"
                    " nothing was written"
                )
        return card.text(parities)

    writing.write(directory, export, describe)
