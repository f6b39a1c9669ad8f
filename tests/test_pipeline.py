"""The whole pipeline on a tiny model, through dvc and papermill, in a temporary copy of the
project.

Tracked results stay untouched. The tests run in order on one copy: a full run first, then what
must not rerun anything, then what must rerun only a part.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import yaml

from lib import paths

pytestmark = pytest.mark.pipeline
TASK = "sports-athletes"
PARTS = ("lib", "notebooks", "profiles", "data/raw", "data/reference", "dvc.yaml", "params.yaml")
PARTS += (".dvc/config", ".dvcignore", ".gitignore")


def run(copy: Path, *command: str) -> subprocess.CompletedProcess:
    """A command in the copy, with this environment's programs and the copy's own library."""
    programs = Path(sys.executable).parent
    env = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)


def reran(copy: Path, *options: str) -> set[str]:
    """Names of the stages that `dvc repro` runs, without the one that extracts notebook code."""
    done = run(copy, "dvc", "repro", *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    names = {line.split("'")[1] for line in lines if line.startswith("Running stage")}
    return {n for n in names if n != "code"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project with the smoke profile applied and the pipeline run once."""
    folder = tmp_path_factory.mktemp("project") / "copy"
    for part in PARTS:
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (paths.ROOT / part).is_dir():
            shutil.copytree(paths.ROOT / part, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(paths.ROOT / part, target)
    (folder / "data" / "executed").mkdir()
    run(folder, "git", "init", "--quiet")
    applied = run(folder, "python", "-m", "lib.config", "apply", "profiles/smoke.yaml")
    assert applied.returncode == 0, applied.stderr
    started = time.monotonic()
    stages = reran(folder)
    print(f"smoke pipeline: {len(stages)} stages in {time.monotonic() - started:.0f} s")
    return folder


def test_the_pipeline_makes_every_table_and_figure(copy):
    results = pandas.read_csv(copy / "data/tables" / TASK / "results.csv")
    wanted = set(yaml.safe_load((copy / "params.yaml").read_text())["compare"])
    assert set(results.localization) == wanted | {"unedited"}
    assert {"edit", "formats", "relearn", "side-effects"} == set(results.attack)
    measured = results[results.attack != "edit"]
    assert measured[["value", "low", "high"]].notna().all(axis=None)
    assert (measured.low <= measured.value + 1e-9).all()
    assert (measured.value <= measured.high + 1e-9).all()
    figures = {p.stem for p in (copy / "figures" / TASK).glob("*.png")}
    assert {"position", "pairwise", "frontier", "transfer", "relearning"} <= figures
    assert {"side_effects", "weight_masks_seed0", "sequential_seed0"} <= figures
    assert {"probe_accuracy_seed0", "circuit_seed0", "components_seed0"} <= figures
    assert {
        "tracing_map_seed0",
        "tracing_average_seed0",
        "causal_tracing_seed0",
        "overlap_seed0",
    } <= figures
    assert {"attribution_patching_seed0", "engines_seed0"} <= figures
    assert all((copy / "figures" / TASK / f"{f}.pdf").stat().st_size > 1000 for f in figures)


def test_edits_change_answers_in_the_training_format_only_as_far_as_trained(copy):
    results = pandas.read_csv(copy / "data/tables" / TASK / "results.csv")
    training = results.query(
        "format == 'training' and metric == 'edit_accuracy' and split == 'forget'"
    )
    share = training.set_index("localization").value
    assert share["fact-lookup"] > share["unedited"] + 0.3


def test_settings_are_chosen_on_validation_facts_for_every_localization(copy):
    settings = yaml.safe_load((copy / "params.yaml").read_text())
    trained = [n for n in settings["compare"] if not n.startswith("rome")]
    assert len(trained) == 2
    for name in trained:
        folder = copy / "data/edit" / TASK / name / "0"
        card = json.loads((folder / "card.json").read_text())
        trials = pandas.read_csv(folder / "trials.csv")
        pairs = {tuple(p) for p in trials[["lr", "weight_edit"]].values.tolist()}
        assert len(pairs) == len(settings["edit"]["lr"]) * len(settings["edit"]["weight_edit"])
        assert (card["chosen"]["lr"], card["chosen"]["weight_edit"]) in pairs
        assert card["settings"]["weight_edit"] == card["chosen"]["weight_edit"]


def test_every_expectation_of_the_paper_has_a_verdict(copy):
    table = pandas.read_csv(copy / "data/tables/comparison/expectations.csv")
    assert set(table.number) == {1, *range(3, 10)}  # 2 is about world facts
    assert table[["published", "ours", "verdict"]].notna().all(axis=None)
    assert (copy / "figures/paper_comparison.png").stat().st_size > 1000


def test_the_report_and_its_time_share(copy):
    shown = run(copy, "python", "-m", "lib.report")
    assert shown.returncode == 0, shown.stderr
    assert "fact-lookup" in shown.stdout and "starting and loading took" in shown.stdout


def test_a_second_run_does_nothing_quickly(copy):
    started = time.monotonic()
    assert reran(copy) == set()
    assert time.monotonic() - started < 10


def test_stepping_through_every_notebook_reruns_nothing(copy):
    books = sorted(str(p) for p in (copy / "notebooks").glob("*.ipynb"))
    stepped = run(
        copy, "jupyter", "execute", "--inplace", *books
    )  # saves outputs, as JupyterLab does
    assert stepped.returncode == 0, stepped.stderr[-3000:]
    assert json.loads(Path(books[1]).read_text())["cells"][4]["cell_type"] == "code"
    assert reran(copy) == set()


def test_changing_the_trainer_spares_the_localizations(copy):
    params = copy / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("weight_text: 1.0", "weight_text: 1.1", 1))
    assert params.read_text() != before
    planned = reran(copy, "--dry")
    params.write_text(before)
    assert {n.split("@")[0] for n in planned} >= {"edit"}
    assert not {n for n in planned if n.split("@")[0] in ("facts", "fact_lookup", "choose", "text")}


def test_changing_one_localization_reruns_its_own_cells_only(copy):
    params = copy / "params.yaml"
    before = params.read_text()
    changed = yaml.safe_load(before)
    changed["localizations"]["mlp-window-2"]["start"] = 1
    params.write_text(yaml.safe_dump(changed, sort_keys=False))
    done = reran(copy, "edit")
    params.write_text(before)
    assert {n for n in done if n.startswith("edit@")} == {f"edit@{TASK}-mlp-window-2-0"}
    reran(copy, "edit")  # back to where the next tests begin


def test_a_misspelt_parameter_stops_at_once_and_loses_nothing(copy):
    params = copy / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("edit:", "edit:\n  weight_edits: 2.0", 1))
    refused = run(copy, "python", "-m", "lib.checks")
    params.write_text(before)
    assert refused.returncode == 1
    assert "'edit.weight_edits' (did you mean 'weight_edit'?)" in refused.stderr
    assert reran(copy) == set()


def test_a_notebook_that_stops_names_its_reason(copy):
    table = copy / "data/raw/sports.csv"
    before = table.read_text()
    table.write_text(before.replace("athlete,sport", "athlete,sports"))
    stopped = run(copy, "dvc", "repro")
    reason = run(copy, "python", "-m", "lib.report", "failure")
    table.write_text(before)
    assert stopped.returncode != 0
    assert "no column 'sport'" in reason.stderr and "rename column 'sports'" in reason.stderr
    assert reran(copy) == set()
