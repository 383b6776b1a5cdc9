"""``python -m agents.viewer``, as its user meets it."""

import json
import re
import shlex
import shutil

import pandas as pd
import pytest
from omegaconf import OmegaConf

from agents.evaluate import evaluate
from agents.run_directory import folder_name
from agents.viewer.__main__ import view

from .conftest import SETTINGS, configured


def viewed(run, directory, *overrides):
    return view(configured("viewer", f"run={run}", f"directory={directory}", "num_looks=50", *overrides))


@pytest.fixture
def copied(run, tmp_path):
    """The run once more, to be changed."""
    return shutil.copytree(run, tmp_path / "run")


def test_same_run_same_bytes(run, tmp_path, capsys):
    both = ("policies=[learns,by_load]", "seed=3")
    one, other = (viewed(run, tmp_path / name, *both) for name in ("one", "other"))
    assert one == tmp_path / "one" / "learns-by_load-3.html"
    assert one.read_bytes() == other.read_bytes()
    ledgers = [pd.read_parquet(run / "cells" / f"{name}-3.parquet") for name in ("learns", "by_load")]
    assert f"({sum(map(len, ledgers))} decisions, {one.stat().st_size:,} bytes)" in capsys.readouterr().out


def test_one_policy_is_enough_and_the_page_lies_in_the_run(copied):
    path = view(configured("viewer", f"run={copied}", "policies=by_load", "seed=0", "num_looks=10"))
    assert path == copied / "viewer" / "by_load-0.html"


def test_the_page_tells_a_command_that_makes_it(run, tmp_path):
    """Also of a sweep's run, whose folder is named by its overrides."""
    folder = shutil.copytree(run, tmp_path / folder_name("seed=1,tim's=2"))
    path = view(configured("viewer", f"run='{folder!s}'", "policies=[learns,by_load]", "seed=0"))
    data = re.search(r'type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)[1]
    program, *given = shlex.split(json.loads(data)["about"]["command"].replace("python -m ", ""))
    assert program == "agents.viewer"
    assert view(configured("viewer", *given)) == path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policies=by_load"], r"seed: None must be one of the run's \(0, 3\)"),
        (["policies=by_load", "seed=1"], r"seed: 1 must be one of the run's \(0, 3\)"),
        (["seed=3"], r"policies: \[\] must be one or two of the run's \(by_load, learns\)"),
        (["policies=[by_load,by_load]", "seed=3"], "must be one or two of the run's"),
        (["policies=[by_load,best]", "seed=3"], r"policies: 'best' is none of the run's \(by_load, learns\)"),
        (["policies=by_load", "seed=3", "num_looks=0"], "num_looks is 0, it must be a whole number from 1"),
        (["run=null"], "run: there is none; give run=<directory of an evaluation>"),
        (["run=elsewhere"], r"run: elsewhere holds no config\.yaml; give the directory of an evaluation"),
    ],
)
def test_bad_wishes_are_named(run, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        viewed(run, tmp_path, *overrides)
    assert not list(tmp_path.iterdir())


def test_the_config_of_something_else_is_named(copied, tmp_path):
    (copied / "config.yaml").write_text("agent: {}\n")
    with pytest.raises(ValueError, match=r"config\.yaml is not the config of an evaluation"):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")


def test_a_run_of_another_program_is_named(copied, tmp_path):
    """A benchmark has no seeds of its own, a distillation nothing trained; both have policies."""
    config = OmegaConf.load(copied / "config.yaml")
    del config.trained
    OmegaConf.save(config, copied / "config.yaml")
    with pytest.raises(ValueError, match=r"give the directory of one, and of a benchmark that of one of its"):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")
    OmegaConf.save({**config, "trained": {}, "seeds": None}, copied / "config.yaml")
    with pytest.raises(ValueError, match=r"config\.yaml is not the config of an evaluation"):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")
    (copied / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"config\.yaml is no config .*; evaluate anew"):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")


def test_a_policy_that_foresees_is_played_once_more(tmp_path):
    few = ["policies.clairvoyant.max_placed=40", "workload.num_generated=20", "env.max_retries=0"]
    policies = [*SETTINGS, "+agent@policies.clairvoyant=clairvoyant", "world.schedule=null", *few]
    evaluate(configured("evaluate", *policies, "seeds=[3]", f"directory={tmp_path / 'run'}"))
    text = viewed(tmp_path / "run", tmp_path / "page", "policies=[clairvoyant,by_load]", "seed=3").read_text()
    assert '"policy":"clairvoyant"' in text


def test_a_run_that_is_not_done_is_named(copied, tmp_path):
    (copied / "cells" / "by_load-3.parquet").unlink()
    with pytest.raises(ValueError, match=r"by_load-3\.parquet is missing: the run is not done; take it up"):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")


def test_an_episode_that_goes_otherwise_now_is_not_shown(copied, tmp_path):
    path = copied / "cells" / "by_load-3.parquet"
    ledger = pd.read_parquet(path)
    ledger.loc[17, "ttft_s"] += 1e-9
    ledger.to_parquet(path)
    with pytest.raises(ValueError, match=r"by_load-3\.parquet: played once more, ttft_s of decision 17 is "):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")
    ledger.iloc[:-1].to_parquet(path)
    with pytest.raises(ValueError, match=f"there are {len(ledger)} decisions, not {len(ledger) - 1}"):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")


def test_a_run_over_servers_is_shown_as_it_was_recorded(copied, tmp_path):
    config = OmegaConf.load(copied / "config.yaml")
    config.cluster = {"_target_": "envs.live.fleet.cluster", "endpoints": "gone.json"}
    OmegaConf.save(config, copied / "config.yaml")
    path = viewed(copied, tmp_path, "policies=by_load", "seed=3")
    assert '"is_replayed":false' in path.read_text()
    shutil.rmtree(copied / "recordings")
    with pytest.raises(
        ValueError, match=r"was served by servers and not recorded .* evaluate with record=true"
    ):
        viewed(copied, tmp_path, "policies=by_load", "seed=3")
