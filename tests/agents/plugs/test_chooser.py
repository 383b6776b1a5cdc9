"""A plug decides as its bundle does, and bears whatever happens to it."""

import hashlib
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from agents.export.runtime import load
from agents.plugs.chooser import Chooser
from agents.plugs.prompt import Prompt, of_body
from agents.plugs.view import Gauges
from tests.agents.export.exported import seen

NAMES = ["a", "b", "c"]
PROMPT = of_body({"prompt": "x" * 3000})


@pytest.mark.parametrize("name", ["network", "least_in_flight", "llmd_affinity"])
def test_it_decides_as_the_bundle(folders, name):
    chooser, bundle = Chooser(folders[name], seed=5), load(folders[name])
    bundle.reset(np.random.default_rng(5))
    for observation in seen(500, seed=2):
        expected, decision = bundle.act(observation), chooser.decide(observation)
        assert decision.instance == expected.instance
        np.testing.assert_array_equal(decision.scores, expected.scores)
        np.testing.assert_array_equal(decision.propensities, expected.propensities)


def test_it_chooses_what_the_bundle_chooses_of_its_view(folders):
    chooser, bundle = Chooser(folders["network"], seed=0, clock=lambda: 0.0), load(folders["network"])
    bundle.reset(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for number in range(300):
        prompt = Prompt(int(rng.integers(1, 5000)), [bytes([key]) for key in range(int(rng.integers(0, 9)))])
        names = rng.permutation(NAMES).tolist()
        expected = bundle.act(chooser.view.look(prompt, names, 0.0))
        choice = chooser.choose(prompt, names, request_id=number)
        assert choice.name == names[expected.instance] == choice.order[0]
        assert sorted(choice.order) == NAMES
        assert choice.propensity == expected.propensity
        rest = [float(expected.scores[names.index(name)]) for name in choice.order[1:]]
        assert rest == sorted(rest, reverse=True)
        chooser.scraped(names[0], Gauges(float(rng.integers(9))), number + 1.0)
        if number % 3:
            chooser.first_token(number)
            chooser.completed(number, 10)
    assert chooser.counters()["decisions"] == 300
    assert chooser.counters()["flights"] == 100


def test_least_in_flight_where_the_policy_raises(folders, caplog, monkeypatch):
    chooser = Chooser(folders["network"])
    monkeypatch.setattr(chooser.policy, "judge", lambda observation, check_range: 1 / 0)
    with caplog.at_level(logging.WARNING, "routegym.plugs"):
        choices = [chooser.choose(PROMPT, NAMES, request_id=number) for number in range(6)]
    assert [choice.name for choice in choices] == ["a", "b", "c", "a", "b", "c"]
    assert all(choice.is_fallback and choice.propensity == 1.0 for choice in choices)
    counters = chooser.counters()
    assert counters["fallback_least_in_flight"] == counters["policy_ZeroDivisionError"] == 6
    assert len([record for record in caplog.records if "ZeroDivisionError" in record.message]) == 1


def test_a_prompt_that_fits_nowhere(folders):
    chooser = Chooser(folders["network"], {"": {"max_model_len": 100}, "b": {"max_model_len": 10_000}})
    assert chooser.choose(PROMPT, NAMES).name == "b"
    assert chooser.choose(PROMPT, ["a", "c"]).is_fallback


def test_more_instances_than_the_policy_takes(folders):
    names = [f"{number}" for number in range(65)]
    assert Chooser(folders["network"]).choose(PROMPT, names).is_fallback
    assert not Chooser(folders["network"]).choose(PROMPT, names[:64]).is_fallback


def test_events_that_cannot_be(folders, caplog):
    chooser = Chooser(folders["network"])
    with caplog.at_level(logging.WARNING, "routegym.plugs"):
        for _ in range(3):
            chooser.scraped("a", Gauges(num_running=float("nan")))
            chooser.completed([], 3)  # cannot be hashed
    assert chooser.counters()["event_ValueError"] == 3
    assert chooser.counters()["event_TypeError"] == 3
    assert len(caplog.records) == 2


def test_out_of_range(folders):
    chooser, bundle = Chooser(folders["network"], fall_back_out_of_range=True), load(folders["network"])
    num_out = 0
    for observation in seen(200, seed=4):
        decision = chooser.decide(observation)
        if bundle.judge(observation).is_out_of_range:
            num_out += 1
            expected = bundle.fall_back(observation)
        else:
            expected = bundle.act(observation)
        np.testing.assert_array_equal(decision.scores, expected.scores)
    assert chooser.counters()["out_of_range"] == num_out > 0
    with pytest.raises(ValueError, match="has no fallback"):
        Chooser(folders["least_in_flight"], fall_back_out_of_range=True)


def test_from_many_threads(folders):
    chooser = Chooser(folders["network"])

    def work(first):
        for number in range(first, first + 100):
            chooser.choose(PROMPT, NAMES, request_id=number)
            chooser.first_token(number)
            chooser.completed(number, 5)

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = chooser.counters()
    assert counters["decisions"] == 800
    assert counters["flights"] == 0
    assert not any("Error" in name for name in counters)
    assert [chooser.view.num_in_flight(name) for name in NAMES] == [0, 0, 0]


def test_a_profile_that_cannot_be(folders):
    with pytest.raises(ValueError, match=r"the common one is .*; it may have prefill_tokens_per_s"):
        Chooser(folders["network"], {"": {"speed": 3}})


@pytest.mark.parametrize("damage", ["missing", "changed", "schema"])
def test_no_whole_bundle(folders, tmp_path, damage):
    folder = shutil.copytree(folders["network"], tmp_path / "bundle")
    if damage == "missing":
        (folder / "policy.py").unlink()
    elif damage == "changed":
        (folder / "policy.py").write_text("raise SystemExit")
    else:
        (folder / "schema.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no whole bundle"):
        Chooser(folder)


def test_every_file_of_a_bundle_is_listed(folders):
    for folder in folders.values():
        listed = json.loads((folder / "schema.json").read_text())["sha256"]
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
        assert found < listed.keys()
        assert {"plugs/__init__.py", "plugs/view.py", "policy.py"} <= found
        for name in found:
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == listed[name]


USE = """
import sys
sys.modules["agents"] = sys.modules["envs"] = sys.modules["numba"] = None  # to import them fails
from plugs.chooser import Chooser
from plugs.prompt import of_body
chooser = Chooser(seed=0)
print(chooser.choose(of_body({"prompt": "hello"}), ["a", "b"], request_id=1).order)
"""


def test_a_process_without_ours(folders):
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(folders['network'])!r}){USE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'a'" in done.stdout


def test_copies_import_neighbours_only(folders):
    for path in (folders["network"] / "plugs").glob("*.py"):
        assert "agents." not in path.read_text().replace("agents.export", "")
    assert importlib.util.find_spec("agents.plugs.chooser") is not None
