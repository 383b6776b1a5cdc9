"""The modelled device: its law is the emulator's, and it begins and ends its steps when a GPU would."""

import json

import numpy as np
import pytest

from envs.emulator.profile import load, shipped_names
from envs.emulator.step_time import StepTimeLaw, as_record, step_time_s
from envs.live.in_vllm import modelled_device
from envs.live.in_vllm.modelled_device import ModelledDevice, duration_s

LAW = StepTimeLaw(0.0, 0.010, 0.001, 0.0, 0.0, 0.0)._asdict()  # 10 ms and 1 ms for each token


@pytest.mark.parametrize("name", shipped_names())
def test_the_law_is_the_emulators_to_the_last_bit(name):
    law, rng = load(name).law, np.random.default_rng(1)
    told, record = json.loads(json.dumps(law._asdict())), as_record(law)
    for _ in range(200):
        counts = (10 ** rng.uniform(-1, [4.5, 9, 3.2, 7])).astype(int) * rng.integers(0, 2, 4)
        num_prefill_tokens, num_pairs, num_decodes, num_context = (int(count) for count in counts)
        pairs = 0.5 * num_pairs
        ours = modelled_device.step_time_s(told, num_prefill_tokens, pairs, num_decodes, float(num_context))
        assert ours == step_time_s(record, num_prefill_tokens, pairs, num_decodes, num_context)


def test_tokens_are_counted_as_the_scheduler_of_the_emulator_does():
    law = load("h100_llama-3.1-8b").law
    scheduled = {"decode": 1, "chunk": 100, "last token of a cached prompt": 1}
    computed = {"decode": 40, "chunk": 1000, "last token of a cached prompt": 99, "elsewhere": 7}
    pairs = 100 * (1000 + 0.5 * 101)
    assert duration_s(law._asdict(), scheduled, computed) == step_time_s(law, 100, pairs, 2, 41 + 100)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves, and the test."""

    class Clock:
        now_s = 100.0

        def monotonic(self):
            return self.now_s

        def sleep(self, duration_s):
            self.now_s += duration_s

    fake = Clock()
    monkeypatch.setattr(modelled_device, "time", fake)
    return fake


def run(device, request="a", num_tokens=1):
    device.begin({request: num_tokens}, {request: 0})
    device.end()


def test_steps_follow_each_other_without_vllms_time_between(clock):
    device = ModelledDevice(LAW, time_scale=2)
    run(device, num_tokens=10)
    assert clock.now_s == pytest.approx(100.040)
    for number in range(1, 6):
        clock.now_s += 0.008  # vLLM processes what came out and chooses the next step
        run(device)
        assert 100.040 + 0.022 * number - 0.00221 <= clock.now_s <= 100.040 + 0.022 * number


def test_a_step_is_chosen_when_it_begins(clock, tmp_path):
    device = ModelledDevice(LAW, step_log=str(tmp_path / "log"))
    for _ in range(40):
        run(device, num_tokens=40)
        clock.now_s += 0.003
    run(device, num_tokens=40)
    device.close()
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [row["begins_at_s"] for row in rows] == pytest.approx([100 + 0.05 * step for step in range(41)])
    late = [row["chosen_late_s"] for row in rows]
    assert late[1] == pytest.approx(0.003)
    assert late[2] == pytest.approx(0.003 * 0.8)
    assert late[-1] == pytest.approx(0.0, abs=1e-6)


def test_what_comes_to_an_idle_engine_begins_at_once(clock):
    device = ModelledDevice(LAW)
    run(device)
    device.forget({"a"})
    clock.now_s = 200.0
    run(device, "b")
    assert clock.now_s == pytest.approx(200.011)


def test_what_waited_for_the_last_to_finish_begins_where_that_ended(clock):
    device = ModelledDevice(LAW)
    run(device)
    device.forget({"a"})
    clock.now_s += 0.004
    run(device, "b")
    assert 100.022 - 0.00111 <= clock.now_s <= 100.022


def test_a_late_engine_catches_up_but_not_for_ever(clock, tmp_path):
    device = ModelledDevice(LAW, max_catch_up_s=0.05, step_log=str(tmp_path / "log"))
    run(device)
    clock.now_s = 100.031  # 20 ms late: the step should have ended at 100.022
    run(device)
    assert clock.now_s == pytest.approx(100.031)  # and is handed over at once
    run(device)
    assert 100.033 - 0.00111 <= clock.now_s <= 100.033
    clock.now_s = 105.0  # the process was suspended
    for number in range(1, 10):
        run(device)
        ends_at_s = max(105.0, 105.0 - 0.05 + 0.011 * number)
        assert ends_at_s - 0.00111 <= clock.now_s <= ends_at_s
    device.close()
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert rows[0] == {
        "begins_at_s": 100.0,
        "duration_s": pytest.approx(0.011),
        "chosen_late_s": 0.0,
        "late_s": 0.0,
        "scheduled": {"a": 1},
        "computed": {"a": 0},
    }
    assert rows[1]["late_s"] == pytest.approx(0.009)
    assert rows[3]["chosen_late_s"] == pytest.approx(0.05)
