"""Azure LLM inference traces (Patel et al., ISCA'24): arrivals and lengths, no prefixes.

CSV with ``TIMESTAMP,ContextTokens,GeneratedTokens``, columns read by name. 2023: naive times with 7
fractional digits; 2024: times with a zone. https://github.com/Azure/AzurePublicDataset, commit b469a11.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from envs.workload.generator import generate
from envs.workload.laws import LogNormal
from envs.workload.lines import OnBadLine, decoded, parse_lines, token_count
from envs.workload.location import have, trace_path
from envs.workload.rate import RateSchedule
from envs.workload.replay import Replay, Start
from envs.workload.settings import slo_of
from envs.workload.shaping import Part, shaped
from envs.workload.trace import Trace

DEFAULT_FILE = "azure/AzureLLMInferenceTrace_code.csv"

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([+-]\d\d:\d\d)?")


def _time_ns(text: str) -> int:
    """Nanoseconds since 1970; a time without zone counts as UTC. Whole numbers keep all 7 digits."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"TIMESTAMP must look like 2023-11-16 18:17:03.9799600, not {text!r}")
    seconds, fraction, zone = match.groups()
    at = datetime.fromisoformat(seconds + (zone or "+00:00"))
    return int((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 10**9 + int(
        (fraction or "").ljust(9, "0")
    )


def _number(cell: str) -> int | str:
    return int(cell) if cell.isdecimal() else cell


def load(path: str | Path, *, on_bad_line: OnBadLine = "error") -> Trace:
    """Read an Azure file; the first arrival becomes instant 0.

    Raises ``ValueError`` for a malformed line (one out of order of time, too), naming it, or skips and
    counts it; also for a file that lacks one of the columns.
    """
    path = Path(path)
    with path.open("rb") as lines:
        try:
            names = [name.strip() for name in decoded(next(lines, b"")).split(",")]
        except ValueError as error:
            raise ValueError(f"{path}, line 1: the header is {error}: mend the file") from error
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise ValueError(f"{path}, line 1: no column {', '.join(missing)} in the header {names}")
        time_at, prompt_at, output_at = (names.index(name) for name in _COLUMNS)

        def parse(line: str) -> tuple[int, int, int]:
            cells = line.split(",")
            if len(cells) != len(names):
                raise ValueError(f"{len(cells)} cells where the header has {len(names)}")
            return (
                _time_ns(cells[time_at]),
                token_count(_number(cells[prompt_at]), "ContextTokens"),
                token_count(_number(cells[output_at]), "GeneratedTokens"),
            )

        numbered = enumerate(lines, start=2)
        rows, num_skipped = parse_lines(path, numbered, parse, on_bad_line)
    notes = [f"Azure {path.name}"]
    if num_skipped:
        notes.append(f"{num_skipped} malformed lines skipped")
    return Trace(
        arrived_at_s=np.array([(row[0] - rows[0][0]) / 1e9 for row in rows]),
        num_prompt_tokens=np.array([row[1] for row in rows]),
        num_output_tokens=np.array([row[2] for row in rows]),
        num_skipped_lines=num_skipped,
        notes=tuple(notes),
    )


def _stand_in(seed: int) -> Trace:
    """Generate requests with the statistics of the 2023 code trace; its inter-arrival CV is 13.2."""
    return generate(
        np.random.default_rng(seed),
        num_requests=8819,
        rate=RateSchedule(2.57),
        arrival_cv=13.2,
        prompt=LogNormal(median=1469, sigma=0.985, min=3, max=7437),
        output=LogNormal(median=13, sigma=1.125, min=6, max=1899),
        num_prefix_groups=0,
        frac_shared_prefix=0.0,
    ).noted("stands in for the absent Azure 2023 code trace")


def workload(
    path: str | None = None,
    *,
    on_missing: Literal["error", "generate"] = "error",
    on_bad_line: OnBadLine = "error",
    seed: int = 0,
    part: Part = "all",
    frac_train: float = 0.7,
    window_start_s: float = 0.0,
    window_stop_s: float | None = None,
    max_prompt_tokens: int | None = None,
    max_output_tokens: int | None = None,
    max_model_len: int | None = None,
    num_repeats: int = 1,
    rate_factor: float = 1.0,
    rate_per_s: float | None = None,
    num_requests: int | None = None,
    start: Start = "first",
    block_size: int = 16,
    slo_ttft_s: float = 2.0,
    slo_tpot_s: float = 0.1,
) -> Replay:
    """Replay an Azure trace; ``conf/workload/azure.yaml`` explains every setting.

    With ``on_missing`` "generate" and no path given, an absent trace is replaced by the generator at its
    published statistics, and the notes say so. A path that was given must exist.
    """
    slo = slo_of(slo_ttft_s, slo_tpot_s)
    if on_missing not in ("error", "generate"):
        raise ValueError(f"on_missing is {on_missing!r}: choose 'error' or 'generate'")
    if path is None and on_missing == "generate" and not have(DEFAULT_FILE):
        trace = _stand_in(seed)
    else:
        trace = load(Path(path) if path is not None else trace_path(DEFAULT_FILE), on_bad_line=on_bad_line)
    trace = shaped(
        trace,
        part=part,
        frac_train=frac_train,
        window_start_s=window_start_s,
        window_stop_s=window_stop_s,
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
        max_model_len=max_model_len,
        num_repeats=num_repeats,
        rate_factor=rate_factor,
        rate_per_s=rate_per_s,
    )
    return Replay(trace, block_size=block_size, num_requests=num_requests, start=start, slo=slo)
