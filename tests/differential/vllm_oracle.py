"""vLLM's own scheduler and KV-cache manager as an oracle, run in vLLM's environment; imports nothing of ours.

Reads one scenario per line of standard input, writes one line of rows for each; the first line written names
the version of vLLM. There is no model and no device: every step hands back one token for each request
whose known tokens are all computed.
"""

import json
import logging
import os
import sys
import tempfile

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
    VLLM_TARGET_DEVICE="cpu",  # lets the stock wheel choose the CPU platform too
    PYTHONHASHSEED="0",
)
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever vLLM prints is no answer

import torch  # noqa: E402
import vllm  # noqa: E402
from vllm.config import (  # noqa: E402
    CacheConfig,
    DeviceConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.utils.hashing import get_hash_fn_by_name  # noqa: E402
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec  # noqa: E402
from vllm.v1.outputs import ModelRunnerOutput  # noqa: E402
from vllm.v1.request import Request  # noqa: E402
from vllm.v1.structured_output import StructuredOutputManager  # noqa: E402

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
}
END_OF_TEXT = 1
MAX_STEPS = 20_000


class Oracle:
    """One engine: its scheduler, and a device that only counts."""

    def __init__(self, model_path, options):
        model = ModelConfig(
            model=model_path,
            tokenizer=model_path,
            dtype="float32",
            seed=0,
            max_model_len=options["max_model_len"],
            skip_tokenizer_init=True,
        )
        self.is_async = options["async_scheduling"]
        scheduling = SchedulerConfig(
            max_num_seqs=options["max_num_seqs"],
            max_num_batched_tokens=options["max_num_batched_tokens"],
            max_model_len=options["max_model_len"],
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
            policy=options["policy"],
            scheduler_reserve_full_isl=options["scheduler_reserve_full_isl"],
            watermark=options["watermark"],
            long_prefill_token_threshold=options["long_prefill_token_threshold"],
            async_scheduling=self.is_async,
        )
        block_size, num_blocks = options["block_size"], options["num_blocks"] + 1  # one is the null block
        cache = CacheConfig(
            block_size=block_size,
            gpu_memory_utilization=0.9,
            cache_dtype="auto",
            enable_prefix_caching=options["prefix_caching"],
        )
        config = VllmConfig(
            model_config=model,
            scheduler_config=scheduling,
            cache_config=cache,
            parallel_config=ParallelConfig(),
            device_config=DeviceConfig("cpu"),
        )
        config.scheduler_config.async_scheduling = self.is_async  # the CPU platform changed these
        cache.block_size, cache.num_gpu_blocks = block_size, num_blocks
        spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=32, dtype=torch.float32)
        self.scheduler = (AsyncScheduler if self.is_async else Scheduler)(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=num_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            block_size=block_size,
            log_stats=True,
            structured_output_manager=StructuredOutputManager(config),
        )
        hash_function = get_hash_fn_by_name("sha256")
        init_none_hash(hash_function)
        self.block_hasher = get_request_block_hasher(block_size, hash_function)
        self.answers = {}
        self.in_flight = []

    def add(self, number, request):
        params = SamplingParams(max_tokens=len(request["answer"]), ignore_eos=True, temperature=0.0)
        params.update_from_generation_config({}, END_OF_TEXT)
        name = f"{number:04d}"
        self.answers[name] = request["answer"]
        self.scheduler.add_request(
            Request(
                request_id=name,
                prompt_token_ids=request["prompt"],
                sampling_params=params,
                pooling_params=None,
                priority=request["priority"],
                arrival_time=request["arrived"],
                block_hasher=self.block_hasher,
            )
        )

    def sampled(self, scheduled, computed_before):
        """The step's output: a token for each request whose known tokens are all computed after it."""
        names, token_ids = list(scheduled), []
        for name in names:
            request = self.scheduler.requests[name]
            num_computed = computed_before[name] + scheduled[name]
            num_known = request.num_tokens + request.num_output_placeholders
            if self.is_async and not request.is_prefill_chunk:
                num_known -= 1  # its placeholder of this step
            is_done = num_computed >= num_known
            token_ids.append(
                [self.answers[name][num_computed - request.num_prompt_tokens]] if is_done else []
            )
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: at for at, name in enumerate(names)},
            sampled_token_ids=token_ids,
        )

    def step(self, number):
        """One call of ``schedule`` and what follows it; return the row, or None where nothing happened."""
        scheduler = self.scheduler
        num_preemptions = {request.request_id: request.num_preemptions for request in scheduler.running}
        output = scheduler.schedule()
        scheduled = dict(output.num_scheduled_tokens)
        before = {name: scheduler.requests[name].num_computed_tokens - scheduled[name] for name in scheduled}
        new = {request.req_id for request in output.scheduled_new_reqs}
        resumed = set(output.scheduled_cached_reqs.resumed_req_ids)
        preempted = [
            int(name)
            for name, num in num_preemptions.items()
            if scheduler.requests[name].num_preemptions > num
        ]
        manager = scheduler.kv_cache_manager
        served = [
            [
                int(name),
                "new" if name in new else "resumed" if name in resumed else "running",
                scheduled[name],
                before[name],
                len(manager.get_block_ids(name)[0]),
            ]
            for name in scheduled
        ]
        num_free = manager.block_pool.get_num_free_blocks()
        self.in_flight.append((output, self.sampled(scheduled, before)))
        finished, gauges = [], None
        if not self.is_async or len(self.in_flight) > 1 or not scheduled:
            for outputs in scheduler.update_from_output(*self.in_flight.pop(0)).values():
                finished += [int(one.request_id) for one in outputs.outputs if one.finish_reason is not None]
                if (stats := outputs.scheduler_stats) is not None:
                    usage = round(stats.kv_cache_usage * (manager.block_pool.num_gpu_blocks - 1))
                    gauges = [stats.num_running_reqs, stats.num_waiting_reqs, usage]
        if self.in_flight and not scheduler.has_unfinished_requests():
            scheduler.update_from_output(*self.in_flight.pop(0))  # as the engine does before it waits
        if not served and not preempted and not finished and gauges is None:
            return None
        return [
            number,
            served,
            sorted(preempted),
            num_free if served or preempted else None,
            sorted(finished),
            gauges,
        ]


def rows_of(model_path, scenario):
    """Play a scenario; return its rows and the number of steps."""
    oracle = Oracle(model_path, scenario["options"])
    arrivals = sorted(enumerate(scenario["requests"]), key=lambda pair: pair[1]["at_step"])
    rows, number = [], 0
    while arrivals or oracle.scheduler.has_unfinished_requests():
        if number == MAX_STEPS:
            raise RuntimeError(f"no end after {MAX_STEPS} steps")
        while arrivals and arrivals[0][1]["at_step"] <= number:
            oracle.add(*arrivals.pop(0))
        row = oracle.step(number)
        if row is not None:
            rows.append(row)
        number += 1
    return {"num_steps": number, "rows": rows}


def main():
    logging.disable()
    with tempfile.TemporaryDirectory() as model_path:
        with open(os.path.join(model_path, "config.json"), "w", encoding="utf-8") as file:
            json.dump(MODEL, file)
        print(json.dumps({"vllm": vllm.__version__}), file=answers)
        for line in sys.stdin:
            print(json.dumps(rows_of(model_path, json.loads(line)), separators=(",", ":")), file=answers)


if __name__ == "__main__":
    main()
