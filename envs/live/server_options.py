"""What a local vLLM server is started with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from envs.emulator.profile import load
from envs.live.tiny_model import MAX_MODEL_LEN

MODELLED, CPU = "modelled", "cpu"
KINDS = (MODELLED, CPU)
CPU_BLOCK_SIZE_MULTIPLE = 32
"""vLLM's attention on a CPU takes no other block sizes."""
CPU_DEFAULTS = {
    "block_size": CPU_BLOCK_SIZE_MULTIPLE,
    "num_blocks": 512,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 2048,
    "max_model_len": 8192,
}
EXECUTORS = {
    MODELLED: "modelled_executor.ModelledExecutor",
    # In the engine's own process. The worker that vLLM starts on a CPU otherwise, and the engine that waits
    # for it, spin: on two cores they kept a client from running for up to 2.5 s, this one for 5 ms.
    CPU: "vllm.v1.executor.uniproc_executor.UniProcExecutor",
}
IN_VLLM = Path(__file__).parent / "in_vllm"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
    "VLLM_TARGET_DEVICE": "cpu",  # also where the wheel was built for GPUs
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, far more than the tiny model's blocks take
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class ServerOptions:
    """One server. The names are vLLM's own where it has one.

    A *modelled* server is vLLM's API server, scheduler and KV cache manager on a device that is modelled: a
    step takes the time that a profile's law says, and tokens are made up. A *cpu* server runs all of vLLM,
    with a tiny model. What is None is the profile's for a modelled server, that of ``CPU_DEFAULTS`` for the
    other.
    """

    kind: str = MODELLED
    profile: str | None = None
    """A shipped name or the path of a file. A cpu server's is only told to those that use it."""
    time_scale: float = 1.0
    """How many times slower than its profile a modelled server is: vLLM itself takes 1 to 7 ms a step."""
    name: str | None = None
    """None: the kind and the number of the server."""
    port: int | None = None
    """On 127.0.0.1. None: a free one."""
    block_size: int | None = None
    num_blocks: int | None = None
    """Usable ones; vLLM is given one more, for the null block that it keeps to itself."""
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int | None = None
    """None: what the model takes, or what the blocks hold if that is less."""
    enable_prefix_caching: bool = True
    scheduling_policy: str = "fcfs"
    max_catch_up_s: float = 0.5
    """How far a modelled server that was held up may make up for it, in seconds of the real clock."""
    model: str | None = None
    """A model's directory. None: the tiny one, made beside the logs."""

    def __post_init__(self) -> None:
        """Check what can be checked without a server, and fill in what is None.

        Raises:
            ValueError: An option is not what it must be; names it.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, use one of {', '.join(KINDS)}")
        if self.kind == MODELLED:
            if self.profile is None:
                raise ValueError("profile is missing: a modelled server needs one, a shipped name or a path")
            self._fill_in_from_profile(self.profile)
        else:
            if self.time_scale != 1:
                raise ValueError(f"time_scale is {self.time_scale}: only a modelled server takes one")
            for key, value in CPU_DEFAULTS.items():
                self._set_default(key, value)
        for key in CPU_DEFAULTS:
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{key} is {value!r}, it must be a whole number from 1")
        if self.kind == CPU and self.sizes["block_size"] % CPU_BLOCK_SIZE_MULTIPLE:
            raise ValueError(
                f"block_size is {self.block_size}: on a CPU it must be a multiple of"
                f" {CPU_BLOCK_SIZE_MULTIPLE}"
            )
        if not isfinite(self.time_scale) or self.time_scale <= 0:
            raise ValueError(f"time_scale is {self.time_scale}, it must be a number above 0")
        if not isfinite(self.max_catch_up_s) or self.max_catch_up_s < 0:
            raise ValueError(
                f"max_catch_up_s is {self.max_catch_up_s}, it must be a number of seconds from 0"
            )
        if self.scheduling_policy not in ("fcfs", "priority"):
            raise ValueError(f"scheduling_policy is {self.scheduling_policy!r}, use fcfs or priority")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}, it must lie in [1, 65535]")
        if self.name is not None and (not self.name or "/" in self.name):
            raise ValueError(f"name is {self.name!r}, it must be a word that a file can be called by")

    def _fill_in_from_profile(self, name_or_path: str) -> None:
        profile = load(name_or_path)
        self._set_default("block_size", profile.block_size)
        num_tokens = profile.num_blocks * profile.block_size
        self._set_default("num_blocks", num_tokens // self.sizes["block_size"])
        self._set_default("max_num_seqs", profile.max_num_seqs)
        self._set_default("max_num_batched_tokens", profile.max_num_batched_tokens)
        self._set_default(
            "max_model_len", min(MAX_MODEL_LEN, self.sizes["num_blocks"] * self.sizes["block_size"])
        )

    def _set_default(self, key: str, value: int) -> None:
        if getattr(self, key) is None:
            object.__setattr__(self, key, value)

    @property
    def sizes(self) -> dict[str, int]:
        """Those options that say how large the server is, all filled in."""
        return {key: getattr(self, key) for key in CPU_DEFAULTS}

    def endpoint(self, url: str, kv_events: str) -> dict[str, Any]:
        """What a router must know of the server, in the words of ``conf/cluster/live.yaml``."""
        described = {"url": url} | ({"profile": self.profile} if self.profile is not None else {})
        return described | {
            "time_scale": self.time_scale,
            "async_scheduling": False,
            "kv_events": kv_events,
            **self.sizes,
            "prefix_caching": self.enable_prefix_caching,
        }

    def arguments(self, port: int, kv_events: str, model: Path) -> list[str]:
        """Arguments of vLLM's API server."""
        events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": kv_events, "topic": ""}
        sizes = self.sizes
        arguments = ["--host", "127.0.0.1", "--port", str(port), "--model", self.model or str(model)]
        arguments += ["--served-model-name", "tiny" if self.model is None else Path(self.model).name]
        arguments += ["--load-format", "dummy", "--enforce-eager", "--generation-config", "vllm"]
        arguments += ["--block-size", str(sizes["block_size"])]
        arguments += ["--num-gpu-blocks-override", str(sizes["num_blocks"] + 1)]
        arguments += ["--max-num-seqs", str(sizes["max_num_seqs"])]
        arguments += ["--max-num-batched-tokens", str(sizes["max_num_batched_tokens"])]
        arguments += ["--max-model-len", str(sizes["max_model_len"])]
        arguments += ["--scheduling-policy", self.scheduling_policy, "--no-async-scheduling"]
        arguments += [
            "--enable-prefix-caching" if self.enable_prefix_caching else "--no-enable-prefix-caching"
        ]
        arguments += ["--enable-prompt-tokens-details", "--enable-request-id-headers"]
        arguments += ["--disable-uvicorn-access-log", "--kv-events-config", json.dumps(events)]
        arguments += ["--distributed-executor-backend", EXECUTORS[self.kind]]
        return arguments

    def environment(self, step_log: Path | None) -> dict[str, str]:
        """Variables that its process needs beside those of ours."""
        if self.kind == CPU:
            return ENVIRONMENT
        device = {
            "law": load(str(self.profile)).law._asdict(),
            "time_scale": self.time_scale,
            "max_catch_up_s": self.max_catch_up_s,
            "step_log": str(step_log) if step_log else None,
        }
        return ENVIRONMENT | {"ROUTEGYM_MODELLED_DEVICE": json.dumps(device), "PYTHONPATH": str(IN_VLLM)}

    def named(self, number: int) -> ServerOptions:
        """The same with a name."""
        return self if self.name is not None else replace(self, name=f"{self.kind}-{number}")


def parse(assignments: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """KEY=VALUE words: those that are no option of a server, as they are, and those that are, by their type.

    Raises:
        ValueError: A word is no KEY=VALUE, comes twice, or holds a value of another type.
    """
    types = {field.name: str(field.type) for field in fields(ServerOptions)}
    others: dict[str, str] = {}
    options: dict[str, Any] = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise ValueError(f"{word!r} is no KEY=VALUE")
        if key in others or key in options:
            raise ValueError(f"{key} is said twice")
        if key in types:
            options[key] = _value(key, value, types[key].removesuffix(" | None"))
        else:
            others[key] = value
    return others, options


def _value(key: str, text: str, kind: str) -> Any:
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text]
        return {"int": int, "float": float, "str": str}[kind](text)
    except (KeyError, ValueError):
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kind]
        raise ValueError(f"{key} is {text!r}, write {wanted}") from None
