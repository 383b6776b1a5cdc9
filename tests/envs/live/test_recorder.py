"""What a recording holds whatever happens to its writer."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from envs.cluster import InstanceTraits, Request, Slo
from envs.feedback import Feedback
from envs.live.recorder import Recorder, remove_recording
from envs.live.recording import Recording, RecordingError, matrix, part_numbers
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES, SCHEMA_HASH, observation_space

TRAITS = [InstanceTraits(name, 100, 16, 8, 512, 2048, True, 1000.0, 0.01) for name in ("a", "b")]
SPACE = observation_space(2)


def request(number=0, **changes):
    hashes = np.arange(number, number + number % 4, dtype=np.int64)
    plain = Request(number, 0.5 * number, 16 * (number % 4) + 1, number + 1, hashes, number % 3 - 1, 2, 1)
    return replace(plain, **changes)


def observed(number):
    space = observation_space(2)
    space.seed(number)
    return space.sample()


def outcome(number, **changes):
    plain = Feedback(number, 0.5, number % 2, 17, 1, 16, 0, 0.5 * number, 0.25, 0.125, 1.0, True, 1, "")
    return plain._replace(**changes)


def decide(recorder, number):
    probabilities = np.array([0.25, 0.75])
    recorder.decided(
        request(number),
        observed(number),
        number % 2,
        probabilities,
        np.array([-1.0, -np.inf]),
        0.5 * number,
        1,
    )


def played(recorder, num, seed=0):
    """An episode whose outcomes come two decisions late."""
    recorder.begin_episode(seed)
    for number in range(num):
        decide(recorder, number)
        known = [outcome(number - 2)] if number >= 2 else []
        recorder.learned(known, 0.5 * (number + 1), False)
    recorder.learned([outcome(num - 2), outcome(num - 1)], 0.5 * num + 1, True)


def test_every_column_is_kept(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder:
        recorder.begin_episode(7)
        special = request(5, model="llama", slo=Slo(0.5, 0.05), priority=-3)
        recorder.decided(special, observed(1), 1, np.array([0.0, 1.0]), np.array([-np.inf, 2.0]), 3.25, 4, 11)
        recorder.learned([outcome(0, ttft_s=float("nan"), failure="http 500", is_retried=True)], 4.5, True)
    recording = Recording(tmp_path)
    decisions = recording.decisions()
    (row,) = decisions.to_pylist()
    assert {name: row[name] for name in ("episode", "decision_id", "seed", "at_s", "router", "instance")} == {
        "episode": 0,
        "decision_id": 0,
        "seed": 7,
        "at_s": 3.25,
        "router": 4,
        "instance": 1,
    }
    assert (row["policy_version"], row["num_outcomes_learned"]) == ("mine@1", 11)
    for name in (
        "request_id",
        "arrived_at_s",
        "num_prompt_tokens",
        "num_output_tokens",
        "session_id",
        "turn",
    ):
        assert row[name] == getattr(special, name)
    assert (row["tenant"], row["model"], row["priority"]) == (1, "llama", -3)
    assert (row["slo_ttft_s"], row["slo_tpot_s"]) == (0.5, 0.05)
    assert row["block_hashes"] == special.block_hashes.tolist() == [5]
    observation = observed(1)
    shapes = {"instances": (2, len(INSTANCE_FEATURES)), "request": (len(REQUEST_FEATURES),), "mask": (2,)}
    for name, shape in shapes.items():
        held = matrix(decisions, name, *shape)[0]
        assert held.tobytes() == observation[name].tobytes()
        assert held.dtype == SPACE[name].dtype
    assert row["scores"] == [-np.inf, 2.0]
    assert row["propensities"] == [0.0, 1.0]
    (told,) = recording.outcomes().to_pylist()
    assert (told["observed_at_s"], told["is_last"], told["failure"], told["is_retried"]) == (
        4.5,
        True,
        "http 500",
        True,
    )
    assert np.isnan(told["ttft_s"])
    assert {name: told[name] for name in Feedback._fields if name != "ttft_s"} == {
        name: value
        for name, value in outcome(0, failure="http 500", is_retried=True)._asdict().items()
        if name != "ttft_s"
    }


def test_header_says_what_the_numbers_are(tmp_path):
    Recorder(tmp_path, TRAITS, 2, "mine@1").close()
    header = json.loads((tmp_path / "recording.json").read_text())
    assert header["schema_hash"] == SCHEMA_HASH
    assert header["instance_features"] == [feature.name for feature in INSTANCE_FEATURES]
    assert header["request_features"] == [feature.name for feature in REQUEST_FEATURES]
    assert header["instances"][1]["name"] == "b"
    assert {"python", "routegym", "pyarrow"} <= header["versions"].keys()
    assert len(Recording(tmp_path).decisions()) == len(Recording(tmp_path).outcomes()) == 0


def test_parts_by_rows_make_one_recording(tmp_path):
    for name, rows in (("whole", 1000), ("parts", 7)):
        with Recorder(tmp_path / name, TRAITS, 2, "mine@1", rows_per_part=rows) as recorder:
            for seed in (0, 1):
                played(recorder, 50, seed)
    whole, parts = (Recording(tmp_path / name) for name in ("whole", "parts"))
    assert part_numbers(tmp_path / "whole" / "decisions") == [0]
    assert part_numbers(tmp_path / "parts" / "decisions") == list(range(15))
    assert parts.decisions().equals(whole.decisions())
    assert parts.outcomes().equals(whole.outcomes())
    assert whole.outcomes()["decision_id"].to_pylist() == [*range(50), *range(50)]
    assert whole.outcomes()["is_last"].to_numpy().nonzero()[0].tolist() == [49, 99]


def test_parts_by_time(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1", seconds_per_part=1.0) as recorder:
        recorder.begin_episode(0)
        decide(recorder, 0)
        assert part_numbers(tmp_path / "decisions") == []
        time.sleep(1.1)
        decide(recorder, 1)
        assert len(pq.read_table(tmp_path / "decisions" / "000000.parquet", partitioning=None)) == 2


def test_outcome_in_a_later_part_is_joined(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1", rows_per_part=2) as recorder:
        recorder.begin_episode(0)
        for number in range(4):
            decide(recorder, number)
        recorder.learned([outcome(3), outcome(0)], 9.0, False)
    outcomes = Recording(tmp_path).outcomes()
    assert outcomes["decision_id"].to_pylist() == [0, 3]
    assert len(pq.read_table(tmp_path / "outcomes" / "000001.parquet", partitioning=None)) == 0


def test_directory_is_continued_and_never_written_over(tmp_path):
    for seed in range(3):
        with Recorder(tmp_path, TRAITS, 2, f"mine@{seed}", rows_per_part=20) as recorder:
            played(recorder, 30, seed)
        if seed == 0:
            before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert all(path.read_bytes() == data for path, data in before.items())
    decisions = Recording(tmp_path).decisions(["seed", "policy_version"]).to_pandas()
    assert decisions.groupby("episode")["seed"].unique().tolist() == [[0], [1], [2]]
    assert decisions["policy_version"].unique().tolist() == ["mine@0", "mine@1", "mine@2"]


def test_episode_taken_up_again_is_one(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder:
        recorder.begin_episode(5)
        for number in range(10):
            decide(recorder, number)
        recorder.learned([outcome(3)], 5.0, False)
    with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder:  # its checkpoint was after decision 6
        recorder.begin_episode(5, num_replayed=6)
        for number in range(6, 12):
            decide(recorder, number)
        recorder.learned([outcome(number) for number in (1, 3, 11)], 6.0, True)
        recorder.begin_episode(5, num_replayed=13)  # nothing of which was recorded
        decide(recorder, 13)
    recording = Recording(tmp_path)
    assert recording.decisions(["seed"])["decision_id"].to_pylist() == [*range(12), 13]
    assert recording.decisions(["seed"])["episode"].to_pylist() == [0] * 12 + [1]
    assert recording.outcomes()["decision_id"].to_pylist() == [1, 3, 11]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header | {"schema_hash": "0123"}, "schema_hash is '0123' there and"),
        (lambda header: header | {"format": 99}, "its format is 99, this version reads 1"),
        (lambda header: header | {"max_instances": 3}, "max_instances is 3 there and 2 here"),
        (
            lambda header: header | {"instances": header["instances"][:1]},
            "the number of instances is 1 there and 2 here",
        ),
        (
            lambda header: header | {"instances": [header["instances"][0], {"name": "b", "block_size": 5}]},
            "block_size of instance b is 5 there and 16 here",
        ),
        (
            lambda header: header | {"instances": [{"name": "c", "block_size": 16}, header["instances"][1]]},
            "name of instance a is 'c' there and 'a' here",
        ),
    ],
)
def test_another_recording_is_refused_by_name(change, message, tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder:
        played(recorder, 3)
    path = tmp_path / "recording.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    for _ in range(2):  # the refused one does not keep the directory
        with pytest.raises(RecordingError, match=message):
            Recorder(tmp_path, TRAITS, 2, "mine@1")


def test_number_of_blocks_may_differ_as_it_does_from_start_to_start_of_vllm(tmp_path):
    for seed, more in ((0, 0), (1, 3)):
        traits = [replace(trait, num_blocks=trait.num_blocks + more) for trait in TRAITS]
        with Recorder(tmp_path, traits, 2, "mine@1") as recorder:
            played(recorder, 3, seed)
    assert Recording(tmp_path).decisions(["seed"])["seed"].to_pylist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, "has no schema_hash, max_instances, instances, versions: bring back"),
        ({"schema_hash": "0", "max_instances": 2, "versions": {}}, "has no instances: bring back"),
        ({"max_instances": "2"}, "max_instances is '2', it must be a number from 1"),
        ({"instances": []}, r"instances is \[\], it must be a list of instances"),
        ({"instances": [{"name": "a"}]}, "an instance is {'name': 'a'}, it must have a block_size from 1"),
    ],
)
def test_header_that_lacks_something_is_told_what(header, message, tmp_path):
    whole = {"schema_hash": "0", "max_instances": 2, "instances": [{"block_size": 16}], "versions": {}}
    lacking = not header or "schema_hash" in header
    (tmp_path / "recording.json").write_text(
        json.dumps({"format": 1, **({} if lacking else whole), **header})
    )
    with pytest.raises(RecordingError, match=rf"recording.json:? {message}"):
        Recording(tmp_path)
    with pytest.raises(RecordingError, match=message):
        Recorder(tmp_path, TRAITS, 2, "mine@1")


def test_two_cannot_record_to_one_directory(tmp_path):
    with (
        Recorder(tmp_path, TRAITS, 2, "mine@1"),
        pytest.raises(RecordingError, match="another recorder is writing to"),
    ):
        Recorder(tmp_path, TRAITS, 2, "mine@1")
    Recorder(tmp_path, TRAITS, 2, "mine@1").close()


def test_misuse_is_named(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder, pytest.raises(RuntimeError, match="begin_epis"):
        decide(recorder, 0)
    with pytest.raises(ValueError, match=r"rows_per_part \(0\) must be at least 1"):
        Recorder(tmp_path, TRAITS, 2, "mine@1", rows_per_part=0)
    with pytest.raises(RecordingError, match=r"holds no recording \(recording.json is missing\)"):
        Recording(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="on_bad_part is 'guess'"):
        Recording(tmp_path, on_bad_part="guess")


ENDLESS = """
import sys
sys.path.insert(0, {folder!r})
from test_recorder import TRAITS, Recorder, decide, outcome
recorder = Recorder(sys.argv[1], TRAITS, 2, "mine@1", rows_per_part=20)
recorder.begin_episode(0)
number = 0
while True:
    decide(recorder, number)
    recorder.learned([outcome(number)], 1.0, False)
    number += 1
"""


def test_sigkill_loses_no_more_than_the_open_part(tmp_path):
    script = ENDLESS.format(folder=os.path.dirname(__file__))
    for round_ in range(3):
        wanted = len(list(tmp_path.glob("run/outcomes/*.parquet")))
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")])
        try:
            deadline = time.monotonic() + 60
            wanted += 5
            while len(list(tmp_path.glob("run/outcomes/*.parquet"))) < wanted:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            with pytest.raises(RecordingError, match="another recorder"):
                Recorder(tmp_path / "run", TRAITS, 2, "mine@1")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        recording = Recording(tmp_path / "run")
        decisions, outcomes = recording.decisions(["seed"]).to_pandas(), recording.outcomes().to_pandas()
        assert (decisions.groupby("episode").size() % 20 == 0).all()
        of_episode = decisions[decisions["episode"] == round_]
        assert of_episode["decision_id"].tolist() == list(range(len(of_episode)))
        known = outcomes[outcomes["episode"] == round_]["decision_id"].tolist()
        # All outcomes known when their part was written, at its last decision; one part may lack them.
        assert known == list(range(len(known)))
        assert len(of_episode) - len(known) in (1, 21)
    left = tmp_path / "run" / "decisions" / ".000099.parquet.part"
    left.write_bytes(b"half a part")
    assert len(Recording(tmp_path / "run").decisions(["seed"])) == len(decisions)
    Recorder(tmp_path / "run", TRAITS, 2, "mine@1").close()
    assert not list((tmp_path / "run").rglob(".*"))


def test_damaged_or_missing_part_is_named_or_skipped_and_counted(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1", rows_per_part=10) as recorder:
        played(recorder, 40)
    path = tmp_path / "decisions" / "000001.parquet"
    data = path.read_bytes()
    for damage in (lambda: path.write_bytes(data[:-100]), lambda: path.write_bytes(b""), path.unlink):
        damage()
        with pytest.raises(RecordingError, match=r"000001.parquet: not a whole part of a recording"):
            Recording(tmp_path).decisions()
        recording = Recording(tmp_path, on_bad_part="skip")
        kept = [*range(10), *range(20, 40)]
        assert recording.decisions(["seed"])["decision_id"].to_pylist() == kept
        assert recording.num_skipped_parts == 1


def test_part_without_its_other_half_is_named_or_skipped_and_counted(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1", rows_per_part=10) as recorder:
        played(recorder, 35)
    held = {name: tmp_path / name / "000003.parquet" for name in ("decisions", "outcomes")}
    held["middle"] = tmp_path / "outcomes" / "000001.parquet"
    data = {name: path.read_bytes() for name, path in held.items()}

    held["decisions"].unlink()
    with pytest.raises(RecordingError, match=r"decisions/000003.parquet: not a whole part"):
        Recording(tmp_path).decisions()
    recording = Recording(tmp_path, on_bad_part="skip")
    assert len(recording.decisions()) == 30
    assert recording.num_skipped_parts == 1
    held["decisions"].write_bytes(data["decisions"])

    held["middle"].unlink()
    with pytest.raises(RecordingError, match=r"outcomes/000001.parquet: not a whole part"):
        Recording(tmp_path).outcomes()
    recording = Recording(tmp_path, on_bad_part="skip")
    assert len(recording.outcomes()) == 25
    assert recording.num_skipped_parts == 1
    held["middle"].write_bytes(data["middle"])

    held["outcomes"].unlink()  # as a writer leaves it that was killed between the two
    for num in (35, 38):
        recording = Recording(tmp_path)
        assert len(recording.decisions()) == num
        assert recording.outcomes()["decision_id"].to_pylist()[:27] == list(range(27))
        with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder:
            played(recorder, 3, seed=1)


def test_one_flipped_bit_is_never_read_as_another_value(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder:
        played(recorder, 100)
    rng = np.random.default_rng(0)
    for name, read in (("decisions", Recording.decisions), ("outcomes", Recording.outcomes)):
        path = tmp_path / name / "000000.parquet"
        data, whole, num_refused = path.read_bytes(), read(Recording(tmp_path)), 0
        for bit in rng.integers(8 * len(data), size=200):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                assert read(Recording(tmp_path)).equals(whole)  # where it was in what is not read
            except RecordingError:
                num_refused += 1
        assert num_refused > 100
        path.write_bytes(data)


def test_recording_is_not_continued_after_a_damaged_part(tmp_path):
    with Recorder(tmp_path, TRAITS, 2, "mine@1") as recorder:
        played(recorder, 3)
    path = tmp_path / "decisions" / "000000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecordingError, match=r"000000.parquet: not a whole part of a recording"):
        Recorder(tmp_path, TRAITS, 2, "mine@1")


def test_recording_is_removed_unless_another_writes_to_it(tmp_path):
    directory = tmp_path / "mine"
    remove_recording(directory)
    with Recorder(directory, TRAITS, 2, "mine@1") as recorder:
        played(recorder, 3)
        with pytest.raises(RecordingError, match="another recorder is writing to"):
            remove_recording(directory)
    assert len(Recording(directory).decisions()) == 3
    remove_recording(directory)
    assert not directory.exists()


FULL = """
import resource, signal, sys
sys.path.insert(0, {folder!r})
from test_recorder import TRAITS, Recorder, played
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recorder = Recorder(sys.argv[1], TRAITS, 2, "mine@1", rows_per_part=10)
recorder.begin_episode(0)
played(recorder, 9)
recorder.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    played(recorder, 30)
except OSError as error:
    print(error)
recorder.close()
"""


def test_full_disk_is_one_clear_error_and_leaves_what_was_recorded(tmp_path):
    script = FULL.format(folder=os.path.dirname(__file__))
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.startswith(f"cannot record to {tmp_path}/run/decisions/000001.parquet: ")
    assert done.stdout.strip().endswith("Make room there, or record elsewhere")
    recording = Recording(tmp_path / "run")
    assert len(recording.decisions()) == len(recording.outcomes()) == 9
    assert not list((tmp_path / "run").rglob(".*"))


def test_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"cannot record to .*/file/run: .* give a directory that can be written"
    ):
        Recorder(tmp_path / "file" / "run", TRAITS, 2, "mine@1")
