"""LiteLLM's Router routes by the plug. Run in .venv-plugs-litellm, with a bundle's folder on PYTHONPATH."""

import asyncio
import importlib.metadata
import os
import time

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

from fake_backend import Backend
from litellm import Router
from recorded import check, record

from plugs.litellm_strategy import install

NUM_CALLS = 45


def until(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def until_soon(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def message(number):
    return [{"role": "user", "content": "x" * (50 + 400 * (number % 5))}]


async def calls(router, strategy, backends, seen):
    answers = await asyncio.gather(
        *(router.acompletion("fake", message(number), max_tokens=3) for number in range(NUM_CALLS))
    )
    assert all(answer.choices[0].message.content == "a" for answer in answers)
    chooser = strategy.chooser
    await until_soon(lambda: chooser.counters()["flights"] == 0)
    chosen = [0, 0, 0]
    for _, decision in seen:
        chosen[decision.instance] += 1
    assert [len(backend.bodies) for backend in backends] == chosen
    assert sum(count > 0 for count in chosen) > 1, chosen

    stream = await router.acompletion("fake", message(1), max_tokens=4, stream=True)
    pieces = []
    async for piece in stream:
        pieces.append(piece)
        if len(pieces) == 2:
            strategy.deployments._see_first_tokens()  # as before each decision
            known = [chooser.view._instances[name] for name in "abc"]
            assert sum(each.num_in_flight for each in known) == 1
            assert sum(each.num_prefills for each in known) == 0  # its first token was seen
    await until_soon(lambda: chooser.counters()["flights"] == 0)
    assert sum(chooser.view._instances[name].recent_ttft_s > 0.0 for name in "abc") == 1

    for backend in backends[:2]:
        backend.status = 500
    answer = await router.acompletion("fake", message(2), max_tokens=3, num_retries=6)
    assert answer.choices[0].message.content == "a"  # tried elsewhere, then left out
    await until_soon(lambda: chooser.counters()["flights"] == 0)
    for backend in backends:
        backend.status = 200
    await router.atext_completion("fake", prompt="x" * 900, max_tokens=3)
    await until_soon(lambda: chooser.counters()["flights"] == 0)


def main():
    seen = record()
    backends = [Backend(ttft_s=0.01 * place, waiting=float(place)) for place in range(3)]
    router = Router(
        model_list=[
            {
                "model_name": "fake",
                "litellm_params": {
                    "model": "openai/fake",
                    "api_base": f"{backend.url}/v1",
                    "api_key": "none",
                },
                "model_info": {"id": name},
            }
            for name, backend in zip("abc", backends, strict=True)
        ],
        num_retries=0,
        allowed_fails=0,
        cooldown_time=1,
    )
    strategy = install(router, scrape_interval_s=0.2, seed=0, profiles={"a": {"decode_step_s": 0.02}})
    try:
        until(lambda: all(backend.num_scrapes for backend in backends))
        asyncio.run(calls(router, strategy, backends, seen))
        time.sleep(1.1)
        num_before = len(seen)
        for number in range(6):
            router.completion("fake", message(number), max_tokens=3)
        assert len(seen) == num_before + 6
        until(lambda: strategy.chooser.counters()["flights"] == 0)
        check(seen, NUM_CALLS + 9)
        first, _ = seen[0]
        assert first["instances"][:, 0].tolist() == [0.0, 1.0, 2.0]  # num_waiting
        counters = strategy.chooser.counters()
        assert not [name for name in counters if "Error" in name or "fallback" in name], counters
        print("litellm", importlib.metadata.version("litellm"), counters)
    finally:
        strategy.scraper.stop()
        for backend in backends:
            backend.end()


if __name__ == "__main__":
    main()
