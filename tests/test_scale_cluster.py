"""Cells of the pipeline on Dask: on a project of four cells, and slowly on the whole smoke
pipeline, each with a worker killed while a cell runs."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from test_pipeline import TASK, run, run_in_background

from lib import paths
from lib.stages.copy import make_copy

pytest.importorskip("distributed", reason="needs `pip install -e '.[scale]'`")

COMMAND = (sys.executable, "-m", "scale.cluster", "--local", "2", "--threads", "1")
SMALL = {
    "first": {"cmd": "cut -c1 given > a", "deps": ["given"], "outs": ["a"]},
    "left": {"cmd": "cat a > b", "deps": ["a"], "outs": ["b"]},
    "right": {
        "cmd": "echo begun >> times && mkdir c && touch c/half && sleep 5 && cp a c/whole",
        "deps": ["a"],
        "outs": ["c"],
    },
    "last": {"cmd": "cat b c/whole > d", "deps": ["b", "c"], "outs": ["d"]},
}


def project(folder: Path, stages: dict = SMALL) -> Path:
    """A DVC project of a few cells with a copy of the code."""
    for part in ("lib", "scale"):
        shutil.copytree(paths.ROOT / part, folder / part)
    (folder / "given").write_text("1 and more\n")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    assert run(folder, "dvc", "init", "--quiet").returncode == 0
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return project(tmp_path_factory.mktemp("cells") / "small")


def made(folder: Path, *stages: str) -> dict[str, bool]:
    """{cell: did it run?} of one run of the cluster."""
    done = run(folder, *COMMAND, *stages)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.rsplit("\r", 1)[-1].strip() for line in (done.stderr + done.stdout).splitlines()]
    said = dict(line.split(": ") for line in lines if line.endswith((" s", "up to date")))
    return {name: not what.endswith("up to date") for name, what in said.items()}


def kill_worker_of(folder: Path, name: str, going: subprocess.Popen) -> psutil.Process:
    """Kill the worker that runs a cell; returns the process that the cell goes on in."""
    file = folder / ".dvc/tmp/cells" / f"{name.replace('@', '_')}.json"
    while not file.exists():
        assert going.poll() is None, going.communicate()[0][-3000:]
        time.sleep(0.1)
    time.sleep(1)
    cell = psutil.Process(json.loads(file.read_text())["group"])
    worker = cell.parent()
    assert worker.pid not in (going.pid, os.getpid())
    worker.kill()
    assert cell.is_running(), "the cell goes on without its worker"
    return cell


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_cells_run_when_what_they_need_is_there_and_a_lost_one_runs_again(small):
    going = run_in_background(small, *COMMAND)
    cell = kill_worker_of(small, "right", going)
    said = going.communicate()[0]
    assert going.returncode == 0, said[-3000:]
    assert gone(cell)
    assert (small / "times").read_text() == "begun\n" * 2
    assert (small / "d").read_text() == "1\n1\n"
    assert "up to date" in run(small, "dvc", "status").stdout


def test_a_second_run_makes_nothing_and_a_change_only_what_it_reaches(small):
    assert made(small) == dict.fromkeys(SMALL, False)
    (small / "given").write_text("1 and less\n")
    assert made(small) == dict.fromkeys(SMALL, False) | {"first": True}
    (small / "given").write_text("2\n")
    assert made(small, "left") == {"first": True, "left": True}
    assert made(small) == {"first": False, "left": False, "right": True, "last": True}
    assert "up to date" in run(small, "dvc", "status").stdout
    (small / "given").write_text("1 and more\n")
    assert not any(made(small).values()), "DVC's cache has these results"
    assert (small / "d").read_text() == "1\n1\n"


def test_a_cell_that_fails_is_named_and_spares_the_others(tmp_path):
    broken = SMALL | {"right": SMALL["right"] | {"cmd": "echo error: no way; exit 3"}}
    folder = project(tmp_path / "broken", broken)
    done = run(folder, *COMMAND)
    assert done.returncode == 1
    assert "error: right or a cell it needs failed: no way" in done.stderr
    assert (folder / "b").exists() and not (folder / "d").exists()
    stale = run(folder, "dvc", "status").stdout
    assert "right:" in stale and "left:" not in stale


def test_what_changes_under_a_cell_is_not_committed(tmp_path):
    touched = SMALL | {"left": SMALL["left"] | {"cmd": "cat a > b && echo 9 > a"}}
    touched.pop("right"), touched.pop("last")
    folder = project(tmp_path / "touched", touched)
    done = run(folder, *COMMAND)
    assert done.returncode == 1 and "a changed while left ran" in done.stderr
    assert "left:" in run(folder, "dvc", "status").stdout


def test_two_cannot_write_at_once(small):
    other = "from dvc.repo import Repo\nwith Repo('.').lock: input()"
    program = [sys.executable, "-c", other]
    with subprocess.Popen(program, cwd=small, stdin=subprocess.PIPE, text=True) as holder:
        time.sleep(8)
        done = run(small, *COMMAND)
        holder.communicate("\n")
    assert done.returncode == 1
    assert done.stderr.startswith("error: another `dvc` is running in this folder")


# --- the smoke pipeline ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two copies with the smoke profile: one made by `dvc repro`, one on two workers, one of which
    is killed inside an edit."""
    folder, thread = tmp_path_factory.mktemp("scale"), "OMP_NUM_THREADS"
    before, os.environ[thread] = os.environ.get(thread), "1"
    for name in ("plain", "spread"):
        make_copy(folder / name, paths.ROOT / "profiles" / "smoke.yaml")
    shutil.copytree(paths.ROOT / "scale", folder / "spread" / "scale")
    done = run(folder / "plain", "dvc", "repro")
    assert done.returncode == 0, done.stdout[-3000:]
    going = run_in_background(folder / "spread", *COMMAND)
    cell = kill_worker_of(folder / "spread", f"edit@{TASK}-fact-lookup-0", going)
    said = going.communicate()[0]
    assert going.returncode == 0, said[-3000:]
    assert gone(cell)
    os.environ.pop(thread) if before is None else os.environ.update({thread: before})
    return folder / "plain", folder / "spread"


@pytest.mark.pipeline
@pytest.mark.slow
def test_the_tables_are_those_of_dvc_repro(pair):
    plain, spread = (folder / "data/tables" for folder in pair)
    files = sorted(p.relative_to(plain) for p in plain.rglob("*.csv"))
    assert len(files) > 10
    match, mismatch, errors = filecmp.cmpfiles(plain, spread, files, shallow=False)
    assert not mismatch and not errors and len(match) == len(files)


@pytest.mark.pipeline
@pytest.mark.slow
def test_everything_is_up_to_date_afterwards(pair):
    said = run(pair[1], "dvc", "status").stdout
    assert "up to date" in said, said
