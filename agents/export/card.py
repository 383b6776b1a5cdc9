"""``card.md``: what a bundle's policy is, what it was made of, how it fared, and what it is weak against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from agents.export.parity import Parity
from agents.files import read_json
from agents.markdown import table

USE = """```python
import policy                            # this folder's policy.py; it needs NumPy alone
routing = policy.load(".")
decision = routing.act({"instances": instances, "request": request, "mask": mask})
decision.instance, decision.propensity
```

`schema.json` says what the columns of `instances` (one row per instance) and `request` are. Observations hold
physical quantities in the units of that table; `mask` is 1 where the request may go. `policy.onnx` takes the
same arrays and `memory` (see `memory_is`); choose as `choice` says, from `fallback_propensities` where
`is_out_of_range` is true and `range_check` is not null. `plugs/` holds a file for each router that it may be
plugged into; its docstring says how."""


@dataclass(frozen=True)
class Card:
    """What is known of a policy before it is exported."""

    name: str
    made_of: Mapping[str, Any]
    """The config that it was trained with or, of a rule, in whose world it was tried."""
    guards: Sequence[str]
    """What keeps it from harm, a sentence each."""
    results: Sequence[Sequence[str]]
    """Lines of the table of results, the first its header; empty where nothing was measured."""
    weaknesses: Sequence[str]
    """What the robustness report says, a sentence each; empty where it was not attacked."""

    def text(self, parities: Mapping[str, Parity]) -> str:
        """The card; ``parities``: what was compared with the policy itself, and how that went."""
        compared = [["compared with the policy", "observations", "different", "ties", "worst score"]]
        for what, parity in parities.items():
            figures = parity.num_observations, parity.num_different, parity.num_tied
            compared.append([what, *(f"{figure:,}" for figure in figures), f"{parity.worst_score:.1e}"])
        unknown = "It was not attacked: nothing is known. `python -m adversary.report` attacks; give report=."
        parts = [
            f"# {self.name}",
            "A policy that chooses which vLLM instance serves each request, exported by RouteGym.",
            "## Use",
            USE,
            "## Does it decide as in training?",
            table(compared),
            "## Results",
            table(self.results) if self.results else "None: give results=, the directory of an evaluation.",
            "## Known weaknesses",
            "\n".join(f"- {sentence}" for sentence in self.weaknesses) or unknown,
            "## Guard rails",
            "\n".join(f"- {sentence}" for sentence in self.guards),
            "## Made of",
            "```yaml\n" + OmegaConf.to_yaml(OmegaConf.create(dict(self.made_of))) + "```",
        ]
        return "\n\n".join(parts) + "\n"


def results_of(directory: Path, policy: str) -> list[list[str]]:
    """Lines of the table of an evaluation. Raises ``ValueError`` where the policy is not in it."""
    summary = read_json(directory / "summary.json")
    held = summary["policies"]
    if policy not in held:
        raise ValueError(f"{directory} compares {', '.join(held)}, and not {policy!r}; give policy_name=")
    names = ("ttft_mean_s", "ttft_p50_s", "ttft_p99_s", "tpot_mean_s", "e2e_mean_s")
    lines = [["policy", *names]]
    for name in dict.fromkeys((policy, *held)):
        cells = [held[name].get(column) for column in names]
        lines.append([name, *(f"{cell[0]:.3f} [{cell[1]:.3f}, {cell[2]:.3f}]" for cell in cells)])
    return lines


def weaknesses_of(path: Path, victim: str) -> list[str]:
    """What a robustness report says of a router. Raises ``ValueError`` where it is not in it."""
    report = read_json(path)
    rows = {row["victim"]: row for row in report["headline"]}
    if victim not in rows:
        raise ValueError(f"{path} is about {', '.join(rows)}, and not {victim!r}; give policy_name=")
    row = rows[victim]
    said = [f"Mean TTFT in peace: {_estimate(row['clean'])} s ({report['scenario']['fleet']})."]
    for key, what in (("worst_feature", "lie in what instances report"), ("worst_world", "disturbed world")):
        worst = row[key]
        said.append(
            f"Under the worst {what} that was found ({worst['attack']}): {_estimate(worst['ttft_mean_s'])} s;"
            f" {'behind' if worst['is_behind'] else 'not behind'} round robin there."
        )
    for threat, points in row["break_even"].items():
        share = points["load_only"]
        said.append(
            f"{threat}: "
            + ("never clearly" if share is None else f"from {share:.0%} of the threat's bounds on")
            + " worse than the best rule that looks at load alone."
        )
    return said


def _estimate(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
