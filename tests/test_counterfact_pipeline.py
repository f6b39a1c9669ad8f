"""CounterFact from a file of the published shape through the whole pipeline, on a tiny model."""

import counterfacts
import pandas
import pytest
import yaml
from test_pipeline import reran

from lib import paths
from lib.stages.copy import make_copy

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
TASK = "world-facts"
FILE = "data/raw/counterfact.csv"


def profile(folder):
    """The smoke profile with CounterFact as its only task."""
    found = yaml.safe_load((paths.ROOT / "profiles/smoke.yaml").read_text())
    sports = found["tasks"].pop("sports-athletes")
    dropped = dict.fromkeys(("formats", "never_known", "probed_relation", "swap_with"))
    about = {"source": "counterfact", "table": FILE, "per_label": None, "lookup": "path-patching"}
    found["tasks"] = {"sports-athletes": None, TASK: sports | about | dropped}
    found["sweep"] |= {
        "localizations": {TASK: ["mlp-0", "mlp-window-0"], "sports-athletes": None},
        "several": {TASK: ["fact-lookup"], "sports-athletes": None},
    }
    for block in ("engines", "weight_masks", "sequential"):
        found[block]["tasks"] = []
    found["attacks"]["tasks"] = [TASK]
    path = folder / "counterfact.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy in which the pipeline ran on CounterFact rows with nested columns as text."""
    folder = tmp_path_factory.mktemp("counterfact")
    make_copy(folder / "copy", profile(folder))
    files = counterfacts.write(folder)
    (folder / "copy" / FILE).write_bytes(files["rome-csv"].read_bytes())
    reran(folder / "copy")
    return folder / "copy"


def test_it_is_edited_attacked_and_drawn(copy):
    tables = copy / "data/tables/results" / TASK
    edits, back = (pandas.read_csv(tables / f"{name}.csv") for name in ("edits", "back"))
    assert {"fact-lookup", "mlp-0"} <= set(edits.localization) and edits.steps.gt(0).all()
    assert set(back.n) == {6} and back.back.between(0, 6).all()
    for name in ("answers", "relearning"):
        assert (copy / "figures" / TASK / "results" / f"{name}.png").stat().st_size > 1000


def test_it_is_measured_in_its_own_wordings_and_by_its_neighbours(copy):
    tables = copy / "data/tables/results" / TASK
    carried = pandas.read_csv(tables / "carried.csv")
    assert set(carried.kind) == {"wording"} and carried.value.notna().any()
    kept = pandas.read_csv(copy / "data/side_effects" / TASK / "0/retained.csv")
    assert "neighbours" in set(kept.group)
