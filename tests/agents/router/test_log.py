"""The router's log: one JSON object a line, and no reader can hold the router up."""

import asyncio
import contextlib
import io
import json
import logging
import os

import pytest

from agents.router.log import MAX_LINES, Log


def test_events_and_what_libraries_say_are_lines_of_json():
    stream = io.StringIO()
    log = Log("all", stream)

    async def run():
        writing = asyncio.create_task(log.run())
        await asyncio.sleep(0.01)
        log.event("ready", port=1)
        root = logging.getLogger()
        before = root.handlers[:], root.level
        log.take_over()
        try:
            try:
                raise ValueError("no such thing")
            except ValueError:
                logging.getLogger("aiohttp.server").exception("Error handling %s", "a request")
            logging.getLogger("x").info("unheard")
        finally:
            root.handlers[:], root.level = before
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(run())
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["port"]) == ("ready", 1)
    told = {key: second[key] for key in ("event", "level", "logger", "message", "error")}
    assert told == {
        "event": "log",
        "level": "ERROR",
        "logger": "aiohttp.server",
        "message": "Error handling a request",
        "error": "ValueError: no such thing",
    }


def test_a_reader_that_does_not_read_holds_nobody_up():
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    log = Log("all", stream)

    async def run():
        task = asyncio.create_task(log.run())
        for _ in range(20):
            for number in range(1000):
                log.event("a", number=number, text="a" * 100)
            await asyncio.sleep(0.05)
        assert log.num_dropped > 0
        assert log._lines.qsize() <= MAX_LINES
        os.close(reading)  # lets the thread go, with an error
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    with contextlib.suppress(OSError):  # what it still held
        stream.close()


def test_which_must_be_one():
    with pytest.raises(ValueError, match="log_requests is 'some', it must be all, failed or none"):
        Log("some")
