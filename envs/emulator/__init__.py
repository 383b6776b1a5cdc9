"""The compiled emulation of a cluster of vLLM V1 engines.

The scheduler and the KV cache agree with those of ``VLLM_VERSION`` step by step; ``tests/differential`` holds
them against each other. What another version does otherwise is an option of ``build.InstanceConfig``.
"""

from pathlib import Path

from envs.emulator.compilation import keep_compiled

VLLM_VERSION = "0.32.0"
"""The version of vLLM that the emulator follows."""

keep_compiled(Path(__file__).parent)
