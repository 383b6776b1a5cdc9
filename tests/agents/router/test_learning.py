"""Online learning: a trainer beside the router, versions that come, go back, and survive its death."""

import asyncio
import io
import json
import os
import signal
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from omegaconf import OmegaConf

from agents import checkpoint
from agents.export import bundle
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.round_robin import RoundRobin
from agents.router.guard import GuardSettings
from agents.router.learning import MAX_HELD, Learning, LearningSettings
from agents.router.log import Log
from agents.router.samples import NUM_FLOATS, frame, read_frame
from agents.router.trainer import STATE, Trainer, take_up, teachable
from agents.router.versions import version_path, versions
from conf.build import ConfigError
from envs.observation import ENCODED_NAMES, NUM_WAITING, encode
from envs.unfinished import PART
from tests.agents.bandits.two_speed_fleet import look, mean_ttft_s
from tests.agents.router.serving import SETTINGS, body, in_loop, posts, serving
from tests.envs.live.fake_vllm import FakeVllm
from tests.envs.live.leaks import soon

LINUCB = {"_target_": "agents.bandits.linucb.LinUCB", "alpha": 0.0}
LODESTAR = {
    "_target_": "agents.bandits.lodestar.Lodestar",
    "fallback": {"_target_": "agents.heuristics.least_in_flight.LeastInFlight"},
    "freshness_half_life_s": None,  # of noise, in this toy
    "num_candidates": 0,
    "training": {
        "_target_": "agents.bandits.predictor.Training",
        "hidden_sizes": [16],
        "num_epochs": 3,
        "learning_rate": 0.01,
    },
    "first_training": 60,
    "retrain_every": 60,
    "fifo_size": 200,
    "replay_size": 50,
}
FALLBACK = {"_target_": "agents.heuristics.least_in_flight.LeastInFlight"}


def samples(num, seed=0):
    """What came of instances of the toy fleet, chosen by chance."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num):
        observation = look(rng)
        chosen = rng.integers(len(observation["mask"]))
        encoded = encode(observation["instances"], observation["request"], observation["mask"])
        rows.append([*encoded[chosen], mean_ttft_s(observation)[chosen]])
    return np.array(rows, np.float32)


@given(values=arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(NUM_FLOATS))))
def test_frames_come_as_they_went(values):
    pipe = io.BytesIO(frame(values) + frame(values[:1]))
    np.testing.assert_array_equal(read_frame(pipe), values)
    np.testing.assert_array_equal(read_frame(pipe), values[:1])
    assert read_frame(pipe) is None


@given(content=st.binary(max_size=200))
def test_what_is_no_frame_is_refused_or_at_its_end(content):
    with suppress(ValueError):
        read = read_frame(io.BytesIO(content))
        assert read is None or read.shape[1] == NUM_FLOATS


def trainer(directory, node, **settings):
    agent = teachable(node, None)
    options = {"export_every": 60, "keep": 3, "max_instances": 8, **settings}
    return Trainer(directory, agent, RoundRobin(), **options)


@pytest.mark.parametrize("node", [LINUCB, LODESTAR], ids=["linucb", "lodestar"])
def test_what_it_learned_is_exported(node, tmp_path):
    teacher, held = trainer(tmp_path, node), samples(400)
    made = [teacher.learn(held[start : start + 20]) for start in range(0, 400, 20)]
    numbers = [number for number in made if number is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 5 <= len(numbers) <= 6
    assert versions(tmp_path) == numbers[-3:]  # as many as are kept
    policy, observation = bundle.load(version_path(tmp_path, numbers[-1])), look(np.random.default_rng(9))
    best = mean_ttft_s(observation).argmin()
    assert policy.judge(observation).decision.scores.argsort()[-3:].tolist().count(best) == 1


def test_as_many_versions_are_kept_as_shall_be(tmp_path):
    teacher, kept = trainer(tmp_path, LINUCB, export_every=10, keep=4), []
    for number in range(6):
        teacher.learn(samples(10, number))
        kept.append(versions(tmp_path))
    assert kept == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]


@pytest.mark.parametrize("node", [LINUCB, LODESTAR], ids=["linucb", "lodestar"])
def test_one_that_was_killed_goes_on_from_its_last_version(node, tmp_path):
    held = samples(300)
    one = trainer(tmp_path / "one", node)
    one.learn(held[:120])
    other = trainer(tmp_path / "other", node)
    other.learn(held[:120])
    again = trainer(tmp_path / "other", node)  # as after a kill: its state is the file's
    assert again.num_learned == 120
    assert [teacher.learn(held[120:240]) for teacher in (one, again)] == [2, 2]
    last = [bundle.load(version_path(tmp_path / name, 2)).version for name in ("one", "other")]
    assert last[0] == last[1]
    assert checkpoint.load(tmp_path / "other" / STATE)["num_learned"] == 240


def test_learning_from_others_decisions_is_as_from_ones_own():
    """``learn`` is what ``observe`` does with the row of an own decision."""
    agent, held = teachable(LINUCB, None), samples(50)
    for sample in held:
        assert agent.learn(sample[:-1], float(sample[-1]))
    contexts = np.column_stack([held[:, :-1].astype(np.float64), np.ones(50)])
    expected = np.linalg.solve(
        np.eye(len(ENCODED_NAMES) + 1) + contexts.T @ contexts,
        contexts.T @ -held[:, -1].astype(np.float64),
    )
    np.testing.assert_allclose(agent.mean_weights(), expected, rtol=1e-6, atol=1e-9)


def test_what_cannot_learn_is_refused():
    with pytest.raises(ConfigError, match="LeastInFlight cannot learn in a router; take lodestar or linucb"):
        teachable(FALLBACK, None)
    with pytest.raises(ValueError, match=r"learning\.keep is 0, it must be at least 1"):
        LearningSettings(LINUCB, "somewhere", keep=0)


@contextmanager
def learning_router(servers, directory, node=LINUCB, **settings):
    learning = Learning(
        LearningSettings(node, str(directory), export_every=20), FALLBACK, SETTINGS.max_instances, Log("none")
    )
    with serving(servers, learning=learning, **settings) as router:
        assert soon(lambda: learning.process_id is not None)
        yield router, learning


def test_a_router_learns_which_instance_is_slow(tmp_path):
    """One instance tells of long queues and is slow: LinUCB sees it after some requests."""
    guard = GuardSettings(exploration=0.1, holdout=0.0, check_range=False, max_decision_s=60.0)
    slow = FakeVllm(ttft_s=0.2, metrics={"waiting": "9.0"})
    with slow, FakeVllm(ttft_s=0.01) as fast, learning_router([slow, fast], tmp_path, guard=guard) as made:
        router, learning = made
        assert router.desk.guard.policy is None
        for version in range(1, 4):  # the fast one answers first: an early version may know of it alone
            posts(router, [body(max_tokens=1)] * 20)
            assert soon(lambda version=version: (learning.version or 0) >= version)
        before = len(fast.bodies), len(slow.bodies)
        for _ in range(15):
            posts(router, [body(max_tokens=1)] * 2)
        share = (len(fast.bodies) - before[0]) / 30
        assert share > 0.7
        assert router.desk.guard.counts[""] >= 20
        assert learning.counts["num_taught"] >= 60
        row = learning._held[0, :-1]
        assert row[NUM_WAITING] in (0.0, np.log1p(np.float32(9.0)))


def test_versions_are_pinned_and_rolled_back(tmp_path):
    with FakeVllm() as server, learning_router([server], tmp_path) as (router, learning):
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: learning.version == 1)
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: learning.version == 2)
        in_loop(router, learning.choose(1))
        assert learning.version == 1
        assert router.desk.guard.policy.version == bundle.load(version_path(tmp_path, 1)).version
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: 3 in learning.versions)
        assert learning.version == 1
        with pytest.raises(ValueError, match="there is no version 9; there is 1, 2, 3"):
            in_loop(router, learning.choose(9))
        in_loop(router, learning.choose(None))
        assert learning.version == 3
        assert soon(lambda: [version for version, _ in learning.curve] == [1, 2, 3])


def test_the_trainers_death_does_not_disturb_serving(tmp_path):
    with FakeVllm() as server, learning_router([server], tmp_path) as (router, learning):
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: learning.version == 1)
        first = learning.process_id
        os.kill(first, signal.SIGKILL)
        answers = posts(router, [body(max_tokens=1)] * 50)
        assert [answer.status for answer in answers] == [200] * 50
        assert soon(lambda: learning.process_id != first)
        assert learning.counts["num_starts"] == 2
        for _ in range(20):
            posts(router, [body(max_tokens=1)] * 10)
            if learning.version == 2:
                break
        assert soon(lambda: (learning.version or 0) >= 2)
        state = checkpoint.load(tmp_path / STATE)
        assert state["num_learned"] > 25  # it went on from what it had learned


def test_a_trainer_that_cannot_be_started_is_tried_again(tmp_path, monkeypatch):
    start, faults = asyncio.create_subprocess_exec, [OSError("no memory")]

    async def starts(*arguments, **options):
        if faults:
            raise faults.pop()
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", starts)
    with FakeVllm() as server, learning_router([server], tmp_path) as (_, learning):
        assert learning.counts["num_starts"] == 2


@pytest.mark.parametrize("line", [b"a library's warning\n", b'{"event": "ver', b"[]\n", b"{}\n", b"\xff\n"])
def test_what_a_trainer_says_beside_is_told_and_passed_over(line, tmp_path):
    stream = io.StringIO()
    log = Log("none", stream)
    learning = Learning(LearningSettings(LINUCB, str(tmp_path)), FALLBACK, 4, log)

    async def hear():
        writing = asyncio.create_task(log.run())
        await asyncio.sleep(0)
        heard = await learning._hear(line)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        return heard

    assert not asyncio.run(hear())
    told = json.loads(stream.getvalue())
    assert (told["event"], told["line"]) == ("trainer_said", line.decode("utf-8", "replace").rstrip())
    assert learning.curve == []


def test_a_version_that_is_damaged_is_refused(tmp_path):
    with FakeVllm() as server, learning_router([server], tmp_path) as (router, learning):
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: learning.version == 1)
        (tmp_path / "000007").mkdir()
        (tmp_path / "000007" / "schema.json").write_text("{")
        with pytest.raises(ValueError, match="000007"):
            in_loop(router, learning.choose(7))
        assert (learning.version, learning.is_pinned) == (1, False)
        assert learning.counts["num_refused"] == 1


def test_samples_beyond_the_bound_are_dropped_and_counted(tmp_path):
    learning = Learning(LearningSettings(LINUCB, str(tmp_path)), FALLBACK, 4, Log("none"))
    row = np.zeros(len(ENCODED_NAMES), np.float32)
    for _ in range(MAX_HELD + 5):
        learning.teach(row, 1.0)
    assert learning.counts["num_dropped"] == 5

    async def send_once():
        sending = asyncio.create_task(learning._send())
        await asyncio.sleep(0.3)
        sending.cancel()

    asyncio.run(send_once())  # without a trainer they are lost, and counted
    assert learning.counts["num_dropped"] == MAX_HELD + 5


def test_the_config_composes():
    from hydra import compose, initialize_config_module

    from agents.config import register

    register()
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("serve", ["learning=online", "endpoints={a: http://x:1}"])
    assert config.learning.agent._target_ == "agents.bandits.lodestar.Lodestar"
    assert json.dumps(OmegaConf.to_container(config.learning))


def test_what_is_loaded_by_hand_stays(tmp_path):
    with FakeVllm() as server, learning_router([server], tmp_path / "v") as (router, learning):
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: learning.version == 1)
        in_loop(router, router.load(None))
        assert (learning.version, router.desk.guard.policy) == (None, None)
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: 2 in learning.versions and len(learning.curve) == 2)
        assert router.desk.guard.policy is None
        in_loop(router, learning.choose(None))
        assert learning.version == 2


def test_of_two_choices_the_later_one_holds(tmp_path):
    async def both(learning):
        await asyncio.gather(learning._take(2), learning.choose(1))

    with FakeVllm() as server, learning_router([server], tmp_path) as (router, learning):
        for number in (1, 2):
            posts(router, [body(max_tokens=1)] * 25)
            assert soon(lambda number=number: learning.version == number)
        in_loop(router, both(learning))
        assert (learning.version, learning.is_pinned) == (1, True)
        expected = bundle.load(version_path(tmp_path, 1)).version
        assert router.desk.guard.policy.version == expected
        (version_path(tmp_path, 2) / "policy.npz").write_bytes(b"")
        with pytest.raises(ValueError, match="not the file that"):
            in_loop(router, learning.choose(2))
        assert router.desk.guard.policy.version == expected
        assert learning.is_pinned


def test_two_routers_do_not_learn_in_one_directory(tmp_path):
    with FakeVllm() as server, learning_router([server], tmp_path):
        other = Learning(LearningSettings(LINUCB, str(tmp_path)), FALLBACK, 4, Log("none"))
        with pytest.raises(ValueError, match=r"learning\.directory: another router learns in"):
            asyncio.run(other.start())
        asyncio.run(other.stop())


def test_a_directory_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    learning = Learning(LearningSettings(LINUCB, str(tmp_path / "file")), FALLBACK, 4, Log("none"))
    with pytest.raises(OSError, match=r"learning\.directory: cannot learn in .*file \(File exists\); give"):
        asyncio.run(learning.start())


def test_what_another_agent_learned_is_refused(tmp_path):
    trainer = Trainer(tmp_path, teachable(LINUCB, None), LeastInFlight(), 20, 3, 4)
    assert trainer.learn(samples(25)) == 1
    assert take_up(tmp_path, teachable(LINUCB, None))["num_learned"] == 25
    with pytest.raises(ConfigError, match="another agent learned this"):
        take_up(tmp_path, teachable(LODESTAR, None))


def test_a_trainer_that_was_killed_in_the_middle_of_an_export_starts_again(tmp_path):
    """What it left is a folder that is not whole."""
    left = tmp_path / f".000001.{2**22 + 1}{PART}"
    left.mkdir()
    (left / "policy.onnx").write_bytes(b"half")
    with FakeVllm() as server, learning_router([server], tmp_path) as (router, learning):
        posts(router, [body(max_tokens=1)] * 25)
        assert soon(lambda: learning.version == 1)
    assert not left.exists()
