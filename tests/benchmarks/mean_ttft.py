"""What policies reach in emulation, for the checks that compare one figure."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from agents import cells


def mean_ttfts(config: DictConfig, directory: Path) -> dict[str, list[float]]:
    """Each policy's mean TTFT on each stream after the warm-up, in seconds; all requests must be served."""
    ttfts: dict[str, list[float]] = {}
    for cell in cells.run(config, directory):
        ledger, _ = cells.read(directory, cell)
        assert not ledger["failure"].any(), cell
        counted = ledger[ledger["arrived_at_s"] >= config.warmup_s]
        ttfts.setdefault(cell.policy, []).append(float(counted["ttft_s"].mean()))
    return ttfts
