"""Events out of bytes, however these are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.live import sse
from envs.live.sse import EventParser, MalformedStreamError

STREAM = (
    b': a comment\n\ndata: {"a": 1}\n\nevent: message\nid: 7\ndata:{"b": 2}\n\nretry: 3\n\n'
    b"data: first\ndata: second\n\ndata: [DONE]\n\n"
)
EVENTS = [b'{"a": 1}', b'{"b": 2}', b"first\nsecond", b"[DONE]"]


def fed(pieces):
    parser = EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert parser.is_between_events
    return events


@given(st.lists(st.integers(0, 2 * len(STREAM))), st.booleans())
def test_events_are_the_same_however_they_are_cut(cuts, has_carriage_returns):
    stream = STREAM.replace(b"\n", b"\r\n") if has_carriage_returns else STREAM
    cuts = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    assert fed(stream[one:other] for one, other in pairwise(cuts)) == EVENTS


def test_every_byte_by_itself():
    assert fed(STREAM[at : at + 1] for at in range(len(STREAM))) == EVENTS


@pytest.mark.parametrize("begun", [b"da", b"data: x", b"data: x\n", b"data: x\r"])
def test_an_event_that_is_not_whole(begun):
    parser = EventParser()
    assert list(parser.feed(b"data: y\n\n" + begun)) == [b"y"]
    assert not parser.is_between_events


@pytest.mark.parametrize("line", [b"<html>", b"HTTP/1.1 200 OK", b"dat: 3", b'{"object": "error"}'])
def test_what_is_no_field_is_refused(line):
    events = []
    with pytest.raises(MalformedStreamError, match="a line that is no field"):
        events.extend(EventParser().feed(b"data: x\n\n" + line + b"\n"))
    assert events == [b"x"]  # what came before is not lost


def test_an_endless_event_is_refused_and_an_endless_stream_is_not(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1 << 20)
    parser = EventParser()
    for _ in range(2000):
        assert list(parser.feed(b"data: " + b"x" * 1000 + b"\n\n"))
        assert not list(parser.feed(b":" + b"x" * 1000 + b"\n\n"))
    with pytest.raises(MalformedStreamError, match="an event of more than 1 MiB"):
        fed(b"x" * 1000 for _ in range(2000))
