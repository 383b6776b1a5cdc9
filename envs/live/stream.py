"""One streamed request: sent, read and stamped, until it is served, has failed or has timed out."""

from __future__ import annotations

import asyncio
import io
from array import array
from math import isnan, nan
from typing import NamedTuple

import aiohttp

from envs.cluster import Completion, FirstToken, Request
from envs.live.answer import Answer, ErrorInStreamError
from envs.live.client import BROKE_OFF, Client, NoAnswerError, raise_as_no_answer
from envs.live.clock import Clock
from envs.live.endpoint import APIS
from envs.live.health import Health
from envs.live.mailbox import Mailbox, Outcome
from envs.live.notices import Notices
from envs.live.sse import EventParser, MalformedStreamError

LINGER = 1.0  # seconds in which the connection of a stream that is done may become free for another
LARGE = 1 << 20  # bytes of a body that aiohttp wants in the form of a file


class Flight(NamedTuple):
    """What is to be sent."""

    request: Request
    instance_index: int
    body: bytes
    http_request_id: str


class Stream:
    """Sends a request to an instance and puts its first token and its outcome into the mailbox.

    Args:
        keep_token_times: Keep the instant of every chunk, not only of the first and the last.
    """

    def __init__(
        self,
        flight: Flight,
        client: Client,
        clock: Clock,
        mailbox: Mailbox,
        health: Health,
        notices: Notices,
        keep_token_times: bool = False,
    ) -> None:
        self._flight, self._client, self._clock = flight, client, clock
        self._mailbox, self._health, self._notices = mailbox, health, notices
        self._keep_token_times = keep_token_times
        self._answer, self._events = Answer(), EventParser()
        self._token_at_s: array[float] = array("d")
        self._first_token_at_s = self._last_token_at_s = nan
        self._max_inter_token_s = 0.0
        self._said = ""  # by a server that refused
        self._has_ended = False

    async def run(self) -> None:
        """Do it; whatever the server does, exactly one outcome is put, unless this is cancelled."""
        self._sent_at_s = self._clock.now_s
        failure, is_down = await self._failure()
        if self._has_ended:  # what came after that does not matter
            return
        if is_down:
            self._health.failed("request")
        self._end(failure)

    async def _failure(self) -> tuple[str, bool]:
        """Why it failed, and whether that speaks against the server; an empty reason if it was served."""
        limits = self._client.limits
        within_s = min(limits.first_token_timeout_s, limits.request_timeout_s)
        try:
            async with asyncio.timeout(self._clock.seconds(within_s)) as self._timer:
                try:
                    await self._send_and_read()
                except (aiohttp.ClientError, OSError) as error:
                    raise_as_no_answer(
                        error, f"timed out: no connection within {limits.connect_timeout_s:g} s"
                    )
        except TimeoutError:
            return self._timed_out()
        except NoAnswerError as error:
            reason = str(error)
            if reason == BROKE_OFF:
                reason = f"stream broke off after {self._answer.num_output_tokens} tokens"
            return reason, error.is_down
        except MalformedStreamError as error:
            return f"malformed SSE: {error}", False
        except ErrorInStreamError as error:
            return str(error), error.is_down
        return "", False

    async def _send_and_read(self) -> None:
        flight, client = self._flight, self._client
        headers = {"Content-Type": "application/json", "X-Request-Id": flight.http_request_id}
        body = io.BytesIO(flight.body) if len(flight.body) >= LARGE else flight.body
        url = client.endpoint.url + APIS[client.endpoint.api]
        async with client.session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            try:
                if response.status != 200:
                    await self._refused(response)
                else:
                    await self._read(response.content)
            finally:
                if not response.content.at_eof():
                    response.close()  # at which vLLM aborts the request

    async def _refused(self, response: aiohttp.ClientResponse) -> None:
        """Raise for an answer that is no stream; what the server says of it is only logged."""
        reason = f"http {response.status}"
        try:
            async with asyncio.timeout(LINGER):
                self._said = await self._client.beginning(response.content)
        except (aiohttp.ClientError, OSError):
            pass
        raise NoAnswerError(reason, response.status)

    async def _read(self, content: aiohttp.StreamReader) -> None:
        answer, clock, lock = self._answer, self._clock, self._mailbox.lock
        while not answer.is_done:
            data = await content.readany()
            num_chunks = answer.num_chunks
            with lock:
                at_s = clock.now_s
                for event in self._events.feed(data):
                    if answer.take(event):
                        self._stamp(at_s)
            if answer.num_chunks > num_chunks:
                self._expect_more(at_s)
            if not data:
                if not answer.is_finished or not self._events.is_between_events:
                    raise NoAnswerError(BROKE_OFF)
                break  # it ended as it should, only without a word
        if answer.num_chunks == 0:
            raise NoAnswerError("no tokens in stream", 200)
        self._end("")
        async with asyncio.timeout(LINGER):
            while await content.readany():
                pass

    def _stamp(self, at_s: float) -> None:
        """Note a chunk with tokens; the mailbox is locked."""
        if isnan(self._first_token_at_s):
            flight = self._flight
            self._first_token_at_s = at_s
            self._mailbox.put_first_token(FirstToken(flight.request.request_id, flight.instance_index, at_s))
        else:
            self._max_inter_token_s = max(self._max_inter_token_s, at_s - self._last_token_at_s)
        self._last_token_at_s = at_s
        if self._keep_token_times:
            self._token_at_s.append(at_s)

    def _expect_more(self, now_s: float) -> None:
        limits = self._client.limits
        left_s = self._sent_at_s + limits.request_timeout_s - now_s
        within = self._clock.seconds(min(limits.token_timeout_s, left_s))
        self._timer.reschedule(asyncio.get_running_loop().time() + within)

    def _timed_out(self) -> tuple[str, bool]:
        limits, has_tokens = self._client.limits, self._answer.num_chunks > 0
        if self._clock.now_s >= self._sent_at_s + limits.request_timeout_s:
            return f"timed out: not done within {limits.request_timeout_s:g} s", not has_tokens
        if has_tokens:
            return f"timed out: no token for {limits.token_timeout_s:g} s", True
        return f"timed out: no first token within {limits.first_token_timeout_s:g} s", True

    def _end(self, failure: str) -> None:
        self._has_ended = True
        request, answer = self._flight.request, self._answer
        if failure:
            self._notices.note(self._client.endpoint.name, failure, self._said)
        else:
            self._health.succeeded("request")  # not before: one that breaks off every stream is down
            self._note_what_is_missing()
        prompt = answer.num_prompt_tokens
        completion = Completion(
            request_id=request.request_id,
            instance_index=self._flight.instance_index,
            arrived_at_s=request.arrived_at_s,
            first_token_at_s=self._first_token_at_s,
            finished_at_s=nan if failure else self._last_token_at_s,
            num_prompt_tokens=request.num_prompt_tokens if prompt is None else prompt,
            num_output_tokens=0 if failure else answer.num_output_tokens,
            num_cached_tokens=0 if failure else answer.num_cached_tokens or 0,
            num_preemptions=0,
            slo=request.slo,
            failure=failure,
        )
        outcome = Outcome(request, completion, answer.token_ids, self._token_at_s)
        self._mailbox.put_outcome(outcome, self._max_inter_token_s)

    def _note_what_is_missing(self) -> None:
        if self._answer.num_cached_tokens is None:
            self._mailbox.counts["num_without_cached_tokens"] += 1
            self._notices.note(
                self._client.endpoint.name,
                "answers do not say how many prompt tokens were cached",
                "start vLLM with --enable-prompt-tokens-details",
            )
