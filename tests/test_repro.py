"""What stops a run is said in one sentence with the cure."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from lib import paths
from lib.stages.copy import make_copy
from lib.stages.repro import explain

DIED = "nbclient.exceptions.DeadKernelError: Kernel died\nERROR: failed to reproduce 'edit@a-b-0'"
LOCKED = "ERROR: Unable to acquire lock. Most likely another DVC process is running"


@pytest.mark.parametrize(
    "output, words",
    [
        ("OSError: [Errno 28] No space left on device", ("the disk is full", "free about")),
        (LOCKED, ("another `dvc` is running", "wait")),
        (DIED, ("was killed", "lack of memory", "close other programs")),
        ("failed to run: python -m lib.stages.model, exited with -9", ("was killed", "memory")),
    ],
)
def test_what_the_system_did_is_named_with_the_cure(output, words):
    said = explain(output, "")
    assert "\n" not in said and all(word in said for word in words)
    assert "run the same command again" in said


def test_what_a_stage_refused_is_said_with_its_name():
    output = "error: 'a' is wrong: correct it\nERROR: failed to reproduce 'code': failed to run"
    assert explain(output, "") == "'a' is wrong: correct it (stage code)"


def test_what_stopped_a_notebook_is_said_where_nothing_else_is_known():
    assert explain("ERROR: failed to reproduce 'x'", "20_edit stopped: no") == "20_edit stopped: no"


def test_a_copy_has_its_own_settings_and_keeps_its_results(tmp_path):
    (tmp_path / "data" / "facts").mkdir(parents=True)
    make_copy(tmp_path, paths.ROOT / "profiles" / "class.yaml")
    settings = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert settings["compare"] == ["fact-lookup", "mlp-window-12"]
    assert list(settings["tasks"]) == ["sports-athletes"]
    assert (tmp_path / "data" / "facts").exists() and (tmp_path / "lib" / "paths.py").exists()
    assert yaml.safe_load(paths.PARAMS.read_text())["compare"] != settings["compare"]


def test_a_copy_with_a_profile_that_is_not_there_names_those_that_are(tmp_path):
    command = [sys.executable, "-m", "lib.stages.copy", str(tmp_path), "profiles/none.yaml"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no profile" in done.stderr and "class" in done.stderr and "smoke" in done.stderr
