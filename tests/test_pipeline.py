"""The whole pipeline on a tiny model, through dvc and papermill, in a temporary copy of the
project.

Tracked results stay untouched. The tests run in order on one copy: a full run first, then what
must not rerun anything, then what must rerun only a part.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas
import psutil
import pytest
import yaml

from lib import paths
from lib.stages.copy import make_copy

pytestmark = pytest.mark.pipeline
TASK = "sports-athletes"
STAGES = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]
DRAWING = {name for name in STAGES if name.startswith("draw_")} | {"start"}


def environment(copy: Path) -> dict[str, str]:
    """This environment's programs and the copy's own library."""
    programs = Path(sys.executable).parent
    return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(copy)}


def run(copy: Path, *command: str) -> subprocess.CompletedProcess:
    """A command in the copy."""
    env = environment(copy)
    return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)


def run_in_background(copy: Path, *command: str) -> subprocess.Popen:
    """The same without waiting; both outputs come as one."""
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=copy, env=environment(copy), **out)


def kernels_of(process: int) -> list[psutil.Process]:
    """Kernels that a process has started."""
    return [
        child
        for child in psutil.Process(process).children(recursive=True)
        if "ipykernel_launcher" in " ".join(child.cmdline())
    ]


def reran(copy: Path, *options: str) -> set[str]:
    """Names of the stages that `dvc repro` runs, without those that read sources and check."""
    done = run(copy, "dvc", "repro", *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    names = {line.split("'")[1] for line in lines if line.startswith("Running stage")}
    return {n for n in names if n.split("@")[0] not in ("code", "after_facts")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory, shared):
    """A copy of the project with the smoke profile applied and the pipeline run once."""
    folder = tmp_path_factory.mktemp("project") / "copy"
    make_copy(folder, paths.ROOT / "profiles" / "smoke.yaml")
    started = time.monotonic()
    stages = reran(folder)
    print(f"smoke pipeline: {len(stages)} stages in {time.monotonic() - started:.0f} s")
    part = shutil.copytree(folder / "data" / "model", shared / "taught.part")
    part.rename(shared / "taught")  # whole or not at all
    return folder


def clean(copy: Path) -> str:
    """What `dvc status` says after the stage that reads the sources; "" if all is up to date."""
    done = run(copy, "dvc", "repro", "code")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = run(copy, "dvc", "status").stdout
    return "" if "up to date" in said else said


RESULTS = "data/tables/results"


def table(copy: Path, name: str) -> pandas.DataFrame:
    """A table of results of the copy."""
    return pandas.read_csv(copy / RESULTS / TASK / f"{name}.csv", keep_default_na=False)


def test_the_pipeline_makes_every_table_and_figure(copy):
    edits, settings = table(copy, "edits"), yaml.safe_load((copy / "params.yaml").read_text())
    named = set(edits.localization) | set(" ".join(edits.also).split())
    wanted = {*settings["compare"], *settings["sweep"]["localizations"][TASK]}
    assert named == wanted
    back = table(copy, "back")
    assert set(back.localization) == set(edits.localization)
    assert (back.low <= back.value + 1e-9).all() and (back.value <= back.high + 1e-9).all()
    drawn = (copy / "figures" / TASK).rglob("*.png")
    figures = {str(p.relative_to(copy / "figures" / TASK)) for p in drawn}
    names = ("sweep", "answers", "strength", "relearning", "side_effects", "wordings")
    wanted = {f"results/{n}" for n in names}
    wanted |= {"causal_tracing/0/token_map", "causal_tracing/0/place_map"}
    wanted |= {"causal_tracing/0/effects", "attribution_patching/0/effects", "engines/0/by_layer"}
    wanted |= {"fact_lookup/0/probe_accuracy", "fact_lookup/0/circuit", "inside/0/inside"}
    wanted |= {"choose_components/0/components", "choose_components/0/overlap"}
    wanted |= {"weight_masks/0/removals", "sequential/0/batches", "score_card/attacks"}
    assert {f"{name}.png" for name in wanted} <= figures
    assert all(p.stat().st_size > 1000 for p in copy.rglob("figures/**/*.pdf"))


def test_a_copy_is_a_repository_of_its_own(copy):
    """Else DVC refuses the class's folder, which the project's git ignores."""
    assert (copy / ".git").is_dir()


def test_edits_change_answers_in_the_training_format(copy):
    rows = table(copy, "answers").query("format == 'training'").set_index("localization")
    assert rows.new["fact-lookup"] > rows.new["unedited"] + 0.3
    assert rows.new["mlp-3"] > rows.new["unedited"] + 0.3


def test_one_pair_of_settings_serves_all_edits(copy):
    settings = yaml.safe_load((copy / "params.yaml").read_text())
    folder = copy / "data/settings" / TASK / "0"
    pair = json.loads((folder / "pair.json").read_text())
    trials = pandas.read_csv(folder / "trials.csv")
    assert set(trials.localization) <= set(settings["edit"]["try_on"])
    assert (pair["lr"], pair["weight_edit"]) in set(zip(trials.lr, trials.weight_edit))
    card = json.loads((copy / "data/edit" / TASK / "fact-lookup/0/card.json").read_text())
    assert card["pair"] == pair and card["settings"]["lr"] == pair["lr"]
    twin = json.loads((copy / "data/edit" / TASK / "mlp-window-2/0/card.json").read_text())
    assert twin == {"equals": "fact-lookup"}  # trains the same layers of this model


def test_edits_on_several_wordings_stand_beside_the_same_on_one(copy):
    rows = table(copy, "wordings")
    assert set(rows.trained_on) == {1, 2} and set(rows.localization) == {"fact-lookup"}


def test_an_interrupted_sweep_goes_on_with_the_edit_it_was_at(copy):
    parts = copy / "data/sweep" / TASK / "0" / "parts"
    before = {p.name: p.stat().st_mtime_ns for p in parts.iterdir()}
    lost = parts / "mlp-3-1.json"
    first = table_of_sweep(copy)
    lost.unlink()
    assert reran(copy, "--force", "--single-item", f"sweep@{TASK}-0")
    after = {p.name: p.stat().st_mtime_ns for p in parts.iterdir()}
    assert {n for n in after if after[n] != before[n]} == {lost.name}
    assert table_of_sweep(copy) == first


def table_of_sweep(copy: Path) -> str:
    """Every answer of the sweep."""
    return (copy / "data/sweep" / TASK / "0" / "asked.csv").read_text()


def test_every_expectation_of_the_paper_has_a_verdict(copy):
    rows = pandas.read_csv(copy / "data/tables/comparison/expectations.csv")
    assert set(rows.number) == {1, *range(3, 10)}  # 2 is about world facts
    assert rows[["published", "ours", "verdict"]].notna().all(axis=None)
    assert (copy / "figures/paper_comparison/published.png").stat().st_size > 1000


def test_the_report_and_its_time_share(copy):
    shown = run(copy, "python", "-m", "lib.stages.report")
    assert shown.returncode == 0, shown.stderr
    assert "fact-lookup" in shown.stdout and "starting and loading took" in shown.stdout


def test_a_second_run_does_nothing_quickly(copy):
    started = time.monotonic()
    assert reran(copy) == set()
    assert time.monotonic() - started < 15


def docstrings_and_comments(copy):
    for file in (copy / "lib").rglob("*.py"):
        text = re.sub(r'"""(?=[A-Z])', '"""Now: ', file.read_text())
        file.write_text("# a comment\n" + text)


def layout(copy):
    ruff = Path(sys.executable).parent / "ruff"
    subprocess.run([ruff, "format", "-q", "--line-length", "60", "lib"], cwd=copy, check=True)


def notes_beside_the_data(copy):
    readme = copy / "data/raw/README.md"
    readme.write_text(readme.read_text() + "\nMore.\n")


def cells_that_do_not_count(copy):
    for file in (copy / "notebooks").glob("*.ipynb"):
        book = json.loads(file.read_text())
        book["cells"].append(
            {"cell_type": "markdown", "id": "m", "metadata": {}, "source": "More."}
        )
        for cell in book["cells"]:
            if {"play", "parameters"} & set(cell["metadata"].get("tags", [])):
                cell["source"] = ["# other\n", *cell["source"]]
        file.write_text(json.dumps(book))


def test_what_computes_nothing_reruns_nothing(copy):
    """All at once: `dvc status` names the stages, and test_closure tells the changes apart."""
    docstrings_and_comments(copy)
    layout(copy)
    notes_beside_the_data(copy)
    cells_that_do_not_count(copy)
    assert clean(copy) == ""


def test_a_colour_reruns_drawing_stages_only(copy):
    style = copy / "lib/figures/style.py"
    before = style.read_text()
    style.write_text(before.replace("#0072b2", "#0072b3"))
    planned = reran(copy, "--dry") if clean(copy) else set()
    style.write_text(before)
    assert planned and {n.split("@")[0] for n in planned} <= DRAWING
    assert clean(copy) == ""


@pytest.mark.parametrize(
    "stage", [f"edit@{TASK}-fact-lookup-0", f"attack_relearn@{TASK}-0", f"draw_results@{TASK}"]
)
def test_the_same_stage_made_twice_is_the_same(copy, stage):
    done = run(copy, "dvc", "repro", "--force", "--single-item", stage)
    assert done.returncode == 0, done.stdout[-2000:]
    assert clean(copy) == ""


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
    refused = run(copy, "python", "-m", "lib.stages.checks")
    params.write_text(before)
    assert refused.returncode == 1
    assert "'edit.weight_edits' (did you mean 'weight_edit'?)" in refused.stderr
    assert reran(copy) == set()


def test_a_table_that_is_wrong_stops_with_one_sentence(copy):
    table = copy / "data/raw/sports.csv"
    before = table.read_text()
    table.write_text(before.replace("athlete,sport", "athlete,sports"))
    stopped = run(copy, "python", "-m", "lib.stages.repro")
    table.write_text(before)
    assert stopped.returncode == 1
    assert "no column 'sport'" in stopped.stderr and "rename column 'sports'" in stopped.stderr
    assert "(stage code)" in stopped.stderr and stopped.stderr.count("\n") == 1
    assert reran(copy) == set()


def test_a_killed_stage_names_the_cure_and_goes_on(copy):
    """The kernel of a computing stage is killed, as the system does for lack of memory."""
    settings = copy / "params.yaml"
    before = settings.read_text()
    settings.write_text(before.replace("noise: 3.0", "noise: 2.9"))
    going = run_in_background(copy, "python", "-m", "lib.stages.repro", "causal_tracing")
    while going.poll() is None and not (kernels := kernels_of(going.pid)):
        time.sleep(0.5)
    time.sleep(2)
    for kernel in kernels:
        kernel.kill()
    said = going.communicate()[0]
    settings.write_text(before)
    assert going.returncode == 1 and "was killed, most likely for lack of memory" in said
    assert reran(copy) == set()
