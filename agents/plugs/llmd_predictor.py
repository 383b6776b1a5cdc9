"""llm-d: a server that its router takes for the latency predictor, to steer it and to collect its data.

Run it beside the endpoint picker (EPP), in the bundle's folder, with the bundle's Python::

    python -m plugs.llmd_predictor --port 8001 --collect /data/llmd

and give the EPP, which stays as it is, ``PREDICTION_SERVER_URL=http://127.0.0.1:8001``,
``TRAINING_SERVER_URL=http://127.0.0.1:8001`` and the plugins ``predicted-latency-producer`` and
``latency-scorer``, with ``max-score-picker`` and without an affinity filter: the weighted random picker and
the filters choose by rules of their own. Without objectives the scorer finds every pod late, takes idle ones
(nothing dispatched) alone if there are any, and else the least late. So that it takes the policy's choice
always, set its ``headroomSelectionStrategy: most`` and requests' header ``x-llm-d-slo-ttft-ms: 1000000000``.

Each row of ``POST /predict/bulk/strict`` is a pod as a request would find it. Rows of equal
``input_token_length`` are put to the policy together, as one request's instances. The best is answered by
``ttft_ms = base_ms``, each other by ``scale_ms`` more per unit of score that it is behind, and by ``GAP`` of
the range, since the scorer tells only a hundred steps of the range apart. ``tpot_ms`` is the same for all.

``POST /add_training_data_bulk`` appends rows of what really happened to ``PART-*.jsonl`` under ``--collect``,
the EPP's own fields unchanged; the oldest parts go when there are more than ``--max-parts``. In the
producer's ``streamingMode: false``, its default, ``actual_ttft_ms`` is the time to the last token.

Contract: llm-d-router ebab687 (``latencypredictorclient``), llm-d-latency-predictor 04e44cd
(``prediction_server.py``, ``training_server.py``), whose own models of messages take what this server sends.
llm-d itself, which is in Go, was not run.

What cannot be expressed: rows are anonymous, so a policy that tells GPU types apart sees one type (give
``--profile`` the fleet's own figures); no prompt and no session, so no prefix index of ours (llm-d's
``prefix_cache_score`` stands in) and no turns, tenants or arrival rate (1, 0 and 0); no recent TTFT or
throughput (0); snapshots are taken to be ``SNAPSHOT_AGE_S`` old. Requests of equal length that the EPP sends
in one batch are one request to the policy. Only scores count: a policy that decides by chance or in turns
cannot be expressed. It serves this machine alone and asks for no password.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.plugs.chooser import BUNDLE, load_policy, profile_of
from agents.plugs.collection import Collection
from agents.plugs.view import INSTANCE_COLUMNS, Observation, Profile

LOGGER = logging.getLogger("routegym.plugs")
SNAPSHOT_AGE_S = 0.05
"""llm-d scrapes its pods every 50 ms."""
NO_PREFIX_AGE_S = 3600.0
GAP = 0.02
"""Two of the hundred steps of llm-d's latency-scorer."""
TPOT_MS = 10.0
MAX_ROWS = 10_000
"""Of one call, as the real server has it."""
MAX_BYTES = 1 << 24
"""Of one body."""
MODEL_TYPE, QUANTILE = "xgboost", 0.9
FRACTIONS = ("kv_cache_percentage", "prefix_cache_score")
COUNTS = ("input_token_length", "num_request_waiting", "num_request_running", "num_tokens_generated")
OPTIONAL = (
    "prefill_tokens_in_flight",
    "decode_tokens_in_flight",
    "encoder_matched_size",
    "encoder_input_size",
)
LATENCIES = ("actual_ttft_ms", "actual_tpot_ms")
"""Of training rows alone."""


class BadRowError(ValueError):
    """A request that cannot be answered; the message is the reason."""


def checked(row: Any, place: int, names: Sequence[str] = ()) -> dict[str, float]:
    """The numbers of a row, those of ``OPTIONAL`` 0 where absent. Raises ``BadRowError``."""
    if not isinstance(row, Mapping):
        raise BadRowError(f"row {place} is {str(row)[:40]!r}, it must be an object")
    values = {}
    for name in (*FRACTIONS, *COUNTS, *OPTIONAL, *names):
        value = row.get(name, 0 if name in OPTIONAL else None)
        high = 1.0 if name in FRACTIONS else 1e12
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= high:
            raise BadRowError(f"row {place}: {name} is {str(value)[:40]}, it must be from 0 to {high:g}")
        values[name] = float(value)
    return values


def observation(rows: Sequence[Mapping[str, float]], profile: Profile) -> Observation:
    """What the policy sees of rows of one request."""
    num_tokens = max(rows[0]["input_token_length"], 1.0)
    table = np.zeros((len(rows), len(INSTANCE_COLUMNS)))
    for place, row in enumerate(rows):
        hits = min(row["prefix_cache_score"] * num_tokens, num_tokens - 1.0)
        waiting, running = row["num_request_waiting"], row["num_request_running"]
        known = {
            "num_waiting": waiting,
            "num_running": running,
            "frac_kv_cache_usage": row["kv_cache_percentage"],
            "snapshot_age_s": SNAPSHOT_AGE_S,
            "num_in_flight": waiting + running,
            "num_in_flight_prefills": waiting,
            "num_in_flight_prefill_tokens": row["prefill_tokens_in_flight"],
            "num_in_flight_uncached_tokens": row["prefill_tokens_in_flight"],
            "num_in_flight_decode_tokens": row["decode_tokens_in_flight"],
            "frac_prefix_hit": hits / num_tokens,
            "prefix_age_s": 0.0 if hits > 0.0 else NO_PREFIX_AGE_S,
            "num_uncached_tokens": num_tokens - hits,
            **dict(zip(Profile._fields[:4], profile[:4], strict=True)),
        }
        table[place] = [known.get(name, 0.0) for name in INSTANCE_COLUMNS]
    return {
        "instances": table.astype(np.float32),
        "request": np.array([num_tokens, 1.0, 0.0, 0.0, -1.0], np.float32),
        "mask": np.array([num_tokens < profile.max_model_len] * len(rows), np.int8),
    }


class Predictor:
    """Answers rows by a bundle's policy.

    Args:
        bundle: Its folder; None: the one that this file lies in.
        profile: Of all pods, by the names of ``view.Profile``.
        base_ms: What the best is answered by: more than any objective, so that no pod seems in time.
        scale_ms: More per unit of score behind it.

    Raises:
        ValueError: The folder holds no whole bundle, or a setting cannot be.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        profile: Mapping[str, Any] | None = None,
        base_ms: float = 100_000.0,
        scale_ms: float = 100.0,
    ) -> None:
        if not (0.0 < base_ms < math.inf and 0.0 < scale_ms < math.inf):
            raise ValueError(f"base_ms ({base_ms}) and scale_ms ({scale_ms}) must be above 0")
        self.policy = load_policy(BUNDLE if bundle is None else Path(bundle))
        self.policy.reset(np.random.default_rng(0))
        self._profile = profile_of("the pods", profile or {})
        self._base_ms, self._scale_ms = base_ms, scale_ms
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def ttft_ms(self, rows: Sequence[Mapping[str, float]]) -> list[float]:
        """Pseudo-latencies of checked rows, in their order."""
        requests: dict[float, list[int]] = {}  # input_token_length -> places
        for place, row in enumerate(rows):
            requests.setdefault(row["input_token_length"], []).append(place)
        scores, answers, most = np.zeros(len(rows)), np.zeros(len(rows)), self.policy.max_instances
        for places in requests.values():
            for first in range(0, len(places), most):
                part = places[first : first + most]
                scores[part] = self.scores([rows[each] for each in part])
            behind = scores[places].max() - scores[places]
            answers[places] = self._base_ms + self._scale_ms * (behind + (behind > 0.0) * GAP * behind.max())
        with self._lock:
            self.counts["rows"] += len(rows)
        return [float(answer) for answer in answers]

    def scores(self, rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
        """The policy's of one request's rows; where it fails, minus their requests in flight."""
        with self._lock:
            try:
                scores = self.policy.act(observation(rows, self._profile)).scores
                if np.isfinite(scores).all():
                    return np.asarray(scores, np.float64)
                raise ValueError("a score is not finite")
            except Exception as error:
                if not self.counts["fallback_least_in_flight"]:
                    LOGGER.warning("the policy failed, which is logged once: %r", error)
                self.counts["fallback_least_in_flight"] += 1
                return -np.array([row["num_request_waiting"] + row["num_request_running"] for row in rows])


class PredictorServer(ThreadingHTTPServer):
    """Serves this machine. Without a collection, training rows are counted and dropped."""

    daemon_threads = True

    def __init__(self, predictor: Predictor, collection: Collection | None = None, port: int = 0) -> None:
        self.predictor, self.collection = predictor, collection
        self.counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.started_at = _now()
        super().__init__(("127.0.0.1", port), Handler)

    def count(self, name: str, amount: int = 1) -> None:
        """Count something."""
        with self._counting:
            self.counts[name] += amount

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Speaks as llm-d's prediction and training servers do."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60.0
    server: PredictorServer

    def do_GET(self) -> None:
        """Say what we are."""
        models = {"ttft_model": True, "tpot_model": True}
        common = {"model_type": MODEL_TYPE, "objective_type": "quantile", "quantile": QUANTILE}
        loaded = {"last_model_load": self.server.started_at, "models_exist": models}
        answers: dict[str, Any] = {
            "/status": {"is_ready": True, **common, **loaded, "training_server_url": self.server.url},
            "/healthz": {"status": "ok"},
            "/readyz": {"status": "ready"},
            "/model/download/info": {**common, "available_endpoints": {}, "model_status": {}},
        }
        path = self.path.partition("?")[0]
        if path == "/metrics":
            counts = {**self.server.counts, **self.server.predictor.counts}
            lines = [f"routegym_plug_{name}_total {count}" for name, count in sorted(counts.items())]
            self._send(200, "".join(f"{line}\n" for line in lines).encode(), "text/plain; version=0.0.4")
        elif path in answers:
            self._answer(200, answers[path])
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        """Predict, or take in training rows."""
        path = self.path.partition("?")[0]
        routes = {
            "/predict/bulk/strict": self._predict,
            "/predict/bulk": self._predict,
            "/predict": self._predict_one,
            "/add_training_data_bulk": self._collect,
        }
        try:
            body = self._body()
            if path not in routes:
                self._answer(404, {"detail": "Not Found"})
                return
            routes[path](body)
        except BadRowError as error:
            self.server.count("refused")
            self._answer(422, {"detail": str(error)})
        except OSError as error:  # a client that left, or a disk that is full
            self.server.count("failed")
            LOGGER.warning("%s: %r", path, error)
            self.close_connection = True
            self._answer(500, {"detail": type(error).__name__})

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            self.close_connection = True
            raise BadRowError(f"Content-Length is {length[:20]!r}, it must be at most {MAX_BYTES}")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise BadRowError("the body is not JSON") from None

    def _rows(self, body: Any, key: str, names: Sequence[str] = ()) -> list[dict[str, float]]:
        rows = body.get(key) if isinstance(body, Mapping) else None
        if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
            raise BadRowError(f"{key} must be a list of 1 to {MAX_ROWS} rows")
        return [checked(row, place, names) for place, row in enumerate(rows)]

    def _predict(self, body: Any) -> None:
        started_s = time.perf_counter()
        answers = self._predictions(self._rows(body, "requests"))
        answer = {
            "predictions": answers,
            "total_requests": len(answers),
            "successful_predictions": len(answers),
            "failed_predictions": 0,
            "processing_time_ms": 1000.0 * (time.perf_counter() - started_s),
        }
        self._answer(200, answer if self.path.endswith("/strict") else {**answer, "errors": []})

    def _predict_one(self, body: Any) -> None:
        self._answer(200, self._predictions([checked(body, 0)])[0])

    def _predictions(self, rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
        self.server.count("predictions")
        common = {
            "tpot_ms": TPOT_MS,
            "predicted_at": _now(),
            "model_type": MODEL_TYPE,
            "objective_type": "quantile",
            "quantile": QUANTILE,
            "last_model_load": self.server.started_at,
        }
        return [{"ttft_ms": ttft_ms, **common} for ttft_ms in self.server.predictor.ttft_ms(rows)]

    def _collect(self, body: Any) -> None:
        self._rows(body, "entries", LATENCIES)
        rows = body["entries"]
        if self.server.collection is not None:
            self.server.collection.add(rows)
        self.server.count("training_rows", len(rows))
        self._answer(202, {"message": f"Accepted {len(rows)} training samples."})

    def _answer(self, status: int, answer: Any) -> None:
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the client left
            self.close_connection = True

    def log_message(self, format: str, *values: Any) -> None:
        """Log no request."""


def _now() -> str:
    return datetime.now(UTC).isoformat()


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Serve a bundle's policy as llm-d's latency predictor.")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--bundle", help="its folder; by default the one that this file lies in")
    parser.add_argument("--collect", type=Path, help="folder for training rows; by default they are dropped")
    parser.add_argument("--rows-per-part", type=int, default=100_000)
    parser.add_argument("--max-parts", type=int, default=100)
    parser.add_argument("--profile", type=json.loads, default={}, help="of all pods, in JSON")
    parser.add_argument("--base-ms", type=float, default=100_000.0)
    parser.add_argument("--scale-ms", type=float, default=100.0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT is ignored in what shells run in the background
        signal.signal(number, signal.default_int_handler)
    collection = None
    if given.collect is not None:
        collection = Collection(given.collect, given.rows_per_part, given.max_parts)
    predictor = Predictor(given.bundle, given.profile, given.base_ms, given.scale_ms)
    with PredictorServer(predictor, collection, given.port) as server:
        print(server.url, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", flush=True)


if __name__ == "__main__":
    main()
