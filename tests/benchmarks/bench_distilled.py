"""How long a distilled rule takes to decide: 16 instances, a formula and a tree of 30 nodes.

    python -m tests.benchmarks.bench_distilled [--decisions 20000]

Measured is ``act`` of the policy, in NumPy; of its bundle, where a plan is run step by step; and the emitted
Python function with the choice of the cheapest. A hand-made rule is beside them. Ends with status 1 where the
median of the policy itself is not below 20 us.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from agents.distill.basis import EXPECTED_TTFT, excess
from agents.distill.expression import (
    INSTANCE_COLUMNS,
    REQUEST_ENTRIES,
    Branch,
    Feature,
    Number,
    Rule,
    num_nodes,
)
from agents.distill.policy import Distilled
from agents.distill.texts.python import python_text
from agents.distill.texts.signature import signature
from agents.distill.unit import ratio, unit
from agents.export import bundle, writing
from agents.heuristics.llmd_token_load import LlmdTokenLoad
from agents.markdown import table
from agents.program import use_one_thread
from envs.observation import INSTANCE_FEATURES, INSTANCE_HIGH, Observation

NUM_INSTANCES = 16
MAX_MEDIAN_US = 20.0
S = unit("s")


def _formula() -> Rule:
    """As learned from marginal_delay in RouteBench's mooncake (runs/reference/distill/mooncake.md)."""
    own, speed = Feature("num_uncached_tokens"), Feature("prefill_tokens_per_s")
    queued, backlog, prefilling, decoding = (
        Feature(f"num_in_flight_{name}")
        for name in ("prefills", "uncached_tokens", "prefill_tokens", "decode_tokens")
    )
    work = (own + Number(0.343) * backlog + Number(0.135) * prefilling) / speed
    each = Number(0.107, ratio(S, queued.unit)) * queued
    spared = Number(7.86e-6, ratio(S, speed.unit)) * speed
    long = Number(3.63e-5, ratio(S, own.unit)) * own
    beside = Number(7.68e-7, ratio(unit("1"), decoding.unit)) * decoding
    return (work + each + spared + long) * (Number(1.0) + beside)


def _tree() -> Rule:
    """Likewise."""
    late, fast, more = (
        excess(each) for each in (EXPECTED_TTFT, Feature("prefill_tokens_per_s"), Feature("frac_prefix_hit"))
    )
    costs = [Number(-cost) for cost in (0.619, 0.157, 0.525, 0.222, 0.0643, 0.593, 0.0186, 0.443)]
    soonest = Branch(
        fast, 17400.0, costs[0], Branch(Feature("num_prompt_tokens"), 10200.0, costs[1], costs[2])
    )
    soon = Branch(more, 0.111, Branch(fast, 17400.0, costs[3], costs[4]), costs[5])
    return Branch(late, 0.0382, soonest, Branch(late, 0.341, soon, Branch(more, 0.583, costs[6], costs[7])))


RULES: dict[str, Rule] = {"formula": _formula(), "tree": _tree()}


def looks() -> list[Observation]:
    """Observations of plausible size."""
    rng, found = np.random.default_rng(0), []
    for _ in range(64):
        rows = rng.random((NUM_INSTANCES, len(INSTANCE_FEATURES))) * np.minimum(INSTANCE_HIGH, 5000)
        request = np.array([900, 2, 0.5, 10, -1], np.float32)
        found.append(
            {
                "instances": rows.astype(np.float32),
                "request": request,
                "mask": np.ones(NUM_INSTANCES, np.int8),
            }
        )
    return found


def timed(decide: Callable[[Any], object], asked: list[Any], num: int) -> list[str]:
    """Median and 99th percentile, in us."""
    for each in asked:
        decide(each)
    durations_s = np.empty(num)
    for number in range(num):
        each = asked[number % len(asked)]
        began_s = perf_counter()
        decide(each)
        durations_s[number] = perf_counter() - began_s
    return [f"{1e6 * each:.1f}" for each in np.percentile(durations_s, [50, 99])]


def in_python(rule: Rule, asked: list[Observation]) -> tuple[Callable[[Any], int], list[Any]]:
    """The emitted function, and its arguments."""
    names: dict[str, Any] = {}
    exec(python_text(rule), names)
    needed, given = signature(rule), []
    for look in asked:
        of_instances = [
            look["instances"][:, INSTANCE_COLUMNS[each.name]].tolist() for each in needed.instance
        ]
        given.append(
            [*of_instances, *(float(look["request"][REQUEST_ENTRIES[each.name]]) for each in needed.request)]
        )

    def decide(arguments: list[Any]) -> int:
        costs = names["costs"](*arguments)
        return int(costs.index(min(costs)))

    return decide, given


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.bench_distilled", description=__doc__)
    parser.add_argument("--decisions", type=int, default=20_000)
    options = parser.parse_args()
    use_one_thread()
    asked, other, holds = looks(), LlmdTokenLoad(), True
    other.reset(np.random.default_rng(0))
    lines = [["rule", "nodes", "by", "p50 us", "p99 us"]]
    lines.append(["llmd_token_load", "", "NumPy", *timed(other.act, asked, options.decisions)])
    with tempfile.TemporaryDirectory() as folder:
        for name, rule in RULES.items():
            policy = Distilled(rule)
            writing.write(
                Path(folder) / name, writing.Export(name, policy), lambda part: "For a benchmark.\n"
            )
            loaded = bundle.load(Path(folder) / name)
            for each in (policy, loaded):
                each.reset(np.random.default_rng(0))
            by_numpy = timed(policy.act, asked, options.decisions)
            holds &= float(by_numpy[0]) < MAX_MEDIAN_US
            head = [name, str(num_nodes(rule))]
            lines.append([*head, "NumPy", *by_numpy])
            lines.append([*head, "bundle", *timed(loaded.act, asked, options.decisions)])
            lines.append([*head, "Python text", *timed(*in_python(rule, asked), options.decisions)])
    print(table(lines))
    print(f"{NUM_INSTANCES} instances; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("the bar is met" if holds else f"NOT MET: below {MAX_MEDIAN_US:g} us by NumPy")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
