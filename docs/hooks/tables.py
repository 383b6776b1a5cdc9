"""Tables that are made of the code: ``<!-- table: NAME -->`` in a page stands for one of ``TABLES``."""

from __future__ import annotations

import re
from typing import Any

from hydra import compose, initialize_config_module

from agents.benchmark.scenario import FOLDER, names
from agents.markdown import table
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES

MARK = re.compile(r"<!-- table: (\w+) -->")


def scenarios() -> str:
    """RouteBench's, of ``conf/experiment/bench``."""
    lines = [("scenario", "what it is", "fleet", "requests", "loads, % of capacity", "capacity, requests/s")]
    with initialize_config_module("conf", version_base="1.3"):
        for name in names():
            overrides = [f"experiment=bench/{name}", "directory=."]
            config = compose("evaluate", overrides, return_hydra_config=True)
            chosen, scenario = config.hydra.runtime.choices, config.scenario
            lines.append(
                (
                    f"`{name}`",
                    described(name),
                    f"`{chosen.cluster}`",
                    f"`{chosen.workload}`",
                    ", ".join(map(str, scenario.loads)),
                    f"{scenario.capacity_per_s:g}",
                )
            )
    return table(lines)


def described(scenario: str) -> str:
    """The comment at the head of a scenario's YAML, below the line that Hydra reads."""
    package, *rest = (FOLDER / f"{scenario}.yaml").read_text(encoding="utf-8").splitlines()
    comment = []
    for line in rest:
        if not line.startswith("# "):
            break
        comment.append(line.removeprefix("# "))
    if package != "# @package _global_" or not comment:
        raise ValueError(
            f"{scenario}.yaml must begin with '# @package _global_' and a comment that says what it is"
        )
    return " ".join(comment)


def features() -> str:
    """What a policy may see, of ``envs.observation``."""
    lines = [("of", "feature", "unit", "how old", "where from")]
    for kind, rows in (("instance", INSTANCE_FEATURES), ("request", REQUEST_FEATURES)):
        lines += [(kind, f"`{each.name}`", each.unit, each.staleness, each.source) for each in rows]
    return table(lines)


TABLES = {"scenarios": scenarios, "features": features}


def on_page_markdown(markdown: str, **of_page: Any) -> str:
    """Fill the marks of a page."""
    return MARK.sub(lambda mark: TABLES[mark[1]](), markdown)
