"""In the emulator: what a lie costs the rules that go by gauges, what the defences save and disturb."""

import pytest

from agents.defences.fallback import Fallback
from agents.defences.lie_detection import LieDetection
from agents.defences.median import Median
from agents.defences.trust_counters import TrustCounters
from agents.heuristics.least_in_flight import LeastInFlight
from agents.heuristics.llmd_weighted import LlmdWeighted
from agents.heuristics.smg_least_load import SmgLeastLoad
from agents.heuristics.vllm_dp import VLLMDataParallel
from agents.rollout import play

from .worlds import Beside, LiedTo, small_env

RULES = {"smg_least_load": SmgLeastLoad, "vllm_dp": VLLMDataParallel, "llmd_weighted": LlmdWeighted}
LASTING = {
    "trust_counters": TrustCounters,
    "lie_detection": LieDetection,
    "fallback": lambda policy: Fallback(TrustCounters(policy), LeastInFlight(), max_distrusted=0),
}
SLOW_LIAR = 3
every_rule = pytest.mark.parametrize("rule", RULES)


def mean_ttft_s(policy, **options):
    return play(small_env(**options), policy, 0).ledger["ttft_s"].mean()


def restored(rule, defence, often=1.0, **options):
    """Share of what the lie costs that the defence saves."""
    clean = mean_ttft_s(RULES[rule](), **options)
    lied_to = mean_ttft_s(LiedTo(RULES[rule](), SLOW_LIAR, often), **options)
    defended = mean_ttft_s(LiedTo(defence(RULES[rule]()), SLOW_LIAR, often), **options)
    print(f"{rule}: clean {clean:.2f} s, lied to {lied_to:.2f} s, defended {defended:.2f} s")
    assert lied_to > 3 * clean
    return (lied_to - defended) / (lied_to - clean)


@every_rule
@pytest.mark.parametrize("defence", LASTING)
def test_most_of_the_loss_by_a_lasting_lie_is_restored(rule, defence):
    assert restored(rule, LASTING[defence]) > (0.8 if defence == "lie_detection" else 0.95)


@every_rule
def test_most_of_the_loss_by_a_lie_that_comes_and_goes_is_restored(rule):
    assert restored(rule, Median, often=0.3) > 0.6


@every_rule
def test_own_counters_of_several_routers_restore_it_too(rule):
    defence = lambda policy: TrustCounters(policy, max_above=None, num_routers=3)  # noqa: E731
    assert restored(rule, defence, num_routers=3) > 0.8


@every_rule
@pytest.mark.parametrize(
    ("defence", "most"),
    [(TrustCounters, 0.01), (LieDetection, 0.05), (Median, 0.1), (LASTING["fallback"], 0.01)],
)
def test_few_decisions_change_where_nobody_lies(rule, defence, most):
    beside = Beside(RULES[rule](), defence(RULES[rule]()))
    play(small_env(), beside, 0)
    share = beside.num_different / beside.num_decided
    print(f"{rule}: {share:.2%} of {beside.num_decided} decisions changed")
    assert share <= most
