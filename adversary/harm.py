"""What an attacker wants: how much harm its victim took, from the windows (or decisions) so far.

A *loss* is the time that requests spent waiting for their first token, in request-seconds; its sum over an
episode is the sum of their TTFTs (``reward.ttft``). ``harm`` of all windows is what a search maximises;
what it grew by in a window is the reward of an attacker that is trained by reinforcement learning, so that
both want the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Losses(NamedTuple):
    """What an attack did so far, per window of it, ``[num_windows]`` each."""

    num_requests: NDArray[np.int64]
    """That arrived."""
    victim: Floats
    """Request-seconds that the victim's requests waited."""
    reference: Floats
    """The same of the reference router in the same world, not deceived."""
    clean: Floats
    """The same of the victim without any attack."""

    def until(self, num_windows: int) -> Losses:
        """The first windows."""
        num_requests, *losses = self
        return Losses(num_requests[:num_windows], *(values[:num_windows] for values in losses))


class Harm(ABC):
    """An attacker's aim."""

    needs_reference = False
    """Whether the reference router must run in the same world."""

    @abstractmethod
    def __call__(self, losses: Losses) -> float:
        """How much harm was done: the higher the better for the attacker; 0 before anything happened."""


class Naive(Harm):
    """The victim's loss, mean seconds per request: CCLab's -R (its Eq. 3).

    A world in which everybody does badly scores as much as one that the victim alone cannot cope with.
    """

    def __call__(self, losses: Losses) -> float:
        """Mean TTFT of the requests so far, in seconds."""
        return float(losses.victim.sum() / max(losses.num_requests.sum(), 1))


class Primary(Harm):
    """One metric of the victim's and a penalty on quiet: CCLab's better reward (its Eq. 5 to 7).

    The metric is what the mean TTFT rose by over the victim's own without an attack. A window is quiet where
    the loss over the last ``short`` windows and that over the last ``long`` are both below the clean one; it
    costs ``penalty``, so that a trivial attack, which leaves the victim in peace, does not pay.

    Args:
        penalty: In seconds of mean TTFT, spread over all windows: a wholly quiet attack costs so much.
        short: Windows of the one mean; CCLab's k is 1.
        long: Windows of the other; CCLab's h is 5.
    """

    def __init__(self, penalty: float = 1.0, short: int = 1, long: int = 5) -> None:
        if penalty < 0 or short < 1 or long < short:
            raise ValueError(
                f"penalty is {penalty}, short {short} and long {long}: the first must not be negative, and"
                " they must be 1 <= short <= long windows"
            )
        self.penalty, self.short, self.long = penalty, short, long

    def __call__(self, losses: Losses) -> float:
        """Rise of the mean TTFT less the share of quiet windows times the penalty, in seconds."""
        num = len(losses.victim)
        if num == 0:
            return 0.0
        rise = (losses.victim.sum() - losses.clean.sum()) / max(losses.num_requests.sum(), 1)
        excess = np.concatenate(([0.0], np.cumsum(losses.victim - losses.clean)))
        ends = np.arange(1, num + 1)
        quiet = np.ones(num, np.bool_)
        for width in (self.short, self.long):
            quiet &= excess[ends] - excess[np.maximum(ends - width, 0)] < 0.0
        return float(rise - self.penalty * quiet.mean())


class Relative(Harm):
    """The victim's loss less the reference router's in the same world, mean seconds per request.

    An attack that ruins everybody alike scores nothing, and one that the victim bears better than the
    reference less than nothing. (As AdvNet's (reference - target) / reference, a share, it would pay to ruin
    everybody where the victim is the better router in peace: the share goes to 0 from below.)
    """

    needs_reference = True

    def __call__(self, losses: Losses) -> float:
        """By how many seconds the victim's mean TTFT is longer than the reference's."""
        return float((losses.victim.sum() - losses.reference.sum()) / max(losses.num_requests.sum(), 1))
