"""A router in a thread of its own, and what clients do to it."""

import asyncio
import io
import json
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import aiohttp

from agents.heuristics.round_robin import RoundRobin
from agents.router.router import Router, RouterSettings
from agents.router.warm import warm
from envs.live.endpoint import Endpoint
from envs.live.limits import Limits
from tests.agents.router.in_thread import in_thread
from tests.envs.live.leaks import soon

LIMITS = Limits(
    connect_timeout_s=10.0,
    scrape_timeout_s=10.0,
    probe_interval_s=0.05,
    max_probe_interval_s=0.1,
    unhealthy_after=2,
)
"""A busy machine takes no instance down."""
SETTINGS = RouterSettings(
    port=0, max_instances=4, scrape_interval_s=0.05, drain_s=5.0, seed=0, log_requests="none", limits=LIMITS
)


def endpoints(servers):
    return {name: Endpoint(name, server.url) for name, server in zip("abcdefgh", servers, strict=False)}


@contextmanager
def serving(servers, policy=None, heuristic=None, learning=None, tape=None, **settings):
    """A router before some fakes; fields of ``RouterSettings`` are replaced."""
    warm()
    rule = heuristic or RoundRobin()
    own = replace(SETTINGS, **settings)
    make = partial(Router, own, endpoints(servers), policy, rule, learning, tape)
    with in_thread(make, "router") as router:
        assert soon(lambda: all(each.models or not each.health.is_up for each in router.fleet))
        yield router


def in_loop(router, coroutine):
    """Run something in the router's loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, router._logging.get_loop()).result(timeout=30)


def body(num_words=40, max_tokens=5, stream=True, **more):
    return {
        "model": "tiny",
        "prompt": "word " * num_words,
        "max_tokens": max_tokens,
        "stream": stream,
        **more,
    }


class Answer:
    """What a client got."""

    def __init__(self, status, headers, content, error=None):
        self.status, self.headers, self.content, self.error = status, headers, content, error

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def events(self):
        return [line[6:] for line in self.content.decode().split("\n") if line.startswith("data: ")]


async def ask(session, url, content, path="/v1/completions", headers=None):
    data = content if isinstance(content, bytes | io.BytesIO) else json.dumps(content).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    got = b""
    try:
        async with session.post(url + path, data=data, headers=headers) as response:
            try:
                async for part in response.content.iter_any():
                    got += part
            except aiohttp.ClientError as error:
                return Answer(response.status, response.headers, got, error)
            return Answer(response.status, response.headers, got)
    except aiohttp.ClientError as error:
        return Answer(0, {}, got, error)


def post(router, content, path="/v1/completions", headers=None):
    """One request, answered."""

    async def run():
        async with aiohttp.ClientSession() as session:
            return await ask(session, router.url, content, path, headers)

    return asyncio.run(run())


def posts(router, contents):
    """Many at once."""

    async def run():
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            return await asyncio.gather(*[ask(session, router.url, content) for content in contents])

    return asyncio.run(run())


def get(router, path):
    async def run():
        async with aiohttp.ClientSession() as session, session.get(router.url + path) as response:
            return Answer(response.status, response.headers, await response.read())

    return asyncio.run(run())
