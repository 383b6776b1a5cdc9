"""``python -m agents.viewer``: an evaluation to look at, one or two policies on one request stream.

    python -m agents.viewer run=runs/demo/evaluation policies=[lodestar,llmd_token_load] seed=57

writes one HTML page that needs nothing else. It plays the fleet as it was: each instance's queue and KV
cache, each decision with what the policy saw and how it scored the instances, and what became of the request.

An emulated run needs no recording: its episodes are played once more, on the same seed, and must come out as
they did, to the last bit of the ledger. Servers cannot be asked to do again what they did: of a run over them
the page shows what was recorded (``record=true``), their queues as they were scraped.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import hydra
import yaml
from omegaconf import DictConfig, OmegaConf

from agents import cells
from agents.cells import Cell
from agents.config import register
from agents.files import write
from agents.hyperparameters import check_counts
from agents.program import program
from agents.run_directory import CONFIG
from agents.viewer.document import page
from agents.viewer.episode import recorded, replayed
from conf.build import ConfigError

register()

NEEDED = ("name", "cluster", "policies", "trained", "seeds", "warmup_s")
"""What an evaluation's config holds; those of other programs lack some of it."""
PLAIN = re.compile(r"[\w/.@%+-]+")
"""What Hydra takes as a value without quotes."""


def view(config: DictConfig) -> Path:
    """Make the page as configured; return its path."""
    check_counts(num_looks=config.num_looks)
    if config.run is None:
        raise ConfigError("run: there is none; give run=<directory of an evaluation>")
    run = Path(config.run)
    held = _evaluation(run)
    chosen = [Cell(policy, config.seed) for policy in _policies(config, held)]
    _check_cells(run, held, chosen)
    is_replayed = "endpoints" not in held.cluster  # else its servers would be needed, and not be as they were
    episodes = [
        replayed(held, run, cell, config.num_looks) if is_replayed else recorded(run, cell) for cell in chosen
    ]
    about = {
        "title": f"{held.name}: {' against '.join(cell.policy for cell in chosen)}, seed {config.seed}",
        "command": _command(run, chosen),
        "notes": cells.read(run, chosen[0])[1]["workload_notes"],
        "warmup_s": held.warmup_s,
        "is_replayed": is_replayed,
    }
    text = page(about, episodes)
    directory = run / "viewer" if config.directory is None else Path(config.directory)
    path = directory / f"{'-'.join(cell.policy for cell in chosen)}-{config.seed}.html"
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    num_decisions = sum(len(episode.decisions) for episode in episodes)
    print(f"page: {path} ({num_decisions:,} decisions, {path.stat().st_size:,} bytes)")
    return path


def _evaluation(run: Path) -> DictConfig:
    """The config of an evaluation's run."""
    path = run / CONFIG
    try:
        held = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"run: {run} holds no {CONFIG}; give the directory of an evaluation") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"run: {path} is no config ({error}); evaluate anew") from error
    if not isinstance(held, DictConfig) or any(held.get(key) is None for key in NEEDED):
        raise ConfigError(
            f"run: {path} is not the config of an evaluation; give the directory of one, and of a benchmark"
            " that of one of its scenarios"
        )
    return held


def _command(run: Path, chosen: list[Cell]) -> str:
    """That makes the page, for a shell; Hydra wants quotes around the folders of a sweep, too."""
    text = str(run)
    path = text if PLAIN.fullmatch(text) else "'" + text.replace("'", "\\'") + "'"
    names = ",".join(cell.policy for cell in chosen)
    given = [f"run={path}", f"policies=[{names}]", f"seed={chosen[0].seed}"]
    return shlex.join(["python", "-m", "agents.viewer", *given])


def _policies(config: DictConfig, held: DictConfig) -> list[str]:
    names = [config.policies] if isinstance(config.policies, str) else list(config.policies or ())
    there = ", ".join(held.policies)
    if not 1 <= len(names) <= 2 or len(set(names)) < len(names):
        raise ConfigError(f"policies: {names} must be one or two of the run's ({there})")
    for name in names:
        if name not in held.policies:
            raise ConfigError(f"policies: {name!r} is none of the run's ({there})")
    return names


def _check_cells(run: Path, held: DictConfig, chosen: list[Cell]) -> None:
    """Refuse seeds that the run does not have, and cells that it has not."""
    for cell in chosen:
        if cell.seed not in held.seeds:
            there = ", ".join(str(seed) for seed in held.seeds)
            raise ConfigError(f"seed: {cell.seed} must be one of the run's ({there})")
        if not cell.path(run).exists():
            raise ConfigError(f"run: {cell.path(run)} is missing: the run is not done; take it up again")


@hydra.main(version_base="1.3", config_path="../../conf", config_name="viewer")
def main(config: DictConfig) -> None:
    """Run the program."""
    with program("agents.viewer"):
        view(config)


if __name__ == "__main__":
    main()
