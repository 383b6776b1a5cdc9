"""A search that goes on where it was killed: Optuna's TPE, median pruning over seeds, a journal on disk.

Settings are judged by an objective relative to the default's on the same request streams: the sum over seeds
over the default's sum, so that 0.9 is 10 % better, and ratios after so many seeds compare though streams are
unlike. The default is the first trial. Settings whose ratios after so many seeds are all above the median
of the others' there are given up.

Each trial's draw follows from the seed, the number of the trial and what was found before, never from the
process: a search that was killed and taken up again ends as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from agents.tuning.space import Choice, Range, Settings, Space

NUM_STARTUP = 10
"""Trials drawn at random before TPE has enough to go by (Optuna's own default)."""
MIN_WHOLE, MIN_SEEDS = 5, 2
"""Trials played on all seeds, and seeds of a trial, before it may be given up."""

Play = Callable[[Settings, int], float]
"""Settings and a seed -> the objective of that episode, small being good. Raises ``ValueError`` where the
settings do not fit together."""


class Tried(NamedTuple):
    """Settings that were tried, and how they fared."""

    settings: Settings
    state: Literal["whole", "pruned", "refused"]
    values: tuple[float, ...]
    """The objective on the seeds that were played, in their order."""
    relative: float
    """Their sum over the default's on the same seeds; NaN where none was played."""
    refusal: str = ""
    """Why they were refused."""


class Search:
    """A search whose trials lie in a journal.

    Args:
        path: The journal, begun where there is none. What it holds is not tried again, down to the seeds of
            a trial that was under way.
        space: What may be changed.
        default: Tried first.
        seeds: Of the streams.
        seed: Of the search.
    """

    def __init__(self, path: Path, space: Space, default: Settings, seeds: Sequence[int], seed: int) -> None:
        self._optuna = optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path.parent.mkdir(parents=True, exist_ok=True)
        journal = optuna.storages.journal.JournalFileBackend(str(path))
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(journal),
            study_name="tuning",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=MIN_WHOLE, n_warmup_steps=MIN_SEEDS),
        )
        self._distributions = {name: _distribution(optuna, values) for name, values in space.items()}
        self._default, self._seeds, self._seed = default, seeds, seed

    def tried(self) -> list[Tried]:
        """Trials that are over, in their order; the first is the default."""
        return [_tried(held) for held in self._trials("COMPLETE", "PRUNED")]

    def run(self, play: Play) -> Tried:
        """Try the next settings, or go on with those that were being tried.

        Raises what ``play`` raises of the default.
        """
        trial = self._begin()
        values = list(trial.user_attrs.get("values", ()))
        reported = trial.storage.get_trial(trial._trial_id).intermediate_values
        over = self.tried()
        for step, seed in enumerate(self._seeds, 1):
            if step > len(values):
                try:
                    values.append(play(trial.params, seed))
                except ValueError as error:
                    if not over:  # the default cannot be played: that is to be mended, and not remembered
                        raise
                    return self._end(trial, "PRUNED", str(error))
                trial.set_user_attr("values", values)
            default = over[0].values if over else values
            relative = sum(values[:step]) / sum(default[:step])
            if step not in reported:
                trial.report(relative, step)
            if step < len(self._seeds) and trial.should_prune():
                return self._end(trial, "PRUNED")
        return self._end(trial, "COMPLETE", relative=relative)

    def _begin(self) -> Any:
        """The trial that was under way, or a new one."""
        for held in self._trials("RUNNING"):
            if held.params.keys() == self._distributions.keys():
                return self._optuna.trial.Trial(self._study, held._trial_id)
            self._study.tell(held.number, state=held.state.FAIL)  # killed as it was drawn: drawn again, alike
        num_tried = len(self._trials("COMPLETE", "PRUNED"))
        if num_tried == 0 and not self._trials("WAITING"):
            self._study.enqueue_trial(self._default)
        entropy = np.random.SeedSequence((self._seed, num_tried)).generate_state(1)
        self._study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=NUM_STARTUP, seed=int(entropy[0])
        )
        return self._study.ask(self._distributions)

    def _end(self, trial: Any, state: str, refusal: str = "", relative: float | None = None) -> Tried:
        if refusal:
            trial.set_user_attr("refusal", refusal)
        return _tried(self._study.tell(trial, relative, self._optuna.trial.TrialState[state]))

    def _trials(self, *states: str) -> list[Any]:
        wanted = tuple(self._optuna.trial.TrialState[state] for state in states)
        return list(self._study.get_trials(deepcopy=False, states=wanted))


def _tried(held: Any) -> Tried:
    values = tuple(held.user_attrs.get("values", ()))
    relative = held.intermediate_values.get(len(values), float("nan"))
    refusal = held.user_attrs.get("refusal", "")
    state: Literal["whole", "pruned", "refused"]
    state = "refused" if refusal else "pruned" if held.state.name == "PRUNED" else "whole"
    return Tried(dict(held.params), state, values, relative, refusal)


def _distribution(optuna: Any, values: Range | Choice) -> Any:
    if isinstance(values, Choice):
        return optuna.distributions.CategoricalDistribution(values.options)
    kind = optuna.distributions.IntDistribution if values.is_whole else optuna.distributions.FloatDistribution
    return kind(values.low, values.high, log=values.log)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ValueError("tuning needs Optuna: pip install 'routegym[sweeps]'") from error
    return optuna
