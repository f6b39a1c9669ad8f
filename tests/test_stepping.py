"""Notebooks stepped through by hand, in a copy of the project in which no pipeline ever ran."""

import json
import shutil

import pandas
import pytest
from test_pipeline import TASK, run

from lib import paths
from lib.stages.copy import make_copy

pytestmark = pytest.mark.pipeline


def test_notebooks_can_be_stepped_through_in_order_at_once(tmp_path, shared):
    """Each reads what the one before it wrote."""
    make_copy(tmp_path, paths.ROOT / "profiles" / "smoke.yaml")
    if (taught := shared / "taught").is_dir():  # else notebook 01 teaches the tiny model anew
        shutil.copytree(taught, tmp_path / "data" / "play" / "model")
    names = ("01", "10", "12", "13", "20", "30", "31")
    books = [next((tmp_path / "notebooks").glob(f"{n}_*.ipynb")) for n in names]
    stepped = run(tmp_path, "jupyter", "execute", "--inplace", *map(str, books))
    assert stepped.returncode == 0, stepped.stderr[-3000:]
    said = "".join(json.dumps(json.loads(b.read_text())["cells"]) for b in books)
    assert "reading data/play/facts/sports-athletes/0" in said
    assert "no edit of mlp-window-2 yet: notebook 20" in said
    assert said.count("Probability of the next token") == 1, "the widgets show their tables"
    rows = pandas.read_csv(tmp_path / "data/play/attack_relearn" / TASK / "0/rows.csv")
    assert set(rows.localization) == {"unedited", "fact-lookup"}
    made = {p.name for p in (tmp_path / "data").iterdir()}
    assert made <= {"raw", "reference", "executed", "play"}, "nothing beside the play folder"
    assert (tmp_path / "data/play/figures" / TASK / "fact_lookup/0/circuit.png").exists()
