"""What `make repro` refuses before anything starts: settings that only together are wrong, attacks,
tables and the disk (single bad values, names and files: test_bad_input)."""

import json
from dataclasses import replace

import pytest
import yaml

from lib import config, paths
from lib.attacks import battery
from lib.config import profiles
from lib.facts.records import make_split
from lib.stages import checks

TASK = "sports-athletes"


@pytest.fixture
def with_settings(monkeypatch, tmp_path):
    """Let the checks see params.yaml with some values changed."""

    def change(patch: dict):
        raw = profiles.merge(yaml.safe_load(paths.PARAMS.read_text()), patch)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
        monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")

    return change


def test_the_committed_settings_and_tables_are_sound():
    assert checks.check_all().model.name


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"model": {"name": "gema-3-270m"}}, ["unknown model 'gema-3-270m'", "gemma-3-270m"]),
        ({"tasks": {"sports-athletes": {"table": "data/raw/none.csv"}}}, ["none.csv", "`table`"]),
        ({"tasks": {"sports-athletes": {"label_column": "game"}}}, ["no column 'game'", "add it"]),
        ({"tasks": {"sports-athletes": {"formats": "none.yaml"}}}, ["none.yaml", "`formats`"]),
        ({"tasks": {"sports-athletes": {"never_known": "none.csv"}}}, ["none.csv"]),
        ({"tasks": {"world-facts": {"relation_column": "kind"}}}, ["no column 'kind'"]),
        (
            {"tasks": {"world-facts": {"relations": ["country-moon"]}}},
            ["world.csv", "no relation 'country-moon'", "country-capital", "`relations`"],
        ),
        (
            {"tasks": {"world-facts": {"formats": "data/raw/sports_formats.yaml"}}},
            ["world.csv", "relation 'country-capital'", "no format asks for"],
        ),
        (
            {"tasks": {"world-facts": {"source": "counterfact", "table": "none.json"}}},
            ["no CounterFact file at none.json", "correct the path"],
        ),
    ],
)
def test_bad_input_is_refused_before_anything_starts(with_settings, patch, words):
    with_settings(patch)
    with pytest.raises((ValueError, OSError)) as refusal:
        checks.check_all()
    assert all(word in str(refusal.value) for word in words)
    assert "\n" not in str(refusal.value)


def test_a_full_disk_is_refused(monkeypatch):
    class Full:
        free = 2**30

    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: Full)
    monkeypatch.setattr(checks.paths, "model", lambda name: paths.ROOT / "no such folder")
    with pytest.raises(OSError, match="1.0 GiB of disk are free.*make room first"):
        checks.check_all()


HUB = "NeelNanda/counterfact-tracing"  # what a profile names that reads it from the hub
LOCAL = [p for p in (paths.ROOT / "profiles").glob("*.yaml") if HUB not in p.read_text()]


@pytest.mark.parametrize("profile", LOCAL, ids=lambda p: p.stem)
def test_every_shipped_profile_with_local_tables_passes(with_settings, profile):
    patch = yaml.safe_load(profile.read_text())
    with_settings(patch)
    assert list(checks.check_all().seeds) == patch.get("seeds", [0])


def test_a_local_file_of_counterfact_passes(with_settings, tmp_path):
    asked = {"relation_id": "P1", "target_true": " x", "target_false": " y"}
    rows = [asked | {"subject": f"S{i}", "prompt": f"S{i} is"} for i in range(60)]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    patch = yaml.safe_load((paths.ROOT / "profiles" / "counterfact.yaml").read_text())
    patch["tasks"]["world-facts"]["table"] = str(tmp_path / "c.json")
    with_settings(patch)
    assert checks.check_all().task("world-facts").source == "counterfact"


# --- attacks ---------------------------------------------------------------------------------


def test_an_unknown_attack_is_one_sentence(raw, refuses):
    raw["attack_weights"]["mine"] = {"method": "relern"}
    with refuses(ValueError, "unknown attack 'relern'", "relearn", "attack_weights.mine"):
        battery.chosen(config.parse(raw), "weights")


def test_a_misspelt_setting_of_an_attack_is_one_sentence(raw, refuses):
    raw["attack_weights"]["quantize"]["bit"] = [3]
    with refuses(ValueError, "'attack_weights.quantize.bit'", "did you mean 'bits'"):
        battery.chosen(config.parse(raw), "weights")


def test_attacks_come_with_their_module_and_settings(settings):
    found = battery.chosen(settings, "weights")
    assert list(found) == list(settings.attack_weights)
    assert found["quantize"][0] == "quantize" and found["quantize"][1].bits == [4]
    assert found["relearn-rank-4"][0] == "relearn" and found["relearn-rank-4"][1].rank == 4


# --- what only the known facts can show ------------------------------------------------------


@pytest.fixture
def small(raw):
    """Settings whose every stage a few known athletes are enough for."""
    raw["edit"]["validation_facts"] = 2
    raw["tasks"][TASK]["lookup"] = "probes"
    raw["engines"]["tasks"] = raw["sequential"]["tasks"] = raw["scaling"]["tasks"] = [TASK]
    raw["scaling"]["sizes"] = [4, 8]
    search = {"tokens": 2, "rounds": 1, "candidates": 2, "facts": 4}
    raw["attack_prompts"]["token-search"] = search
    raw["attack_inside"]["probes"]["least"] = 2
    return raw


@pytest.fixture
def roles(known):
    return make_split([*known.values()], 12, 0, (0.5, 0.3), seed=0)


def test_enough_facts_are_enough(small, known, roles):
    checks.check_facts(config.parse(small), TASK, known, roles)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("edit.validation_facts", 8, ["validation facts where 10", "lower edit.validation_facts"]),
        ("sequential.batches", 13, ["12 facts", "13 batches", "lower sequential.batches"]),
        ("scaling.sizes", [4, 128], ["128 in scaling.sizes", "delete it there"]),
        (
            f"tasks.{TASK}.probed_relation",
            "plays-chess",
            ["'plays-chess'", "set `probed_relation`"],
        ),
        (f"tasks.{TASK}.forget_label", "golf", ["'golf'", "correct `forget_label`"]),
        ("fact_lookup.test_share", 0.05, ["0.05", "correct fact_lookup.test_share"]),
        ("attack_inside.probes.least", 9, ["9 retained facts", "lower attack_inside.probes.least"]),
        (
            "attack_prompts.token-search.facts",
            7,
            ["6 facts", "attack_prompts.token-search.facts (7)", "lower it"],
        ),
    ],
)
def test_too_few_facts_for_a_later_stage(small, known, roles, refuses, place, value, words):
    *blocks, last = place.split(".")
    block = small
    for step in blocks:
        block = block[step]
    block[last] = value
    with refuses(ValueError, *words):
        checks.check_facts(config.parse(small), TASK, known, roles)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forget_train": (), "forget_heldout": ()}, ["0 facts to edit", "raise `forget`"]),
        ({"retain_train": ()}, ["no facts in retain_train", "correct `retain_train`"]),
        ({"retain_val": ()}, ["no facts in retain_val", "add facts"]),
    ],
)
def test_a_role_without_facts_is_refused(small, known, roles, refuses, changes, words):
    with refuses(ValueError, f"task '{TASK}' has", *words):
        checks.check_facts(config.parse(small), TASK, known, replace(roles, **changes))


def test_engines_need_two_answers_to_one_question(small, known, roles, refuses):
    same = {
        i: replace(f, true="baseball", edit="football", true_token=1, edit_token=2)
        for i, f in known.items()
    }
    with refuses(ValueError, "no two retained facts", "delete it from engines.tasks"):
        checks.check_facts(config.parse(small), TASK, same, roles)


def test_only_who_takes_part_needs_the_facts(small, known, roles):
    for name in ("engines", "sequential", "scaling", "attacks"):
        small[name]["tasks"] = []
    small["tasks"][TASK] |= {"lookup": "path-patching", "probed_relation": "plays-chess"}
    small["scaling"]["sizes"], small["sequential"]["batches"] = [128], 13
    small["attack_inside"]["probes"]["least"] = 9
    checks.check_facts(config.parse(small), TASK, known, roles)
