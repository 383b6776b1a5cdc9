"""Recordings that the programs make: they change nothing, hold everything and replay to the same ledger."""

import re
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module

from agents import checkpoint, online
from agents.config import register
from agents.evaluate import evaluate
from agents.heuristics.cache_aware import CacheAware
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.random import Random
from agents.heuristics.round_robin import RoundRobin
from agents.recording import recorder_of
from agents.rollout import play
from agents.train import train
from conf.build import ConfigError
from envs.cluster import Slo
from envs.emulator import fleet
from envs.live.recorder import Recorder
from envs.live.recording import Recording, matrix
from envs.routing import RoutingEnv
from envs.workload import generator
from envs.workload import recording as recorded
from envs.workload.laws import LogNormal
from envs.workload.replay import Replay
from envs.workload.sessions import Sessions
from envs.world import Schedule, World

register()
FLEET = {
    "fast": {"profile": "h100_llama-3.1-8b", "num_blocks": 256, "max_num_seqs": 8, "max_model_len": 2048},
    "slow": {"profile": "l40s_llama-3.1-8b", "num_blocks": 128, "max_num_seqs": 4, "max_model_len": 2048},
}
TINY = [
    "cluster=tiny",
    "workload=generated",
    "workload.num_generated=200",
    "workload.num_requests=40",
    "workload.start=random",
    "workload.rate_per_s=20",
    "workload.max_model_len=2000",
    "workload.prompt_median=300",
    "workload.prompt_min=1",
    "workload.prompt_max=1500",
    "workload.output_median=20",
    "workload.output_max=100",
]


def configured(program, directory, *overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose(program, [*TINY, *overrides, f"directory={directory}"])


def evaluation(directory, *overrides):
    short = ["seeds=[0,1]", "num_workers=1", "warmup_s=0.1", "window_s=1", "reference=a"]
    return configured("evaluate", directory, "+agent@policies.a=random", *short, *overrides)


def generated(**settings):
    return generator.workload(
        num_generated=120,
        rate_per_s=15,
        prompt_median=300,
        prompt_min=1,
        prompt_max=1500,
        output_median=20,
        output_max=100,
        max_model_len=2000,
        num_tenants=2,
        slo_ttft_s=0.3,
        **settings,
    )


def recorded_play(directory, policy, workload, seed=0, world=None, **options):
    """The ledger of an episode that is recorded."""
    env = RoutingEnv(fleet.cluster(FLEET, world=world), workload, **options)
    with closing(env), recorder_of(env, directory, "it@1") as recorder:
        return play(env, policy, seed, recorder).ledger


def replayed(directory, policy, seed=0, world=None, num_requests=None, **options):
    workload = recorded.workload(str(directory), num_requests=num_requests)
    return play(RoutingEnv(fleet.cluster(FLEET, world=world), workload, **options), policy, seed).ledger


@pytest.mark.parametrize("policy", [Random, LeastInFlight, CacheAware])
def test_recording_replays_to_the_same_ledger(policy, tmp_path):
    ledger = recorded_play(tmp_path, policy(), generated(num_requests=80, start="random"), seed=3)
    pd.testing.assert_frame_equal(replayed(tmp_path, policy(), seed=3), ledger, check_exact=True)
    assert ledger["num_cached_tokens"].sum() > 0
    assert type(recorded.workload(str(tmp_path))) is Replay  # so that many environments at once take it


def test_requests_sent_again_are_one(tmp_path):
    def world():
        outages = [(1.05, "fail"), (1.5, "restart"), (3.05, "fail"), (3.5, "restart")]
        events = [{"at_s": at_s, "instance": 1, "what": what} for at_s, what in outages]
        return World(schedule=Schedule(events), cold_start_s=0.5)

    workload = generated(num_requests=80)
    ledger = recorded_play(tmp_path, RoundRobin(), workload, world=world(), max_retries=2, num_routers=2)
    assert ledger["is_retried"].sum() > 0
    assert len(recorded.load(tmp_path).trace) == 80
    again = replayed(tmp_path, RoundRobin(), world=world(), max_retries=2, num_routers=2)
    pd.testing.assert_frame_equal(again, ledger, check_exact=True)


def test_sessions_keep_their_answers_content_and_their_objectives(tmp_path):
    settings = {
        "num_sessions": 8,
        "sessions_per_s": 1.0,
        "turns": LogNormal(4, 0.0, 4, 4),
        "new_tokens": LogNormal(100, 0.5, 10, 200),
        "output": LogNormal(40, 0.5, 1, 80),
        "pause_s": LogNormal(1, 0.5, 0.1, 2),
        "num_prefix_groups": 1,
        "num_system_tokens": 128,
        "max_model_len": 2048,
        "slo": Slo(0.5, 0.05),
    }
    roomy = {"a": {"profile": "h100_llama-3.1-8b", "max_model_len": 2048}}
    env = RoutingEnv(fleet.cluster(roomy), Sessions(**settings))
    with recorder_of(env, tmp_path, "it@1") as recorder:
        ledger = play(env, RoundRobin(), 0, recorder).ledger
    replay = recorded.workload(str(tmp_path))
    again = play(RoutingEnv(fleet.cluster(roomy), replay), RoundRobin(), 0).ledger
    # The first arrival is at 0 now, so that all instants are other floats.
    assert again["num_cached_tokens"].tolist() == ledger["num_cached_tokens"].tolist()
    np.testing.assert_allclose(again["ttft_s"], ledger["ttft_s"], rtol=1e-9)
    assert ledger["num_cached_tokens"].sum() > 0.5 * ledger["num_prompt_tokens"].sum()
    without = replay.hashes[: replay.hash_offsets[1]]
    assert len(without) > recorded.load(tmp_path).trace.num_prompt_tokens[0] // 16  # past the prompt
    replay.reset(np.random.default_rng(0))
    assert replay.pop().slo == Slo(0.5, 0.05)


def test_ledger_is_in_the_recording(tmp_path):
    ledger = recorded_play(tmp_path, Random(), generated(num_requests=60))
    recording = Recording(tmp_path)
    decisions, outcomes = recording.decisions(), recording.outcomes().to_pandas()
    pd.testing.assert_frame_equal(outcomes[list(ledger)], ledger, check_exact=True)
    assert outcomes["is_last"].sum() == 1
    for name in ("arrived_at_s", "num_prompt_tokens", "tenant", "instance"):
        assert decisions[name].to_pylist() == ledger[name].tolist()
    propensities = matrix(decisions, "propensities", 2)
    assert propensities[np.arange(60), ledger["instance"]].tolist() == ledger["propensity"].tolist()
    finished_at_s = outcomes["arrived_at_s"] + outcomes["e2e_s"]
    assert (outcomes["observed_at_s"] >= finished_at_s - 1e-9).all()


def test_request_is_only_there_while_there_is_one():
    env = RoutingEnv(fleet.cluster(FLEET), generated(num_requests=1))
    with pytest.raises(Exception, match="call reset"):
        _ = env.request
    env.reset(seed=0)
    assert (env.request.request_id, env.request.slo.ttft_s) == (0, 0.3)
    env.step(0)
    with pytest.raises(Exception, match="call reset"):
        _ = env.request


def files(directory, *except_for):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not any(path.match(pattern) for pattern in except_for)
    }


def test_recording_changes_no_result_of_an_evaluation(tmp_path):
    others = ["+agent@policies.b=linucb", "env.num_routers=2"]
    evaluate(evaluation(tmp_path / "plain", *others))
    evaluate(evaluation(tmp_path / "recorded", *others, "record=true"))
    timed = ("table.md", "cells/*.json", "config.yaml", "finished.json")
    plain, with_recording = (files(tmp_path / name, *timed) for name in ("plain", "recorded"))
    assert plain == {name: data for name, data in with_recording.items() if "recordings" not in name}
    for name in ("a-0", "a-1", "b-0", "b-1"):
        recording = Recording(tmp_path / "recorded" / "recordings" / name)
        learned = recording.decisions(["num_outcomes_learned"])["num_outcomes_learned"].to_numpy()
        assert (learned.max() > 0) == (name[0] == "b")
        assert recording.decisions(["policy_version"])["policy_version"][0].as_py().startswith(f"{name[0]}@")
        assert len(recording.outcomes()) == 40


def test_cells_made_without_a_recording_are_made_anew_with_one(tmp_path):
    evaluate(evaluation(tmp_path))
    before = files(tmp_path / "cells", "*.json")
    for _ in range(2):
        evaluate(evaluation(tmp_path, "record=true"))
        assert files(tmp_path / "cells", "*.json") == before
        decisions = Recording(tmp_path / "recordings" / "a-1").decisions(["seed"])
        assert decisions["seed"].to_pylist() == [1] * 40  # once


def test_cell_that_broke_off_or_is_another_begins_its_recording_anew(tmp_path, monkeypatch):
    decided = Recorder.decided

    def decide_then_stop(recorder, *arguments):
        decided(recorder, *arguments)
        if arguments[0].request_id == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "decided", decide_then_stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(evaluation(tmp_path, "record=true"))
    assert 0 < len(Recording(tmp_path / "recordings" / "a-0").decisions(["seed"])) < 40
    for _ in range(2):
        evaluate(evaluation(tmp_path, "record=true"))
        for name in ("a-0", "a-1"):
            decisions = Recording(tmp_path / "recordings" / name).decisions(["seed"])
            assert decisions["episode"].to_pylist() == [0] * 40
        assert len(recorded.load(tmp_path / "recordings" / "a-0").trace) == 40
        side = tmp_path / "cells" / "a-0.json"
        side.write_text(re.sub('"key": "', '"key": "of something else ', side.read_text()))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("every", [15, 1000])
def test_training_killed_within_an_episode_is_recorded_as_if_it_had_not_been(every, tmp_path, monkeypatch):
    overrides = ["agent=linucb", "total_timesteps=120", f"checkpoint_every={every}"]
    train(configured("train", tmp_path / "plain", *overrides))
    train(configured("train", tmp_path / "whole", *overrides, "record=true"))
    timed = ("config.yaml", "*.png", "*.parquet", "recording.json", "finished.json")
    assert files(tmp_path / "plain", *timed) == files(tmp_path / "whole", *timed)

    original, saved = checkpoint.save, []

    def save_then_die(path, state):
        original(path, state)
        saved.append(path)
        if len(saved) in (2, 3):
            raise KilledError

    monkeypatch.setattr(online.checkpoint, "save", save_then_die)
    for _ in range(2):
        with pytest.raises(KilledError):
            train(configured("train", tmp_path / "killed", *overrides, "record=true"))
    train(configured("train", tmp_path / "killed", *overrides, "record=true"))
    whole, killed = (Recording(tmp_path / name / "recordings" / "linucb-0") for name in ("whole", "killed"))
    assert killed.decisions().equals(whole.decisions())
    assert killed.outcomes().equals(whole.outcomes())
    assert len(whole.decisions()) == 120
    learned = whole.decisions(["num_outcomes_learned"])["num_outcomes_learned"].to_numpy()
    assert (np.diff(learned) >= 0).all()
    assert 80 < learned[-1] < 120


def test_agents_with_a_loop_of_their_own_are_not_recorded(tmp_path):
    with pytest.raises(ConfigError, match=r"record: agents.rl.maskable_ppo.* record=false"):
        train(configured("train", tmp_path / "run", "agent=maskable_ppo", "record=true"))
    assert not (tmp_path / "run").exists()
