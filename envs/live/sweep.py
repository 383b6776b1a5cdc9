"""Time single engine steps of a running server from outside, by requests of known shape.

What a client sees of a request is its time to first token, which is a step of prefill and what HTTP adds, and
the time from token to token, which is a step of decode. The two are told apart by asking again: a prompt of
whole blocks and one token more whose blocks are cached takes a step of one token, and such a step is what
lies between two tokens of its answer. So

    overhead  = TTFT(cached prompt) - time between tokens
    prefill   = TTFT(new prompt) - overhead
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from envs.live import metrics
from envs.live.answer import Answer, ErrorInStreamError
from envs.live.discovery import listed_models
from envs.live.endpoint import Endpoint
from envs.live.sse import EventParser, MalformedStreamError

try:
    import aiohttp
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"calibration needs {error.name}, which is not installed: pip install 'routegym[live]'"
    ) from error

FIRST_TOKEN_ID, NUM_TOKEN_IDS = 10, 256
"""Prompts are drawn from these ids, which every vocabulary has."""
PACE_S = 0.2
"""How long the pace of an answer is measured..."""
MIN_STEPS, MAX_STEPS = 8, 64
"""... in steps that are as many as that at least and at most."""
MAX_OUTPUT_TOKENS = 2048
"""Of the answers in a batch: they are broken off as soon as they are measured."""
ASK_TIMEOUT_S = 5.0
"""Of what a server is asked at the start."""
STEP_TIMEOUT_S = 60.0
"""Of what it is asked then: from one piece of an answer to the next."""
IDLE_TIMEOUT_S = 10.0
POLL_S = 0.02

Times = list[tuple[float, int]]
"""Of one answer: when tokens came, and how many there were by then."""


class CalibrationError(RuntimeError):
    """A server that cannot be measured."""


class Pace(NamedTuple):
    """Time from one token of an answer to the next, and the tokens of context that its steps read."""

    step_s: float
    num_context_tokens: float


@dataclass
class Shape:
    """One kind of step, and what was measured of it."""

    kind: str
    """``prefill`` or ``decode``."""
    x: int
    """Prefill: new tokens of the one request. Decode: sequences in the batch."""
    num_context_tokens: int
    """Tokens of each request before those."""
    ttfts_s: list[tuple[float, float]] = field(default_factory=list)
    """Of a new prompt, and of the same again, where all of it but the last token was found cached then."""
    paces: list[Pace] = field(default_factory=list)
    """Of each answer."""

    @property
    def num_prompt_tokens(self) -> int:
        """Of each request."""
        return self.num_context_tokens + (self.x if self.kind == "prefill" else 0)


class Sweep:
    """Measures one server; ``async with`` opens and closes its connections."""

    def __init__(self, endpoint: Endpoint, rng: np.random.Generator) -> None:
        self.endpoint = endpoint
        self.rng = rng
        self.model = endpoint.model or ""
        self.max_model_len = 0
        self.cache_config: dict[str, str] = {}
        self.num_steps = MIN_STEPS

    async def __aenter__(self) -> Sweep:
        """Ask the server what it is. Raises ``CalibrationError`` where it is not there, or busy."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ASK_TIMEOUT_S, sock_read=STEP_TIMEOUT_S)
        self._session = aiohttp.ClientSession(
            headers=self.endpoint.headers(), timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        )
        try:
            listed = listed_models(self.endpoint, await self._get("/v1/models", ASK_TIMEOUT_S))
            models = {row["id"]: row for row in listed}
            self.model = self.model or listed[0]["id"]
            if self.model not in models:
                raise CalibrationError(f"{self.endpoint} serves {', '.join(models)}, not {self.model}")
            longest = models[self.model].get("max_model_len")
            self.max_model_len = longest if isinstance(longest, int) else 0
            self.cache_config = metrics.cache_config(await self._get("/metrics", ASK_TIMEOUT_S))
            await self.await_idle(0.0)
        except ValueError as error:
            await self._session.close()
            raise CalibrationError(str(error)) from None
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def await_idle(self, timeout_s: float = IDLE_TIMEOUT_S) -> None:
        """Wait until the server has nothing to do. Raises ``CalibrationError`` where it does not end."""
        deadline = time.monotonic() + timeout_s
        while (now := await self._metrics()).num_running + now.num_waiting:
            if time.monotonic() >= deadline:
                raise CalibrationError(
                    f"{self.endpoint} is busy ({now.num_running} requests running, {now.num_waiting}"
                    " waiting): measure a server that nobody else uses"
                )
            await asyncio.sleep(0.05)

    def prompt(self, num_tokens: int) -> list[int]:
        """One that nobody has sent before."""
        ids = self.rng.integers(FIRST_TOKEN_ID, FIRST_TOKEN_ID + NUM_TOKEN_IDS, num_tokens)
        return [int(token) for token in ids]

    async def measure_prefill(self, shape: Shape) -> None:
        """Measure one request with a new prompt, alone, then again with that prompt cached.

        The prompt's context, if it has one, is sent before, so that it is cached.
        """
        context = self.prompt(shape.num_context_tokens)
        if context:
            await self._stream([*context, *self.prompt(1)], 1, [])
        prompt = [*context, *self.prompt(shape.x)]
        ttft_s, pace = await self._alone(prompt)
        hits_before = (await self._metrics()).num_hit_tokens
        cached_ttft_s, cached_pace = await self._alone(prompt)
        num_hits = (await self._metrics()).num_hit_tokens - hits_before
        shape.paces += [pace, cached_pace]
        if num_hits == len(prompt) - 1:
            shape.ttfts_s.append((ttft_s, cached_ttft_s))

    async def measure_decode(self, shape: Shape) -> None:
        """Measure a batch of requests while all of them decode, then break them off."""
        times: list[Times] = [[] for _ in range(shape.x)]
        most = min(MAX_OUTPUT_TOKENS, (self.max_model_len or MAX_OUTPUT_TOKENS) - shape.num_prompt_tokens)
        tasks = [
            asyncio.create_task(self._stream(self.prompt(shape.num_prompt_tokens), most, row))
            for row in times
        ]
        try:
            while not all(times) or min(map(_num_tokens, _while_all_decode(times))) < self.num_steps:
                for task in tasks:
                    if task.done():
                        task.result()
                        raise CalibrationError(
                            f"{self.endpoint}: an answer had ended before all of {shape.x} were under way: it"
                            " takes fewer requests at a time"
                        )
                await asyncio.sleep(POLL_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        shape.paces += [_pace(row, shape.num_prompt_tokens) for row in _while_all_decode(times)]
        await self.await_idle()

    async def warm_up(self, num_prompt_tokens: int) -> None:
        """Let the server do what it does only once, and find out how fast it is."""
        for _ in range(3):
            _, pace = await self._alone(self.prompt(num_prompt_tokens))
        self.num_steps = num_steps_of(pace.step_s)

    async def _alone(self, prompt: Sequence[int]) -> tuple[float, Pace]:
        """Time to first token, and the pace after it."""
        times: Times = []
        sent_at_s = await self._stream(prompt, 1 + self.num_steps, times)
        if _num_tokens(times) == 0:
            raise CalibrationError(f"{self.endpoint}: an answer that came all at once; is it streamed?")
        return times[0][0] - sent_at_s, _pace(times, len(prompt))

    async def _stream(self, prompt: Sequence[int], max_tokens: int, times: Times) -> float:
        """Send one request and note when its tokens come; return when it was sent."""
        body = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
            "return_token_ids": True,
        }
        answer, events = Answer(), EventParser()
        sent_at_s = time.monotonic()
        with self._told_of_failure():
            async with self._session.post(self.endpoint.url + "/v1/completions", json=body) as response:
                if response.status != 200:
                    raise CalibrationError(f"{self.endpoint}: http {response.status} to a request for tokens")
                async for data in response.content.iter_any():
                    now_s = time.monotonic()
                    for event in events.feed(data):
                        if answer.take(event):
                            times.append((now_s, answer.num_output_tokens))
        if not times:
            raise CalibrationError(f"{self.endpoint}: an answer without tokens")
        return sent_at_s

    async def _metrics(self) -> metrics.Metrics:
        try:
            return metrics.parse(await self._get("/metrics"))
        except metrics.BadMetricsError as error:
            raise CalibrationError(f"{self.endpoint}: /metrics cannot be used: {error}") from error

    async def _get(self, path: str, timeout_s: float = STEP_TIMEOUT_S) -> str:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        with self._told_of_failure():
            try:
                async with self._session.get(self.endpoint.url + path, timeout=timeout) as response:
                    if response.status != 200:
                        raise CalibrationError(f"{self.endpoint}: http {response.status} to {path}")
                    return await response.text(errors="replace")
            except TimeoutError:
                raise TimeoutError(f"no answer to {path} within {timeout_s:g} s") from None

    @contextmanager
    def _told_of_failure(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, OSError, MalformedStreamError, ErrorInStreamError) as error:
            raise CalibrationError(
                f"{self.endpoint} does not answer as it should ({type(error).__name__}: {error}): see that it"
                " runs and that the url is right"
            ) from error


def _while_all_decode(times: Sequence[Times]) -> list[Times]:
    """Of each answer what came once all had begun."""
    since_s = max(row[0][0] for row in times)
    return [[entry for entry in row if entry[0] >= since_s] for row in times]


def _num_tokens(times: Times) -> int:
    """After the first of these instants."""
    return times[-1][1] - times[0][1] if times else 0


def num_steps_of(step_s: float) -> int:
    """Decode steps to measure a pace by; ``step_s`` may be 0, where all tokens were read at once."""
    return MAX_STEPS if step_s <= PACE_S / MAX_STEPS else max(MIN_STEPS, round(PACE_S / step_s))


def _pace(times: Times, num_prompt_tokens: int) -> Pace:
    """From the first of these instants to the last: what comes in bursts is spread over its tokens."""
    (first_s, num_first), (last_s, num_last) = times[0], times[-1]
    # The step that makes an answer's (k+1)-th token has the prompt and k tokens as its context.
    num_context_tokens = num_prompt_tokens + (num_first + num_last - 1) / 2
    return Pace((last_s - first_s) / (num_last - num_first), num_context_tokens)
