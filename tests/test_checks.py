"""What `make repro` refuses before anything starts."""

import pytest
import yaml

from lib import checks, config, paths


@pytest.fixture
def with_settings(monkeypatch):
    """Let the checks see params.yaml with some values changed."""

    def change(patch: dict):
        raw = config.merge(yaml.safe_load(paths.PARAMS.read_text()), patch)
        monkeypatch.setattr(config, "load", lambda: config.parse(raw))

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
