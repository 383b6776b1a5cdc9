"""Whose failures add up, by hand."""

from envs.live.clock import Clock
from envs.live.health import DOWN, Health
from envs.live.limits import Limits


def health_and_notes():
    notes, tasks = [], []

    async def probe():
        return True

    def spawn(coroutine):
        tasks.append(coroutine)
        coroutine.close()

    return Health(Limits(unhealthy_after=3), Clock(1.0), probe, spawn, notes.append), notes


def test_each_router_has_a_row_of_its_own():
    health, notes = health_and_notes()
    for _ in range(2):
        for router in range(8):
            health.failed(router)
    assert health.is_up
    health.succeeded(5)
    health.failed(5)
    assert health.is_up
    health.failed(0)
    assert not health.is_up
    assert notes == [DOWN]


def test_scrapes_end_no_row_of_requests():
    health, _ = health_and_notes()
    for _ in range(3):
        health.succeeded(0)
        health.failed("request")
    assert not health.is_up
