"""Recordings as Minari's datasets, read back by Minari itself."""

from contextlib import closing

import numpy as np
import pytest
from gymnasium import spaces

from envs.cluster import InstanceTraits, Request
from envs.feedback import Feedback
from envs.live import offline
from envs.live.offline import write_dataset
from envs.live.recorder import Recorder
from envs.live.recording import Recording, RecordingError
from envs.observation import INSTANCE_FEATURES, PREFILL_TOKENS_PER_S, observation_space
from envs.toy import FasterInstance

minari = pytest.importorskip("minari", reason="needs the extra offline")
NUM = 4
TRAITS = [InstanceTraits(f"toy-{i}", 100, 16, 8, 512, 2048, True, 1000.0, 0.01) for i in range(NUM)]


def record(directory, num_episodes=1, num_decisions=32, delay=3, fails=(), stop=None, **options):
    """Uniformly random routing of the contextual bandit, whose outcomes are told ``delay`` decisions late."""
    env = FasterInstance(NUM, num_decisions=num_decisions)
    propensities = np.full(NUM, 1 / NUM)
    with closing(env), Recorder(directory, TRAITS, NUM, "random@1", **options) as recorder:
        for seed in range(num_episodes):
            rng = np.random.default_rng((seed, 1))
            observation, _ = env.reset(seed=seed)
            recorder.begin_episode(seed)
            waiting: list[Feedback] = []
            for number in range(num_decisions):
                if number == stop:
                    return
                instance = int(rng.integers(NUM))
                request = Request(number, 0.1 * number, 1024, 1)
                env.declare_propensity(1 / NUM)
                scores = np.arange(NUM) + 0.5
                recorder.decided(request, observation, instance, propensities, scores, 0.1 * number)
                observation, _, over, _, info = env.step(instance)
                (feedback,) = info["completions"]
                if number in fails:
                    feedback = feedback._replace(failure="http 500", ttft_s=float("nan"))
                waiting.append(feedback)
                told = waiting if over else waiting[:-delay]
                recorder.learned(told, 0.1 * (number + 1), over)
                waiting = waiting[len(told) :]


def loaded(root, name, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return minari.load_dataset(name)


def test_minari_reads_what_was_recorded(tmp_path, monkeypatch):
    record(tmp_path / "recording", num_episodes=3, rows_per_part=10)
    counts = write_dataset([tmp_path / "recording"], tmp_path / "sets" / "random-v0")
    assert counts == {"episodes": 3, "steps": 96, "cut_decisions": 0, "skipped_parts": 0}
    dataset = loaded(tmp_path / "sets", "random-v0", monkeypatch)
    assert (dataset.total_episodes, dataset.total_steps, dataset.id) == (3, 96, "random-v0")
    assert dataset.observation_space == observation_space(NUM)
    assert dataset.action_space == spaces.Discrete(NUM)
    table = Recording(tmp_path / "recording").decisions().to_pandas()
    outcomes = Recording(tmp_path / "recording").outcomes().to_pandas()
    for episode in dataset.iterate_episodes():
        made = table[table["episode"] == episode.id]
        known = outcomes[outcomes["episode"] == episode.id]
        assert len(episode) == 32
        for place in range(33):
            seen = {name: values[place] for name, values in episode.observations.items()}
            assert dataset.observation_space.contains(seen)
            at = made.iloc[min(place, 31)]
            assert seen["instances"].ravel().tolist() == at["instances"].tolist()
            assert seen["request"].tolist() == at["request"].tolist()
            assert episode.infos["propensities"][place].tolist() == [0.25] * NUM
            assert episode.infos["scores"][place].tolist() == [0.5, 1.5, 2.5, 3.5]
        assert episode.actions.tolist() == made["instance"].tolist()
        assert episode.rewards.tolist() == (-known["ttft_s"]).tolist()
        assert episode.terminations.tolist() == [False] * 31 + [True]
        assert not episode.truncations.any()
        assert episode.infos["decision_id"].tolist() == [*range(32), 31]
        assert episode.infos["policy_version"][0] == b"random@1"
        assert episode.infos["request"]["num_prompt_tokens"].tolist() == [1024] * 33
        assert episode.infos["outcome"]["ttft_s"][:32].tolist() == known["ttft_s"].tolist()
        assert episode.infos["outcome"]["propensity"][:32].tolist() == [0.25] * 32
    assert [m["seed"] for m in dataset.storage.get_episode_metadata([0, 1, 2])] == [0, 1, 2]
    assert dataset.storage.metadata["routegym"]["instance_features"] == [f.name for f in INSTANCE_FEATURES]


def test_off_policy_evaluation_tells_what_another_policy_would_have(tmp_path, monkeypatch):
    """Self-normalised inverse propensity scores of routing to the fastest instance but one."""
    record(tmp_path / "recording", num_episodes=40, num_decisions=50)
    write_dataset([tmp_path / "recording"], tmp_path / "random-v0")
    weights, ttfts_s = [], []
    for episode in loaded(tmp_path, "random-v0", monkeypatch).iterate_episodes():
        speeds = episode.observations["instances"][:-1, :, PREFILL_TOKENS_PER_S]
        chosen = np.argsort(speeds, axis=1)[:, -2]
        logged = episode.infos["propensities"][np.arange(50), episode.actions]
        weights.extend((episode.actions == chosen) / logged)
        ttfts_s.extend(-episode.rewards)
    weight, ttft_s = np.array(weights), np.array(ttfts_s)
    estimate = (weight * ttft_s).sum() / weight.sum()
    truth = 1024 / 4000  # speeds are 1000, 2000, 4000, 8000 tokens/s
    assert estimate == pytest.approx(truth, rel=1e-6)  # its TTFT is always the same, so without variance

    # A policy that chooses the two fastest with 0.75 and 0.25 has one; its mean lies in the interval.
    rank = np.rint(np.log2(1024 / ttft_s / 1000)).astype(int)  # 3: the fastest
    weight = np.array([0.0, 0.0, 0.25, 0.75])[rank] / 0.25
    estimate = (weight * ttft_s).sum() / weight.sum()
    deviation = np.sqrt((weight**2 * (ttft_s - estimate) ** 2).sum()) / weight.sum()
    truth = 0.75 * 0.128 + 0.25 * 0.256
    assert 0 < deviation < 0.05 * truth
    assert abs(estimate - truth) < 3 * deviation
    assert abs(ttft_s.mean() - truth) > 20 * deviation  # which the recorded policy's own mean does not


def test_episode_that_broke_off_is_cut_at_what_is_not_known(tmp_path, monkeypatch):
    record(tmp_path / "recording", stop=20)
    counts = write_dataset([tmp_path / "recording"], tmp_path / "random-v0")
    assert counts == {"episodes": 1, "steps": 17, "cut_decisions": 3, "skipped_parts": 0}
    (episode,) = loaded(tmp_path, "random-v0", monkeypatch).iterate_episodes()
    assert not episode.terminations.any()
    assert episode.truncations.tolist() == [False] * 16 + [True]
    table = Recording(tmp_path / "recording").decisions().to_pandas()
    assert episode.observations["instances"][17].ravel().tolist() == table["instances"][17].tolist()


def test_skipped_part_cuts_its_episode(tmp_path):
    record(tmp_path / "recording", num_episodes=2, rows_per_part=10)
    (tmp_path / "recording" / "decisions" / "000001.parquet").write_bytes(b"")
    with pytest.raises(RecordingError, match=r"000001.parquet: not a whole part"):
        write_dataset([tmp_path / "recording"], tmp_path / "random-v0")
    counts = write_dataset([tmp_path / "recording"], tmp_path / "random-v0", on_bad_part="skip")
    assert counts == {"episodes": 2, "steps": 42, "cut_decisions": 12, "skipped_parts": 1}


def test_episode_whose_last_decisions_are_lost_is_truncated(tmp_path, monkeypatch):
    record(tmp_path / "recording", rows_per_part=10)
    (tmp_path / "recording" / "decisions" / "000003.parquet").unlink()
    with pytest.raises(RecordingError, match=r"decisions/000003.parquet: not a whole part"):
        write_dataset([tmp_path / "recording"], tmp_path / "random-v0")
    counts = write_dataset([tmp_path / "recording"], tmp_path / "random-v0", on_bad_part="skip")
    assert counts == {"episodes": 1, "steps": 30, "cut_decisions": 0, "skipped_parts": 1}
    (episode,) = loaded(tmp_path, "random-v0", monkeypatch).iterate_episodes()
    assert not episode.terminations.any()
    assert episode.truncations.tolist() == [False] * 29 + [True]


def test_recordings_of_one_cluster_started_anew_make_one_dataset(tmp_path):
    record(tmp_path / "one", num_decisions=5)
    record(tmp_path / "two", num_decisions=5)
    path = tmp_path / "two" / "recording.json"
    path.write_text(path.read_text().replace('"num_blocks": 100', '"num_blocks": 103'))
    assert write_dataset([tmp_path / "one", tmp_path / "two"], tmp_path / "random-v0")["steps"] == 10


def test_failed_decisions_count_as_is_said(tmp_path, monkeypatch):
    record(tmp_path / "recording", fails=(5, 7))
    with pytest.raises(RecordingError, match="2 decisions failed and have no TTFT: say by failed_ttft_s"):
        write_dataset([tmp_path / "recording"], tmp_path / "random-v0")
    assert not list(tmp_path.glob("*random*"))  # nothing half made is left
    write_dataset([tmp_path / "recording"], tmp_path / "random-v0", failed_ttft_s=30)
    (episode,) = loaded(tmp_path, "random-v0", monkeypatch).iterate_episodes()
    assert (episode.rewards == -30).nonzero()[0].tolist() == [5, 7]
    assert np.isnan(episode.infos["outcome"]["ttft_s"][5])
    assert episode.infos["outcome"]["failure"][5] == b"http 500"


def test_what_does_not_fit_is_named(tmp_path):
    record(tmp_path / "recording", num_decisions=5)
    other = Recorder(tmp_path / "other", TRAITS[:2], 2, "x@1")
    other.close()
    with pytest.raises(RecordingError, match=r"differ \(max_instances is 2 there and 4 here\)"):
        write_dataset([tmp_path / "recording", tmp_path / "other"], tmp_path / "d-v0")
    with pytest.raises(RecordingError, match="no decision whose outcome is known"):
        write_dataset([tmp_path / "other"], tmp_path / "d-v0")
    with pytest.raises(ValueError, match="such as name-v0"):
        write_dataset([tmp_path / "recording"], tmp_path / "name")
    with pytest.raises(ValueError, match="failed_ttft_s is -1"):
        write_dataset([tmp_path / "recording"], tmp_path / "d-v0", failed_ttft_s=-1)
    (tmp_path / "d-v0").mkdir()
    with pytest.raises(FileExistsError, match="d-v0 exists; give another name"):
        write_dataset([tmp_path / "recording"], tmp_path / "d-v0")


def test_program(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "recording", num_decisions=5)
    offline.main(["recording=recording", "output=sets/toy-v1"])
    output = capsys.readouterr().out
    assert output.startswith("1 episodes, 5 steps\n")
    assert 'and minari.load_dataset("toy-v1")' in output
    for words, message in (
        (["output=x-v0"], "recording= is missing"),
        (["recording=x", "outptu=x-v0"], "'outptu=x-v0' is no setting"),
        (["recording=x", "output=x-v0", "failed_ttft_s=soon"], "failed_ttft_s is 'soon'"),
        ([f"recording={tmp_path}", f"output={tmp_path}/x-v0"], "holds no recording"),
    ):
        with pytest.raises(SystemExit) as stopped:
            offline.main(words)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
