"""The page of a real report, of a tiny run: what the program writes is what the page reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from adversary.page.attackers import comparisons
from adversary.page.traces import positions
from adversary.page.wording import ATTACKERS, knob_kind
from agents.page.wording import change, interval, seconds

from .sample_report import sample_report

ROOT = Path(__file__).parents[3]
CHANGES = (
    "experiment=robustness/tiny",
    "num_workers=1",
    "+agent@policies.smg_least_load=smg_least_load",
    "+agent@policies.smg_median=defended_median",
    "+defended.smg_least_load=[smg_median]",
    "+attacker@attackers.worst_of=worst_of",
    "attackers.worst_of.num_evaluations=4",
    "plan.world=[random,worst_of,search]",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("report")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "adversary.report", *CHANGES]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return cwd / "runs" / "robustness_tiny" / "robustness"


@pytest.fixture(scope="module")
def report(made):
    return json.loads((made / "report.json").read_text())


@pytest.fixture(scope="module")
def panels(made):
    text = (made / "report.html").read_text(encoding="utf-8")
    parts = re.split(r'<section role="tabpanel" id="(\w+)"', text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows_of(panel):
    """Texts of the cells of every row."""
    rows = re.findall(r"<tr\b.*?</tr>", panel, re.S)
    cells = (re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.S) for row in rows)
    return [[unescape(re.sub(r"<.*?>", "", cell)) for cell in row] for row in cells]


def test_the_sample_has_the_shapes_of_a_real_report(report):
    sample = sample_report()
    assert sample.keys() <= report.keys()
    for section in ("headline", "cells", "attackers", "defences", "worst_traces"):
        assert sample[section][0].keys() == report[section][0].keys(), section
    for section in ("threats", "victims", "attacks", "epsilon", "transfer"):
        first, other = (next(iter(held[section].values())) for held in (sample, report))
        assert first.keys() == other.keys(), section
    for level in ("feature", "world"):
        worst = f"worst_{level}"
        assert sample["headline"][1][worst].keys() == report["headline"][1][worst].keys()
    assert sample["threats"]["noise"]["knobs"][0].keys() == report["threats"]["world"]["knobs"][0].keys()
    names = [knob["name"] for threat in report["threats"].values() for knob in threat["knobs"]]
    assert {name.partition("[")[2] for name in names} == {"", "i]"}


def test_a_defended_router_s_seconds(report, panels):
    cells = {(cell["victim"], cell["attack"]): cell["metrics"]["ttft_mean_s"] for cell in report["cells"]}
    rows = {(row[1], row[2]): row for row in rows_of(panels["defences"]) if row[0] == "smg_least_load"}
    assert len(rows) == len(report["defences"]) == 4  # two threats, found against the bare and the defended
    for (defence, attack), row in rows.items():
        assert defence == "smg_median"
        without, guarded = cells["smg_least_load", attack], cells[defence, attack]
        assert row[3:5] == [interval(without, seconds), interval(guarded, seconds)]
        assert row[5].startswith(change(guarded["value"] / without["value"] - 1.0))


def test_knobs_stand_where_they_stood(report):
    world = report["threats"]["world"]
    [slow] = [knob for knob in world["knobs"] if knob_kind(knob["name"]) == "slowdown"]
    half = 0.5 * (slow["neutral"] + slow["high"])
    placed = positions(world, {"slowdown[2]": [slow["neutral"], half, slow["high"]]})
    assert placed == {"slowdown[2]": pytest.approx([0.0, 0.5, 1.0])}
    for trace in report["worst_traces"]:
        knobs = {knob_kind(knob["name"]): knob for knob in report["threats"][trace["threat"]]["knobs"]}
        placed = positions(report["threats"][trace["threat"]], trace["knobs"])
        assert placed.keys() == trace["knobs"].keys()
        for name, series in trace["knobs"].items():
            knob = knobs[knob_kind(name)]
            above = [(value - knob["neutral"]) / (knob["high"] - knob["neutral"]) for value in series]
            below = [(value - knob["neutral"]) / max(knob["neutral"] - knob["low"], 1e-9) for value in series]
            assert placed[name] == pytest.approx(
                [max(up, 0.0) or down for up, down in zip(above, below, strict=True)]
            )


def test_attackers_of_each_threat(report, panels, made):
    found = {held.threat: held for held in comparisons(report["attackers"])}
    assert list(found) == ["spoof", "world"]
    assert found["spoof"].attackers == ["search"]
    assert found["world"].attackers == ["worst_of", "search"]
    harms = {(at["threat"], at["attacker"], at["target"]): at["harm"] for at in report["attacks"].values()}
    for held in found.values():
        for (victim, attacker), harm in held.harms.items():
            assert harm == harms[held.threat, attacker, victim]
        assert (made / f"attackers_{held.threat}_4.png").exists()
    rows = rows_of(panels["attackers"])
    assert ["router", ATTACKERS["search"], "found most"] in rows
    assert ["router", ATTACKERS["worst_of"], ATTACKERS["search"], "found most"] in rows
    best = max(("worst_of", "search"), key=lambda name: harms["world", name, "vllm_dp"])
    assert [row[3] for row in rows if row[0] == "vllm_dp" and len(row) == 4] == [ATTACKERS[best]]
    assert [row[2] for row in rows if row[0] == "vllm_dp" and len(row) == 3] == ["\N{EN DASH}"]
