"""Hold the demo's result against what RouteGym promises of it.

    make demo check-demo

Promise: within its first ten simulated minutes, its cold start included, Lodestar's mean TTFT is below that
of every rule that looks at load alone, by a paired 95 % interval clear of zero. Prints each comparison, also
with the other rules, and fails (status 1) where the promise does not hold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_module

from agents.comparison import relative_difference
from agents.config import register
from conf.build import build

MINUTES = 10


def main() -> None:
    """Check one evaluation's ledgers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("runs/demo/evaluation"))
    directory = parser.parse_args().directory
    register()
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("evaluate", ["experiment=demo", f"directory={directory}"])
    kinds = {name: getattr(build(node, name), "kind", "learned") for name, node in config.policies.items()}

    def means(name: str) -> list[float]:
        ledgers = [
            pd.read_parquet(
                directory / "cells" / f"{name}-{seed}.parquet", columns=["arrived_at_s", "ttft_s"]
            )
            for seed in config.seeds
        ]
        return [float(ledger.ttft_s[ledger.arrived_at_s < 60 * MINUTES].mean()) for ledger in ledgers]

    kept = True
    lodestar = means("lodestar")
    print(f"Lodestar's mean TTFT over its first {MINUTES} simulated minutes, cold start included:")
    for kind in ("load", "session", "prefix"):
        for name in (name for name in kinds if kinds[name] == kind):
            estimate = relative_difference(lodestar, means(name))
            better = estimate.high < 0
            kept = kept and (better or kind != "load")
            print(
                f"  against {name:<16} ({kind}) {estimate.value:+7.1%}"
                f" [{estimate.low:+.1%}, {estimate.high:+.1%}]  {'better' if better else 'NOT BETTER'}"
            )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
