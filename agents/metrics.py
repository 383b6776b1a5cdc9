"""What a ledger says of a policy, in one row of figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

LATENCIES = ("ttft", "tpot", "e2e")
PERCENTILES = (50, 90, 99)


def requests_of(ledger: pd.DataFrame) -> pd.DataFrame:
    """What became of each request in the end, in the order of arrival: one row each."""
    return ledger[~ledger["is_retried"].astype(bool)].sort_values(
        "arrived_at_s", kind="stable", ignore_index=True
    )


def figures(ledger: pd.DataFrame, num_instances: int, warmup_s: float = 0.0) -> dict[str, float]:
    """Return the figures of the requests that arrived from ``warmup_s`` on.

    * ``{ttft,tpot,e2e}_{mean,p50,p90,p99}_s``: of the requests served.
    * ``frac_slo_met``: requests served within their objective, of all.
    * ``frac_prefix_hits``: prompt tokens found in prefix caches, of all prompt tokens.
    * ``load_imbalance``: standard deviation over mean, over the instances, of the mean number in flight.
    * ``completed_per_s``: completions per second between the 10th and the 90th percentile of their
      instants: under overload, the capacity that this policy gets out of the fleet.
    * ``goodput_per_s``: the share of it within its objective.
    * ``num_requests``, ``num_failed`` (for good), ``num_retries``, ``num_preemptions``.

    What is of the requests served is NaN where none was.

    Raises ``ValueError`` where the warm-up leaves nothing.
    """
    decisions = ledger[ledger["arrived_at_s"] >= warmup_s]
    counted = requests_of(decisions)
    if counted.empty:
        last_s = ledger["arrived_at_s"].max()
        raise ValueError(
            f"warmup_s is {warmup_s}, but the last request arrives at {last_s:.1f} s: shorten it"
        )
    served = counted[counted["failure"] == ""]
    result: dict[str, float] = {}
    for name in LATENCIES:
        values = served[f"{name}_s"].to_numpy()
        result[f"{name}_mean_s"] = float(values.mean()) if len(values) else np.nan
        for percentile in PERCENTILES:
            result[f"{name}_p{percentile}_s"] = (
                float(np.percentile(values, percentile)) if len(values) else np.nan
            )
    result["frac_slo_met"] = float(counted["slo_met"].mean())
    result["frac_prefix_hits"] = float(
        counted["num_cached_tokens"].sum() / counted["num_prompt_tokens"].sum()
    )
    in_flight = np.zeros(num_instances)
    np.add.at(in_flight, served["instance"].to_numpy(), served["e2e_s"].to_numpy())
    result["load_imbalance"] = float(in_flight.std() / in_flight.mean()) if len(served) else np.nan
    finished_at_s = (served["arrived_at_s"] + served["e2e_s"]).to_numpy()
    early_s, late_s = np.percentile(finished_at_s, (10, 90)) if len(served) else (np.nan, np.nan)
    rate_per_s = 0.8 * len(served) / (late_s - early_s) if late_s > early_s else float("nan")
    result["completed_per_s"] = float(rate_per_s)
    result["goodput_per_s"] = float(rate_per_s * served["slo_met"].mean())
    result["num_requests"] = float(len(counted))
    result["num_failed"] = float(len(counted) - len(served))
    result["num_retries"] = float(len(decisions) - len(counted))
    result["num_preemptions"] = float(counted["num_preemptions"].sum())
    return result
