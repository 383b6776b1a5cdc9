"""What is lost where several router processes stand before one fleet, and none knows all that was sent?

    make many-routers
    python -m tests.benchmarks.check_many_routers [--routers 1,2,4] [--policies maskable_ppo,llmd_token_load]

In emulation, on the demo's fleet and test streams, at the same load: mean TTFT with so many routers (each
with its own scrapes, counters, prefix index and memory of the policy, of which they tell each other every
``--share`` seconds; requests land on one by chance) beside that with one, by stream. What is learned is the
demo's: run ``make demo`` before. Ends with status 1 where the first of the policies loses more than the bar.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from agents.comparison import relative_difference
from agents.config import register
from agents.files import write_json
from agents.markdown import table
from tests.benchmarks.mean_ttft import mean_ttfts

MAX_LOSS = 0.10
"""Of mean TTFT, against one router."""
DIRECTORY = Path("runs/many_routers")


def evaluation(
    policies: list[str], num_routers: int, share_interval_s: str, overrides: list[str]
) -> DictConfig:
    """The demo's, of these policies, with so many routers."""
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(
            "evaluate",
            [
                "experiment=demo",
                f"env.num_routers={num_routers}",
                f"env.share_interval_s={share_interval_s}",
                "directory=unused",
                *overrides,
            ],
        )
    if unknown := [name for name in policies if name not in config.policies]:
        raise SystemExit(f"--policies: no {', '.join(unknown)}; there are {', '.join(config.policies)}")
    config.policies = {name: config.policies[name] for name in policies}
    config.trained = {name: run for name, run in config.trained.items() if name in policies}
    return config


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.check_many_routers", description=__doc__)
    parser.add_argument("--routers", default="1,2,4", help="how many there are; the first is compared with")
    parser.add_argument("--policies", default="maskable_ppo,lodestar_trained,llmd_token_load,dynamo_cost")
    parser.add_argument("--share", default="0.02", help="seconds between two times they tell; null: never")
    parser.add_argument("overrides", nargs="*", help="of the evaluation, such as trained.maskable_ppo=RUN")
    options = parser.parse_args()
    register()
    policies, counts = options.policies.split(","), [int(each) for each in options.routers.split(",")]
    measured = {
        count: mean_ttfts(
            evaluation(policies, count, options.share, options.overrides),
            DIRECTORY / f"{count}-{options.share}",
        )
        for count in counts
    }
    one, losses = measured[counts[0]], []
    lines = [["policy", *(f"{count} routers" for count in counts)]]
    for name in policies:
        line = [name, f"{np.mean(one[name]):.3f} s"]
        for count in counts[1:]:
            loss = relative_difference(measured[count][name], one[name])
            losses.append((name, loss.value))
            bounds = f"{100 * loss.low:+.0f} to {100 * loss.high:+.0f}"
            line.append(f"{np.mean(measured[count][name]):.3f} s: {100 * loss.value:+.1f} % ({bounds})")
        lines.append(line)
    print(table(lines))
    write_json(DIRECTORY / "mean_ttft_s.json", {str(count): each for count, each in measured.items()})
    return 1 if any(loss > MAX_LOSS for name, loss in losses if name == policies[0]) else 0


if __name__ == "__main__":
    sys.exit(main())
