"""Fuzz what reads bytes of others, for as long as asked: requests, answers, messages, metrics, bundles.

    make fuzz
    python -m tests.benchmarks.fuzz [--minutes 10] [--seed 0]

The property tests of the parsers, over and over, each time with another seed of Hypothesis, which prints the
example that fails and what reproduces it. Ends with status 1 at the first failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import pytest
from tqdm import tqdm

PARSERS = {
    "requests": "tests/agents/router/test_asked.py",
    "HTTP and SSE": "tests/agents/router/test_any_bytes.py",
    "streams of ext_proc": "tests/agents/picker/test_exchange.py",
    "bundles": "tests/agents/export/test_runtime.py",
    "SSE events": "tests/envs/live/test_sse.py",
    "metrics": "tests/envs/live/test_metrics.py",
    "KV events": "tests/envs/live/test_cache_view.py",
    "prompts, by the plugs": "tests/agents/plugs/test_prompt.py",
    "llm-d's requests": "tests/agents/plugs/test_llmd_predictor.py",
}


class Properties:
    """A pytest plugin: it leaves only property tests, and counts their examples."""

    def __init__(self) -> None:
        self.num_examples: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the others."""
        items[:] = [
            item for item in items if getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count."""
        if report.when == "call":
            self.num_examples[report.nodeid.partition("::")[0]] += 1


def main() -> int:
    """Run the tests until the time is over."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next has the next")
    options = parser.parse_args()
    stop_s = time.monotonic() + 60 * options.minutes
    properties, seed = Properties(), options.seed
    quiet = ["-q", "--no-header", "--show-capture=no", "-p", "no:cacheprovider", "-x"]
    with tqdm(total=60 * options.minutes, unit="s", disable=None) as bar:
        while time.monotonic() < stop_s:
            arguments = [*quiet, f"--hypothesis-seed={seed}", *PARSERS.values()]
            if status := pytest.main(arguments, plugins=[properties]):
                print(f"FAILED in the round of --seed {seed}")
                return int(status)
            seed += 1
            bar.n = min(bar.total, bar.total - (stop_s - time.monotonic()))
            bar.refresh()
    print(
        f"no failure in {options.minutes:g} minutes, seeds {options.seed} to {seed - 1}; property tests run:"
    )
    for what, path in PARSERS.items():
        print(f"  {properties.num_examples[path]:6} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
