"""Vidur on RouteGym's step times; runs in an environment with ``vidur``.

Vidur predicts step times by regression on profiled kernels. Its own profiles lie in a data set on a hub;
here it is given our law of step times instead, written in the form of those profiles, so that both
simulators take the same time for the same step (of a roofline law without a term per sequence). The
regression is trained once and kept in ``cache``.
"""

import csv
import logging
import time
from importlib.metadata import version
from pathlib import Path

from vidur import config
from vidur.execution_time_predictor.random_forrest_execution_time_predictor import (
    RandomForrestExecutionTimePredictor,
)
from vidur.simulator import Simulator

from tests.benchmarks.peers.outcome import print_outcome, read_job, spread

NUM_LAYERS = 32
MODEL = {"n_embd": 4096, "n_kv_head": 8, "num_tensor_parallel_workers": 1}
KERNELS = (
    "attn_pre_proj",
    "attn_post_proj",
    "attn_rope",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "input_layernorm",
    "post_attention_layernorm",
    "add",
)
"""Of the profile's linear part."""
MAX_TOKENS = 4096
GRANULARITY = 64


def write(path: Path, rows: list[dict]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def layer_ms(step_s: float) -> float:
    """Milliseconds of one layer, of which a step has 32."""
    return 1e3 * step_s / NUM_LAYERS


def mlp_rows(law: dict[str, float], max_num_batched_tokens: int) -> list[dict]:
    """The linear layers, all in one kernel; the others take no time."""
    fixed = MODEL | {"n_head": 32, "n_expanded_embd": 14336, "use_gated_mlp": True, "vocab_size": 128256}
    rows = []
    for num_tokens in range(8, max_num_batched_tokens + 1, 8):
        linear_s = max(law["floor_s"], law["overhead_s"] + law["token_s"] * num_tokens)
        times = {f"time_stats.{kernel}.median": 0.0 for kernel in KERNELS}
        times["time_stats.mlp_up_proj.median"] = layer_ms(linear_s)
        rows.append(fixed | times | {"num_tokens": num_tokens})
    return rows


def attention_rows(law: dict[str, float], max_num_seqs: int, max_num_batched_tokens: int) -> list[dict]:
    """Attention: of a prefill chunk by its tokens and its context, of decoding by batch and mean context."""
    fixed = MODEL | {"n_q_head": 32, "block_size": 16}
    save, prefill, decode = (
        f"time_stats.{name}.median" for name in ("attn_kv_cache_save", "attn_prefill", "attn_decode")
    )
    rows = []
    for context in range(0, MAX_TOKENS + 1, GRANULARITY):
        for chunk in range(32, max_num_batched_tokens + 1, 32):
            pairs = chunk * (max(context - chunk, 0) + 0.5 * (chunk + 1))
            row = {"batch_size": 1, "prefill_chunk_size": chunk, "kv_cache_size": context}
            times = {save: 0.0, prefill: layer_ms(law["prefill_attention_s"] * pairs), decode: 0.0}
            rows.append(fixed | row | times)
        for batch in range(1, max_num_seqs + 1):
            row = {"batch_size": batch, "prefill_chunk_size": 0, "kv_cache_size": context}
            times = {save: 0.0, prefill: 0.0, decode: layer_ms(law["decode_context_s"] * batch * context)}
            rows.append(fixed | row | times)
    return rows


def simulation(job: dict) -> config.SimulationConfig:
    """Eight replicas under the Sarathi scheduler: chunked prefill beside decodes, as vLLM does today."""
    cache = Path(job["cache"])
    return config.SimulationConfig(
        cluster_config=config.ClusterConfig(
            num_replicas=job["num_instances"],
            replica_config=config.ReplicaConfig(
                model_name="meta-llama/Llama-3-8B",
                num_pipeline_stages=1,
                tensor_parallel_size=1,
                device="a100",
                network_device="a100_dgx",
            ),
            cache_config=config.CacheConfig(num_blocks=job["num_blocks"], watermark_blocks_fraction=0.0),
            global_scheduler_config=config.RoundRobinGlobalSchedulerConfig(),
            replica_scheduler_config=config.SarathiSchedulerConfig(
                batch_size_cap=job["max_num_seqs"], chunk_size=job["max_num_batched_tokens"]
            ),
        ),
        request_generator_config=config.TraceRequestGeneratorConfig(
            trace_file=job["csv"], prefill_scale_factor=1.0, decode_scale_factor=1.0, time_scale_factor=1.0
        ),
        execution_time_predictor_config=config.RandomForrestExecutionTimePredictorConfig(
            model_profiling_dataset="routegym",
            num_estimators=[10],
            max_depth=[16],
            min_samples_split=[2],
            k_fold_cv_splits=2,
            num_training_job_threads=1,
            kv_cache_prediction_granularity=GRANULARITY,
            prediction_max_prefill_chunk_size=job["max_num_batched_tokens"],
            prediction_max_batch_size=job["max_num_seqs"],
            prediction_max_tokens_per_request=MAX_TOKENS,
            attention_decode_batching_overhead_fraction=0.0,
            cache_dir=str(cache / "predictor"),
        ),
        metrics_config=config.MetricsConfig(
            write_metrics=not job["quiet"],
            enable_chrome_trace=not job["quiet"],
            store_plots=False,  # they are drawn after the run
            output_dir=str(cache / "output"),
        ),
    )


def main() -> None:
    job = read_job()
    logging.getLogger("vidur").setLevel(logging.CRITICAL)
    cache = Path(job["cache"])
    cache.mkdir(parents=True, exist_ok=True)
    sizes = job["max_num_seqs"], job["max_num_batched_tokens"]
    mlp = write(cache / "mlp.csv", mlp_rows(job["law"], sizes[1]))
    attention = write(cache / "attention.csv", attention_rows(job["law"], *sizes))
    RandomForrestExecutionTimePredictor._get_input_files = lambda self: (mlp, attention, "", "")
    simulator = Simulator(simulation(job))
    requests = [event._request for _, event in simulator._event_queue]
    simulator._write_output = lambda: None
    started_s = time.perf_counter()
    simulator.run()
    simulate_s = time.perf_counter() - started_s
    print_outcome(
        version("vidur"),
        simulate_s,
        len(requests),
        int(sum(request.num_decode_tokens for request in requests)),
        max(request.completed_at for request in requests),
        spread([request.prefill_completed_at - request.arrived_at for request in requests]),
        spread(
            [
                (request.completed_at - request.prefill_completed_at) / max(request.num_decode_tokens - 1, 1)
                for request in requests
            ]
        ),
    )


main()
