"""The leaderboard: a column for each world, figures as in the runs, and a page that stands alone."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from agents.compare import compare
from agents.comparison import Estimate, relative_difference
from agents.evaluate import evaluate
from agents.files import write_parquet
from agents.leaderboard.board import FAILED, SHOWN, Column, Standing, board, overall, overall_notes
from agents.leaderboard.page import page
from agents.leaderboard.runs import find
from agents.leaderboard.table import overall_table
from tests.adversary.page.test_browser import CHROMIUM, DRIVER, Reader, browsing
from tests.agents.test_programs import files, tiny_evaluation

RANDOM, TURNS = "+agent@policies.random=random", "+agent@policies.turns=round_robin"
LEAST = "+agent@policies.least=least_in_flight"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two evaluations in one world, one of them on a seed more, and one in another world."""
    folder = tmp_path_factory.mktemp("runs")
    evaluate(tiny_evaluation(folder / "one", RANDOM, TURNS, "reference=random"))
    evaluate(tiny_evaluation(folder / "more", RANDOM, LEAST, "reference=random", "seeds=[0,1,2]"))
    other = ["workload.rate_per_s=10", "name=slower"]
    evaluate(tiny_evaluation(folder / "other", RANDOM, LEAST, "reference=random", *other))
    return folder


def ttft_s(run, policy, seeds=(0, 1)):
    results = pd.read_parquet(run / "results.parquet").set_index(["policy", "seed"])
    return [float(results.loc[(policy, seed), "ttft_mean_s"]) for seed in seeds]


def test_policies_of_one_world_meet_in_one_column(runs):
    alike, other = board(find([runs]), "random")
    assert [other.name, alike.name] == ["slower", "evaluate"]
    assert {each.policy for each in alike.standings} == {"random", "turns", "least"}
    assert {each.policy for each in other.standings} == {"random", "least"}
    assert alike.seeds == [0, 1]
    assert alike.notes == [
        "Seeds [2] of random are left out: not all policies have them.",
        "Seeds [2] of least are left out: not all policies have them.",
    ]
    means = [each.means["ttft_mean_s"].value for each in alike.standings]
    assert means == sorted(means)
    of_random = ttft_s(runs / "one", "random")
    for policy, run in (("turns", "one"), ("least", "more")):
        (standing,) = (each for each in alike.standings if each.policy == policy)
        values = ttft_s(runs / run, policy)
        assert standing.means["ttft_mean_s"].value == pytest.approx(np.mean(values))
        assert standing.against["ttft_mean_s"] == relative_difference(values, of_random)
    curve = alike.over_time.set_index(["policy", "window_begins_at_s"])["ttft_mean_s"]
    windows = pd.read_parquet(runs / "one" / "ttft_over_time.parquet")
    first = windows[(windows.policy == "turns") & (windows.window_begins_at_s == 0.0)]
    assert curve["turns", 0.0] == pytest.approx(first.ttft_mean_s.mean())


def test_worlds_are_told_apart_and_never_mixed(runs, tmp_path, capsys):
    columns = compare([runs], None, tmp_path)
    assert "2 worlds, not compared with each other" in capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "leaderboard.parquet")
    assert len(table) == sum(len(column.standings) for column in columns) == 5
    best = table[table["place"] == 1].set_index("world")
    for row in table.itertuples():
        against = row.ttft_mean_s / best.loc[row.world, "ttft_mean_s"] - 1.0
        assert row.ttft_mean_s_against_reference == pytest.approx(against)
    html = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    told = html[html.index("What tells the worlds apart") :].partition("</table>")[0]
    assert re.findall(r"<th[^>]*>(.*?)</th>", told)[1] == "workload.rate_<wbr>per_<wbr>s"
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "## slower" in text
    ratios = [
        ttft_s(runs / run, policy)
        for run, policy in (("one", "random"), ("more", "least"), ("other", "random"), ("other", "least"))
    ]
    random, least, random_other, least_other = (np.mean(each) for each in ratios)
    turns = np.mean(ttft_s(runs / "one", "turns"))
    by_hand = np.sqrt(random / min(random, least, turns) * random_other / min(random_other, least_other))
    assert re.search(rf"\| random +\| {by_hand:.3f} ", text)


def test_same_results_same_bytes(runs, tmp_path):
    written = []
    for _ in range(2):
        compare([runs / "one", runs / "more"], "turns", tmp_path)
        written.append(files(tmp_path))
    assert written[0] == written[1]


def test_settings_tell_policies_of_one_name_apart(tmp_path):
    for alpha in (0.1, 1.0):
        overrides = ["+agent@policies.mine=linucb", f"policies.mine.alpha={alpha}", "reference=mine"]
        evaluate(tiny_evaluation(tmp_path / str(alpha), *overrides))
    (column,) = board(find([tmp_path]))
    assert {each.policy for each in column.standings} == {"mine (alpha=0.1)", "mine (alpha=1.0)"}


def changed(run, folder, change):
    """A copy of a run, its results changed."""
    copied = shutil.copytree(run, folder)
    change(pd.read_parquet(copied / "results.parquet")).to_parquet(copied / "results.parquet")
    return copied


def test_scenarios_of_a_benchmark_are_worlds(runs, tmp_path):
    held = tmp_path / "bench"
    tables, scenarios = [], {}
    for run, load in (("more", 60), ("other", 80)):
        results = pd.read_parquet(runs / run / "results.parquet")
        bound = results[results["policy"] == "random"].assign(policy="clairvoyant").iloc[:1]
        tables += [each.assign(scenario="equal", load=load) for each in (results, bound)]
        (held / f"equal@{load}").mkdir(parents=True)
        shutil.copy(runs / run / "config.yaml", held / f"equal@{load}")
        summary = json.loads((runs / run / "summary.json").read_text())
        kinds = {policy: {"kind": "rule"} for policy in summary["policies"]}
        kinds["clairvoyant"] = {"kind": "bound"}
        scenarios[f"equal@{load}"] = {
            "workload_notes": summary["workload_notes"],
            "ttft_mean_s": {"policies": kinds},
        }
    pd.concat(tables).to_parquet(held / "results.parquet")
    (held / "summary.json").write_text(json.dumps({"scenarios": scenarios}))
    columns = board(find([held, runs / "one"]))
    assert [column.name for column in columns] == ["equal@60", "equal@80"]
    assert {each.policy for each in columns[0].standings} == {"random", "turns", "least"}


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    with pytest.raises(
        ValueError, match=r"reference: 'nobody' is none of the policies \(least, random, turns\)"
    ):
        board(find([runs]), "nobody")
    with pytest.raises(ValueError, match=r"nowhere: there is no such directory"):
        find([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"no results of policies in it; make them by routegym-evaluate"):
        find([tmp_path])
    apart = changed(runs / "one", tmp_path / "apart", lambda rows: rows.assign(seed=rows["seed"] + 7))
    with pytest.raises(ValueError, match=r"evaluate: no seed is common to all, .*turns: \[7, 8\]"):
        board(find([apart, runs / "more"]))
    slower = changed(runs / "one", tmp_path / "slower", lambda rows: rows.assign(ttft_mean_s=1.0))
    with pytest.raises(ValueError, match=r"random has other figures in .*different versions"):
        board(find([runs / "one", slower]))
    (slower / "config.yaml").write_text("policies: [\n")
    with pytest.raises(ValueError, match=r"(?s)slower/config.yaml: not a config .*; evaluate anew"):
        find([slower])
    (slower / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"slower: has no config.yaml"):
        find([slower])
    (slower / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"slower/results.parquet: not a whole table .*; evaluate anew"):
        find([slower])


def test_a_run_that_was_stopped_is_named(runs, tmp_path):
    copied = shutil.copytree(runs / "one", tmp_path / "one")
    config = OmegaConf.load(copied / "config.yaml")
    del config.policies.turns
    OmegaConf.save(config, copied / "config.yaml")
    with pytest.raises(ValueError, match=r"has results of turns, but its config.yaml has not: .* take it up"):
        find([copied])
    copied = shutil.copytree(runs / "one", tmp_path / "two")
    (copied / "summary.json").unlink()
    with pytest.raises(
        ValueError, match=r"two: has results.parquet and no summary.json: .* take it up again"
    ):
        find([copied])
    rows = pd.read_parquet(runs / "one" / "results.parquet").assign(scenario="equal", load=60)
    write_parquet(copied / "results.parquet", rows)
    (copied / "summary.json").write_text('{"scenarios": {"equal@80": {}}}')
    with pytest.raises(ValueError, match=r"two: summary.json says nothing of equal@60: .* take it up again"):
        find([copied])


def test_results_of_other_programs_are_passed_over(runs, tmp_path):
    """Such as a distillation's, which have the same columns."""
    other = tmp_path / "distill"
    other.mkdir()
    shutil.copy(runs / "one" / "results.parquet", other)
    (other / "config.yaml").write_text("policies: {random: {}}\nrules: {}\n")
    shutil.copytree(runs / "one", tmp_path / "one")
    assert [run.path.name for run in find([tmp_path])] == ["one"]
    with pytest.raises(ValueError, match="distill: no results of policies in it"):
        find([other])


def test_a_trace_of_another_content_is_told(runs, tmp_path):
    def less(rows):
        return rows.assign(policy="other_" + rows["policy"], num_requests=rows["num_requests"] - 1)

    fewer = changed(runs / "one", tmp_path / "fewer", less)
    config = OmegaConf.load(fewer / "config.yaml")
    config.policies = {f"other_{name}": node for name, node in config.policies.items()}
    OmegaConf.save(config, fewer / "config.yaml")
    (column,) = board(find([runs / "one", fewer]))
    assert "Policies met different numbers of requests on the same seed" in column.notes[0]


def test_worlds_of_one_name_are_named_apart_by_settings_or_by_number(runs, tmp_path):
    def run(folder, rate_per_s, notes):
        copied = shutil.copytree(runs / "one", tmp_path / folder)
        config = OmegaConf.load(copied / "config.yaml")
        config.workload.rate_per_s = rate_per_s
        OmegaConf.save(config, copied / "config.yaml")
        summary = json.loads((copied / "summary.json").read_text())
        (copied / "summary.json").write_text(json.dumps(summary | {"workload_notes": [notes]}))
        return copied

    one, other = run("a", 1.0, "of a trace"), run("b", 2.0, "of a trace")
    names = [column.name for column in board(find([one, other]))]
    assert names == ["evaluate (workload.rate_per_s=1.0)", "evaluate (workload.rate_per_s=2.0)"]
    third = run("c", 2.0, "of a longer trace")  # the settings tell two of the three apart
    columns = board(find([one, other, third]))
    assert [column.name for column in columns] == ["evaluate (1)", "evaluate (2)", "evaluate (3)"]
    page(columns, "")


def test_curves_of_unlike_windows_are_not_mixed(runs, tmp_path):
    finer = shutil.copytree(runs / "one", tmp_path / "finer")
    curve = pd.read_parquet(finer / "ttft_over_time.parquet")
    half = curve.assign(window_begins_at_s=curve["window_begins_at_s"] + 0.5, ttft_mean_s=99.0)
    write_parquet(finer / "ttft_over_time.parquet", pd.concat([curve, half]))
    config = OmegaConf.load(finer / "config.yaml")
    config.window_s = 0.5
    OmegaConf.save(config, finer / "config.yaml")
    (alone,), (both,) = board(find([runs / "one"])), board(find([finer, runs / "one"]))
    pd.testing.assert_frame_equal(both.over_time, alone.over_time)
    assert both.notes == ["Curves are of runs with windows of 1 s; others have [0.5] s."]


def test_one_seed_has_figures_without_intervals(runs, tmp_path):
    one = changed(runs / "one", tmp_path / "one", lambda rows: rows[rows["seed"] == 0])
    compare([one], "random", tmp_path)
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "nan" not in text
    assert f"| random | {ttft_s(one, 'random', [0])[0]:.3f} |" in re.sub(" +", " ", text)


def test_a_policy_that_served_nobody_is_not_the_measure_of_others():
    nan = Estimate(np.nan, np.nan, np.nan)

    def standing(policy, mean):
        estimate = nan if mean is None else Estimate(mean, mean, mean)
        both = {"ttft_mean_s": estimate, "ttft_p99_s": estimate}
        return Standing(policy, both, both, dict.fromkeys(SHOWN, 0.0))

    def column(name, **means):
        standings = [standing(policy, mean) for policy, mean in means.items()]
        return Column(name, {"requests": ""}, [], [0], "a", standings, pd.DataFrame(), [])

    columns = [column("x", lost=None, a=1.0, b=2.0), column("y", a=3.0, b=1.5, lost=1.0)]
    assert overall_notes(columns) == []
    columns[1] = replace(columns[1], notes=[FAILED])
    told = "Requests failed in y: who loses the slow ones has the lower TTFT there."
    assert overall_notes(columns) == [told]
    assert told in page(columns, "")
    assert told in overall_table(columns)
    found = overall(columns)
    assert found == {"a": (pytest.approx(3**0.5), 1, 3.0), "b": (pytest.approx(3**0.5), 0, 2.0)}
    assert "nan" not in page(columns, "").partition("<script>")[0]


@pytest.mark.skipif(not (CHROMIUM.exists() and DRIVER.exists()), reason="`make browser` installs it")
def test_the_page_draws_every_tab_and_fetches_nothing(runs, tmp_path):
    compare([runs], None, tmp_path)
    with browsing(tmp_path) as driver:
        reader = Reader(driver, Path(tmp_path / "leaderboard.html"))
        for tab, num_plots in (("overall", 2), ("worlds", 2), ("compared", 0)):
            plots = reader.open(tab=tab).plots(tab)
            assert len(plots) == num_plots
            assert all(plot["drawn"] for plot in plots)
        assert reader.open(width=390, tab="worlds").errors() == []
        assert reader.js("return document.scrollingElement.scrollWidth") <= 390
        assert reader.js("return performance.getEntriesByType('resource').length") == 0
