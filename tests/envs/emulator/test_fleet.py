from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from envs.cluster import Request
from envs.emulator import fleet
from envs.emulator.profile import SHIPPED, load, num_kv_blocks
from envs.emulator.step_time import step_time_s

CONF = Path(__file__).parents[3] / "conf"
SMALL = {"profile": "h100_llama-3.1-8b", "num_blocks": 64, "max_model_len": 1024}


def composed(name, *overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(overrides=[f"+cluster={name}", *overrides]).cluster


EMULATED = [  # the others ask servers
    path for path in sorted((CONF / "cluster").glob("*.yaml")) if "envs.live" not in path.read_text("utf-8")
]


@pytest.mark.parametrize("path", EMULATED, ids=lambda path: path.stem)
def test_every_shipped_cluster_serves(path):
    cluster = hydra.utils.instantiate(OmegaConf.load(path))
    for index in range(len(cluster.traits)):
        cluster.submit(Request(index, 0.0, 100, 5), index)
    assert len(cluster.drain().completions) == len(cluster.traits)


def test_demo():
    cluster = hydra.utils.instantiate(composed("demo"))
    gpus = [traits.name.split()[1] for traits in cluster.traits]
    assert gpus == ["H100"] * 4 + ["A100"] * 2 + ["L40S"] * 2
    for traits, config in zip(cluster.traits, cluster.configs, strict=True):
        assert traits.max_model_len == 131072
        assert traits.num_blocks == config.profile.num_blocks
        assert traits.max_num_seqs == config.profile.max_num_seqs
        assert traits.max_num_batched_tokens == config.profile.max_num_batched_tokens


def test_groups_are_overridden_by_name():
    config = composed(
        "demo", "cluster.instances.h100.count=1", "cluster.instances.l40s=null", "cluster.scrape_interval_s=5"
    )
    cluster = hydra.utils.instantiate(config)
    assert [traits.name for traits in cluster.traits] == [
        "NVIDIA H100 SXM 80GB-0",
        "NVIDIA A100 SXM 80GB-1",
        "NVIDIA A100 SXM 80GB-2",
    ]
    assert cluster.scrape_interval_s == 5


@pytest.mark.parametrize(
    ("gpu", "tflops", "gb_per_s", "gib"), [("a30", 165, 933, 24), ("v100", 125, 900, 32)]
)
def test_scaled_profiles_follow_from_data_sheets(gpu, tflops, gb_per_s, gib):
    measured, scaled = load("l40s_llama-3.1-8b"), load(f"scaled/{gpu}_llama-3.1-8b")
    prefill_s = [step_time_s(each.law, 8192, 8192 * 8193 / 2, 0, 0) for each in (measured, scaled)]
    assert prefill_s[1] / prefill_s[0] == pytest.approx(362 / tflops, rel=1e-5)  # bound by arithmetic
    decode_s = [step_time_s(each.law, 0, 0, 8, 8 * 2000) for each in (measured, scaled)]
    assert decode_s[1] / decode_s[0] == pytest.approx(864 / gb_per_s, rel=1e-5)  # by reading memory
    assert scaled.num_blocks == num_kv_blocks(gib << 30, scaled.weight_bytes, scaled.kv_bytes_per_token)
    assert scaled.source.startswith("Not measured")


def test_every_option_arrives():
    options = {
        "max_num_seqs": 3,
        "max_num_batched_tokens": 1999,
        "prefix_caching": False,
        "chunked_prefill": False,
        "long_prefill_token_threshold": 7,
        "watermark": 0.1,
        "scheduler_reserve_full_isl": False,
        "policy": "priority",
        "async_scheduling": False,
        "continue_after_self_preemption": True,
    }
    path = str(SHIPPED / "h100_llama-3.1-8b.json")
    cluster = fleet.cluster({"a": {**SMALL, **options, "profile": path, "count": 2}}, step_log_rows=9)
    assert cluster.configs[0] == cluster.configs[1]
    (config, _) = cluster.configs
    assert config.profile == load("h100_llama-3.1-8b")
    for key, value in {**SMALL, **options, "profile": config.profile}.items():
        assert getattr(config, key) == value
    assert len(cluster.state.step_log) == 9


def test_num_blocks_of_a_profile_are_counted_in_the_clusters_block_size():
    (traits,) = fleet.cluster({"a": {"profile": "h100_llama-3.1-8b"}}, block_size=32).traits
    assert traits.num_blocks == 27601 * 16 // 32


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({**SMALL, "cuont": 2}, r"cluster group 'a': unknown key 'cuont' \(value 2\); use count, profile, "),
        (
            {**SMALL, "count": 0},
            "cluster group 'a': count is 0, it must be at least 1; set the group to null",
        ),
        ({**SMALL, "count": "2"}, "cluster group 'a': count is '2'; write a value of type int"),
        ({**SMALL, "count": True}, "cluster group 'a': count is True; write a value of type int"),
        (
            {**SMALL, "prefix_caching": 1},
            "cluster group 'a': prefix_caching is 1; write a value of type bool",
        ),
        ({**SMALL, "profile": "h100"}, "cluster group 'a': profile: unknown profile 'h100'; there are a100_"),
        ({"count": 2}, "cluster group 'a': profile is missing; write a shipped name or a path"),
        ({**SMALL, "num_blocks": 63}, "cluster group 'a': 63 blocks of 16 tokens cannot hold one request"),
        (
            {**SMALL, "chunked_prefill": False, "max_num_batched_tokens": 1023},
            r"cluster group 'a': without chunked_prefill .* max_num_batched_tokens \(1023\) to max_model",
        ),
        ({**SMALL, "policy": "lifo"}, "cluster group 'a': policy is 'lifo', use one of fcfs, priority"),
        ({**SMALL, "max_num_seqs": 0}, "cluster group 'a': max_num_seqs is 0, it must be at least 1"),
        (3, "cluster group 'a' is 3; write a mapping with keys count, profile"),
    ],
)
def test_refuses_a_bad_group(group, message):
    with pytest.raises(ValueError, match=message):
        fleet.cluster({"a": group})


def test_refuses_blocks_of_no_tokens():
    with pytest.raises(ValueError, match="block_size is 0"):
        fleet.cluster({"a": SMALL}, block_size=0)


def test_refuses_no_groups():
    with pytest.raises(ValueError, match="at least one instance"):
        fleet.cluster({"a": None})
