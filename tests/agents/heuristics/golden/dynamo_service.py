"""Records what Dynamo's selection service chooses, in process. ``run.py`` runs it in .venv-golden-dynamo.

python dynamo_service.py FOLDER [RUN ...]
"""

import asyncio
import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path

from sequences import BLOCK, BLOCK_RUNS, NUM_BACKENDS

os.environ["DYN_LOG"] = "error"
os.environ["DYN_ROUTER_USE_KV_EVENTS"] = (
    "false"  # it is not told what is cached: it remembers what it sent where
)

from dynamo._core import SelectionService

TWO_TIER = """\
worker_selection:
  aggregated: two-tier
  instances:
    - name: two-tier
      type: dynamo-two-tier-cost-fn
      parameters:
        balance_abs_threshold: 2
"""
MODEL = {"model_name": "model", "routing_group": "default"}


def tokens(blocks):
    return [BLOCK * block + place for block in blocks for place in range(BLOCK)]


async def play(events):
    """Play a run; return the worker of each request."""
    service, choices = SelectionService(indexer_threads=1), []
    for worker in range(NUM_BACKENDS):
        await service.upsert_worker(
            {
                **MODEL,
                "worker_id": worker,
                "endpoint": f"http://127.0.0.1:{9000 + worker}",
                "block_size": BLOCK,
                "data_parallel_start_rank": 0,
                "data_parallel_size": 1,
            }
        )
    for event in events:
        name = f"request {event.number}"
        if event.what == "send":
            request = {**MODEL, "selection_id": name, "token_ids": tokens(event.blocks)}
            choices.append((await service.select_and_reserve(request))["worker_id"])
        elif event.what == "first":
            await service.prefill_complete(name)
        else:
            await service.free_reservation(name)
        await asyncio.sleep(0.02)  # it takes in what it is told in the background
    service.shutdown()
    return choices


def main():
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    of = f"ai-dynamo-runtime {importlib.metadata.version('ai-dynamo-runtime')}, SelectionService"
    for name, events in BLOCK_RUNS.items():
        if wanted and name not in wanted:
            continue
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            if name == "dynamo_two_tier":
                file.write(TWO_TIER)
                file.flush()
                os.environ["DYN_ROUTER_POLICY_CONFIG"] = file.name
            choices = asyncio.run(play(events))
            os.environ.pop("DYN_ROUTER_POLICY_CONFIG", None)
        (folder / f"{name}.json").write_text(
            json.dumps({"of": of, "choices": choices}) + "\n", encoding="utf-8"
        )
        print(f"{name}: {len(choices)} choices of {of}", flush=True)


if __name__ == "__main__":
    main()
