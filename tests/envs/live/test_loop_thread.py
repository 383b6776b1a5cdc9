"""The loop's own thread."""

import asyncio
import errno

import pytest

from envs.live.loop_thread import LoopThread

from .leaks import live_threads, soon


async def nothing():
    pass


def test_a_loop_that_cannot_start_is_told(monkeypatch):
    def no_descriptors():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio.events, "new_event_loop", no_descriptors)
    heard = []
    with pytest.raises(OSError, match="Too many open files"):
        LoopThread(nothing, heard.append)
    monkeypatch.undo()
    assert soon(lambda: not live_threads())
    LoopThread(nothing, heard.append).stop()
