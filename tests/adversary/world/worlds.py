"""A small world to attack: four instances of two kinds under short requests that share prefixes."""

from adversary.threat import Budget, UnitPositions
from adversary.world.threat import WorldThreat
from envs.emulator.fleet import cluster
from envs.routing import RoutingEnv
from envs.workload import generator
from envs.world import World

FLEET = {
    "h100": {"count": 2, "profile": "h100_llama-3.1-8b", "max_model_len": 8192},
    "l40s": {"count": 2, "profile": "l40s_llama-3.1-8b", "max_model_len": 8192},
}
WORLD = World(cold_start_s=0.0, network_delay_s=0.003, network_jitter_s=0.002, frac_scrapes_lost=0.05)


def requests(**changes):
    """A trace of about 70 s with random starts; an attack of 10 s at up to twice the rate needs 20 s."""
    options = {
        "num_generated": 700,
        "num_requests": 250,
        "start": "random",
        "rate_per_s": 10.0,
        "prompt_median": 700,
        "prompt_min": 50,
        "prompt_max": 4000,
        "output_median": 30,
        "output_max": 300,
        "hash_block_tokens": 128,
        "num_prefix_groups": 6,
    }
    return generator.workload(**options | changes)


def routing_env(world=WORLD, workload=None, **options):
    workload = workload if workload is not None else requests()
    return RoutingEnv(cluster(FLEET, world=world), workload, **{"max_retries": 3} | options)


def threat(**changes):
    """Every knob there is."""
    options = {
        "window_s": 2.0,
        "num_windows": 5,
        "budget": Budget(max_slope=0.7, window=2, max_instances=2),
        "rate_factor": [0.5, 2.0],
        "frac_unshared": 0.8,
        "working_set_factor": 5.0,
        "prompt_factor": [0.5, 1.8],
        "max_model_len": 8192,
        "frac_overflow": 0.3,
        "overflow_tokens": 400,
        "frac_synchronised": 0.8,
        "slowdown": 4.0,
        "failures": True,
        "cache_flushes": True,
        "scrape_lag_s": 2.0,
    }
    return WorldThreat(**options | changes)


def wanted(rng, knobs, num_windows=5):
    """Anything: ``[num_windows, num_knobs]``."""
    return UnitPositions(knobs).values(rng.uniform(-1.3, 1.3, (num_windows, len(knobs))))
