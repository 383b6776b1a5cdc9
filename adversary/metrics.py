"""What an attack did to a router, in one row of figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from agents.metrics import figures, requests_of


def robustness_figures(
    ledger: pd.DataFrame, num_instances: int, window_s: float, warmup_s: float = 0.0
) -> dict[str, float]:
    """Return ``agents.metrics.figures`` of an episode, and three more.

    * ``ttft_p95_s``: of the requests served;
    * ``churn``: half the sum, over the instances, of what their share of the decisions changed by from one
      window of ``window_s`` to the next, in the mean over the windows: 0, always the same shares; 1, wholly
      elsewhere each time. The analogue of CCLab's smoothness of the congestion window (its Eq. 9);
    * ``hot_spot``: the greatest share of the decisions that an instance had, times the number of instances:
      1, all the same; ``num_instances``, one had all.
    """
    decisions = ledger[ledger["arrived_at_s"] >= warmup_s]
    result = figures(ledger, num_instances, warmup_s)
    requests = requests_of(decisions)
    served = requests.loc[requests["failure"] == "", "ttft_s"].to_numpy()
    result["ttft_p95_s"] = float(np.percentile(served, 95)) if len(served) else float("nan")
    window = (decisions["arrived_at_s"] // window_s).astype(np.int64)
    counts = np.zeros((int(window.max()) + 1, num_instances))
    np.add.at(counts, (window.to_numpy(), decisions["instance"].to_numpy()), 1.0)
    busy = counts[counts.sum(axis=1) > 0]
    shares = busy / busy.sum(axis=1, keepdims=True)
    changes = 0.5 * np.abs(np.diff(shares, axis=0)).sum(axis=1)
    result["churn"] = float(changes.mean()) if len(changes) else 0.0
    result["hot_spot"] = float(num_instances * counts.sum(axis=0).max() / counts.sum())
    return result
