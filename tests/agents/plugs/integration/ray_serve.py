"""Ray Serve routes by the plug. Run in .venv-plugs-ray, with a bundle's folder on PYTHONPATH."""

import asyncio
import os
import time

import numpy as np
import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from recorded import check, record

import plugs.ray_serve
from plugs.chooser import Chooser

NUM_REPLICAS, NUM_CALLS = 3, 120
METRICS = """\
vllm:num_requests_running 2.0
vllm:num_requests_waiting 1.0
vllm:kv_cache_usage_perc 0.5
"""
ROUTER = RequestRouterConfig(
    request_router_class="plugs.ray_serve.BundleRequestRouter",
    request_router_kwargs={"profiles": {"": {"prefill_tokens_per_s": 9000.0}}, "seed": 0},
    request_routing_stats_period_s=0.3,
    request_routing_stats_timeout_s=0.3,
)


@serve.deployment(
    num_replicas=NUM_REPLICAS,
    request_router_config=ROUTER,
    max_ongoing_requests=4,
    ray_actor_options={"num_cpus": 0},
)
class Llm:
    async def __call__(self, body):
        await asyncio.sleep(0.02)
        return serve.get_replica_context().replica_id.unique_id

    async def record_routing_stats(self):
        return plugs.ray_serve.routing_stats(METRICS)


async def call(handle, number):
    body = {"messages": [{"role": "user", "content": "x" * (100 * (number % 7) + 300 * (number % 2))}]}
    return await handle.remote(body)


async def cancelled(handle):
    """Requests of which most are cancelled, running or waiting."""
    answers = [handle.remote({"prompt": "x" * 300}) for _ in range(30)]
    await asyncio.sleep(0.01)
    for answer in answers[3:]:
        answer.cancel()
    return await asyncio.gather(*answers, return_exceptions=True)


async def calls(handle):
    found = []
    for first in range(0, NUM_CALLS, 12):
        found += await asyncio.gather(*(call(handle, number) for number in range(first, first + 12)))
        await asyncio.sleep(0.05)
    return found


def main():
    seen, choosers, make = record(), [], Chooser.__init__

    def noted(self, *arguments, **settings):
        make(self, *arguments, **settings)
        choosers.append(self)

    Chooser.__init__ = noted
    ray.init(
        num_cpus=2,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    try:
        serve.start(proxy_location="Disabled")  # handles need no HTTP
        handle = serve.run(Llm.bind(), route_prefix=None, logging_config={"log_level": "ERROR"})
        found = asyncio.run(calls(handle))
        assert len(found) == NUM_CALLS
        assert len(set(found)) > 1, "all went to one replica"
        found = asyncio.run(cancelled(handle))
        assert sum(isinstance(each, BaseException) for each in found) > 9, found
        time.sleep(1.0)
        check(seen, NUM_CALLS)
        (chooser,) = choosers
        counters = chooser.counters()
        assert counters["flights"] == 0, counters
        assert not [name for name in counters if "Error" in name or "fallback" in name], counters
        last, _ = seen[-1]
        assert last["instances"].shape == (NUM_REPLICAS, 21)
        np.testing.assert_array_equal(last["instances"][:, 0], 1.0)  # num_waiting, of record_routing_stats
        np.testing.assert_array_equal(last["instances"][:, 1], 2.0)
        assert last["instances"][:, 4].max() < 5.0  # snapshot_age_s
        assert max(observation["instances"][:, 5].max() for observation, _ in seen) >= 2  # num_in_flight
        assert len({float(observation["request"][0]) for observation, _ in seen}) > 3  # num_prompt_tokens
        print("ray", ray.__version__, counters)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
