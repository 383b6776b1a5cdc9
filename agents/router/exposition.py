"""What Prometheus reads of a router."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from agents.router.front import Front
from agents.router.timings import BOUNDS_S

STATES = ("closed", "half_open", "open")


class RouterCollector(Collector):
    """Reads the router's own counts when it is asked, so that counting costs nothing."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        front, desk = self._front, self._front.desk
        guard = desk.guard
        requests = CounterMetricFamily(
            "routegym_requests", "Requests by status of the answer", labels=["status"]
        )
        for status, number in sorted(front.statuses.items()):
            requests.add_metric([str(status)], number)
        yield requests
        decisions = CounterMetricFamily(
            "routegym_decisions",
            "Decisions, by why the heuristic made them (policy: it did not)",
            labels=["by"],
        )
        decisions.add_metric(["policy"], guard.counts[""])
        for reason, number in guard.counters().items():
            decisions.add_metric([reason], number)
        yield decisions
        buckets, total = [], 0
        for bound, number in zip([*map(str, BOUNDS_S), "+Inf"], desk.timings.counts, strict=True):
            total += number
            buckets.append((bound, float(total)))
        seconds = HistogramMetricFamily("routegym_decision_seconds", "Time that a decision took")
        seconds.add_metric([], buckets, desk.timings.sum_s)
        yield seconds
        for name, what in (("num_retries", "Requests sent again"), ("num_broken_off", "Answers broken off")):
            yield CounterMetricFamily(f"routegym_{name.removeprefix('num_')}", what, value=front.counts[name])
        counted = {
            "shadow_agreed": ("Decisions in shadow that were also the heuristic's", guard.num_agreed),
            "breaker_opened": ("Times that the breaker opened", guard.breaker.num_opened),
            "log_lines_dropped": ("Lines that the log's reader was too slow for", front.log.num_dropped),
            "decisions_not_recorded": (
                "Decisions that record= had no time for",
                0 if desk.tape is None else desk.tape.num_dropped,
            ),
        }
        for name, (what, number) in counted.items():
            yield CounterMetricFamily(f"routegym_{name}", what, value=number)
        yield GaugeMetricFamily("routegym_in_flight", "Requests under way", value=front.num_in_flight)
        yield GaugeMetricFamily(
            "routegym_peers", "Other routers that tell their counts", value=desk.num_peers
        )
        yield from self._instances()
        now_s = desk.fleet.clock.now_s
        breaker = GaugeMetricFamily(
            "routegym_breaker", "1 for the state that the breaker is in", labels=["state"]
        )
        for state in STATES:
            breaker.add_metric([state], float(guard.breaker.state(now_s) == state))
        yield breaker
        losses = GaugeMetricFamily("routegym_loss_seconds", "Mean loss of either arm of late", labels=["arm"])
        for arm, held in guard.breaker.losses.items():
            losses.add_metric([arm], held.mean)
        yield losses

    def _instances(self) -> Iterator[Metric]:
        fleet, view = self._front.desk.fleet, self._front.desk.fleet.snapshot()
        columns = {
            "up": "Whether it may be sent requests",
            "in_flight": "Requests that the router has there",
            "waiting": "Requests waiting, as it last said",
            "running": "Requests running, as it last said",
            "kv_cache_usage": "Share of its KV cache in use, as it last said",
            "snapshot_age_seconds": "Age of what it last said",
        }
        families = {
            name: GaugeMetricFamily(f"routegym_instance_{name}", what, labels=["instance"])
            for name, what in columns.items()
        }
        served = CounterMetricFamily("routegym_instance_served", "Answers of it", labels=["instance"])
        failed = CounterMetricFamily("routegym_instance_failed", "Failures of it", labels=["instance"])
        for instance in fleet:
            name, number = [instance.endpoint.name], instance.number
            families["up"].add_metric(name, float(view.healthy[number]))
            families["in_flight"].add_metric(name, instance.num_in_flight)
            families["waiting"].add_metric(name, float(view.num_waiting[number]))
            families["running"].add_metric(name, float(view.num_running[number]))
            families["kv_cache_usage"].add_metric(name, float(view.frac_kv_cache_usage[number]))
            families["snapshot_age_seconds"].add_metric(name, float(view.age_s[number]))
            served.add_metric(name, instance.num_served)
            failed.add_metric(name, instance.num_failed)
        yield from families.values()
        yield served
        yield failed


def registry_of(front: Front) -> CollectorRegistry:
    """A registry of this router's metrics alone."""
    registry = CollectorRegistry()
    registry.register(RouterCollector(front))
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """In Prometheus' text format."""
    return generate_latest(registry)
