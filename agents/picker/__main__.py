"""``python -m agents.picker``: tell a gateway where requests go, by an exported policy.

python -m agents.picker policy=runs/demo/maskable_ppo-0/bundle endpoints=runs/live/endpoints.json
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from agents.config import register
from agents.picker.picker import Picker, PickerSettings
from agents.program import program
from agents.router.program import parts_of, run
from agents.router.warm import warm
from conf.build import build

register()


def make_picker(config: DictConfig) -> Picker:
    """The picker that the config describes. Raises ``ValueError`` naming what cannot be."""
    parts = parts_of(config)
    settings: PickerSettings = build(config.picker, "picker")
    return Picker(settings, parts.endpoints, parts.policy, parts.heuristic)


@hydra.main(version_base="1.3", config_path="../../conf", config_name="picker")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.picker"):
        picker = make_picker(config)
        warm()
        run(picker, "agents.picker")


if __name__ == "__main__":
    main()
