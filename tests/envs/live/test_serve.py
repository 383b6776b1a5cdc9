"""The program that runs servers, with a stand-in for vLLM."""

import json
import signal
import sys

import pytest

from envs.live.serve import main

from .processes import answers, start

pytestmark = pytest.mark.usefixtures("fake_vllm")


def test_the_program_writes_endpoints_until_it_is_interrupted(tmp_path):
    process = start("-m", "envs.live.serve", "kind=cpu", "count=2", f"directory={tmp_path}")
    assert process.stdout.readline().startswith("2 up: http://127.0.0.1:")
    following = process.stdout.readline()
    assert f"cluster=live cluster.endpoints={tmp_path}/endpoints.json" in following
    endpoints = json.loads((tmp_path / "endpoints.json").read_text())
    assert list(endpoints) == ["cpu-0", "cpu-1"]
    assert all(answers(endpoint["url"]) for endpoint in endpoints.values())
    assert endpoints["cpu-1"]["block_size"] == 32
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == "ended\n"
    assert not (tmp_path / "endpoints.json").exists()
    assert not any(answers(endpoint["url"]) for endpoint in endpoints.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kind=gpu"], "kind is 'gpu', use one of modelled, cpu"),
        ([], "profile is missing"),
        (["profile=h1"], "unknown profile 'h1'"),
        (["kind=cpu", "count=0"], "count is '0'"),
        (["kind=cpu", "count=2", "port=8000"], "port is one server's own"),
        (["kind=cpu", "numblocks=3"], "unknown numblocks; there are count, directory, kind"),
        (["kind=cpu", "num_blocks=many"], "num_blocks is 'many', write a whole number"),
        (["kind=cpu", "enable_prefix_caching=1"], "enable_prefix_caching is '1', write true or false"),
        (["kind=cpu", "kind=cpu"], "kind is said twice"),
        (["cpu"], "'cpu' is no KEY=VALUE"),
        (["kind="], "'kind=' is no KEY=VALUE"),
    ],
)
def test_bad_words_are_named(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_command_runs_while_the_servers_do(tmp_path):
    script = "import json, sys; print(list(json.load(open(sys.argv[1])))); sys.exit(7)"
    words = ["-m", "envs.live.serve", "kind=cpu", "count=2", f"directory={tmp_path}"]
    endpoints = tmp_path / "endpoints.json"
    process = start(*words, "--", sys.executable, "-c", script, str(endpoints))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    assert output.splitlines()[-1] == "['cpu-0', 'cpu-1']"
    assert not endpoints.exists()


def test_there_may_be_several_profiles(tmp_path, capsys):
    profiles = "h100_llama-3.1-8b,l40s_llama-3.1-8b"
    with pytest.raises(SystemExit, match="0"):
        main([f"profile={profiles}", f"directory={tmp_path}", "--", sys.executable, "-c", "pass"])
    assert capsys.readouterr().out.startswith("2 up: ")


def test_a_directory_is_for_one(tmp_path, capfd):
    words = ["kind=cpu", f"directory={tmp_path}"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--", sys.executable, "-m", "envs.live.serve", *words])
    assert f"other servers run in {tmp_path}: end them, or say directory=ANOTHER" in capfd.readouterr().err


def test_a_command_that_is_interrupted_is_waited_for_and_told(tmp_path):
    words = ["-m", "envs.live.serve", "kind=cpu", f"directory={tmp_path}"]
    script = "import time; print('begun', flush=True); time.sleep(2); print('ended in peace')"
    process = start(*words, "--", sys.executable, "-c", script)
    while process.stdout.readline() != "begun\n":
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == "ended in peace\n"
