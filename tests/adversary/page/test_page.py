"""The report's page: what it says, what it holds, and that nothing is missing where a section is."""

from __future__ import annotations

import copy
import json
import re
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects
import pytest

from adversary.page.attackers import comparisons
from adversary.page.sweeps import crossing
from adversary.page.traces import positions, thinned
from adversary.page.transfer import worst_is_foreign
from adversary.page.verdict import details, summary, verdicts
from adversary.page.wording import reach
from adversary.report_page import TABS, page
from agents.page import palette, wording

from .sample_report import ATTACKS, ROUTERS, sample_report

FIXED = "\N{NO-BREAK SPACE}"
SECTIONS = [
    "scenario",
    "threats",
    "victims",
    "attacks",
    "headline",
    "cells",
    "transfer",
    "epsilon",
    "worst_traces",
    "attackers",
    "defences",
    "training",
    "live",
    "not_tested",
    "commands",
    "command",
    "versions",
    "title",
]


class Tree(HTMLParser):
    """Opening tags with their attributes, and whether every element is closed."""

    VOID = ("meta", "link", "wbr", "br")

    def __init__(self, text):
        super().__init__()
        self.opened, self.found, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened and self.opened[-1] not in ("script", "style"):
            self.texts.append(data)


def typed(text):
    """As a typewriter has it."""
    return text.replace(FIXED, " ").replace(wording.TIMES, "x").replace(wording.MINUS, "-")


def without_plotly(text):
    begin = text.index("<script>", text.index("</main>"))
    return text[:begin]


def specs(text):
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    return [json.loads(held) for held in found]


@pytest.fixture(scope="module")
def report():
    return sample_report()


@pytest.fixture(scope="module")
def text(report):
    return page(report)


# --- the whole page ---


def test_it_is_one_well_formed_file_without_links(text):
    tree = Tree(text)
    assert tree.opened == []
    assert [tag for tag, held in tree.found if held.get("src") or tag in ("iframe", "img", "object")] == []
    assert [held["href"] for _, held in tree.found if "href" in held] == ["data:,"]
    ids = [held["id"] for _, held in tree.found if "id" in held]
    assert len(ids) == len(set(ids))
    assert len(text.encode()) < 6_500_000


def test_every_tab_has_its_panel(text):
    found = Tree(text).found
    tabs = [held for _, held in found if held.get("role") == "tab"]
    panels = {held["id"]: held for _, held in found if held.get("role") == "tabpanel"}
    assert [held["aria-controls"] for held in tabs] == list(panels) == list(TABS)
    assert [panels[name]["aria-labelledby"] for name in TABS] == [held["id"] for held in tabs]


def test_every_router_attack_and_command_is_named(text, report):
    said = unescape(without_plotly(text).replace("<wbr>", ""))
    for name in (
        *ROUTERS,
        *ATTACKS,
        *report["commands"],
        *report["not_tested"],
        *report["versions"].values(),
    ):
        assert name in said
    for threat in report["threats"].values():
        assert threat["title"] in said
        assert threat["words"] in said


def test_the_same_report_gives_the_same_bytes(text, report):
    assert page(copy.deepcopy(report)) == text
    assert page(json.loads(json.dumps(report))) == text  # as report.json has it


def test_figures_are_plotly_s_and_described(text):
    held = without_plotly(text)
    found = specs(held)
    assert len(found) > 20
    for spec in found:
        layout = {key: value for key, value in spec["layout"].items() if key != "meta"}
        plotly.graph_objects.Figure(data=spec["data"], layout=layout)  # raises on what plotly does not know
    plots = [attributes for _, attributes in Tree(held).found if attributes.get("class") == "plot"]
    assert len(plots) == len(found)
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 30 for attributes in plots)


def test_filters_name_tags_that_there_are(text):
    for panel in re.split(r'<section role="tabpanel"', without_plotly(text))[1:]:
        names = re.findall(r'data-filter="(\w+)"', panel)
        tags = set(re.findall(r"data-tag-(\w+)=", panel))
        assert set(names) <= tags
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", SECTIONS)
def test_without_a_section_the_rest_stands(name, report):
    for nothing in (None, type(report[name])()):
        held = Tree(page(report | {name: nothing}))
        assert held.opened == []
    less = {key: value for key, value in report.items() if key != name}
    assert Tree(page(less)).opened == []


def test_a_report_of_nothing_says_so():
    said = " ".join(Tree(page({})).texts)
    assert said.count("not part of this run.") >= 10
    assert "Robustness report" in said


def test_missing_figures_are_dashes(report):
    held = copy.deepcopy(report)
    for cell in held["cells"]:
        cell["metrics"]["ttft_p99_s"] = {"value": None, "low": None, "high": None}
        cell["degradation"] = None
    for sweep in held["epsilon"].values():
        for curve in sweep["victims"].values():
            curve["ttft_mean_s"][2] = {"value": None, "low": None, "high": None}
    for row in held["headline"]:
        row["worst_world"] = None
        row["clean"] = {"value": float("nan"), "low": None, "high": None}
    assert wording.NOTHING in " ".join(Tree(page(held)).texts)


def test_text_is_escaped(report):
    evil = "<script>alert('no')</script> & \"more\""
    held = copy.deepcopy(report)
    held["title"] = held["threats"]["noise"]["title"] = held["not_tested"][0] = held["command"] = evil
    held["worst_traces"][0]["title"] = evil
    held["victims"]["lodestar"]["words"] = evil
    held["attackers"][0]["victim"] = evil
    said = without_plotly(page(held))
    assert "<script>alert" not in said
    assert "\\u003cscript>alert" in said  # in a figure, as JSON
    assert Tree(said + "</body></html>").opened == []


def test_without_plotly_the_extra_is_named(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"pip install 'routegym\[robustness\]'"):
        page(report)


# --- what it says ---


def test_verdicts_are_ranked_and_in_words(report):
    found = verdicts(report)
    by_name = {held.victim: held for held in found}
    assert [held.tone for held in found] == ["good"] * 3 + ["weak"] * 7 + ["bad", "none"]
    places = [held.epsilon for held in found if held.tone == "weak"]
    assert places == sorted(places, reverse=True)
    assert by_name["round_robin"].answer == "yardstick"
    assert by_name["random"].answer == "already behind"
    assert by_name["least_in_flight"].answer == "never clearly behind"
    # Lies bring it above first: 0.53 (1 + 7.56 * 1.3 e^1.5) = 0.99 > 0.92 at e = 0.2, the first played.
    assert by_name["vllm_dp"].threat == "spoof"
    assert typed(by_name["vllm_dp"].answer) == "±20 %"


def test_who_is_behind_without_a_lie_is_not_said_to_fall_by_lies(report):
    said = typed(summary(report, verdicts(report)))
    assert said.startswith("Of 11 routers, 7 do clearly worse than round robin once what they see is wrong")
    assert "First to fall: vllm_dp (±20 %); last: llmd_weighted (±60 %) and dynamo_cost (±60 %)." in said
    assert "Worse even on true signals: random." in said  # it looks at nothing: no lie reaches it
    assert "Never clearly worse: least_in_flight, session_hash and maskable_ppo+trust_counters." in said


def test_only_threats_to_signals_judge(report):
    row = {"victim": "vllm_dp", "break_even": {"hostile_stream": {"round_robin": 0.1, "load_only": None}}}
    (held,) = verdicts(report | {"headline": [row]})
    assert held.answer == "not swept"
    assert "no break-even" in summary(report, [held])


def test_a_worst_attack_beyond_the_sweeps_is_not_hidden(report):
    held = copy.deepcopy(report)
    (row,) = (row for row in held["headline"] if row["victim"] == "least_in_flight")
    row["worst_feature"]["ttft_mean_s"]["value"] = 0.93  # round robin: 0.92, but is it clear?
    (found,) = (at for at in verdicts(held) if at.victim == "least_in_flight")
    assert found.tone == "good"
    row["worst_feature"]["is_behind"] = True
    (found,) = (at for at in verdicts(held) if at.victim == "least_in_flight")
    assert found[1:4] == ("behind at worst", "under: spoof-rl_short@vllm_dp", "weak")


def test_how_bad_the_world_may_turn(report):
    by_name = {held.victim: held.world for held in verdicts(report)}
    assert by_name["round_robin"] == ""
    assert by_name["least_in_flight"] == "Hostile traffic: never clearly behind"
    assert by_name["random"] == "Hostile traffic: behind in peace already"
    assert typed(by_name["session_hash"]) == "Hostile traffic: behind from 20 % of its bounds"
    # Never behind in the sweep, which plays another attack than its worst one.
    assert typed(by_name["dynamo_cost"]) == "Worst world: +8.5 % against round robin there"
    assert summary(report, verdicts(report)).endswith(
        "In a hostile world, 3 of 11 do clearly worse than it does there."
    )
    held = copy.deepcopy(report)
    (row,) = (row for row in held["headline"] if row["victim"] == "dynamo_cost")
    row["worst_world"]["is_behind"] = False  # by as much, but not clearly
    (found,) = (at.world for at in verdicts(held) if at.victim == "dynamo_cost")
    assert found == "Hostile traffic: never clearly behind"


def test_details_tell_of_both_yardsticks(report):
    row = next(row for row in report["headline"] if row["victim"] == "smg_least_load")
    said = " ".join(details(report, row))
    assert "Stale metrics: clearly behind round robin from up to 8 s" in typed(said)
    assert "behind the best load-only rule from" in said
    assert "Worst attack on what the router sees: spoof-rl_short@vllm_dp" in said
    assert "it was made against vllm_dp; against round robin in peace +282 %" in typed(said)
    assert "against round robin in the same world" in said


def panel(text, name):
    """Words of a tab."""
    inside = re.search(rf'<section role="tabpanel" id="{name}".*?</section>', text, re.S).group()
    return typed(" ".join(Tree(inside).texts))


def test_training_says_what_it_was_trained_on_and_where_the_data_are_from(text):
    said = panel(text, "training")
    assert "the worst attack found on it, spoof only" in said
    assert "those against the router before are among what it was trained on" in said
    assert "Azure's trace of 2023; test: last half" in said
    assert "attacks held out" not in said


def test_defences_are_told_in_seconds_and_their_change_as_it_is(text):
    said = panel(text, "defences")
    assert "trust_counters noise-pgd@maskable_ppo 2.40 s [2.21 s, 2.59 s] 720 ms" not in said
    assert (
        "2.40 s [2.21 s, 2.59 s] 0.72 s [0.66 s, 0.78 s] -70 % [-72 %, -68 %] * +2.0 % [+1.0 %, +3.0 %] *"
        in said
    )


def test_live_changes_and_attackers_have_their_names(text):
    assert "x32 [x32, x32]" in panel(text, "method")
    said = panel(text, "attacks")
    for name in ("worst of many random", "reinforcement learning (PPO), fewer evaluations"):
        assert said.count(name) > 1  # in the filter, and in the table
    assert panel(text, "method").count("Budget:") == len(sample_report()["threats"])


def test_attackers_are_compared_on_one_threat_and_where_two_tried():
    keys = ("threat", "num_evaluations", "victim", "attacker", "harm")
    rows = [
        ("a", 10, "r", "search", 1.0),
        ("a", 10, "r", "rl", 2.0),
        ("a", 10, "s", "search", 9.0),  # nobody else tried
        ("a", 20, "s", "rl", 1.0),  # with another number
        ("b", 10, "r", "search", 3.0),  # on another threat
        ("b", 10, "r", "rl", 1.0),
    ]
    found = comparisons([dict(zip(keys, row, strict=True)) for row in rows])
    assert [held[:2] for held in found] == [("a", 10), ("a", 20), ("b", 10)]
    assert [held.best("r") for held in found] == ["rl", None, "search"]
    assert found[0].best("s") is None
    assert found[0].won().startswith("Found most against the one router that at least two attackers tried:")
    assert found[0].won().endswith("black-box search 0, reinforcement learning (PPO) 1.")
    assert found[1].won() == "No two attackers tried the same router here."


@pytest.mark.parametrize(
    ("ranges", "epsilon", "words"),
    [
        ([("1", 0.5, 1.5, 1.0)], 0.6, "±30 %"),
        ([("1", 0.5, 1.5, 1.0)] * 3, 1.0, "±50 %"),
        ([("1", 0.5, 2.0, 1.0)], 1.0, "x0.5 to x2"),
        ([("1", 1.0, 3.0, 1.0)], 0.5, "up to x2"),
        ([("s", 0.0, 10.0, 0.0)], 0.25, "up to 2.5 s"),
        ([("1", 0.0, 0.5, 0.0)], 0.5, "up to 25 %"),
        ([("requests", -4.0, 4.0, 0.0)], 0.5, "±2 requests"),
        ([("1", 0.5, 1.5, 1.0), ("on", 0.0, 1.0, 0.0)], 0.6, "±30 %"),
        ([("on", 0.0, 1.0, 0.0)], 0.6, "60 % of its bounds"),
        ([("s", 0.0, 1.0, 0.0), ("1", 0.5, 1.5, 1.0)], 0.6, "60 % of its bounds"),
        ([], 0.6, "60 % of its bounds"),
    ],
)
def test_how_far_a_threat_reaches(ranges, epsilon, words):
    keys = ("name", "unit", "low", "high", "neutral")
    knobs = [dict(zip(keys, (f"k[{at}]", *held), strict=True)) for at, held in enumerate(ranges)]
    assert typed(reach({"knobs": knobs}, epsilon)) == words


@pytest.mark.parametrize(
    ("form", "number", "words"),
    [
        (wording.seconds, 0.0123, "12 ms"),
        (wording.seconds, 1.234, "1.23 s"),
        (wording.seconds, 12.34, "12.3 s"),
        (wording.seconds, 1234.5, "1234 s"),
        (wording.seconds, None, wording.NOTHING),
        (wording.change, 0.5, "+50 %"),
        (wording.change, 0.0123, "+1.2 %"),
        (wording.change, -0.25, "-25 %"),
        (wording.change, 0.0001, "0 %"),
        (wording.change, 11.0, "x12"),
        (wording.percent, 0.123, "12 %"),
        (wording.plain, 12345.6, "12346"),
    ],
)
def test_numbers_in_words(form, number, words):
    assert typed(form(number)) == words


def test_intervals_and_what_is_clear_of_zero():
    held = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert wording.interval(held, wording.plain) == "0.5 [0.4, 0.6]"
    assert wording.interval({"value": 0.5, "low": None, "high": None}, wording.plain) == "0.5"
    assert wording.interval(None) == wording.interval({"value": float("nan")}) == wording.NOTHING
    assert wording.is_clear(held)
    assert wording.is_clear({"value": -0.5, "low": -0.6, "high": -0.4})
    assert not wording.is_clear({"value": 0.1, "low": -0.1, "high": 0.3})
    assert not wording.is_clear(None)


def test_a_curve_is_met_between_its_points():
    assert crossing([0.0, 0.5, 1.0], [1.0, None, 3.0], 0.75) == pytest.approx(2.5)
    assert crossing([0.0], [None], 0.0) is None


def test_knobs_stand_between_neutral_and_their_bounds():
    threat = {"knobs": [{"name": "rate", "unit": "1", "low": 0.5, "high": 2.0, "neutral": 1.0}]}
    held = positions(threat, {"quiet": [0.0, 0.0], "rate": [0.75, 2.0, None]})
    assert held == {"rate": [-0.5, 1.0, None], "quiet": [0.0, 0.0]}
    slow = {"name": "slowdown[i]", "unit": "1", "low": 1.0, "high": 3.0, "neutral": 1.0}
    assert positions({"knobs": [slow]}, {"slowdown[2]": [1.0, 1.5, 2.0]}) == {"slowdown[2]": [0.0, 0.25, 0.5]}


def test_long_traces_are_thinned(report):
    held = copy.deepcopy(report["worst_traces"][0])
    assert len(held["time_s"]) == 120
    short = thinned(held, 50)
    assert short["time_s"] == held["time_s"][::3]
    assert short["knobs"].keys() == held["knobs"].keys()
    for router in short["routers"].values():
        assert [len(series) for series in (*router["share"], router["waiting"], router["ttft_s"])] == [40] * 6
    assert thinned(held)["knobs"] == held["knobs"]


def test_worst_attacks_made_against_others_are_counted():
    values = [[1.0, 2.0], [3.0, 1.0], [9.0, 9.0]]  # of a, b and c under attacks on a and b
    assert worst_is_foreign(["a", "b"], ["a", "b", "c"], values) == (2, 2)
    assert worst_is_foreign(["a", "b"], ["a", "b"], [[2.0, 1.0], [None, None]]) == (0, 1)


# --- colours ---


def contrast(one, other):
    bright, dark = sorted((palette.luminance(one), palette.luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [*palette.COLOURS, palette.GREY])
@pytest.mark.parametrize("paper", ["#ffffff", "#14171c"])
def test_curves_are_seen_in_both_themes(colour, paper):
    assert contrast(colour, paper) >= 3.0  # WCAG 2, 1.4.11: graphical objects


def test_text_in_cells_is_read():
    for place in np.linspace(0.0, 1.0, 101):
        paper, ink = palette.shade(float(place), 1.0)
        assert contrast(paper, ink) >= 4.5  # WCAG 2, 1.4.3: text


def test_luminance_is_wcag_s():
    assert palette.luminance("#ffffff") == pytest.approx(1.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # WebAIM's checker


def test_no_two_routers_look_alike():
    names = [f"r{place}" for place in range(28)]
    held = palette.styles([*names, "rr"], "rr")
    looks = {(style.colour, style.dash, style.marker) for style in held.values()}
    assert len(looks) == 29
    assert held["rr"].colour == palette.GREY
