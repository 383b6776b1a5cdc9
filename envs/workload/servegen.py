"""Tenants as ServeGen recorded them (Xiang et al., arXiv 2505.09999), each with its burstiness and lengths.

Read are the extracts ``servegen_client_windows.parquet`` (per client and 600 s: rate and law of the gaps) and
``servegen_client_lengths.parquet`` (per client and 6 h: quantiles of prompt and answer tokens). A stream is
one such window drawn at random, held for as long as the stream lasts: each client is a tenant whose gaps are
Gamma or Weibull of its recorded shape. Prompts have no prefixes in common: none were recorded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import gamma, inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from envs.workload.drawn import Drawn
from envs.workload.location import trace_path
from envs.workload.replay import Replay
from envs.workload.settings import positive, positive_int, slo_of
from envs.workload.trace import Trace

WINDOWS, LENGTHS = "servegen_client_windows.parquet", "servegen_client_lengths.parquet"
DEFAULT_FOLDER = "servegen"
WINDOW_S = 600.0
FIELDS = ("input_tokens", "output_tokens")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Client:
    """One client's requests in one window."""

    tenant: int
    rate_per_s: float
    law: str
    """``Gamma`` or ``Weibull``."""
    shape: float
    """Of that law."""
    quantiles: tuple[Floats, ...]
    """Of the tokens of its prompts and of its answers, at ``Clients.levels``."""


@dataclass(frozen=True)
class Clients:
    """All clients of one model."""

    levels: Floats
    """Of all quantiles, rising from 0 to 1."""
    windows: list[list[Client]]
    """The clients that are active, window by window."""
    num_without_lengths: int
    """Clients of which no lengths are known; they are left out."""


def load(folder: str | Path, model: str, window_start_s: float = 0.0, window_stop_s: float = inf) -> Clients:
    """Read the clients of a model in the windows that begin in [window_start_s, window_stop_s).

    Where a client has no lengths for its six hours, those of the hours nearest to them are taken. A client
    that sent a single request in a window, so that it has no law there, sends as a Poisson process.

    Raises:
        ValueError: There is no such model, or no request in these windows; names what there is.
    """
    windows_path, lengths_path = Path(folder) / WINDOWS, Path(folder) / LENGTHS
    wanted = [("model", "==", model), ("rate_rps", ">", 0.0)]
    inside = [("window_s", ">=", window_start_s), ("window_s", "<", window_stop_s)]
    windows = pd.read_parquet(windows_path, filters=[*wanted, *inside])
    if windows.empty:
        known_models = sorted(pd.read_parquet(windows_path, columns=["model"])["model"].unique())
        if model not in known_models:
            raise ValueError(f"model is {model!r}: choose one of {', '.join(known_models)}")
        whole = pd.read_parquet(windows_path, filters=wanted)["window_s"]
        raise ValueError(
            f"no client of {model} sends in [{window_start_s:g}, {window_stop_s:g}) s: the trace runs from"
            f" {whole.min()} to {whole.max()} s"
        )
    levels = np.array(_metadata(lengths_path, "quantile_levels"))
    known: dict[int, list[tuple[int, tuple[Floats, ...]]]] = {}
    lengths = pd.read_parquet(lengths_path, filters=[("model", "==", model)])
    for (client, at_s), rows in lengths.groupby(["client_id", "window_s"]):
        by_field = {row.field: np.asarray(row.quantiles, np.float64) for row in rows.itertuples()}
        if by_field.keys() >= set(FIELDS):
            known.setdefault(int(client), []).append((int(at_s), tuple(by_field[name] for name in FIELDS)))
    result: list[list[Client]] = []
    for at_s, rows in windows.groupby("window_s"):
        result.append(
            [
                Client(
                    tenant=row.client_id,
                    rate_per_s=row.rate_rps,
                    law=row.pattern if isinstance(row.pattern, str) else "Gamma",
                    shape=row.arg1 if isinstance(row.pattern, str) else 1.0,
                    quantiles=min(known[row.client_id], key=lambda each: abs(each[0] - at_s))[1],
                )
                for row in rows.itertuples()
                if row.client_id in known
            ]
        )
    result = [each for each in result if each]
    if not result:
        raise ValueError(
            f"of no client of {model} that sends in these windows lengths are known: take others"
        )
    return Clients(levels, result, len(set(windows["client_id"]) - known.keys()))


def _metadata(path: Path, key: str) -> Any:
    held = pq.read_schema(path).metadata or {}
    if key.encode() not in held:
        raise ValueError(f"{path}: {key} is not in its metadata: take the extract that the README describes")
    return json.loads(held[key.encode()])


def draw(rng: np.random.Generator, clients: Clients, num_requests: int, rate_per_s: float) -> Trace:
    """Draw a stream of one window: all clients' rates times one number, their burstiness as it was."""
    window = clients.windows[int(rng.integers(len(clients.windows)))]
    total_per_s = sum(client.rate_per_s for client in window)
    until_s = 1.2 * num_requests / total_per_s
    seeds = rng.integers(2**63, size=len(window))
    while True:  # bursty clients may send fewer than they do on average
        arrivals = [
            _arrivals(np.random.default_rng(seed), client, until_s)
            for seed, client in zip(seeds, window, strict=True)
        ]
        if sum(map(len, arrivals)) >= num_requests:
            break
        until_s *= 2.0
    of_client = np.repeat(np.arange(len(window)), [len(each) for each in arrivals])
    arrived_at_s = np.concatenate(arrivals)
    order = np.argsort(arrived_at_s, kind="stable")[:num_requests]
    arrived_at_s, of_client = arrived_at_s[order] - arrived_at_s[order[0]], of_client[order]
    tokens = np.empty((2, num_requests), np.int64)
    places = rng.random((2, num_requests))
    for number in np.unique(of_client):
        rows = of_client == number
        for field, quantiles in enumerate(window[number].quantiles):
            tokens[field, rows] = np.rint(np.interp(places[field, rows], clients.levels, quantiles))
    own_rate_per_s = (num_requests - 1) / max(arrived_at_s[-1], 1e-9)
    return Trace(
        arrived_at_s=arrived_at_s * (own_rate_per_s / rate_per_s),
        num_prompt_tokens=np.maximum(tokens[0], 1),
        num_output_tokens=np.maximum(tokens[1], 1),
        tenant=np.array([client.tenant for client in window])[of_client],
    )


def _arrivals(rng: np.random.Generator, client: Client, until_s: float) -> Floats:
    """Instants of a client's requests before ``until_s``; time 0 lies anywhere in its first gap."""
    gaps: list[Floats] = []
    total_s = 0.0
    while total_s < until_s:
        num = int(client.rate_per_s * until_s) + 10
        if client.law == "Gamma":
            drawn = rng.gamma(client.shape, 1.0 / (client.shape * client.rate_per_s), num)
        else:
            drawn = rng.weibull(client.shape, num) / (client.rate_per_s * gamma(1.0 + 1.0 / client.shape))
        if not gaps:
            drawn[0] *= rng.random()
        gaps.append(drawn)
        total_s += float(drawn.sum())
    instants = np.cumsum(np.concatenate(gaps))
    return instants[instants < until_s]


def workload(
    path: str | None = None,
    *,
    model: str = "deepseek-r1",
    seed: int = 0,
    window_start_s: float = 0.0,
    window_stop_s: float | None = None,
    max_model_len: int | None = None,
    rate_per_s: float = 16.0,
    num_requests: int = 1000,
    block_size: int = 16,
    slo_ttft_s: float = 2.0,
    slo_tpot_s: float = 0.1,
) -> Drawn:
    """Draw streams of ServeGen's clients; ``conf/workload/servegen.yaml`` explains every setting."""
    slo = slo_of(slo_ttft_s, slo_tpot_s)
    rate_per_s, num_requests = positive("rate_per_s", rate_per_s), positive_int("num_requests", num_requests)
    folder = Path(path) if path is not None else trace_path(f"{DEFAULT_FOLDER}/{WINDOWS}").parent
    clients = load(folder, model, window_start_s, inf if window_stop_s is None else window_stop_s)
    note = f"ServeGen {model}, {len(clients.windows)} windows of {WINDOW_S:g} s"
    if clients.num_without_lengths:
        note += f", {clients.num_without_lengths} clients without lengths left out"

    def drawn(rng: np.random.Generator) -> Replay:
        trace = draw(rng, clients, num_requests, rate_per_s).noted(note)
        if max_model_len is not None:
            trace = trace.dropping_longer_than(max_model_len)
        return Replay(trace, block_size=block_size, slo=slo)

    return Drawn(drawn, seed)
