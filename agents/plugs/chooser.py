"""A bundle's policy as every plug uses it: it decides, it falls back to least in flight, it never raises.

    chooser = Chooser("the/bundle's/folder", profiles={"http://10.0.0.1:8000": {"decode_step_s": 0.012}})
    choice = chooser.choose(of_body(body), names, request_id=request_id)
    send the request to choice.name
    chooser.first_token(request_id); chooser.completed(request_id, num_output_tokens)

To make one may raise: a router is better told at its start that its bundle is damaged. From then on whatever
goes wrong is counted, logged once per kind, and answered by the instance with the fewest requests in flight.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.plugs.prompt import Prompt
from agents.plugs.view import Gauges, Observation, Profile, View

LOGGER = logging.getLogger("routegym.plugs")
BUNDLE = Path(__file__).parents[1]
"""Where this file lies within a bundle: two floors down."""


class Choice(NamedTuple):
    """Where a request is to go."""

    name: str
    order: list[str]
    """All instances: the chosen one, then the others by the policy's scores, those it may not go to last."""
    propensity: float
    """Probability with which this instance was chosen; 1 of a fallback."""
    is_fallback: bool
    """Whether the policy could not decide."""


class Chooser:
    """Decides by a bundle's policy. May be called from any thread.

    Args:
        bundle: Its folder; None: the one that this file lies in.
        profiles: Name of an instance -> what is known of it, by the names of ``view.Profile``; those of
            ``""`` hold for all instances that are not named.
        fall_back_out_of_range: Whether the bundle's own fallback decides where the policy was not trained.
        seed: Of the policy's chance; None: another each time.
        clock: Seconds.
        view: Settings of ``view.View``.

    Raises:
        ValueError: The folder holds no whole bundle, or a setting cannot be.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        profiles: Mapping[str, Mapping[str, Any]] | None = None,
        fall_back_out_of_range: bool = False,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        **view: Any,
    ) -> None:
        self.policy = load_policy(BUNDLE if bundle is None else Path(bundle))
        self.policy.reset(np.random.default_rng(seed))
        if fall_back_out_of_range and not self.policy.has_fallback:
            raise ValueError(f"{self.policy.name}: the bundle has no fallback; export it with fallback=")
        self._fall_back_out_of_range = fall_back_out_of_range
        known = {name: profile_of(name, held) for name, held in (profiles or {}).items()}
        self._clock, self._start_s = clock, clock()
        self._limit_s = float(self.policy.schema["limits"].get("max_decision_s", np.inf))
        self.view = View(self.policy.schema, known, **view)
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        LOGGER.info("%s %s decides", self.policy.name, self.policy.version)

    def now_s(self) -> float:
        """Since the start."""
        return self._clock() - self._start_s

    def choose(
        self,
        prompt: Prompt,
        names: Sequence[str],
        request_id: Hashable | None = None,
        arrived_at_s: float | None = None,
    ) -> Choice:
        """Choose among at least one instance.

        Args:
            prompt: The request.
            names: Of the instances it may go to, each once.
            request_id: With one, the request is taken to be sent there at once.
            arrived_at_s: When it came; None: now.
        """
        with self._lock:
            started_s, choice = self._clock(), None
            try:
                choice = self._choose(prompt, names)
                self._counts["decisions"] += 1
            except Exception as error:
                self._failed("policy", error)
                choice = self._least_in_flight(names)
            if self._clock() - started_s > self._limit_s:
                self._counts["slow_decisions"] += 1
            if request_id is not None:
                self.sent(request_id, prompt, choice.name, arrived_at_s)
            return choice

    def decide(self, observation: Observation) -> Any:
        """The policy's ``Decision`` on an observation. Raises as the bundle's ``act``."""
        policy, check_range = self.policy, self._fall_back_out_of_range
        judged = policy.judge(observation, check_range)
        self._counts["out_of_range"] += judged.is_out_of_range and (check_range or policy.checks_range)
        return judged.decision

    def sent(
        self, request_id: Hashable, prompt: Prompt, name: str, arrived_at_s: float | None = None
    ) -> None:
        """Note that a request was sent to an instance."""
        self._note(self.view.sent, request_id, prompt, name, self.now_s(), arrived_at_s)

    def read(self, reader: Callable[..., Prompt], *what: Any) -> Prompt:
        """What a reader makes of a request; one token where it raises."""
        try:
            return reader(*what)
        except Exception as error:
            with self._lock:
                self._failed("prompt", error)
            return Prompt(1)

    def guard(self, count: Callable[..., int], *what: Any) -> int:
        """A count of tokens; 1 where counting raises."""
        try:
            return count(*what)
        except Exception as error:
            with self._lock:
                self._failed("answer", error)
            return 1

    def sent_to(self, request_id: Hashable) -> str | None:
        """The instance that a request in flight was sent to."""
        with self._lock:
            return self.view.sent_to(request_id)

    def first_token(self, request_id: Hashable, ago_s: float = 0.0) -> None:
        """Note that a request's first token came, so long ago."""
        self._note(self.view.first_token, request_id, self.now_s() - ago_s)

    def completed(self, request_id: Hashable, num_output_tokens: int) -> None:
        """Note that a request ended, with 0 tokens if it failed."""
        self._note(self.view.completed, request_id, num_output_tokens, self.now_s())

    def scraped(self, name: str, gauges: Gauges, at_s: float | None = None) -> None:
        """Take in what an instance said of itself at an instant of ``now_s()``; None: now."""
        self._note(self.view.scraped, name, gauges, self.now_s() if at_s is None else at_s)

    def counters(self) -> dict[str, int]:
        """Decisions of each kind, failures of each kind, and how much is remembered."""
        with self._lock:
            policy = {f"policy_{name}": count for name, count in self.policy.counters().items()}
            return {**self._counts, **policy, **self.view.sizes()}

    def _choose(self, prompt: Prompt, names: Sequence[str]) -> Choice:
        observation = self.view.look(prompt, names, self.now_s())
        decision = self.decide(observation)
        chosen = names[decision.instance]
        scores = np.where(observation["mask"], decision.scores, -np.inf)
        order = [names[place] for place in np.argsort(-scores, kind="stable").tolist()]
        order.remove(chosen)
        return Choice(chosen, [chosen, *order], decision.propensity, False)

    def _least_in_flight(self, names: Sequence[str]) -> Choice:
        order = sorted(names, key=self.view.num_in_flight)
        return Choice(order[0], order, 1.0, True)

    def _note(self, note: Callable[..., None], *what: Any) -> None:
        with self._lock:
            try:
                note(*what)
            except Exception as error:
                self._failed("event", error)

    def _failed(self, what: str, error: Exception) -> None:
        kind = f"{what}_{type(error).__name__}"
        if not self._counts[kind]:
            LOGGER.warning("%s failed, which is logged once: %r", what, error)
        self._counts[kind] += 1
        if what == "policy":
            self._counts["fallback_least_in_flight"] += 1


def load_policy(folder: Path) -> Any:
    """The policy of a bundle, a ``BundlePolicy`` of its own ``policy.py``. Raises ``ValueError``."""
    path = folder.resolve() / "policy.py"
    try:
        listed = json.loads((folder / "schema.json").read_bytes())["sha256"]["policy.py"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != listed:
            raise ValueError("policy.py is not the file that schema.json tells of")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{folder} holds no whole bundle ({error}): copy it, or export it, again") from error
    name = f"routegym_bundle_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where NamedTuple and pickle look
    spec.loader.exec_module(module)
    return module.load(folder)


def profile_of(name: str, held: Mapping[str, Any]) -> Profile:
    """A profile of what was configured. Raises ``ValueError``."""
    try:
        return Profile(**held)
    except TypeError as error:
        raise ValueError(
            f"profiles: {name or 'the common one'} is {dict(held)}; it may have {', '.join(Profile._fields)}"
        ) from error
