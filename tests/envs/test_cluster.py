from math import nan

import pytest

from envs.cluster import Completion, Slo


def completion(**changes):
    fields = {
        "request_id": 7,
        "instance_index": 1,
        "arrived_at_s": 10.0,
        "first_token_at_s": 10.5,
        "finished_at_s": 12.5,
        "num_prompt_tokens": 100,
        "num_output_tokens": 21,
        "num_cached_tokens": 64,
        "num_preemptions": 0,
        "slo": Slo(ttft_s=1.0, tpot_s=0.2),
    }
    return Completion(**{**fields, **changes})


def test_latencies_are_differences_of_instants():
    done = completion()
    assert (done.ttft_s, done.e2e_s, done.tpot_s) == (0.5, 2.5, pytest.approx(0.1))


def test_one_token_answer_has_no_time_per_output_token():
    assert completion(num_output_tokens=1, finished_at_s=10.5).tpot_s == 0.0


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, True),
        ({"first_token_at_s": 11.5}, False),
        ({"finished_at_s": 15.0}, False),
        ({"failure": "instance died", "first_token_at_s": nan, "finished_at_s": nan}, False),
    ],
)
def test_slo_is_met_only_by_a_served_request_within_both_limits(changes, met):
    assert completion(**changes).slo_met is met
