import numpy as np
import pytest

from agents.bandits.held_tokens import held_tokens_of
from agents.bandits.survival import Survival, turnovers_of
from envs import observation as table


def test_turnovers_computed_by_hand():
    instances = np.zeros((2, len(table.INSTANCE_FEATURES)))
    instances[:, table.NUM_KV_CACHE_TOKENS] = 100_000
    instances[:, table.FRAC_KV_CACHE_USAGE] = 1.0
    instances[:, table.RECENT_TOKENS_PER_S] = 2000, 0
    instances[:, table.PREFIX_AGE_S] = 15
    instances[:, table.NUM_IN_FLIGHT_DECODE_TOKENS] = 30_000
    instances[:, table.NUM_IN_FLIGHT_PREFILL_TOKENS] = 10_000
    np.testing.assert_allclose(turnovers_of(instances, held_tokens_of(instances)), [0.5, 0.0])
    instances[:, table.NUM_IN_FLIGHT_DECODE_TOKENS] = 300_000  # more than there is: a tenth is taken as free
    np.testing.assert_allclose(turnovers_of(instances, held_tokens_of(instances)), [3.0, 0.0])
    instances[:, table.FRAC_KV_CACHE_USAGE] = 0.3  # prefixes that are shared, as its gauge tells
    instances[:, table.NUM_TOKENS_SENT_SINCE_SCRAPE] = 20_000
    np.testing.assert_allclose(turnovers_of(instances, held_tokens_of(instances)), [0.6, 0.0])


def test_the_prior_says_where_half_is_left():
    survival = Survival(half_turnovers=3.0, slope=2.0)
    shares = survival.share(np.array([0.0, 1.0, 3.0, 7.0, 1e9]))
    np.testing.assert_allclose(shares, [1.0, 1.0, 0.5, 0.1, 0.0], atol=1e-4)  # 1 / (1 + (6 / 2)^2)


def test_learns_what_is_left():
    rng = np.random.default_rng(0)
    survival, truth = Survival(half_turnovers=4.0, slope=1.0), Survival(half_turnovers=1.8, slope=2.0)
    for turnovers in np.exp(rng.uniform(-3, 2, 3000)):
        survival.update(turnovers, float(rng.random() < truth.share(turnovers)))
    grid = np.exp(np.linspace(-3, 2, 20))
    np.testing.assert_allclose(survival.share(grid), truth.share(grid), atol=0.06)


def test_an_older_match_is_never_worth_more():
    survival = Survival()
    for _ in range(500):
        survival.update(5.0, 1.0)
        survival.update(0.1, 0.0)
    shares = survival.share(np.array([0.01, 0.1, 1.0, 10.0]))
    assert (np.diff(shares) <= 0).all()


@pytest.mark.parametrize(("name", "value"), [("half_turnovers", 1.0), ("slope", 0.0), ("prior_matches", 0.0)])
def test_refuses_bad_settings_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        Survival(**{name: value})
