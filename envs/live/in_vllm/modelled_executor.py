"""vLLM's own API server, scheduler and KV cache manager, on a device that is modelled.

    --distributed-executor-backend modelled_executor.ModelledExecutor

with this folder on PYTHONPATH and the arguments of ``ModelledDevice`` as JSON in ROUTEGYM_MODELLED_DEVICE.
There are no workers, no weights and no attention: a step takes the time that the device's law says, and its
tokens are made up. Written for the executor interface of vLLM 0.32 and 0.33, without asynchronous scheduling.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from typing import Any
from zlib import crc32

from modelled_device import ModelledDevice
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

FIRST_ANSWER_TOKEN = 10
NUM_ANSWER_TOKENS = 80
"""Answers are made of these, each a printable ASCII character of the tiny model."""


class ModelledExecutor(Executor):
    """Stands where vLLM's executors run a model on their workers."""

    supports_pp = False

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """It runs one step at a time."""
        return False

    def _init_executor(self) -> None:
        self.device = ModelledDevice(**json.loads(os.environ["ROUTEGYM_MODELLED_DEVICE"]))
        self.num_prompt_tokens: dict[str, int] = {}  # request_id -> tokens of its prompt
        self.output = EMPTY_MODEL_RUNNER_OUTPUT

    def collective_rpc(
        self,
        method: Any,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        """Answer for the worker that is not there; what needs no answer gets None."""
        answers = {
            "get_kv_cache_spec": self._kv_cache_spec,
            "determine_available_memory": self._available_bytes,
            "get_supported_kv_cache_layouts": lambda: ["LBNHC"],
            "get_supported_tasks": lambda: ("generate",),
        }
        answer = answers.get(method)
        return _given([answer() if answer else None], non_block)

    def _layer_spec(self) -> FullAttentionSpec:
        model, parallel = self.model_config, self.parallel_config
        return FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=model.get_num_kv_heads(parallel),
            head_size=model.get_head_size(),
            dtype=model.dtype,
        )

    def _kv_cache_spec(self) -> dict[str, FullAttentionSpec]:
        num_layers = self.model_config.get_num_layers(self.parallel_config)
        return {f"model.layers.{layer}.self_attn.attn": self._layer_spec() for layer in range(num_layers)}

    def _available_bytes(self) -> int:
        """As many as the blocks take that ``--num-gpu-blocks-override`` says."""
        num_layers = self.model_config.get_num_layers(self.parallel_config)
        num_blocks: int = self.cache_config.num_gpu_blocks_override
        num_bytes: int = num_blocks * self._layer_spec().page_size_bytes * num_layers
        return num_bytes

    def compile_or_warm_up_model(self) -> None:
        """There is nothing to compile."""

    def check_health(self) -> None:
        """It is always healthy."""

    def shutdown(self) -> None:
        """End the step log; there is nothing else to end."""
        self.device.close()

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Begin a step; ``sample_tokens`` ends it."""
        self.device.forget(scheduler_output.finished_req_ids)
        for request in scheduler_output.finished_req_ids:
            self.num_prompt_tokens.pop(request, None)
        scheduled = scheduler_output.num_scheduled_tokens
        if not scheduled:
            return _given(EMPTY_MODEL_RUNNER_OUTPUT, non_block)
        computed, num_known = {}, {}
        for new in scheduler_output.scheduled_new_reqs:
            # The model runner of later versions resumes requests here, with their answer so far.
            known = new.prefill_token_ids or new.prompt_token_ids
            self.num_prompt_tokens.setdefault(new.req_id, len(new.prompt_token_ids))
            computed[new.req_id], num_known[new.req_id] = new.num_computed_tokens, len(known)
        cached = scheduler_output.scheduled_cached_reqs
        for at, request in enumerate(cached.req_ids):
            computed[request] = cached.num_computed_tokens[at]
            num_known[request] = self.num_prompt_tokens[request] + cached.num_output_tokens[at]
        self.device.begin(scheduled, computed)
        sampled = [
            [_answer_token(request, computed[request] + num_new)]
            if computed[request] + num_new >= num_known[request]
            else []
            for request, num_new in scheduled.items()
        ]
        self.output = ModelRunnerOutput(
            req_ids=list(scheduled),
            req_id_to_index={request: at for at, request in enumerate(scheduled)},
            sampled_token_ids=sampled,
        )
        return _given(None, non_block)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """Wait until the device has done the step; return its tokens."""
        self.device.end()
        return _given(self.output, non_block)


def _answer_token(request: str, position: int) -> int:
    """The token at this position: another answer for each request, the same in each run.

    vLLM adds eight random digits to the request's id.
    """
    seed = crc32(request.rpartition("-")[0].encode())
    return FIRST_ANSWER_TOKEN + crc32(position.to_bytes(8, "little"), seed) % NUM_ANSWER_TOKENS


def _given(value: Any, non_block: bool) -> Any:
    if not non_block:
        return value
    future: Future[Any] = Future()
    future.set_result(value)
    return future
