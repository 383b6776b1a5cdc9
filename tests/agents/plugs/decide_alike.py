"""Do plugs choose what the policy chose, on observations recorded in the environment?

    python -m tests.agents.plugs.decide_alike [--num-observations 100000] [--agent dynamo_cost]

A policy is exported and put into every plug, whose view is made to say what was recorded; each is asked
through the function that its router calls. Exit status 0 if all chose the same instance each time and had the
same scores to 1e-5. llm-d's predictor makes observations of its own from ten numbers of a pod: there the
policy is asked about these.
"""

import argparse
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from hydra import compose, initialize_config_module

from agents.build_env import build_env
from agents.config import register
from agents.export import writing
from agents.export.parity import TOLERANCE, Parity, observe
from agents.plugs import ray_serve
from agents.plugs.chooser import Chooser
from agents.plugs.litellm_strategy import Deployments
from agents.plugs.llmd_predictor import Predictor, checked, observation
from agents.plugs.production_stack import route
from agents.plugs.smg_header import SmgHeader, Worker
from agents.plugs.view import Profile
from conf.build import build
from envs import observation as columns
from tests.agents.export.exported import LEARNED, export_of

SEED = 0
BODY = {"model": "fake", "prompt": "x" * 400}


class Fixed:
    """A chooser whose view says what it is told to, and what its policy decided."""

    def __init__(self, chooser):
        self.chooser, self.observation, self.decision = chooser, None, None
        chooser.view.look = lambda prompt, names, now_s: self.observation
        decide = chooser.decide
        chooser.decide = lambda seen: self.noted(decide(seen))

    def noted(self, decision):
        self.decision = decision
        return decision


def ray_class():
    """The plug's class, of a base of nothing: the base is only asked for its name here."""
    modules = {
        name: ModuleType(name) for name in ("ray", "ray.serve", "ray.serve.request_router", "ray.util")
    }
    modules["ray.serve.request_router"].RequestRouter = type("RequestRouter", (), {})
    modules["ray.util"].metrics = SimpleNamespace(Gauge=lambda *_: SimpleNamespace(set=lambda *_, **__: None))
    sys.modules.update(modules)
    try:
        return ray_serve.BundleRequestRouter
    finally:
        ray_serve.__dict__.pop("BundleRequestRouter", None)
        for name in modules:
            del sys.modules[name]


def plugs_of(folder, num_instances):
    """name -> (its chooser, a function that routes one request and returns the instance's index)."""
    names = [f"http://127.0.0.1:{number}" for number in range(num_instances)]
    settings = {"bundle": folder, "seed": SEED}

    router = ray_class()()
    router.initialize_state(**settings)
    replicas = [
        SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), routing_stats={}) for name in names
    ]
    pending = SimpleNamespace(
        args=[BODY],
        kwargs={},
        metadata=SimpleNamespace(internal_request_id="one", session_id=""),
        future=SimpleNamespace(add_done_callback=lambda _: None),
    )

    def by_ray():
        try:
            router.choose_replicas(replicas, pending).send(None)
        except StopIteration as done:
            return replicas.index(done.value[0][0])

    stack = Chooser(**settings)
    endpoints, request = [SimpleNamespace(url=name) for name in names], SimpleNamespace(headers={})

    def by_stack():
        try:
            route(stack, endpoints, request, BODY).send(None)
        except StopIteration as done:
            return names.index(done.value)

    litellm = Deployments(Chooser(**settings))
    models = [{"model_info": {"id": name}, "litellm_params": {}} for name in names]

    def by_litellm():
        return models.index(litellm.choose(models, [{"role": "user", "content": "x"}], None, {}))

    smg = SmgHeader("http://127.0.0.1:1", interval_s=1e6, **settings)
    smg.stop()
    smg._workers = [Worker(name, frozenset(), True) for name in names]

    def by_smg():
        return int(smg.route(BODY).headers["X-SMG-Target-Worker"])

    return {
        "ray_serve": (router.chooser, by_ray),
        "production_stack": (stack, by_stack),
        "litellm_strategy": (litellm.chooser, by_litellm),
        "smg_header": (smg.chooser, by_smg),
    }


def rows_of(seen):
    """What llm-d would say of the instances that a request may go to."""
    return [
        {
            "kv_cache_percentage": float(each[columns.FRAC_KV_CACHE_USAGE]),
            "input_token_length": int(seen["request"][columns.NUM_PROMPT_TOKENS]),
            "num_request_waiting": int(each[columns.NUM_WAITING]),
            "num_request_running": int(each[columns.NUM_RUNNING]),
            "num_tokens_generated": 0,
            "prefix_cache_score": float(each[columns.FRAC_PREFIX_HIT]),
            "prefill_tokens_in_flight": int(each[columns.NUM_IN_FLIGHT_PREFILL_TOKENS]),
            "decode_tokens_in_flight": int(each[columns.NUM_IN_FLIGHT_DECODE_TOKENS]),
        }
        for each in seen["instances"][seen["mask"].astype(bool)]
    ]


def compare(policy, folder, observations):
    """name of a plug -> (Parity, how often it chose another instance)."""
    plugs = {
        name: (Fixed(chooser), ask)
        for name, (chooser, ask) in plugs_of(folder, len(observations[0]["mask"])).items()
    }
    found = {name: [Parity(), 0] for name in (*plugs, "llmd_predictor")}
    policy.reset(np.random.default_rng(SEED))
    expected = [policy.act(seen) for seen in observations]
    for seen, decision in zip(observations, expected, strict=True):
        for name, (fixed, ask) in plugs.items():
            fixed.observation = seen
            chosen = ask()
            found[name][0].add(decision, fixed.decision)
            found[name][1] += chosen != decision.instance
    predictor = Predictor(folder)
    policy.reset(np.random.default_rng(SEED))
    for seen in observations:
        rows = [checked(row, 0) for row in rows_of(seen)]
        decision = policy.act(observation(rows, Profile()))
        answers, scores = np.array(predictor.ttft_ms(rows)), predictor.scores(rows)
        parity = found["llmd_predictor"][0]
        parity.num_observations += 1
        worst = (np.abs(scores - decision.scores) / (1.0 + np.abs(decision.scores))).max()
        parity.worst_score = max(parity.worst_score, float(worst))
        best = decision.scores.max()
        found["llmd_predictor"][1] += not best - decision.scores[answers.argmin()] <= TOLERANCE * (
            1 + abs(best)
        )
    return found


def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--num-observations", type=int, default=100_000)
    parser.add_argument("--agent", default="dynamo_cost", help="a rule of conf/agent, or network")
    parser.add_argument("--cluster", default="demo")
    given = parser.parse_args()
    rule = "least_in_flight" if given.agent in LEARNED else given.agent
    register()
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("export", [f"agent={rule}", f"cluster={given.cluster}"])
    policy = build(config.agent, "agent")
    started_s = time.monotonic()
    with closing(build_env(config)) as env:
        observations = observe(env, policy, config.seed, given.num_observations)
    print(f"recorded {len(observations):,} observations in {time.monotonic() - started_s:.0f} s", flush=True)
    export = export_of(given.agent) if given.agent in LEARNED else writing.Export(given.agent, policy)
    with tempfile.TemporaryDirectory() as directory:
        writing.write(Path(directory) / "bundle", export, lambda part: "a card")
        found = compare(export.policy, Path(directory) / "bundle", observations)
    for name, (parity, num_others) in found.items():
        print(
            f"{name}: {parity.num_observations:,} observations, {num_others} other instances,"
            f" {parity.num_different} different, {parity.num_tied} ties, worst score {parity.worst_score:.1e}"
        )
    return any(num_others or not parity.holds for parity, num_others in found.values())


if __name__ == "__main__":
    sys.exit(main())
