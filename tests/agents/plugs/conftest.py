"""Bundles, and their plugs as a host finds them: imported from within the bundle."""

import importlib
import sys

import pytest

from agents.export import writing
from tests.agents.export.exported import export_of


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """name -> folder of a bundle of that kind."""
    directory = tmp_path_factory.mktemp("plugged")
    names = ("network", "least_in_flight", "llmd_affinity")
    for name in names:
        writing.write(directory / name, export_of(name), lambda part: "a card")
    return {name: directory / name for name in names}


@pytest.fixture
def plugs(folders, monkeypatch):
    """Imports a plug of the network's bundle."""

    def module(name):
        return importlib.import_module(f"plugs.{name}")

    monkeypatch.syspath_prepend(str(folders["network"]))
    held = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "plugs"}
    for name in held:
        del sys.modules[name]
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "plugs"]:
        del sys.modules[name]
