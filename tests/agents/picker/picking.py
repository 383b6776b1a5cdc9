"""A picker in a thread of its own."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace

from agents.heuristics.round_robin import RoundRobin
from agents.picker.picker import Picker, PickerSettings
from agents.router.warm import warm
from tests.agents.router.serving import LIMITS, endpoints
from tests.envs.live.leaks import soon

SETTINGS = PickerSettings(
    port=0,
    admin_port=0,
    max_instances=4,
    scrape_interval_s=0.05,
    notice_s=0.0,
    drain_s=5.0,
    seed=0,
    log_requests="none",
    limits=LIMITS,
)


@contextmanager
def picking(servers, policy=None, heuristic=None, **settings):
    """A picker of some fakes; fields of ``PickerSettings`` are replaced."""
    warm()
    begun, loop_of = Future(), {}

    async def run():
        loop_of["loop"], loop_of["stop"] = asyncio.get_running_loop(), asyncio.Event()
        try:
            picker = Picker(
                replace(SETTINGS, **settings), endpoints(servers), policy, heuristic or RoundRobin()
            )
            await picker.start()
        except BaseException as error:
            begun.set_exception(error)
            return
        picker.stop_soon = lambda: loop_of["loop"].call_soon_threadsafe(loop_of["stop"].set)
        begun.set_result(picker)
        await loop_of["stop"].wait()
        await picker.stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="picker")
    thread.start()
    try:
        picker = begun.result(timeout=30)
        fleet = picker.desk.fleet
        assert soon(lambda: all(each.models or not each.health.is_up for each in fleet))
        yield picker
    finally:
        with suppress(RuntimeError):  # it has ended
            loop_of["loop"].call_soon_threadsafe(loop_of["stop"].set)
        thread.join(timeout=30)
        assert not thread.is_alive()


def nothing_under_way(picker):
    """Whether the picker counts nothing as in flight, anywhere."""
    table = picker.desk.view._knowledge.table
    counted = [instance.num_in_flight for instance in picker.desk.fleet]
    return picker.calls.num_in_flight == 0 and not any(counted) and not table[:, 5:10].any()
