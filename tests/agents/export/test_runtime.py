"""What is no bundle, or a damaged or hostile one, is refused with the reason; none of it is run as code."""

import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.export import runtime, writing
from agents.export.runtime import ARRAYS, PLAN, SCHEMA, BundleError, load
from envs.observation import INSTANCE_FEATURES, SCHEMA_HASH
from tests.agents.export.exported import export_of, seen

OBSERVATION = seen(2)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    writing.write(folder, export_of("network"), lambda part: "a card")
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bundle")


def rewrite(folder, **changes):
    schema = json.loads((folder / SCHEMA).read_text()) | changes
    (folder / SCHEMA).write_text(json.dumps(schema))


def replace_arrays(folder, **changes):
    """Change arrays and sign them, as whoever means harm can."""
    with np.load(folder / ARRAYS) as held:
        arrays = {name: held[name] for name in held.files} | changes
    np.savez(folder / ARRAYS, **{name: array for name, array in arrays.items() if array is not None})
    sign(folder)


def sign(folder):
    digest = hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()
    rewrite(folder, sha256={ARRAYS: digest})


def change_plan(folder, change):
    with np.load(folder / ARRAYS) as held:
        plan = json.loads(str(held[PLAN]))
    change(plan)
    replace_arrays(folder, **{PLAN: np.array(json.dumps(plan))})


def test_a_whole_one_is_loaded(folder):
    assert load(folder, SCHEMA_HASH).act(OBSERVATION).propensities.sum() == 1.0


def test_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"holds no bundle \(schema.json is missing\)"):
        load(tmp_path / "nowhere")


def test_other_features(folder):
    with pytest.raises(BundleError, match=r"was trained on the features .*, here they are 0123"):
        load(folder, "0123")


def test_features_that_are_not_those_of_the_hash(folder):
    features = [list(feature) for feature in INSTANCE_FEATURES]
    features[0], features[1] = features[1], features[0]
    rewrite(folder, instance_features=features)
    with pytest.raises(BundleError, match="features are not those of its schema_hash"):
        load(folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("name", [SCHEMA, ARRAYS])
def test_cut_off(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError, match=name):
        load(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(folder, value):
    with np.load(folder / ARRAYS) as held:
        name = max((name for name in held.files if name != PLAN), key=lambda name: held[name].size)
        damaged = held[name].copy()
    damaged.flat[7] = value
    replace_arrays(folder, **{name: damaged})
    with pytest.raises(BundleError, match=f"{name} is not finite"):
        load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 2), ("format", None), ("memory", 3), ("limits", {}), ("sha256", []), ("name", None)],
)
def test_a_schema_that_cannot_be(folder, key, value):
    rewrite(folder, **{key: value})
    with pytest.raises(BundleError, match=r"schema\.json"):
        load(folder)


def test_a_list_is_no_schema(folder):
    (folder / SCHEMA).write_text("[]")
    with pytest.raises(BundleError, match="its format is None"):
        load(folder)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_is_never_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replace_arrays(folder, c0=np.array([Bomb()], object))
    with pytest.raises(BundleError, match="not a whole archive"):
        load(folder)
    (folder / ARRAYS).write_bytes(pickle.dumps(Bomb()))
    sign(folder)
    with pytest.raises(BundleError, match="not a whole archive"):
        load(folder)
    assert not (tmp_path / "exploded").exists()


def test_code_in_a_bundle_is_not_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "policy.py").write_text("import os; os.mkdir('exploded')")
    load(folder)
    assert not (tmp_path / "exploded").exists()


def test_links_do_not_lead_out(folder, tmp_path):
    shutil.move(folder / ARRAYS, tmp_path / "elsewhere.npz")
    (folder / ARRAYS).symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        load(folder)
    (folder / ARRAYS).unlink()
    shutil.move(tmp_path / "elsewhere.npz", folder / "..data.npz")
    (folder / ARRAYS).symlink_to(folder / "..data.npz")  # as Kubernetes mounts files
    load(folder)


def test_more_bytes_than_is_sane(folder, monkeypatch):
    monkeypatch.setattr(runtime, "MAX_BYTES", 5_000)
    with pytest.raises(BundleError, match="larger than 5000 bytes"):
        load(folder)
    np.savez_compressed(folder / ARRAYS, big=np.zeros(10_000))
    sign(folder)
    with pytest.raises(BundleError, match="holds more than 5000 bytes of arrays"):
        load(folder)


def _other_operation(plan):
    plan[3][0] = "Exec"


def _unknown_input(plan):
    plan[3][1][0] = "nothing"


def _made_twice(plan):
    plan[3][2] = plan[2][2]


def _no_output(plan):
    plan.pop()


def _too_long(plan):
    plan.extend([["Neg", ["request"], f"x{number}", {}] for number in range(runtime.MAX_STEPS)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_other_operation, "there is no operation 'Exec'"),
        (_unknown_input, "needs 'nothing', which nothing makes"),
        (_made_twice, "is made twice"),
        (_no_output, "it does not make"),
        (_too_long, "more than 10000"),
    ],
)
def test_plans_that_cannot_be_run(folder, change, reason):
    change_plan(folder, change)
    with pytest.raises(BundleError, match=f"its plan cannot be run .*{reason}"):
        load(folder)


@pytest.mark.parametrize("plan", ["", "[]", "{}", "[1]", '[["Neg"]]', '[["Neg", 3, "a", {}]]', "null"])
def test_plans_that_are_none(folder, plan):
    replace_arrays(folder, **{PLAN: np.array(plan)})
    with pytest.raises(BundleError, match="its plan cannot be run"):
        load(folder)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_flipped_is_refused_or_does_no_harm(whole, tmp_path_factory, data):
    """A bundle with a flipped bit is refused; or the flip lies where nobody reads."""
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("flipped") / "bundle")
    name = data.draw(st.sampled_from([SCHEMA, ARRAYS]))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(bytes(content))
    try:
        policy = load(folder, SCHEMA_HASH)
    except BundleError:
        return
    expected = load(whole).act(OBSERVATION)
    np.testing.assert_array_equal(policy.act(OBSERVATION).scores, expected.scores)


def test_observations_that_cannot_be(folder):
    policy = load(folder)
    nothing = {**OBSERVATION, "mask": np.zeros_like(OBSERVATION["mask"])}
    with pytest.raises(ValueError, match="every instance is masked"):
        policy.act(nothing)
    broken = {**OBSERVATION, "instances": OBSERVATION["instances"].copy()}
    broken["instances"][0, 2] = np.nan
    with pytest.raises(ValueError, match="frac_kv_cache_usage is nan"):
        policy.act(broken)
    with pytest.raises(ValueError, match=r"instances are .*, they must be"):
        policy.act({**OBSERVATION, "instances": OBSERVATION["instances"][:, 1:]})
    many = 65
    with pytest.raises(ValueError, match="of at most 64 instances"):
        policy.act(
            {
                "instances": np.zeros((many, len(INSTANCE_FEATURES)), np.float32),
                "request": OBSERVATION["request"],
                "mask": np.ones(many, np.int8),
            }
        )


def test_a_rule_has_no_fallback(tmp_path):
    writing.write(tmp_path / "rule", export_of("random"), lambda part: "a card")
    with pytest.raises(BundleError, match="has no fallback"):
        load(tmp_path / "rule").fall_back(OBSERVATION)


def deep(text="[", closing="]"):
    return text * 100_000 + closing * 100_000


def archive(folder, name, content, **info):
    """An archive of one member, signed."""
    with zipfile.ZipFile(folder / ARRAYS, "w") as held:
        held.writestr(zipfile.ZipInfo(name), content)
    content = bytearray((folder / ARRAYS).read_bytes())
    for offset, value in info.get("bytes", {}).items():
        for magic in (b"PK\x03\x04", b"PK\x01\x02"):
            at = content.index(magic)
            content[at + offset + 2 * (magic == b"PK\x01\x02")] = value
    (folder / ARRAYS).write_bytes(bytes(content))
    sign(folder)


SHAPE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }"
HUGE = b"\x93NUMPY\x01\x00v\x00" + SHAPE.ljust(117) + b"\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / SCHEMA).write_text(deep()),
        lambda folder: replace_arrays(folder, **{PLAN: np.array(deep())}),
        lambda folder: archive(folder, "plan.txt", b"not an array"),
        lambda folder: archive(folder, "plan.npy", HUGE),
        lambda folder: archive(folder, "plan.npy", b"\x93NUMPY", bytes={6: 1}),  # says it is encrypted
        lambda folder: archive(folder, "plan.npy", b"\x93NUMPY", bytes={8: 99}),  # of an unknown compression
        lambda folder: archive(folder, "plan.npy", b"\x93NUMPY", bytes={8: 8}),  # and of one that it is not
        lambda folder: rewrite(folder, limits={"max_instances": -5}),
        lambda folder: rewrite(folder, limits={"max_instances": True}),
        lambda folder: rewrite(folder, memory="nonsense"),
    ],
)
def test_whatever_is_made_up_is_refused_by_name(folder, spoil):
    spoil(folder)
    with pytest.raises(BundleError, match=re.escape(str(folder))):
        load(folder, SCHEMA_HASH)
