from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Protocol

import pytest
from omegaconf import OmegaConf

from conf.build import ConfigError, build


@dataclass
class Part:
    size: float = 1.0


class Sizer(Protocol):
    def size(self) -> float: ...


class Whole:
    def __init__(
        self,
        count: int,
        part: Part,
        name: str | None = None,
        flag: bool = False,
        sizes: Sequence[int] = (),
        weights: Mapping[str, float] | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        sizer: Sizer = Part(),  # noqa: B008
        anything: Any = 0,
        object_: object = 0,
        late: Optional[Part] = None,  # noqa: UP045
    ) -> None:
        if count < 0:
            raise ValueError(f"count is {count}, it must not be negative")
        self.count, self.part, self.name = count, part, name


NODE = {"_target_": f"{__name__}.Whole", "count": 2, "part": {"_target_": f"{__name__}.Part", "size": 3}}


def test_nested_nodes_are_built():
    whole = build(OmegaConf.create(NODE), "whole")
    assert (whole.count, whole.part, whole.name) == (2, Part(3), None)


def test_program_supplies_what_the_node_does_not():
    assert build(NODE, "whole", count=7, name="given", unknown=1).name == "given"
    assert build(NODE, "whole", count=7).count == 2
    assert build({**NODE, "groups": {"a": {"b": 1}}}, "whole").count == 2


@pytest.mark.parametrize("key", ["name", "weights", "groups", "anything", "object_", "late"])
def test_null_fits_where_the_annotation_allows_it(key):
    assert build({**NODE, key: None}, "whole").count == 2


def test_lodestar_without_a_fallback_is_named():
    node = {
        "_target_": "agents.bandits.lodestar.Lodestar",
        "fallback": None,
        "training": {"_target_": "agents.bandits.predictor.Training"},
    }
    with pytest.raises(ConfigError, match=r"agent.fallback: None is not of type Policy"):
        build(node, "agent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuont": 1}, r"whole.cuont: .* takes no such key; did you mean count\?"),
        ({"count": "two"}, r"whole.count: 'two' is not of type int"),
        ({"count": 2.5}, r"whole.count: 2.5 is not of type int"),
        ({"count": True}, r"whole.count: True is not of type int"),
        ({"flag": 1}, r"whole.flag: 1 is not of type bool"),
        ({"sizes": [1, "b"]}, r"whole.sizes: \[1, 'b'\] is not of type"),
        ({"weights": {"a": "heavy"}}, r"whole.weights: "),
        ({"part": 3}, r"whole.part: 3 is not of type Part"),
        ({"part": None}, r"whole.part: None is not of type Part"),
        ({"sizer": None}, r"whole.sizer: None is not of type Sizer"),
        ({"count": None}, r"whole.count: None is not of type int"),
        ({"sizes": None}, r"whole.sizes: None is not of type"),
        ({"sizes": [None]}, r"whole.sizes: \[None\] is not of type"),
        ({"part": {"_target_": "nowhere.Part"}}, r"whole.part._target_: cannot import 'nowhere.Part'"),
        ({"part": {"_target_": f"{__name__}.Part", "sise": 1}}, r"whole.part.sise: .* did you mean size\?"),
        ({"count": -1}, r"whole: count is -1, it must not be negative"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        build({**NODE, **change}, "whole")


def test_missing_argument_and_target_are_named():
    with pytest.raises(ConfigError, match=r"whole.count: missing"):
        build({key: value for key, value in NODE.items() if key != "count"}, "whole")
    with pytest.raises(ConfigError, match=r"agent: there is no _target_"):
        build({"count": 1}, "agent")
