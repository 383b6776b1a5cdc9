"""What a server is started with."""

import json

import pytest

from envs.emulator.profile import load
from envs.live import tiny_model
from envs.live.server_options import ServerOptions, parse


def test_a_modelled_server_has_its_profiles_sizes():
    options, profile = ServerOptions(profile="l40s_llama-3.1-8b"), load("l40s_llama-3.1-8b")
    assert options.sizes == {
        "block_size": 16,
        "num_blocks": profile.num_blocks,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "max_model_len": 131072,
    }
    assert ServerOptions(profile="l40s_llama-3.1-8b", block_size=32).num_blocks == profile.num_blocks // 2
    assert ServerOptions(profile="l40s_llama-3.1-8b", num_blocks=10).max_model_len == 160


def test_vllm_is_given_one_block_more_than_are_usable(tmp_path):
    arguments = ServerOptions(kind="cpu", num_blocks=7).arguments(8000, "ipc://@a", tmp_path)
    assert arguments[arguments.index("--num-gpu-blocks-override") + 1] == "8"
    assert json.loads(arguments[arguments.index("--kv-events-config") + 1])["endpoint"] == "ipc://@a"


def test_the_device_is_told_the_law():
    name = "h100_llama-3.1-8b_tp1"
    environment = ServerOptions(profile=name, time_scale=2).environment(None)
    device = json.loads(environment["ROUTEGYM_MODELLED_DEVICE"])
    assert device["law"] == load(name).law._asdict()
    assert device["time_scale"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gpu"}, "kind is 'gpu'"),
        ({}, "profile is missing"),
        ({"kind": "cpu", "time_scale": 2}, "time_scale is 2"),
        ({"profile": "h100_llama-3.1-8b", "time_scale": 0}, "time_scale is 0"),
        ({"profile": "h100_llama-3.1-8b", "max_catch_up_s": -1}, "max_catch_up_s is -1"),
        ({"kind": "cpu", "block_size": 16}, "block_size is 16: on a CPU it must be a multiple of 32"),
        ({"kind": "cpu", "num_blocks": 0}, "num_blocks is 0"),
        ({"kind": "cpu", "max_num_seqs": True}, "max_num_seqs is True"),
        ({"kind": "cpu", "scheduling_policy": "lifo"}, "scheduling_policy is 'lifo'"),
        ({"kind": "cpu", "port": 70000}, "port is 70000"),
        ({"kind": "cpu", "name": "a/b"}, "name is 'a/b'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ServerOptions(**options)


def test_words_become_options_by_their_types():
    words = ["count=3", "profile=a", "time_scale=2.5", "port=8000", "enable_prefix_caching=false"]
    others, options = parse(words)
    assert others == {"count": "3"}
    assert options == {"profile": "a", "time_scale": 2.5, "port": 8000, "enable_prefix_caching": False}


def test_the_tiny_model_is_made_once_and_mended(tmp_path):
    directory = tiny_model.make(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert set(files) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    stamp = directory.stat().st_mtime_ns
    assert tiny_model.make(directory).stat().st_mtime_ns == stamp
    (directory / "config.json").write_text("{}")
    tiny_model.make(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == files
    assert list(tmp_path.iterdir()) == [directory]


def test_the_tiny_model_has_a_token_for_each_byte_and_one_for_each_id(tmp_path):
    tokenizer = json.loads((tiny_model.make(tmp_path / "model") / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(tiny_model.VOCAB_SIZE))
    assert list(vocabulary)[3:97] == [chr(code) for code in range(33, 127)]
    for left, right in tokenizer["model"]["merges"]:
        assert left in vocabulary
        assert right in vocabulary
        assert left + right in vocabulary
