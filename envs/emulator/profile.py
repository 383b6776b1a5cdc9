"""Profiles: what the emulator knows of one model on one GPU.

A profile is a JSON file that holds measured step times, the step-time law fitted to them, how far that law
is off at each of them, and the sizes that a vLLM engine chooses there by default.

    python -m envs.emulator.profile            # each shipped profile and its errors
    python -m envs.emulator.profile --refit    # fit anew the laws of the profiles made from a few figures
    python -m envs.emulator.profile system=h100_sxm model=meta-llama/Meta-Llama-3.1-8B tp=1 [output=FOLDER]

The last makes a profile from NVIDIA's measured database (``profile_database.py``), into the current folder
unless ``output`` names another. There are two sorts of profile, told apart by their names:

* ``{gpu}_{model}``, such as ``h100_llama-3.1-8b``: a roofline fitted to seven figures.
* ``{gpu}_{model}_tp{n}``, such as ``h100_llama-3.1-8b_tp1``: a table fitted to thousands of steps of that
  database. Its file says how far the law is off in each region of steps, and holds the steps kept out of the
  fit by which that was found.

Two assumptions of the first sort. Where every decode figure has the same context length, the cost per
sequence and the cost per token of context cannot be told apart: a token of context is then taken to cost its
keys' and values' bytes over the bandwidth at which the floor reads the weights, or as much of that as keeps
the cost per sequence from falling below 0. And a figure of prefill is taken to be one step, however long its
prompt.

Defaults of vLLM 0.32 (``EngineArgs.get_batch_defaults`` in ``vllm/engine/arg_utils.py``, usage context
``OPENAI_API_SERVER``): 8192 ``max_num_batched_tokens`` and 1024 ``max_num_seqs`` on a GPU of 70 to 160 GiB
that is no A100, 16384 and 1024 from 160 GiB on, else 2048 and 256.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
from scipy.optimize import nnls

from envs.emulator.step_time import StepTimeLaw, attended_pairs, step_time_s

FORMAT_VERSION = 2
"""Version 1 had neither ``source_version``, ``errors`` nor ``held_out``, and only the first six coefficients
of the law; it is still read."""
NUM_V1_COEFFICIENTS = 6
SHIPPED = Path(str(resources.files("envs.emulator"))) / "profiles"
NUM_DIGITS = 6
"""Significant digits kept of a fitted number, so that every machine fits the same bytes."""


class ProfileError(ValueError):
    """A profile that is unknown, or holds what no profile may hold."""


class Point(NamedTuple):
    """One measured engine step."""

    kind: str
    """``prefill`` or ``decode``."""
    x: int
    """Prefill: prompt tokens of the one request. Decode: sequences in the batch."""
    num_context_tokens: int
    """Tokens of each request that lie in the KV cache already."""
    measured_ms: float


class PointFit(NamedTuple):
    """One measured engine step and what the fitted law says of it."""

    kind: str
    x: int
    num_context_tokens: int
    measured_ms: float
    fitted_ms: float
    relative_error: float
    """``fitted_ms / measured_ms - 1``."""


class RegionError(NamedTuple):
    """How far a law is off in one region of steps: relative errors without their sign."""

    region: str
    num_fitted: int
    fitted_median: float
    fitted_worst: float
    num_held_out: int
    held_out_median: float
    held_out_worst: float


class HeldOut(NamedTuple):
    """A measured step that the law was not fitted to, and what the law says of it."""

    region: str
    num_prompts: int
    """Prompts being prefilled, all alike; 0 in a step that only decodes."""
    num_new_tokens: int
    """Of each prompt, in this step."""
    num_computed_tokens: int
    """Of each prompt, before this step."""
    num_decodes: int
    num_context_tokens: int
    """Of each decoding sequence."""
    measured_ms: float
    fitted_ms: float
    relative_error: float
    """``fitted_ms / measured_ms - 1``."""


@dataclass(frozen=True)
class Profile:
    """One model on one GPU (or ``tensor_parallel`` of them), as the emulator needs it."""

    name: str
    gpu: str
    model: str
    tensor_parallel: int
    law: StepTimeLaw
    gpu_memory_bytes: int
    """Of one GPU, as CUDA reports its total."""
    weight_bytes: int
    """Of the whole model."""
    kv_bytes_per_token: int
    """Of the whole model: 2 (keys, values) x layers x KV heads x head size x bytes per number."""
    block_size: int
    """Tokens per KV block."""
    num_blocks: int
    max_num_batched_tokens: int
    max_num_seqs: int
    source: str
    """Where the figures are from and what was assumed of them."""
    fit_error: tuple[PointFit, ...]
    """The figures people know a GPU by; where there is no ``held_out``, all that the law was fitted to."""
    source_version: str = ""
    """Of the database; empty without one."""
    errors: tuple[RegionError, ...] = ()
    """By region, and of all of them last; empty without a database."""
    held_out: tuple[HeldOut, ...] = ()
    request_overhead_s: float = 0.0
    """Measured live: what HTTP and all else beside its steps adds to a request. The emulator leaves it out;
    the twin of a live cluster (``envs.live.twin``) spends it on the way."""
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Refuse what would make the emulator's clock stand still or run backwards."""
        if self.version != FORMAT_VERSION:
            raise ProfileError(f"version: {self.version} is not {FORMAT_VERSION}, the one this code reads")
        for key, coefficient in self.law._asdict().items():
            if not (isfinite(coefficient) and coefficient >= 0):
                raise ProfileError(f"law.{key}: {coefficient} is not a finite number >= 0")
        knots = [value for key, value in self.law._asdict().items() if key.startswith("knot_")]
        if knots != sorted(knots):
            raise ProfileError(f"law: its knots do not rise: {knots}")
        if max(self.law.floor_s, self.law.overhead_s + self.law.token_s) == 0:
            raise ProfileError("law: floor_s, overhead_s and token_s are all 0, so that a step takes no time")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value <= 0:
                raise ProfileError(f"{field.name}: {value} is not positive")
        if not 0 <= self.request_overhead_s < inf:
            raise ProfileError(f"request_overhead_s: {self.request_overhead_s} is not a finite number >= 0")
        for row, point in enumerate(self.fit_error):
            if point.kind not in ("prefill", "decode"):
                raise ProfileError(f"fit_error[{row}].kind: {point.kind!r} is neither prefill nor decode")
            if point.x <= 0 or point.num_context_tokens < 0 or not 0 < point.measured_ms < inf:
                raise ProfileError(f"fit_error[{row}]: not a measured step: {point}")
        for row, step in enumerate(self.held_out):
            if min(step[1:6]) < 0 or min(step.num_prompts, step.num_new_tokens) + step.num_decodes == 0:
                raise ProfileError(f"held_out[{row}]: not a step: {step}")
            if not 0 < step.measured_ms < inf:
                raise ProfileError(f"held_out[{row}]: not a measured step: {step}")

    @property
    def points(self) -> tuple[Point, ...]:
        """The figures that the law was fitted to."""
        return tuple(Point(*row[:4]) for row in self.fit_error)

    @property
    def worst_error(self) -> float:
        """The largest relative error over all points, without its sign."""
        return _worst(self.fit_error)


def num_kv_blocks(
    gpu_memory_bytes: int,
    weight_bytes: int,
    kv_bytes_per_token: int,
    tensor_parallel: int = 1,
    block_size: int = 16,
    frac_memory: float = 0.9,
    reserved_bytes: int = 2_500_000_000,
) -> int:
    """KV blocks of an engine: ``floor(free bytes / bytes per block)``, per GPU.

    Free is ``frac_memory * gpu_memory_bytes - weight_bytes / tensor_parallel - reserved_bytes``, where
    ``frac_memory`` is vLLM's ``gpu_memory_utilization`` and ``reserved_bytes`` an estimate of its activations
    and CUDA graphs. A block holds ``block_size * kv_bytes_per_token / tensor_parallel`` bytes.
    """
    free_bytes = frac_memory * gpu_memory_bytes - weight_bytes / tensor_parallel - reserved_bytes
    return int(free_bytes // (block_size * kv_bytes_per_token / tensor_parallel))


def fit(
    points: Sequence[Point], weight_bytes: int, kv_bytes_per_token: int, affine: bool = False
) -> tuple[StepTimeLaw, tuple[PointFit, ...]]:
    """Fit the law to measured steps: least squares of the relative errors, no coefficient below 0.

    Once it is known which points lie under the floor, the law is linear in its coefficients, so each split
    of the points by their number of tokens is solved exactly and the best law wins. No starting guess, no
    randomness.

    Args:
        points: Measured steps of prefill and of decode.
        weight_bytes: The model's weights, read once per step.
        kv_bytes_per_token: Keys and values of one token.
        affine: Fit without a floor, for comparison.
    """
    sizes = sorted({point.x for point in points})
    laws = [
        _fit_split(points, knee, weight_bytes, kv_bytes_per_token)
        for knee in (sizes[:1] if affine else sizes)
    ]
    fits = [(law, _errors(law, points)) for law in laws]
    return min(fits, key=lambda candidate: sum(row.relative_error**2 for row in candidate[1]))


def _fit_split(points: Sequence[Point], knee: int, weight_bytes: int, kv_bytes_per_token: int) -> StepTimeLaw:
    """The best law under which exactly the points of fewer than ``knee`` tokens wait for the weights."""
    counts = np.array([_counts(point) for point in points])
    num_prefill_tokens, num_pairs, num_decodes, num_context_tokens = counts.T
    num_tokens = num_prefill_tokens + num_decodes
    floored = num_tokens < knee
    contexts = {point.num_context_tokens for point in points if point.kind == "decode"}
    separable = len(contexts) > 1
    columns = np.column_stack(
        [
            floored,
            ~floored,
            np.where(floored, 0, num_tokens),
            num_pairs,
            num_decodes,
            num_context_tokens if separable else np.zeros(len(points)),
        ]
    )
    measured_s = np.array([point.measured_ms for point in points]) / 1e3
    columns = columns / measured_s[:, None]
    scale = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
    law = StepTimeLaw(*(nnls(columns / scale, np.ones(len(points)))[0] / scale).tolist())
    if not separable:
        law = _split_decode(law, max(contexts, default=0), weight_bytes, kv_bytes_per_token)
    return StepTimeLaw(*(_rounded(coefficient) for coefficient in law))


def _split_decode(
    law: StepTimeLaw, num_context_tokens: int, weight_bytes: int, kv_bytes_per_token: int
) -> StepTimeLaw:
    """Take the cost of context out of the cost per sequence (the first assumption of this module)."""
    context_s = kv_bytes_per_token * law.floor_s / weight_bytes
    sequence_s = law.decode_sequence_s - context_s * num_context_tokens
    if sequence_s < 0:
        sequence_s, context_s = 0.0, law.decode_sequence_s / num_context_tokens
    return law._replace(decode_sequence_s=sequence_s, decode_context_s=context_s)


def _counts(point: Point) -> tuple[float, float, float, float]:
    """The counts that ``step_time_s`` takes of one measured step."""
    if point.kind == "prefill":
        return point.x, attended_pairs(point.x, point.num_context_tokens), 0, 0
    return 0, 0, point.x, point.x * point.num_context_tokens


def _errors(law: StepTimeLaw, points: Sequence[Point]) -> tuple[PointFit, ...]:
    fitted_ms = [1e3 * step_time_s(law, *_counts(point)) for point in points]
    return tuple(
        PointFit(*point, _rounded(ms), round(ms / point.measured_ms - 1, NUM_DIGITS))
        for point, ms in zip(points, fitted_ms, strict=True)
    )


def _worst(rows: Sequence[PointFit]) -> float:
    return max((abs(row.relative_error) for row in rows), default=0.0)


def _rounded(number: float) -> float:
    return float(f"{number:.{NUM_DIGITS}g}")


def shipped_names() -> list[str]:
    """The names that ``load`` knows."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def load(name_or_path: str | Path) -> Profile:
    """Load a shipped profile by its name, or any profile by the path of its ``.json`` file."""
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = SHIPPED / f"{name_or_path}.json"
        if not path.is_file():
            raise ProfileError(f"unknown profile {name_or_path!r}; there are {', '.join(shipped_names())}")
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ProfileError(f"{path}: no such profile") from None
    except ValueError as error:
        raise ProfileError(f"{path}: {error}") from error


def save(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all."""
    data = {field.name: getattr(profile, field.name) for field in fields(profile)}
    coefficients = enumerate(profile.law._asdict().items())
    if not profile.request_overhead_s:
        del data["request_overhead_s"]
    data["law"] = {key: value for at, (key, value) in coefficients if value or at < NUM_V1_COEFFICIENTS}
    data["fit_error"] = [row._asdict() for row in profile.fit_error]
    data["errors"] = [row._asdict() for row in profile.errors]
    data["held_out"] = "<rows>"
    rows = ",\n".join(f"    {json.dumps(row, allow_nan=False)}" for row in profile.held_out)
    text = json.dumps(data, indent=2, allow_nan=False)
    text = text.replace('"<rows>"', f"[\n{rows}\n  ]" if rows else "[]") + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _parse(data: object) -> Profile:
    """A profile from the JSON of its file."""
    version = data.get("version") if isinstance(data, dict) else None
    if version not in (1, FORMAT_VERSION):
        raise ProfileError(f"version: {version!r} is neither 1 nor {FORMAT_VERSION}, those this code reads")
    if isinstance(data, dict) and version == 1:
        data = {**data, "source_version": "", "errors": [], "held_out": [], "version": FORMAT_VERSION}
    if isinstance(data, dict):
        data = {"request_overhead_s": 0.0, **data}
    values = _checked(data, Profile, "")
    values["law"] = StepTimeLaw(**_checked(values["law"], StepTimeLaw, "law.", NUM_V1_COEFFICIENTS))
    for key in ("fit_error", "errors", "held_out"):
        if not isinstance(values[key], list):
            raise ProfileError(f"{key}: not a list")
    values["fit_error"] = tuple(
        PointFit(**_checked(row, PointFit, f"fit_error[{number}]."))
        for number, row in enumerate(values["fit_error"])
    )
    values["errors"] = tuple(
        RegionError(**_checked(row, RegionError, f"errors[{number}]."))
        for number, row in enumerate(values["errors"])
    )
    values["held_out"] = tuple(
        HeldOut(**_checked(_named(row, number), HeldOut, f"held_out[{number}]."))
        for number, row in enumerate(values["held_out"])
    )
    return Profile(**values)


def _named(row: object, number: int) -> dict[str, Any]:
    """A row of ``held_out``, which the file holds without the names of its fields."""
    if not isinstance(row, list) or len(row) != len(HeldOut._fields):
        raise ProfileError(f"held_out[{number}]: not a list of {', '.join(HeldOut._fields)}")
    return dict(zip(HeldOut._fields, row, strict=True))


def _checked(data: object, declared: type, prefix: str, num_required: int | None = None) -> dict[str, Any]:
    """``data``, if it is a dict of just the keys that ``declared`` has, its plain values rightly typed.

    Keys after the first ``num_required`` may be missing.
    """
    if not isinstance(data, dict):
        raise ProfileError(f"{prefix.rstrip('.') or 'profile'}: not an object")
    types = get_type_hints(declared)
    for key in sorted(data.keys() - types.keys()):
        raise ProfileError(f"{prefix}{key}: unknown key")
    for key in sorted(set(list(types)[:num_required]) - data.keys()):
        raise ProfileError(f"{prefix}{key}: missing")
    for key, value in data.items():
        accepted = {str: (str,), int: (int,), float: (int, float)}.get(types[key], (object,))
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise ProfileError(f"{prefix}{key}: {value!r} is not of type {types[key].__name__}")
        if isinstance(value, float) and not isfinite(value):
            raise ProfileError(f"{prefix}{key}: {value} is not finite")
    return data


def _describe(profile: Profile) -> str:
    """One profile's errors as a table."""
    affine: tuple[PointFit, ...] = ()
    title = f"{profile.name}: {profile.num_blocks} blocks of {profile.block_size} tokens; "
    if profile.errors:
        *regions, total = profile.errors
        title += (
            f"{total.num_held_out} steps kept out of the fit are off by {total.held_out_median:.1%} in the "
            f"median, {total.held_out_worst:.1%} at worst ("
            + ", ".join(f"{row.region} {row.held_out_median:.1%} {row.held_out_worst:.1%}" for row in regions)
            + ")"
        )
    else:
        _, affine = fit(profile.points, profile.weight_bytes, profile.kv_bytes_per_token, affine=True)
        title += f"worst error {profile.worst_error:.1%}, of a purely affine law {_worst(affine):.1%}"
    lines = [
        title,
        f"  {'step':<8}{'x':>6}{'context':>9}{'measured ms':>13}{'fitted ms':>11}{'error':>8}"
        + f"{'affine':>8}" * bool(affine),
    ]
    for number, row in enumerate(profile.fit_error):
        lines.append(
            f"  {row.kind:<8}{row.x:>6}{row.num_context_tokens:>9}{row.measured_ms:>13.1f}"
            f"{row.fitted_ms:>11.2f}{row.relative_error:>8.1%}"
            + (f"{affine[number].relative_error:>8.1%}" if affine else "")
        )
    return "\n".join(lines)


def refit(path: Path) -> None:
    """Fit a profile file's law anew to the figures that the file holds."""
    profile = load(path)
    if profile.errors:
        raise ProfileError(f"{path}: was made from {profile.source_version}; make it anew from there")
    law, fit_error = fit(profile.points, profile.weight_bytes, profile.kv_bytes_per_token)
    save(replace(profile, law=law, fit_error=fit_error), path)


def make_from_database(assignments: Sequence[str]) -> Path:
    """Make a profile as ``system=... model=... tp=... [output=FOLDER]`` says; return its path."""
    from envs.emulator import profile_database

    known = {"system": "", "model": "", "tp": "", "output": "."}
    given = dict(assignment.partition("=")[::2] for assignment in assignments)
    options = {**known, **given}
    if unknown := sorted(given.keys() - known.keys()):
        raise ProfileError(f"unknown {', '.join(unknown)}; write {_USAGE}")
    if missing := [key for key, value in options.items() if not value]:
        raise ProfileError(f"{', '.join(missing)} missing; write {_USAGE}")
    if not options["tp"].isdecimal():
        raise ProfileError(f"tp: {options['tp']!r} is not a whole number of GPUs")
    folder = Path(options["output"])
    if not folder.is_dir():
        raise ProfileError(f"output: {folder} is no folder")
    profile = profile_database.make(options["system"], options["model"], int(options["tp"]))
    path = folder / f"{profile.name}.json"
    save(profile, path)
    print(_describe(load(path)))
    print(f"written to {path}")
    return path


_USAGE = "system=h100_sxm model=meta-llama/Meta-Llama-3.1-8B tp=1 [output=FOLDER]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shipped profiles, or make one."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.emulator.profile",
        description="Show the shipped profiles and their fit errors, or make one from NVIDIA's database.",
    )
    parser.add_argument(
        "--refit", action="store_true", help="first fit anew each law that was fitted to a few figures"
    )
    parser.add_argument("assignments", nargs="*", metavar="KEY=VALUE", help=f"make a profile: {_USAGE}")
    options = parser.parse_args(arguments)
    if options.assignments:
        try:
            make_from_database(options.assignments)
        except ProfileError as error:
            parser.exit(2, f"{parser.prog}: {error}\n")
        return
    for name in shipped_names():
        if options.refit and not load(name).errors:
            refit(SHIPPED / f"{name}.json")
        print(_describe(load(name)), end="\n\n")


if __name__ == "__main__":
    from envs.emulator.profile import main as imported_main  # whose ProfileError is the one that others raise

    imported_main()
