import json
import shutil
from dataclasses import replace
from math import inf, nan

import pytest

from envs.emulator import profile as profile_module
from envs.emulator.profile import (
    SHIPPED,
    Point,
    ProfileError,
    fit,
    load,
    main,
    num_kv_blocks,
    refit,
    save,
    shipped_names,
)
from envs.emulator.step_time import StepTimeLaw, attended_pairs, step_time_s

NAMES = ["a100_llama-3.1-8b", "h100_llama-3.1-8b", "h200_llama-3.1-8b", "l40s_llama-3.1-8b"]
WORST_ERROR = {"a100": 0.022, "h100": 0.042, "h200": 0.035, "l40s": 0.044}
WORST_AFFINE_ERROR = {"a100": 0.043, "h100": 0.113, "h200": 0.098, "l40s": 0.139}
HELD_OUT = ["decode", 0, 0, 0, 4, 100, 1.0, 1.0, 0.0]
DEFAULTS = {"a100": (2048, 256), "h100": (8192, 1024), "h200": (8192, 1024), "l40s": (2048, 256)}


def edited(tmp_path, edit):
    """The path of a copy of a shipped profile whose JSON went through ``edit``."""
    data = json.loads((SHIPPED / f"{NAMES[0]}.json").read_text())
    edit(data)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(data))
    return path


def test_shipped_profiles_of_a_few_figures_are_these():
    assert [name for name in shipped_names() if not load(name).errors] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_profile_reproduces_its_figures_as_it_says(name):
    profile = load(name)
    assert profile.name == name
    assert len(profile.points) == 7
    for row in profile.fit_error:
        if row.kind == "prefill":
            fitted_s = step_time_s(profile.law, row.x, attended_pairs(row.x, 0), 0, 0)
        else:
            fitted_s = step_time_s(profile.law, 0, 0, row.x, row.x * row.num_context_tokens)
        assert 1e3 * fitted_s == pytest.approx(row.fitted_ms, rel=1e-5)
        assert 1e3 * fitted_s == pytest.approx(row.measured_ms * (1 + row.relative_error), rel=1e-5)
    assert profile.worst_error < WORST_ERROR[name[:4]]


@pytest.mark.parametrize("name", NAMES)
def test_affine_law_errs_at_least_twice_as_much(name):
    profile = load(name)
    law, errors = fit(profile.points, profile.weight_bytes, profile.kv_bytes_per_token, affine=True)
    worst = max(abs(row.relative_error) for row in errors)
    assert law.floor_s == 0
    assert worst == pytest.approx(WORST_AFFINE_ERROR[name[:4]], abs=5e-4)
    assert worst > 2 * profile.worst_error


@pytest.mark.parametrize("name", NAMES)
def test_refit_gives_the_shipped_bytes(name, tmp_path):
    shipped = SHIPPED / f"{name}.json"
    path = tmp_path / shipped.name
    data = json.loads(shipped.read_text())
    data["law"] = dict.fromkeys(data["law"], 1.0)
    path.write_text(json.dumps(data))
    refit(path)
    assert path.read_bytes() == shipped.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_sizes_follow_from_memory_and_vllm_defaults(name):
    profile = load(name)
    assert profile.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert profile.num_blocks == num_kv_blocks(
        profile.gpu_memory_bytes, profile.weight_bytes, profile.kv_bytes_per_token
    )
    assert (profile.max_num_batched_tokens, profile.max_num_seqs) == DEFAULTS[name[:4]]


def test_hand_computed_num_blocks():
    # 0.9 * 1000 - 600 / 2 - 100 bytes free per GPU; a block takes 10 * 4 / 2.
    assert num_kv_blocks(1000, 600, 4, tensor_parallel=2, block_size=10, reserved_bytes=100) == 25


def points_of(law, contexts):
    """What a GPU that obeys ``law`` would measure."""
    prefills = [("prefill", x, 0, (x, attended_pairs(x, 0), 0, 0)) for x in (64, 512, 2048, 8192)]
    decodes = [("decode", x, c, (0, 0, x, x * c)) for x in (1, 16, 64, 256) for c in contexts]
    return [Point(kind, x, c, 1e3 * step_time_s(law, *counts)) for kind, x, c, counts in prefills + decodes]


def test_fit_finds_the_law_behind_exact_figures():
    law = StepTimeLaw(6e-3, 2e-3, 2e-5, 1e-9, 3e-5, 5e-8)
    fitted, errors = fit(points_of(law, (512, 2048)), weight_bytes=1, kv_bytes_per_token=1)
    assert fitted == pytest.approx(law, rel=1e-5)
    assert max(abs(row.relative_error) for row in errors) < 1e-5


@pytest.mark.parametrize(
    ("kv_bytes", "sequence_s", "context_s"),
    [
        (1_000, 10e-5 - 1000 * 6e-8, 6e-8),  # 1 kB of a 100 MB model that is read in 6 ms
        (2_000, 0.0, 10e-8),  # 12e-8 would leave less than nothing per sequence
    ],
)
def test_one_context_length_is_split_by_bandwidth(kv_bytes, sequence_s, context_s):
    law = StepTimeLaw(6e-3, 2e-3, 2e-5, 1e-9, 10e-5, 0.0)
    fitted, _ = fit(points_of(law, (1000,)), weight_bytes=100_000_000, kv_bytes_per_token=kv_bytes)
    assert fitted.decode_sequence_s == pytest.approx(sequence_s, rel=1e-4)
    assert fitted.decode_context_s == pytest.approx(context_s, rel=1e-4)


def test_saved_profile_is_loaded_again(tmp_path):
    profile = replace(load(NAMES[0]), name="mine", num_blocks=7)
    save(profile, tmp_path / "mine.json")
    assert load(tmp_path / "mine.json") == profile
    assert load(str(tmp_path / "mine.json")) == profile


def test_file_of_version_1_is_read(tmp_path):
    def age(data):
        data["version"] = 1
        for key in ("source_version", "errors", "held_out"):
            del data[key]

    assert load(edited(tmp_path, age)) == load(NAMES[0])


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text("old")

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(profile_module.json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        save(load(NAMES[0]), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_profile_lists_those_there_are():
    with pytest.raises(ProfileError, match=r"unknown profile 'h300'; there are a100_.*, l40s_llama-3\.1-8b"):
        load("h300")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"absent\.json: no such profile"):
        load(tmp_path / "absent.json")


def test_broken_json_names_its_file(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text('{"name": ')
    with pytest.raises(ProfileError, match=r"cut\.json: Expecting value"):
        load(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop("num_blocks"), "num_blocks: missing"),
        (lambda data: data.update(colour="red"), "colour: unknown key"),
        (lambda data: data.update(num_blocks="many"), "num_blocks: 'many' is not of type int"),
        (lambda data: data.update(num_blocks=True), "num_blocks: True is not of type int"),
        (lambda data: data.update(num_blocks=0), "num_blocks: 0 is not positive"),
        (lambda data: data.update(version=3), "version: 3 is neither 1 nor 2, those this code reads"),
        (lambda data: data.pop("version"), "version: None is neither 1 nor 2"),
        (lambda data: data["law"].update(slope_17_s=1), "law.slope_17_s: unknown key"),
        (lambda data: data["law"].update(knot_3_tokens=5), "law: its knots do not rise"),
        (lambda data: data.update(errors=3), "errors: not a list"),
        (lambda data: data.update(held_out=[[1, 2]]), r"held_out\[0\]: not a list of region, num_prompts"),
        (
            lambda data: data.update(held_out=[[*HELD_OUT[:7], 0.1, "x"]]),
            r"held_out\[0\].relative_error: 'x'",
        ),
        (
            lambda data: data.update(held_out=[[*HELD_OUT[:6], 0, 1, 0]]),
            r"held_out\[0\]: not a measured step",
        ),
        (
            lambda data: data.update(held_out=[["chunk", 0, 8, 0, 0, 0, 1, 1, 0]]),
            r"held_out\[0\]: not a step",
        ),
        (lambda data: data.update(law=[1, 2]), "law: not an object"),
        (lambda data: data["law"].pop("floor_s"), "law.floor_s: missing"),
        (lambda data: data["law"].update(token_s=-1e-5), "law.token_s: -1e-05 is not a finite number >= 0"),
        (lambda data: data["law"].update(token_s=nan), "law.token_s: nan is not finite"),
        (lambda data: data["law"].update(token_s=inf), "law.token_s: inf is not finite"),
        (lambda data: data.update(law=dict.fromkeys(data["law"], 0)), "law: floor_s, .* takes no time"),
        (lambda data: data.update(fit_error=3), "fit_error: not a list"),
        (lambda data: data["fit_error"][2].update(x=1.5), r"fit_error\[2\].x: 1.5 is not of type int"),
        (lambda data: data["fit_error"][1].update(kind="idle"), r"fit_error\[1\].kind: 'idle' is neither"),
        (lambda data: data["fit_error"][0].update(measured_ms=0), r"fit_error\[0\]: not a measured step"),
    ],
)
def test_corrupt_file_names_file_and_key(tmp_path, edit, message):
    with pytest.raises(ProfileError, match=rf"edited\.json: {message}"):
        load(edited(tmp_path, edit))


def test_command_prints_both_errors(capsys):
    main([])
    printed = capsys.readouterr().out
    assert (
        "h200_llama-3.1-8b: 55570 blocks of 16 tokens; worst error 3.4%, of a purely affine law 9.8%"
        in printed
    )
    assert printed.count("\n  prefill") == 3 * len(shipped_names())


def test_command_refits_the_shipped_files(tmp_path, monkeypatch, capsys):
    copies = tmp_path / "profiles"
    shutil.copytree(SHIPPED, copies)
    monkeypatch.setattr(profile_module, "SHIPPED", copies)
    main(["--refit"])
    assert "l40s" in capsys.readouterr().out
    refitted, shipped = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")}
        for folder in (copies, SHIPPED)
    )
    assert refitted == shipped


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--refit" in capsys.readouterr().out
