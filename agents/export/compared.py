"""Writes a policy's bundle only if it decides as the policy itself does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.export import bundle, writing
from agents.export.card import Card
from agents.export.parity import Parity, compare, compare_onnx
from envs.observation import Observation


def write(
    directory: Path, export: writing.Export, card: Card, seen: Sequence[Observation]
) -> Mapping[str, Parity]:
    """Write the bundle; one that is there is replaced.

    Args:
        directory: Of the bundle.
        export: What goes into it.
        card: Becomes its ``card.md``, with how the comparison went.
        seen: Observations that it is tried on.

    Returns:
        How the comparisons went, as the card tells.

    Raises:
        ValueError: It decides otherwise than the policy somewhere, or cannot be exported.
        OSError: It cannot be written; what was there before still is.
    """
    parities: dict[str, Parity] = {}

    def describe(part: Path) -> str:
        loaded = bundle.load(part)
        parities["policy.npz, by NumPy"] = compare(export.policy, loaded, seen)
        parities["policy.onnx, by onnxruntime"] = compare_onnx(loaded, part / bundle.MODEL, seen)
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
    return parities
