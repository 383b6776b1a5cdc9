"""An attack that was found: on which threat model, by whom, against whom, and how to carry it out again.

It is plain data, a JSON file (and, of a trained attacker, SB3's own file beside it), and can be turned on any
victim, within the same threat model or a narrower one:

    attack.wanted(knobs, num_steps, seed)               # on the world: all windows at once
    attack.liar(threat, num_instances, victims, folder) # on features: step by step
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from stable_baselines3 import PPO, SAC

from adversary.feature.gradient import Fgsm, Pgd
from adversary.feature.liar import Liar
from adversary.feature.linear import LinearLiar
from adversary.feature.random_liar import RandomLiar
from adversary.feature.sb3_liar import Sb3Liar
from adversary.feature.threat import FeatureThreat
from adversary.threat import Knob, Projector, UnitPositions, Values
from adversary.world.threat import WorldThreat
from agents.files import read_json, write_json
from agents.policy import Policy

NONE, NOISE, POSITIONS, LINEAR = "none", "noise", "positions", "linear"
FGSM, PGD, MODEL = "fgsm", "pgd", "model"
NEEDED = {
    NONE: "why",
    NOISE: "seed",
    POSITIONS: "rows",
    LINEAR: "parameters",
    FGSM: "",
    PGD: "num_steps",
    MODEL: "file",
}
"""Kind of attack -> what its ``how`` must hold."""


@dataclass(frozen=True)
class Attack:
    """What was found."""

    threat: str
    """Name of the threat model in the run's config."""
    attacker: str
    """Name of the attacker there."""
    target: str
    """The victim that it was found against; empty: none in particular."""
    how: Mapping[str, Any]
    """``kind`` and what that needs, in plain values:

    * ``none``: ``why`` there is no such attack;
    * ``noise``: ``seed``; values uniform within bounds at every step;
    * ``positions``: ``rows`` ``[num_windows, num_knobs]`` in [-1, 1] (``adversary.threat.UnitPositions``);
    * ``linear``: ``parameters`` of a ``LinearLiar``;
    * ``fgsm``, ``pgd``: along the gradient of the target; ``num_steps``;
    * ``model``: ``file``, trained by SB3's ``algorithm``, PPO or SAC, in ``RouteGym/FeatureAdversary-v0``.
    """
    harm: float | None = None
    """On the stream that it was found on; None: it was not looked for."""
    curve: list[float] = field(default_factory=list)
    """The greatest harm found after each evaluation of the victim."""
    key: str = ""
    """Tells what it was made of: one whose key still fits is not looked for again."""

    @property
    def name(self) -> str:
        """Unique in a run, and a file's name."""
        return f"{self.threat}-{self.attacker}" + (f"@{self.target}" if self.target else "")

    def save(self, folder: Path) -> None:
        """Write it to ``<name>.json``."""
        write_json(folder / f"{self.name}.json", asdict(self))

    @classmethod
    def load(cls, path: Path) -> Attack:
        """Read it. Raises ``ValueError`` naming the file where it is none."""
        held = read_json(path)
        try:
            attack = cls(**held)
            kind = attack.how["kind"]
            if kind not in NEEDED:
                raise ValueError(f"its kind is {kind!r}")
            if NEEDED[kind] and NEEDED[kind] not in attack.how:
                raise ValueError(f"of kind {kind} without {NEEDED[kind]}")
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not an attack ({error}); delete it to find it anew") from error
        return attack

    def wanted(self, knobs: tuple[Knob, ...], num_steps: int, seed: int) -> Values:
        """Values of an attack on the world, before they are projected, ``[num_steps, num_knobs]``."""
        units = UnitPositions(knobs)
        if self.how["kind"] == NOISE:
            rng = np.random.default_rng([self.how["seed"], seed])
            return units.values(rng.uniform(-1.0, 1.0, (num_steps, len(knobs))))
        rows = np.array(self.how.get("rows", ()), np.float64)
        if rows.shape != (num_steps, len(knobs)):
            raise ValueError(
                f"the attack {self.name} has positions of shape {rows.shape}, the threat model"
                f" {num_steps} windows and {len(knobs)} knobs: find it anew for this fleet"
            )
        return units.values(rows)

    def values(self, threat: WorldThreat, num_instances: int, seed: int) -> Values:
        """Those of an attack on the world, as far as the threat model allows what is wanted."""
        knobs = threat.knobs(num_instances)
        return Projector(knobs, threat.budget).project(self.wanted(knobs, threat.num_windows, seed))

    def liar(
        self,
        threat: FeatureThreat,
        num_instances: int,
        victims: Callable[[str], Policy],
        folder: Path,
        victim: str = "",
    ) -> Liar | Callable[[Policy], Liar]:
        """Who carries out an attack on features.

        Args:
            threat: What it may do.
            num_instances: Of the fleet.
            victims: Name -> policy: whose gradient to follow.
            folder: Where the attack's files lie.
            victim: Who is attacked: where that is the target, its gradient is followed as it learns.

        Raises:
            ValueError: It is not on features.
        """
        knobs = threat.knobs(num_instances)
        kind = self.how["kind"]
        if kind == NOISE:
            return RandomLiar(knobs, self.how["seed"])
        try:
            if kind == LINEAR:
                return LinearLiar(knobs, np.array(self.how["parameters"]))
            if kind == MODEL:
                algorithm = SAC if self.how.get("algorithm") == SAC.__name__ else PPO
                held = algorithm.load(folder / self.how["file"], device="cpu")
                return Sb3Liar(held, threat, num_instances)
        except (OSError, ValueError, BadZipFile) as error:
            raise ValueError(
                f"the attack {self.name} cannot be carried out ({error}); delete {self.name}.json in {folder}"
                " to find it anew"
            ) from error
        if kind not in (FGSM, PGD):
            raise ValueError(f"the attack {self.name} is of kind {kind}, and not on what a router sees")

        def along(policy: Policy) -> Liar:
            if kind == FGSM:
                return Fgsm(policy, threat, num_instances)
            return Pgd(policy, threat, num_instances, self.how["num_steps"])

        return along if victim == self.target else along(victims(self.target))
