"""A rule on disk: for people, in three languages, and as a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from agents.distill.expression import Rule
from agents.distill.policy import Distilled
from agents.distill.texts.cel import cel_text
from agents.distill.texts.formula import formula_text
from agents.distill.texts.go import go_text
from agents.distill.texts.python import python_text
from agents.export import compared, writing
from agents.export.card import Card
from agents.export.parity import Parity
from agents.files import write
from envs.observation import Observation

BUNDLE = "bundle"
TEXTS: Mapping[str, Callable[[Rule], str]] = {
    "rule.txt": formula_text,
    "rule.py": python_text,
    "rule.go": go_text,
    "rule.cel": cel_text,
}


class Written(NamedTuple):
    """A rule that was written down, of which nothing is measured yet."""

    directory: Path
    export: writing.Export
    card: Card
    parities: Mapping[str, Parity]

    def tell(self, results: Sequence[Sequence[str]]) -> None:
        """Write its bundle once more, with results in the card: a table's lines, the first its header."""
        text = replace(self.card, results=results).text(self.parities)
        writing.write(self.directory / BUNDLE, self.export, lambda part: text)


def write_rule(
    directory: Path,
    name: str,
    policy: Distilled,
    made_of: Mapping[str, object],
    max_instances: int,
    seen: Sequence[Observation],
) -> Written:
    """Write a rule's files.

    Args:
        directory: Where to.
        name: Of the policy in its bundle.
        policy: The rule, routing.
        made_of: For the bundle's card.
        max_instances: The most that the bundle will be asked about.
        seen: Observations on which the bundle must decide as the policy.
    """
    for file, text in TEXTS.items():
        write_text(directory / file, text(policy.rule))
    export = writing.Export(name, policy, max_instances=max_instances)
    card = Card(name, made_of, export.guards(), [], [])
    return Written(directory, export, card, compared.write(directory / BUNDLE, export, card, seen))


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
