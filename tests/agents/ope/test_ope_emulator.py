"""On the emulator a decision can be made again otherwise: what is estimated can be had."""

from contextlib import closing

import numpy as np
import pandas as pd

from agents.heuristics.dynamo_cost import DynamoCost
from agents.rollout import play, replay
from tests.benchmarks.check_ope import check, make_env, one_step_ttft_s, report


def test_one_step_is_what_a_replay_with_one_other_decision_tells():
    with closing(make_env(40, 8.0)) as env:
        ledger = play(env, DynamoCost(temperature=0.5), 0).ledger
        recorded = ledger["instance"].tolist()
        wanted = np.zeros((40, 4), np.bool_)
        wanted[[3, 20], [0, 2]] = True
        wanted[7, recorded[7]] = True
        found = one_step_ttft_s(env, 0, recorded, wanted, ledger["ttft_s"].to_numpy())
        for decision, instance in np.argwhere(wanted):
            changed = [*recorded[:decision], int(instance), *recorded[decision + 1 :]]
            again = replay(env, 0, changed, [1.0] * 40).ledger()
            assert found[decision, instance] == again["ttft_s"][decision]
        assert not found[~wanted].any()


def test_estimates_are_about_the_one_step_truth():
    """The whole study is ``python -m tests.benchmarks.check_ope``; this is two small recordings of it."""
    with closing(make_env(80, 8.0)) as env:
        table = pd.DataFrame(
            row for seed in range(2) for row in check(env, DynamoCost(temperature=0.5), seed)
        )
    assert "llmd_token_load" in report(table)
    enough = table.groupby("policy").filter(lambda rows: rows["ess"].min() >= 15)
    assert {"dynamo_cost", "llmd_token_load"} <= {*enough["policy"]}
    for _, rows in enough.groupby("policy"):
        for estimator in ("dr", "snips", "ips"):
            error = (rows[f"{estimator}_value"] - rows["one_step"]).mean()
            widths = rows[f"{estimator}_high"] - rows[f"{estimator}_low"]
            assert abs(error) < 3 * np.sqrt(np.square(widths / (2 * 1.96)).sum()) / len(rows)
