"""The whole pipeline on a tiny model, through dvc and papermill, in a temporary copy of the
project.

Tracked results stay untouched. The tests run in order on one copy: a full run first, then what
must not rerun anything, then what must rerun only a part.
"""

import json
import os
import re
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
def copy(tmp_path_factory):
    """A copy of the project with the smoke profile applied and the pipeline run once."""
    folder = tmp_path_factory.mktemp("project") / "copy"
    make_copy(folder, paths.ROOT / "profiles" / "smoke.yaml")
    run(folder, "git", "init", "--quiet")
    started = time.monotonic()
    stages = reran(folder)
    print(f"smoke pipeline: {len(stages)} stages in {time.monotonic() - started:.0f} s")
    return folder


def clean(copy: Path) -> str:
    """What `dvc status` says after the stage that reads the sources; "" if all is up to date."""
    done = run(copy, "dvc", "repro", "code")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = run(copy, "dvc", "status").stdout
    return "" if "up to date" in said else said


def test_the_pipeline_makes_every_table_and_figure(copy):
    results = pandas.read_csv(copy / "data/tables/results" / TASK / "results.csv")
    wanted = set(yaml.safe_load((copy / "params.yaml").read_text())["compare"])
    assert set(results.localization) == wanted | {"unedited"}
    assert {"edit", "formats", "relearn", "side-effects"} == set(results.attack)
    measured = results[results.attack != "edit"]
    assert measured[["value", "low", "high"]].notna().all(axis=None)
    assert (measured.low <= measured.value + 1e-9).all()
    assert (measured.value <= measured.high + 1e-9).all()
    drawn = (copy / "figures" / TASK).rglob("*.png")
    figures = {str(p.relative_to(copy / "figures" / TASK)) for p in drawn}
    wanted = {
        f"results/{n}" for n in ("position", "pairwise", "frontier", "transfer", "relearning")
    }
    wanted |= {"results/side_effects", "causal_tracing/0/token_map", "causal_tracing/0/place_map"}
    wanted |= {"causal_tracing/0/effects", "attribution_patching/0/effects", "engines/0/by_layer"}
    wanted |= {"fact_lookup/0/probe_accuracy", "fact_lookup/0/circuit", "inside/0/inside"}
    wanted |= {"choose_components/0/components", "choose_components/0/overlap"}
    wanted |= {"weight_masks/0/removals", "sequential/0/batches", "score_card/worst_case"}
    assert {f"{name}.png" for name in wanted} <= figures
    assert all(p.stat().st_size > 1000 for p in copy.rglob("figures/**/*.pdf"))


def test_edits_change_answers_in_the_training_format_only_as_far_as_trained(copy):
    results = pandas.read_csv(copy / "data/tables/results" / TASK / "results.csv")
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
        if name == "mlp-window-2":  # trains the same layers of this model, so it shares the edit
            assert card == {"equals": "fact-lookup"}
            continue
        trials = pandas.read_csv(folder / "trials.csv")
        pairs = {tuple(p) for p in trials[["lr", "weight_edit"]].values.tolist()}
        assert len(pairs) == len(settings["edit"]["lr"]) * len(settings["edit"]["weight_edit"])
        assert (card["chosen"]["lr"], card["chosen"]["weight_edit"]) in pairs
        assert card["settings"]["weight_edit"] == card["chosen"]["weight_edit"]


def test_every_expectation_of_the_paper_has_a_verdict(copy):
    table = pandas.read_csv(copy / "data/tables/comparison/expectations.csv")
    assert set(table.number) == {1, *range(3, 10)}  # 2 is about world facts
    assert table[["published", "ours", "verdict"]].notna().all(axis=None)
    assert (copy / "figures/paper_comparison/beside.png").stat().st_size > 1000


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


@pytest.mark.parametrize(
    "change",
    [docstrings_and_comments, layout, notes_beside_the_data, cells_that_do_not_count],
    ids=lambda change: change.__name__,
)
def test_what_computes_nothing_reruns_nothing(copy, change):
    change(copy)
    assert clean(copy) == ""


def test_a_colour_reruns_drawing_stages_only(copy):
    style = copy / "lib/figures/style.py"
    before = style.read_text()
    style.write_text(before.replace("font_scale=0.85", "font_scale=0.8"))
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


def test_notebooks_can_be_stepped_through_in_order_at_once(tmp_path):
    """In a copy where the pipeline never ran: each reads what the one before it wrote."""
    make_copy(tmp_path, paths.ROOT / "profiles" / "smoke.yaml")
    names = ("01", "10", "12", "13", "20", "30", "31")
    books = [next((tmp_path / "notebooks").glob(f"{n}_*.ipynb")) for n in names]
    stepped = run(tmp_path, "jupyter", "execute", "--inplace", *map(str, books))
    assert stepped.returncode == 0, stepped.stderr[-3000:]
    said = "".join(json.dumps(json.loads(b.read_text())["cells"]) for b in books)
    assert "reading data/play/facts/sports-athletes/0" in said
    assert "no edit of mlp-window-2 yet: notebook 20" in said
    rows = pandas.read_csv(tmp_path / "data/play/attack_relearn" / TASK / "0/rows.csv")
    assert set(rows.localization) == {"unedited", "fact-lookup"}
    made = {p.name for p in (tmp_path / "data").iterdir()}
    assert made <= {"raw", "reference", "executed", "play"}, "nothing beside the play folder"
    assert (tmp_path / "data/play/figures" / TASK / "fact_lookup/0/circuit.png").exists()


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
