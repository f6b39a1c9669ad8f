"""The paper's profiles at reduced width: the same family and depth, taught, through every stage."""

import counterfacts
import pandas
import pytest
import yaml
from test_pipeline import run

from lib import paths
from scale import reduced
from scale.cells import settings_of
from scale.shapes import config_of, typed

PROFILES = sorted((paths.ROOT / "profiles").glob("paper-*.yaml"))


@pytest.mark.parametrize("name", typed())
def test_a_reduced_model_keeps_depth_and_ratios(name):
    small, real = reduced.shape(name), config_of(name)
    assert small["num_hidden_layers"] == real.num_hidden_layers
    ratios = [c["intermediate_size"] / c["hidden_size"] for c in (small, real.to_dict())]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)
    groups = [c["num_attention_heads"] / c["num_key_value_heads"] for c in (small, real.to_dict())]
    assert groups[0] == pytest.approx(groups[1]) and small["hidden_size"] == 48


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.stem)
def test_a_cut_down_profile_is_valid_and_keeps_the_published_rules(profile, tmp_path):
    raw = yaml.safe_load(profile.read_text())
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(reduced._filled(raw, reduced.patch(profile)), sort_keys=False))
    settings, whole = settings_of(small), settings_of(profile)
    assert set(settings.tasks) == set(reduced.TASKS)
    assert settings.localizations == whole.localizations and settings.compare == whole.compare
    assert settings.fact_lookup.rule == "absolute" and settings.edit.choose == "published"
    assert settings.attack_relearn.rank == whole.attack_relearn.rank == 512


@pytest.mark.pipeline
@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.stem)
def test_a_paper_profile_runs_to_the_end(profile, tmp_path):
    facts = counterfacts.write(tmp_path)["rome-csv"]
    folder = tmp_path / "copy"
    reduced.make(profile, folder, facts)
    done = run(folder, "dvc", "repro")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for task in reduced.TASKS:
        edits = pandas.read_csv(folder / "data/tables/results" / task / "edits.csv")
        named = set(edits.localization) | set(" ".join(edits.also.fillna("")).split())
        assert set(settings_of(profile).compare) <= named
    assert (folder / "data/tables/comparison/expectations.csv").exists()
    assert "up to date" in run(folder, "dvc", "status").stdout
