import pytest

from envs.workload.location import have, trace_path


def test_variable_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTEGYM_TRACES", str(tmp_path))
    (tmp_path / "a.csv").touch()
    assert have("a.csv")
    assert trace_path("a.csv") == tmp_path / "a.csv"
    assert not have("b.csv")
    with pytest.raises(FileNotFoundError, match=r"set ROUTEGYM_TRACES to the folder that holds b\.csv"):
        trace_path("b.csv")


def test_default_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("ROUTEGYM_TRACES", raising=False)
    (tmp_path / "shared" / "traces").mkdir(parents=True)
    (tmp_path / "shared" / "traces" / "a.csv").touch()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert trace_path("a.csv").read_text() == ""
