"""A picker in a thread of its own."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from agents.heuristics.round_robin import RoundRobin
from agents.picker.picker import Picker, PickerSettings
from agents.router.warm import warm
from tests.agents.router.in_thread import in_thread
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
    rule = heuristic or RoundRobin()
    make = partial(Picker, replace(SETTINGS, **settings), endpoints(servers), policy, rule)
    with in_thread(make, "picker") as picker:
        fleet = picker.desk.fleet
        assert soon(lambda: all(each.models or not each.health.is_up for each in fleet))
        yield picker


def nothing_under_way(picker):
    """Whether the picker counts nothing as in flight, anywhere."""
    table = picker.desk.view._knowledge.table
    counted = [instance.num_in_flight for instance in picker.desk.fleet]
    return picker.calls.num_in_flight == 0 and not any(counted) and not table[:, 5:10].any()
