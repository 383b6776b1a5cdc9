"""Measure a running vLLM server and write the profile by which the emulator stands in for it.

    python -m envs.live.calibrate url=http://127.0.0.1:8000 like=h100_llama-3.1-8b output=mine.json

The server must be idle. Steps of prefill, of decode and with a cached prefix are timed over HTTP
(``sweep.py``), in rounds, so that a disturbance spoils one round and not one size; of each the median counts.
``envs.emulator.profile.fit`` makes the law of them, and the profile holds how far it is off at each.

What HTTP adds to a request is no part of any step: the profile's ``request_overhead_s`` holds it, and the
twin of a live cluster spends half of it on each way (any other emulated cluster: ``world.network_delay_s``).

Sizes that a server does not tell (``max_num_seqs``, ``max_num_batched_tokens``, bytes, the GPU) are those of
the profile named by ``like``, or said one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from envs.emulator.profile import Point, Profile, ProfileError, fit, load, save
from envs.emulator.step_time import StepTimeLaw
from envs.live.endpoint import Endpoint
from envs.live.sweep import MAX_STEPS, CalibrationError, Shape, Sweep

NUM_ROUNDS, MAX_ROUNDS = 5, 25
BATCH_EVERY = 2
"""Batches are measured in every second round."""
PREFILL_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192)
"""About so many, as far as the server takes them in one step."""
EXTENSION_TOKENS = (256, 1024)
"""New tokens after a cached prefix."""
ROOM_TOKENS = 512
"""For what the answers of a batch become while it is measured."""
NOT_YET_FITTED = StepTimeLaw(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
BATCH_SIZES = (4, 16, 64)
BATCH_CONTEXTS = (128, 1024)


@dataclass(frozen=True)
class Options:
    """What a calibration may be told."""

    url: str
    output: str | None = None
    """The profile's file; None: ``{name}.json`` in the current folder."""
    name: str | None = None
    """The profile's; None: ``measured_{model}``."""
    model: str | None = None
    """As the server lists it; None: the first."""
    api_key_env: str | None = None
    """The environment variable that holds the API key."""
    like: str | None = None
    """A profile whose sizes hold for this server too, where nothing else says them."""
    gpu: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    time_scale: float = 1.0
    """Of a modelled server: what is measured is divided by it."""
    time_limit_s: float = 110.0
    """No measurement is begun later than this."""
    seed: int | None = None
    """Of the prompts; None: other ones each time, so that a server has none of them cached."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured by."""
        for key in ("time_scale", "time_limit_s"):
            value = getattr(self, key)
            if not isfinite(value) or value <= 0:
                raise ValueError(f"{key} is {value}, it must be a number above 0")
        for key in ("max_num_seqs", "max_num_batched_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}, it must be at least 1")


@dataclass(frozen=True)
class Calibration:
    """A measured profile, and what HTTP adds to its steps."""

    profile: Profile
    overhead_s: float
    """Of a request, whatever its length."""
    overhead_token_s: float
    """And for each token of its prompt."""
    left_out: tuple[str, ...]
    """Steps for which there was no time."""

    @property
    def network_delay_s(self) -> float:
        """One way, for ``envs.world.World``: half of what a prompt of 1000 tokens has."""
        return (self.overhead_s + 1000 * self.overhead_token_s) / 2


def calibrate(options: Options) -> Calibration:
    """Measure a server.

    Raises:
        ValueError: An option is not as it must be.
        CalibrationError: The server is busy, does not answer, or is not as told.
    """
    return asyncio.run(_calibrate(options))


async def _calibrate(options: Options) -> Calibration:
    endpoint = Endpoint("measured", options.url, model=options.model, api_key_env=options.api_key_env)
    like = load(options.like) if options.like is not None else None
    began_at_s = time.monotonic()
    async with Sweep(endpoint, np.random.default_rng(options.seed)) as sweep:
        profile = _frame(options, like, sweep)
        shapes = _shapes(profile, sweep.max_model_len)
        await sweep.warm_up(profile.block_size)
        with tqdm(total=NUM_ROUNDS, desc=f"rounds of measuring {options.url}", disable=None) as bar:
            number = 0
            while number < bar.total and time.monotonic() - began_at_s < options.time_limit_s:
                for at in sweep.rng.permutation(len(shapes)):  # so that none always follows the same other
                    shape = shapes[at]
                    if time.monotonic() - began_at_s > options.time_limit_s:
                        break
                    if shape.kind == "prefill":
                        await sweep.measure_prefill(shape)
                    elif number % BATCH_EVERY == 0:
                        await sweep.measure_decode(shape)
                number += 1
                bar.update()
                if number == 1:  # a fast server is measured more often
                    round_s = time.monotonic() - began_at_s
                    bar.total = max(NUM_ROUNDS, min(MAX_ROUNDS, int(options.time_limit_s / 2 / round_s)))
        await sweep.await_idle()
    return _fitted(profile, shapes, options.time_scale)


def _frame(options: Options, like: Profile | None, sweep: Sweep) -> Profile:
    """The profile but for what is yet to be measured."""
    told = sweep.cache_config
    try:
        block_size = int(told["block_size"])
        num_blocks = int(told["num_gpu_blocks"]) - 1  # the null block is counted, and nobody's
    except (KeyError, ValueError):
        raise CalibrationError(f"{sweep.endpoint}: its /metrics tell nothing of KV blocks") from None
    unknown = ["gpu_memory_bytes", "weight_bytes", "kv_bytes_per_token"]
    sizes: dict[str, Any] = dict.fromkeys(unknown, 1)
    sizes |= {"tensor_parallel": 1, "max_num_seqs": 256, "max_num_batched_tokens": 2048}
    if like is not None:
        sizes = {key: getattr(like, key) for key in sizes}
    given = {key: getattr(options, key) for key in ("max_num_seqs", "max_num_batched_tokens")}
    sizes |= {key: value for key, value in given.items() if value is not None}
    assumed = [key for key in sizes if given.get(key) is None]
    source = (
        f"Measured over HTTP at {sweep.endpoint.url} by envs.live.calibrate; blocks as the server says. "
        + f"Not told by it but {f'taken from {like.name}' if like else 'assumed'}: "
        + ", ".join(f"{key} {sizes[key]}" for key in assumed if like or key not in unknown)
        + ("." if like else f"; {', '.join(unknown)} are not known, and 1 stands for them.")
    )
    if options.time_scale != 1:
        source += f" All times are divided by {options.time_scale:g}, the server's time_scale."
    slug = sweep.model.rpartition("/")[2].lower()
    return Profile(
        name=options.name or f"measured_{slug}",
        gpu=options.gpu or (like.gpu if like else "unknown"),
        model=sweep.model,
        law=NOT_YET_FITTED,
        block_size=block_size,
        num_blocks=num_blocks,
        source=source,
        fit_error=(),
        **sizes,
    )


def _shapes(profile: Profile, max_model_len: int) -> list[Shape]:
    """The steps to measure, such as this server can take."""
    block_size, num_tokens = profile.block_size, profile.num_blocks * profile.block_size
    longest = min(max_model_len or num_tokens, num_tokens) - MAX_STEPS
    one_step = min(profile.max_num_batched_tokens, longest)
    most = one_step - block_size
    if most < block_size:
        raise CalibrationError(f"a server with room for {num_tokens} tokens is too small to be measured")
    lengths = sorted({_whole_blocks(min(length, most), block_size) for length in PREFILL_TOKENS})
    shapes = [Shape("prefill", length + 1, 0) for length in lengths]
    context = lengths[-1] // 2 // block_size * block_size
    for length in EXTENSION_TOKENS:
        num_new = _whole_blocks(length, block_size)
        if context + num_new < longest and num_new < one_step:
            shapes.append(Shape("prefill", num_new + 1, context))
    for num_context in BATCH_CONTEXTS:
        for size in BATCH_SIZES:
            room = size * (num_context + ROOM_TOKENS)
            if size <= profile.max_num_seqs and num_context < longest and room < num_tokens:
                shapes.append(Shape("decode", size, num_context))
    return shapes


def _whole_blocks(num_tokens: int, block_size: int) -> int:
    return max(1, num_tokens // block_size) * block_size


def _fitted(profile: Profile, shapes: Sequence[Shape], time_scale: float) -> Calibration:
    singles = [shape for shape in shapes if shape.ttfts_s]
    if not singles:
        raise CalibrationError(
            "no prompt was found in the cache when it was sent again, so that the time of HTTP cannot be told"
            " from that of a step: start the server with prefix caching, and see that nobody else uses it"
        )
    overhead_s, overhead_token_s = _line(
        {
            shape.num_prompt_tokens: _median(cached_s for _, cached_s in shape.ttfts_s) - _step_s(shape)
            for shape in singles
        }
    )
    points = []
    for shape in singles:
        # A step of many tokens takes no less time than one of a single token.
        more_s = max(0.0, _median(new_s - cached_s for new_s, cached_s in shape.ttfts_s))
        step_s = _step_s(shape) + more_s
        points.append(_point("prefill", shape.x, shape.num_context_tokens, step_s / time_scale))
    for shape in shapes:
        if shape.paces:
            num_context = round(float(np.mean([pace.num_context_tokens for pace in shape.paces])))
            size = 1 if shape.kind == "prefill" else shape.x
            points.append(_point("decode", size, num_context, _step_s(shape) / time_scale))
    law, fit_error = fit(points, profile.weight_bytes, profile.kv_bytes_per_token)
    left_out = [f"{shape.kind} {shape.x}+{shape.num_context_tokens}" for shape in shapes if not shape.paces]
    calibration = Calibration(
        profile, overhead_s / time_scale, overhead_token_s / time_scale, tuple(left_out)
    )
    source = (
        f"{profile.source} A request has {1e3 * calibration.overhead_s:.3g} ms and"
        f" {1e6 * calibration.overhead_token_s:.3g} us per prompt token on top of its steps, for which an"
        f" emulated cluster takes world.network_delay_s={calibration.network_delay_s:.3g}."
    )
    if left_out:
        source += f" For want of time not measured: {', '.join(left_out)}."
    measured = replace(
        profile,
        law=law,
        fit_error=fit_error,
        source=source,
        request_overhead_s=float(f"{2 * calibration.network_delay_s:.6g}"),
    )
    return replace(calibration, profile=measured)


def _point(kind: str, x: int, num_context_tokens: int, step_s: float) -> Point:
    return Point(kind, x, num_context_tokens, float(f"{1e3 * step_s:.6g}"))


def _step_s(shape: Shape) -> float:
    """Of decode: of the one answer, or of all answers of a batch."""
    return _median(pace.step_s for pace in shape.paces)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _line(values: Mapping[int, float]) -> tuple[float, float]:
    """Constant and slope, neither below 0, of the line through what was measured at each number of tokens."""
    x, y = np.array(list(values), float), np.array(list(values.values()))
    slope = max(0.0, float(np.polyfit(x, y, 1)[0])) if len(x) > 1 else 0.0
    return max(0.0, float(np.median(y - slope * x))), slope


def table(calibration: Calibration) -> str:
    """What was measured and how far the law is off there, and the overhead."""
    profile = calibration.profile
    lines = [
        f"{profile.name}: {profile.num_blocks} blocks of {profile.block_size} tokens; worst error"
        f" {profile.worst_error:.1%}",
        f"  {'step':<8}{'x':>6}{'context':>9}{'measured ms':>13}{'fitted ms':>11}{'error':>8}",
    ]
    lines += [
        f"  {row.kind:<8}{row.x:>6}{row.num_context_tokens:>9}{row.measured_ms:>13.3f}{row.fitted_ms:>11.3f}"
        f"{row.relative_error:>8.1%}"
        for row in profile.fit_error
    ]
    lines.append(
        f"  a request has {1e3 * calibration.overhead_s:.3g} ms and"
        f" {1e6 * calibration.overhead_token_s:.3g} us per prompt token on top:"
        f" world.network_delay_s={calibration.network_delay_s:.3g}"
    )
    if calibration.left_out:
        lines.append(f"  no time was left for {', '.join(calibration.left_out)}: raise time_limit_s")
    return "\n".join(lines)


def parse(words: Iterable[str]) -> Options:
    """Options from KEY=VALUE words. Raises ``ValueError`` naming what is wrong."""
    types = {field.name: str(field.type).removesuffix(" | None") for field in fields(Options)}
    given: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"{word!r} is no KEY=VALUE")
        if key not in types:
            raise ValueError(f"unknown {key}; there are {', '.join(types)}")
        if key in given:
            raise ValueError(f"{key} is said twice")
        try:
            given[key] = {"str": str, "int": int, "float": float}[types[key]](value)
        except ValueError:
            raise ValueError(f"{key} is {value!r}, it must be a number") from None
    if "url" not in given:
        raise ValueError("url is missing; write the server's, such as url=http://127.0.0.1:8000")
    return Options(**given)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    described = ", ".join(f"{field.name} ({field.default})" for field in fields(Options)[1:])
    parser = argparse.ArgumentParser(
        prog="python -m envs.live.calibrate",
        description=f"Measure an idle vLLM server and write its profile. Options beside url: {described}.",
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="url=http://127.0.0.1:8000 [...]")
    words = parser.parse_args(arguments).words
    try:
        options = parse(words)
        if options.output is not None and not Path(options.output).parent.is_dir():
            raise ValueError(f"output is {options.output}: there is no such folder")
        calibration = calibrate(options)
        path = Path(options.output or f"{calibration.profile.name}.json")
        save(calibration.profile, path)
    except (ValueError, ProfileError, CalibrationError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped, nothing written", file=sys.stderr)
        raise SystemExit(130) from None
    print(table(calibration))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
