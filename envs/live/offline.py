"""Recordings as an offline dataset in Minari's format, for training and off-policy evaluation.

    python -m envs.live.offline recording=runs/demo/evaluation/recordings/random-0 output=datasets/random-v0
    MINARI_DATASETS_PATH=datasets python -c 'import minari; print(minari.load_dataset("random-v0").spec)'

Each recorded episode is one of Minari's. Step ``i`` is decision ``i``: its observation, in the environment's
own space, the instance as action, and as **reward minus its own TTFT in seconds**, which its own feedback
told later: not the environment's reward, which is what happened until the next decision. So bandits and
off-policy evaluation can use it as it is, and where no request failed its sum is the environment's return for
the reward ``ttft``.

* An episode played to its end is terminated. Its last observation stands for the final one too, which no
  decision was made on.
* One that broke off (a crash, a part that was skipped) is cut before its first decision whose outcome is
  not known, and is truncated there; how many decisions that cost is told.
* ``infos`` hold what off-policy evaluation needs, ``propensities`` and ``scores`` ``[max_instances]`` among
  it, the request with what is hidden from policies (``request``), and the outcome (``outcome``). Like
  observations they are one longer than actions; the last row repeats the one before. Block hashes are left
  out.

Needs ``pip install 'routegym[offline]'``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from gymnasium import spaces
from numpy.typing import NDArray

from envs.feedback import Feedback
from envs.live.recording import OnBadPart, Recording, RecordingError, difference, matrix
from envs.observation import INSTANCE_FEATURES, REQUEST_FEATURES, SCHEMA_HASH, observation_space
from envs.unfinished import part_of

_OF_DECISION = ("episode", "decision_id", "policy_version", "num_outcomes_learned", "at_s", "router")
_OF_REQUEST = (
    "request_id",
    "arrived_at_s",
    "num_prompt_tokens",
    "num_output_tokens",
    "session_id",
    "turn",
    "tenant",
    "model",
    "slo_ttft_s",
    "slo_tpot_s",
    "priority",
)
_OF_OUTCOME = (
    "observed_at_s",
    *(name for name in Feedback._fields if name not in ("decision_id", "instance")),
)
_COLUMNS = (
    *_OF_DECISION,
    *_OF_REQUEST,
    *("seed", "instance", "instances", "request", "mask", "propensities", "scores"),
)


def _minari() -> Any:
    try:
        import minari
        import minari.dataset._storages.hdf5_storage  # which needs h5py
        import minari.dataset.minari_storage
    except ImportError as error:
        raise ImportError(f"{error}: datasets need Minari; pip install 'routegym[offline]'") from error
    return minari


def write_dataset(
    recordings: Sequence[str | Path],
    output: str | Path,
    failed_ttft_s: float | None = None,
    on_bad_part: OnBadPart = "error",
) -> dict[str, int]:
    """Make a dataset of recordings on the same cluster; return what there was to count.

    Args:
        recordings: Their directories.
        output: The dataset's directory, ``<root>/<name>-v<number>``; it must not exist yet.
        failed_ttft_s: What the TTFT of a request that failed counts as, in the rewards; null: there is none.
        on_bad_part: See ``Recording``.

    Raises:
        ValueError: A name Minari does not take, recordings that differ, a failed request without
            ``failed_ttft_s``, nothing to write; each by name.
        FileExistsError: ``output`` is there.
    """
    minari, output = _minari(), Path(output)
    if not re.fullmatch(r"[-_\w]+-v\d+", output.name):
        raise ValueError(f"output is {output}: Minari wants a name and a version, such as {output.name}-v0")
    if output.exists():
        raise FileExistsError(f"output: {output} exists; give another name or version, or remove it")
    if failed_ttft_s is not None and not 0 <= failed_ttft_s < float("inf"):
        raise ValueError(f"failed_ttft_s is {failed_ttft_s}, it must be a time in seconds")
    read = [Recording(path, on_bad_part) for path in recordings]
    header = read[0].header
    if header["schema_hash"] != SCHEMA_HASH:
        raise RecordingError(
            f"{read[0].directory}: its features are those of schema {header['schema_hash']}, this version's"
            f" of {SCHEMA_HASH}: use the version that recorded it ({header['versions']})"
        )
    for recording in read:
        if differs := difference(recording.header, header):
            raise RecordingError(
                f"{recording.directory} and {read[0].directory} differ ({differs}): make a dataset of each"
            )
    counts = {"episodes": 0, "steps": 0, "cut_decisions": 0, "skipped_parts": 0}
    # In full: Minari 0.5 measures its files at a relative path joined to itself.
    temporary = part_of(output.absolute())
    try:
        temporary.mkdir(parents=True)
        space = observation_space(header["max_instances"])
        storage = minari.dataset.minari_storage.MinariStorage.new(
            temporary / "data",
            observation_space=space,
            action_space=spaces.Discrete(header["max_instances"]),
            jpeg_encoding=False,
        )
        storage.update_metadata(
            {
                "dataset_id": output.name,
                "minari_version": minari.__version__,
                "description": "Routing decisions recorded by RouteGym. Reward: minus the decision's own TTFT"
                " in seconds. infos: propensities, scores, request, outcome.",
                "routegym": {**header, "failed_ttft_s": failed_ttft_s},
            }
        )
        for recording in read:
            for buffer in _episodes(recording, minari, failed_ttft_s, counts):
                storage.update_episodes([buffer])
                counts["episodes"] += 1
                counts["steps"] += len(buffer.rewards)
            counts["skipped_parts"] += recording.num_skipped_parts
        if not counts["episodes"]:
            raise RecordingError(f"{', '.join(map(str, recordings))}: no decision whose outcome is known")
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def _episodes(
    recording: Recording, minari: Any, failed_ttft_s: float | None, counts: dict[str, int]
) -> Iterator[Any]:
    """The episodes of a recording that have a step, as Minari's buffers."""
    decisions, outcomes = recording.decisions(_COLUMNS), recording.outcomes()
    for episode in np.unique(decisions["episode"].to_numpy()):
        made, known = (
            table.filter(pa.array(table["episode"].to_numpy() == episode)).combine_chunks()
            for table in (decisions, outcomes)
        )
        num_steps = _num_known(made, known)
        counts["cut_decisions"] += len(made) - num_steps
        if not num_steps:
            continue
        # An outcome beyond the decisions is one of a decision that was lost.
        is_whole = num_steps == len(made) and _ids(known)[-1] == _ids(made)[-1]
        is_whole = is_whole and bool(known["is_last"].to_numpy().any())
        known = known.slice(int(np.searchsorted(_ids(known), _ids(made)[0])), num_steps)
        # One that is whole has no observation after its last decision.
        seen = made.take(pa.array(np.minimum(np.arange(num_steps + 1), len(made) - 1)))
        ends = np.arange(num_steps) == num_steps - 1
        yield minari.data_collector.EpisodeBuffer(
            seed=int(made["seed"][0].as_py()),
            observations=_observations(seen, recording.header["max_instances"]),
            actions=made["instance"].to_numpy()[:num_steps],
            rewards=_rewards(recording.directory, known, failed_ttft_s),
            terminations=ends & is_whole,
            truncations=ends & (not is_whole),
            infos=_infos(made.slice(0, num_steps), known, recording.header["max_instances"]),
        )


def _ids(table: pa.Table) -> NDArray[np.int64]:
    ids: NDArray[np.int64] = table["decision_id"].to_numpy()
    return ids


def _num_known(made: pa.Table, known: pa.Table) -> int:
    """How many decisions there are before the first one that is missing or whose outcome is."""
    ids = _ids(made)
    good = np.isin(ids, _ids(known)) & (ids == ids[0] + np.arange(len(ids)))
    return len(good) if good.all() else int(good.argmin())


def _observations(seen: pa.Table, max_instances: int) -> dict[str, NDArray[Any]]:
    return {
        "instances": matrix(seen, "instances", max_instances, len(INSTANCE_FEATURES)),
        "mask": matrix(seen, "mask", max_instances),
        "request": matrix(seen, "request", len(REQUEST_FEATURES)),
    }


def _rewards(directory: Path, known: pa.Table, failed_ttft_s: float | None) -> NDArray[np.float64]:
    ttft_s: NDArray[np.float64] = known["ttft_s"].to_numpy()
    failed = np.array(known["failure"].to_pylist()) != ""
    if failed.any() and failed_ttft_s is None:
        raise RecordingError(
            f"{directory}: {int(failed.sum())} decisions failed and have no TTFT: say by"
            " failed_ttft_s=SECONDS what a failure shall count as"
        )
    return -np.where(failed, failed_ttft_s or 0.0, ttft_s)


def _infos(made: pa.Table, known: pa.Table, max_instances: int) -> dict[str, Any]:
    rows = np.minimum(np.arange(len(made) + 1), len(made) - 1)

    def columns(table: pa.Table, names: Sequence[str]) -> dict[str, Any]:
        texts = [name for name in names if table.schema.field(name).type == pa.string()]
        arrays = {name: np.asarray(table[name].to_pylist())[rows] for name in names}
        return {name: array.tolist() if name in texts else array for name, array in arrays.items()}

    return {
        **columns(made, _OF_DECISION),
        **{name: matrix(made, name, max_instances)[rows] for name in ("propensities", "scores")},
        "request": columns(made, _OF_REQUEST),
        "outcome": columns(known, _OF_OUTCOME),
    }


_USAGE = """\
recording=DIR[,DIR...]   the recordings, of the same cluster
output=ROOT/NAME-v0      the dataset, to be loaded with MINARI_DATASETS_PATH=ROOT as NAME-v0
failed_ttft_s=SECONDS    what a failed request's TTFT counts as; needed where there is one
on_bad_part=error        a part that is damaged or missing: error, or skip (counted)"""


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("recording", "output", "failed_ttft_s", "on_bad_part") or not equals or not value:
            raise ValueError(f"{word!r} is no setting; there are\n{_USAGE}")
        settings[key] = value
    for key in ("recording", "output"):
        if key not in settings:
            raise ValueError(f"{key}= is missing; there are\n{_USAGE}")
    settings["recordings"] = settings.pop("recording").split(",")
    if "failed_ttft_s" in settings:
        text = settings["failed_ttft_s"]
        if not re.fullmatch(r"[0-9.e+-]+", text) or not isfinite(float(text)):
            raise ValueError(f"failed_ttft_s is {text!r}, it must be a time in seconds")
        settings["failed_ttft_s"] = float(text)
    return settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.live.offline",
        description="Recordings as an offline dataset in Minari's format.",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=_USAGE)
    words = parser.parse_args(arguments).settings
    try:
        settings = _parsed(words)
        counts = write_dataset(**settings)
    except (ValueError, OSError, ImportError) as error:
        print(f"envs.live.offline: {error}", file=sys.stderr)
        sys.exit(2)
    print(", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if number))
    output = Path(settings["output"])
    print(f'load it: MINARI_DATASETS_PATH={output.parent} and minari.load_dataset("{output.name}")')


if __name__ == "__main__":
    main()
