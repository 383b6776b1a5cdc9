"""Does a policy that was trained in emulation gain as much when the router serves it to real vLLM servers?

    make served
    python -m tests.benchmarks.check_served [--seeds 6] [--requests 120] [--steps 40960]

Two unlike vLLM servers on modelled devices, each so many times slower than its profile that this machine
keeps up. Their emulated twin, with the same slowed profiles and the time that HTTP and the servers' front
take of a request that is alone, is where a MaskablePPO policy is trained and where today's rules are
compared; the best of them on streams of its own is the opponent. Then the same streams of requests are played
in emulation and, as HTTP with token-id prompts at the instants of their arrival, through the router, once
with the policy's bundle and once with the rule. Printed are both gains in mean TTFT and by how much they
differ, with intervals over streams, paired. Ends with status 1 where the gain that was served is clearly
another than the emulator's.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from agents.build_env import build_env
from agents.comparison import Estimate, mean_over_seeds, relative_difference
from agents.config import register
from agents.files import write_json
from agents.heuristics.round_robin import RoundRobin
from agents.policy import Decision
from agents.rollout import play
from envs.cluster import Request
from envs.emulator.profile import load, save
from envs.emulator.step_time import StepTimeLaw
from envs.live import twin
from envs.live.answer import Answer
from envs.live.endpoint import Endpoint
from envs.live.prompts import Prompts
from envs.live.request_body import request_body
from envs.live.server import Servers
from envs.live.server_options import ServerOptions
from envs.live.sse import EventParser
from envs.observation import Observation
from envs.routing import RoutingEnv
from tests.benchmarks.mean_ttft import mean_ttfts
from tests.benchmarks.router import ours

PROFILES = ("h100_llama-3.1-8b", "l40s_llama-3.1-8b")
AGENT = "maskable_ppo"
EXPERIMENT = Path("conf/experiment/fidelity.yaml")
"""Whose workload it is, for devices at full speed."""
MAX_MODEL_LEN = 16384
BLOCK_SIZE = 16
"""Tokens per hash of the workload's prompts, and per block of the servers."""
ROUTER_PORT = 18620
ROUTER = ("router.scrape_interval_s=0.1", "router.guard.holdout=0", "router.guard.max_decision_s=0.05")
TUNING_SEEDS = tuple(range(100, 110))
"""Streams by which the best rule is chosen."""
RUN_LIMIT_S = 600.0
NUM_ALONE, NUM_PROMPT_TOKENS_ALONE = 15, 3000
"""Requests by which each server's own time is measured, as long as the workload's median."""


class Measured(NamedTuple):
    """Mean TTFT of each stream, in seconds."""

    policy: list[float]
    rule: list[float]

    def gain(self) -> Estimate:
        """How many times as long the rule takes, less 1, over the streams."""
        return relative_difference(self.rule, self.policy)

    def ratios(self) -> NDArray[np.float64]:
        """By stream: how many times as long the rule takes."""
        return np.asarray(self.rule) / np.asarray(self.policy)


class Witness(RoundRobin):
    """Notes each request of an episode."""

    def __init__(self, env: RoutingEnv) -> None:
        super().__init__()
        self.env, self.requests = env, list[Request]()

    def act(self, observation: Observation) -> Decision:
        """Note, and go on."""
        self.requests.append(self.env.request)
        return super().act(observation)


def slowed(folder: Path, factor: float) -> list[Path]:
    """Files of profiles whose every step takes ``factor`` times as long."""
    paths = []
    for name in PROFILES:
        profile = load(name)
        law = StepTimeLaw(*(factor * coefficient for coefficient in profile.law))
        path = (folder / f"{name}_slow.json").resolve()
        save(replace(profile, name=path.stem, law=law, fit_error=()), path)
        paths.append(path)
    return paths


async def calibrate(urls: Sequence[str], profiles: Sequence[Path], endpoints: Path) -> None:
    """Write into each profile what a request takes beside its steps, alone on the server.

    HTTP and the server's front are of this machine, and as fast before a device that is slowed.
    """
    twin_of_both, prompts = twin.cluster(str(endpoints)), Prompts(BLOCK_SIZE)
    async with aiohttp.ClientSession() as session:
        for index, (url, path) in enumerate(zip(urls, profiles, strict=True)):
            endpoint, model = Endpoint("alone", url), await model_of(session, url)
            measured_s = []
            for number in range(NUM_ALONE):
                request = Request(number, twin_of_both.now_s, NUM_PROMPT_TOKENS_ALONE, 4)
                body = request_body(
                    endpoint, model, request, prompts.tokens(request), 4, f"alone-{time.time_ns()}", False
                )
                measured_s.append(await ttft_s(session, url, body))
            twin_of_both.submit(request, index)
            (alone,) = twin_of_both.drain().completions
            overhead_s = max(0.0, float(np.median(measured_s)) - alone.ttft_s)
            print(
                f"{path.stem}: {1e3 * alone.ttft_s:.1f} ms of steps and {1e3 * overhead_s:.1f} ms beside them"
            )
            save(replace(load(path), request_overhead_s=overhead_s), path)


def world(endpoints: Path, factor: float, num_requests: int) -> list[str]:
    """Overrides: the twin of the servers and the workload, slowed alike."""
    workload = OmegaConf.load(EXPERIMENT).workload
    workload.rate_per_s /= factor
    workload.num_requests = num_requests
    settings = ["cluster=twin", f"cluster.endpoints={endpoints.resolve()}", "workload=generated"]
    return [*settings, *(f"workload.{key}={value}" for key, value in workload.items())]


def evaluation(overrides: Sequence[str], seeds: Sequence[int], run: Path) -> DictConfig:
    """The config of an evaluation of all rules and the trained policy."""
    with initialize_config_module("conf", version_base="1.3"):
        return compose(
            "evaluate",
            [
                "experiment=heuristics",
                *overrides,
                f"+agent@policies.{AGENT}={AGENT}",
                f"+trained.{AGENT}={run}",
                f"seeds={list(seeds)}",
                "warmup_s=0",
                "directory=unused",
            ],
        )


def stream_of(config: DictConfig, seed: int) -> list[Request]:
    """The requests of an episode."""
    with closing(build_env(config)) as env:
        witness = Witness(env)
        play(env, witness, seed)
    return witness.requests


async def ttft_s(session: aiohttp.ClientSession, url: str, body: bytes) -> float:
    """Seconds until the first token of one request."""
    began_s, first_s = time.perf_counter(), float("nan")
    answer, events = Answer(), EventParser()
    async with session.post(
        url + "/v1/completions", data=body, headers={"Content-Type": "application/json"}
    ) as response:
        if response.status != 200:
            raise RuntimeError(f"http {response.status}: {(await response.read())[:300]!r}")
        async for data in response.content.iter_any():
            at_s = time.perf_counter()
            for event in events.feed(data):
                if answer.take(event) and first_s != first_s:
                    first_s = at_s - began_s
    if not answer.is_done:
        raise RuntimeError("an answer that broke off")
    return first_s


async def model_of(session: aiohttp.ClientSession, url: str) -> str:
    """What is served, once the instances have said so."""
    async with asyncio.timeout(60.0):
        while True:
            async with session.get(url + "/v1/models") as response:
                if models := (await response.json())["data"]:
                    return str(models[0]["id"])
            await asyncio.sleep(0.1)


async def ttfts_of(url: str, requests: Sequence[Request], salt: str) -> list[float]:
    """Send every request when it arrives; their TTFTs."""
    endpoint, prompts = Endpoint("router", url), Prompts(BLOCK_SIZE)
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=RUN_LIMIT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        model = await model_of(session, url)
        tasks, begun_s = [], time.perf_counter() + 0.5 - requests[0].arrived_at_s
        for request in requests:
            tokens = prompts.tokens(request)
            body = request_body(endpoint, model, request, tokens, request.num_output_tokens, salt, False)
            await asyncio.sleep(max(0.0, begun_s + request.arrived_at_s - time.perf_counter()))
            tasks.append(asyncio.create_task(ttft_s(session, url, body)))
        return list(await asyncio.gather(*tasks))


def decided_by() -> Counter[str]:
    """The router's decisions, by who made them: the policy, or why it was the heuristic."""
    counted = [each for each in ours.metrics(ROUTER_PORT) if each.name == "routegym_decisions_total"]
    return Counter({each.labels["by"]: int(each.value) for each in counted})


def program(*arguments: str) -> None:
    """Run one of ours."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.check_served", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="streams that are played")
    parser.add_argument("--requests", type=int, default=120, help="in each")
    parser.add_argument("--steps", type=int, default=40960, help="decisions that the policy is trained for")
    parser.add_argument("--slow", type=float, default=4.0, help="how many times slower than their profiles")
    parser.add_argument("--directory", type=Path, default=Path("runs/served"))
    options = parser.parse_args()
    register()
    folder: Path = options.directory
    folder.mkdir(parents=True, exist_ok=True)
    profiles = slowed(folder, options.slow)
    servers = [ServerOptions(profile=str(path), max_model_len=MAX_MODEL_LEN) for path in profiles]
    with Servers(servers, folder / "servers") as running:
        endpoints = folder / "endpoints.json"
        write_json(endpoints, running.endpoints())
        asyncio.run(calibrate(running.urls, profiles, endpoints))
        overrides = world(endpoints, options.slow, options.requests)
        run, bundle = folder / f"{AGENT}-0", folder / "bundle"
        train = [f"agent={AGENT}", f"name={folder.name}", f"total_timesteps={options.steps}"]
        program("agents.train", *train, *overrides, f"hydra.run.dir={run}", "workload.seed=1")
        tuning = mean_ttfts(evaluation(overrides, TUNING_SEEDS, run), folder / "tuning")
        rules = {name: float(np.mean(each)) for name, each in tuning.items() if name != AGENT}
        best = min(rules, key=rules.__getitem__)
        print(f"best rule: {best}, {rules[best]:.3f} s; {AGENT}: {np.mean(tuning[AGENT]):.3f} s")
        program(
            "agents.export", f"run={run}", f"directory={bundle}", f"agent@fallback={best}", "max_instances=8"
        )
        seeds = range(options.seeds)
        config = evaluation(overrides, seeds, run)
        emulated = mean_ttfts(config, folder / "emulated")
        arms = {
            AGENT: [f"policy={bundle}", f"agent@heuristic={best}", "router.max_instances=8"],
            best: [f"agent@heuristic={best}", "router.max_instances=8"],
        }
        served: dict[str, list[float]] = {arm: [] for arm in arms}
        decided: dict[str, Counter[str]] = {arm: Counter() for arm in arms}
        for seed in tqdm(seeds, desc="streams", disable=None):
            requests = stream_of(config, seed)
            for arm in arms if seed % 2 else reversed(arms):
                log, salt = folder / "router.log", f"{arm}-{seed}-{time.time_ns()}"
                with ours.router(ROUTER_PORT, str(endpoints), [*ROUTER, *arms[arm]], log):
                    times_s = asyncio.run(ttfts_of(f"http://127.0.0.1:{ROUTER_PORT}", requests, salt))
                    decided[arm] += decided_by()
                served[arm].append(float(np.mean(times_s)))
    gains = {
        "emulated": Measured(emulated[AGENT], emulated[best]),
        "served": Measured(served[AGENT], served[best]),
    }
    print(f"{options.seeds} streams of {options.requests} requests, {options.slow:g} times slow; mean TTFT:")
    for name, measured in gains.items():
        gain = measured.gain()
        print(
            f"  {name:8} {AGENT} {np.mean(measured.policy):.3f} s, {best} {np.mean(measured.rule):.3f} s:"
            f" {100 * gain.value:+.1f} % ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
        )
    print(f"with the bundle, decisions were made by: {dict(decided[AGENT])}")
    differences = np.log(gains["served"].ratios()) - np.log(gains["emulated"].ratios())
    difference = mean_over_seeds(differences)
    low, value, high = (100 * np.expm1(each) for each in (difference.low, difference.value, difference.high))
    print(f"served over emulated gain, by stream: {value:+.1f} % ({low:+.1f} to {high:+.1f})")
    holds = difference.low <= 0.0 <= difference.high
    results = {name: {**each._asdict(), "gain": each.gain()._asdict()} for name, each in gains.items()}
    facts = {"best_rule": best, "decided": decided[AGENT], "holds": holds}
    write_json(folder / "served.json", {**facts, **results})
    print(
        "holds" if holds else "DOES NOT HOLD: what was served gains clearly another share than in emulation"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
