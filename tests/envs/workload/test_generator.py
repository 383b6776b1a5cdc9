import numpy as np
import pytest

from envs.workload.generator import generate, workload
from envs.workload.hit_rate import ideal_hit_rate
from envs.workload.laws import LogNormal, tenant_shares, zipf_shares
from envs.workload.rate import RateSchedule, Shift


def draw(seed=0, **settings):
    return generate(np.random.default_rng(seed), **settings)


def test_defaults_have_the_published_statistics():
    trace = draw()
    assert len(trace) == 12031
    assert trace.rate_per_s == pytest.approx(3.40, rel=0.03)
    assert np.percentile(trace.num_prompt_tokens, [50, 90]) == pytest.approx([6909, 27367], rel=0.05)
    assert np.percentile(trace.num_output_tokens, [50, 90]) == pytest.approx([350, 597], rel=0.03)
    assert ideal_hit_rate(trace) == pytest.approx(0.366, abs=0.015)
    assert (trace.num_prompt_tokens.min(), trace.num_prompt_tokens.max()) >= (891, 126195)


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_mean_and_variation_asked_for(cv):
    gaps = np.diff(
        draw(num_requests=40_000, rate=RateSchedule(5.0), arrival_cv=cv, num_prefix_groups=0).arrived_at_s
    )
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05, abs=1e-9)


def test_arrivals_follow_the_schedule():
    rate = RateSchedule(10.0, (Shift(100.0, 4.0),))
    times = draw(num_requests=5000, rate=rate, num_prefix_groups=0).arrived_at_s
    assert (times < 100.0).sum() == pytest.approx(1000, rel=0.1)
    assert ((times >= 100.0) & (times < 150.0)).sum() == pytest.approx(2000, rel=0.1)


def test_same_seed_same_bytes():
    one, same, other = draw(1, num_requests=200), draw(1, num_requests=200), draw(2, num_requests=200)
    for name in ("arrived_at_s", "num_prompt_tokens", "num_output_tokens", "tenant", "hash_ids"):
        assert getattr(one, name).tobytes() == getattr(same, name).tobytes()
    assert one.arrived_at_s.tobytes() != other.arrived_at_s.tobytes()


def test_prefix_group_shares_exactly_its_fraction():
    even = LogNormal(1024, 0.0, 1024, 1024)
    trace = draw(
        num_requests=3, prompt=even, num_prefix_groups=1, frac_shared_prefix=0.5, hash_block_tokens=128
    )
    ids = trace.hash_ids.reshape(3, 8)
    assert (ids[:, :4] == ids[0, :4]).all()
    assert len(np.unique(ids)) == 4 + 3 * 4
    assert ideal_hit_rate(trace) == pytest.approx(2 * 4 / 24)
    assert len(draw(num_requests=3, num_prefix_groups=0).hash_ids) == 0


def test_share_of_the_prefix_shifts_at_its_instant():
    even = LogNormal(1024, 0.0, 1024, 1024)
    trace = draw(
        num_requests=400,
        rate=RateSchedule(1.0),
        prompt=even,
        num_prefix_groups=1,
        frac_shared_prefix=0.0,
        prefix_shifts=[[100.0, 0.5], [250.0, 0.25]],
        hash_block_tokens=128,
    )
    ids = trace.hash_ids.reshape(400, 8)
    counts = np.unique(ids, return_counts=True)
    common = set(counts[0][counts[1] > 1].tolist())
    num_shared = np.array([sum(each in common for each in row) for row in ids.tolist()])
    assert (num_shared[trace.arrived_at_s < 100.0] == 0).all()
    assert (num_shared[(trace.arrived_at_s >= 100.0) & (trace.arrived_at_s < 250.0)] == 4).all()
    assert (num_shared[trace.arrived_at_s >= 250.0] == 2).all()
    unshifted = draw(num_requests=400, rate=RateSchedule(1.0), prompt=even, num_prefix_groups=1)
    assert unshifted.arrived_at_s.tolist() == trace.arrived_at_s.tolist()


def test_tenants_come_by_weight():
    tenant = draw(num_requests=10_000, num_tenants=3, tenant_weights=[1, 0, 3], num_prefix_groups=0).tenant
    assert np.bincount(tenant, minlength=3) / 10_000 == pytest.approx([0.25, 0.0, 0.75], abs=0.02)


def test_popularity_laws():
    assert zipf_shares(3, 1.0) == pytest.approx(np.array([6, 3, 2]) / 11)
    assert zipf_shares(2, 0.0).tolist() == [0.5, 0.5]
    assert tenant_shares(2, None).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw(num_requests=0), "num_requests is 0"),
        (lambda: draw(arrival_cv=-1.0), r"arrival_cv is -1\.0"),
        (lambda: draw(frac_shared_prefix=0.95), r"must lie in \[0, 0\.9\]"),
        (lambda: draw(prefix_shifts=[[5.0, 1.0]]), r"share of prefix_shifts\[0\] is 1\.0: it must lie in"),
        (lambda: draw(prefix_shifts=[[5.0, 0.1], [5.0, 0.2]]), r"prefix_shifts\[1\] is \[5\.0, 0\.2\]"),
        (lambda: draw(prefix_shifts=[[5.0]]), r"prefix_shifts\[0\] is \[5\.0\]: give \[at_s"),
        (lambda: draw(num_prefix_groups=-1), "num_prefix_groups is -1"),
        (lambda: draw(num_tenants=2, tenant_weights=[1.0]), "give 2 numbers"),
        (lambda: draw(num_tenants=0), "num_tenants is 0"),
        (lambda: zipf_shares(0, 1.0), "0 ranks"),
        (lambda: LogNormal(5, 1, 6, 7), "min <= median <= max"),
        (lambda: LogNormal(5, -1, 1, 7), "sigma must be"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_workload_takes_plain_lists():
    stream = workload(num_generated=500, shifts=[[10.0, 2.0]], bursts=[[20.0, 5.0, 3.0]], rate_factor=2.0)
    assert stream.num_requests == 500
    assert stream.notes == ("generated", "rate x2")
