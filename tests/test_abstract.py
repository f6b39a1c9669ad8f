"""The graphical abstract: its numbers are cells of the tables, and it is well-formed."""

from __future__ import annotations

from xml.etree import ElementTree

import pandas
import pytest

from lib.figures import abstract

EDITS = pandas.DataFrame(
    {
        "localization": ["causal-tracing", "mlp-window-12"],
        "also": ["mlp-window-0", ""],
        "mlp": ["0 1 2 3", "12 13 14 15"],
    }
)
SAID = {
    "causal-tracing": {"new": 0.875, "old": 0.0625},
    "mlp-window-12": {"new": 0.5, "old": 0.25},
}


@pytest.fixture
def tables():
    """Tables as notebook 50 writes them; the late window's format is gated out."""
    carried = [
        {"localization": edit, "kind": kind, "says": says, "value": value, "all_formats": value}
        for edit, shares in SAID.items()
        for says, value in shares.items()
        for kind in ("wording", "vocabulary")
    ]
    carried = pandas.DataFrame(carried)
    carried.loc[carried.kind == "vocabulary", ["value", "all_formats"]] = 1.0
    carried.loc[carried.localization == "mlp-window-12", "value"] = float("nan")
    back = pandas.DataFrame({"localization": list(SAID), "back": [1, 7], "n": 16})
    share = {"a/Early & Co": (1.0, 1.0), "b/Half": (1.0, 0.5), "c/None": (0.0, 0.0)}
    facts = [
        {"localization": edit, "measure": measure, "id": fact, "value": value}
        | {"true": "rugby", "edit": f"golf {fact[0]}"}
        for fact, values in share.items()
        for edit, measure, value in zip(SAID, ("new-wording", "old-wording"), values)
    ]
    return {"carried": carried, "back": back, "edits": EDITS, "facts": pandas.DataFrame(facts)}


def test_its_numbers_are_cells_of_the_tables(tables):
    found = abstract.values(**tables, n_layers=18)
    assert found["early"] == {
        "layers": [0, 1, 2, 3],
        "new": 0.875,
        "old": 0.0625,
        "back": 1,
        "n": 16,
        "edit": "causal-tracing",  # of which the early window is a twin
    }
    # of all formats, since none counts
    assert (found["late"]["new"], found["late"]["old"]) == (0.5, 0.25)
    assert (found["subject"], found["new"]) == ("Early & Co", "golf a")


def test_it_is_drawn_with_one_dot_a_fact_and_one_box_a_layer(tables):
    picture = ElementTree.fromstring(abstract.draw(abstract.values(**tables, n_layers=18)))
    shapes = [element.tag.rsplit("}", 1)[1] for element in picture.iter()]
    assert shapes.count("circle") == 2 * 16
    assert shapes.count("rect") == 1 + 2 * (18 + 3)
    said = " ".join(element.text or "" for element in picture.iter())
    for words in ("new answer 88%, old answer 6%", "7 of 16 others return", "Early & Co"):
        assert words in said


def test_without_one_of_the_two_windows_there_is_none(tables):
    assert abstract.values(**tables | {"edits": EDITS.iloc[:1]}, n_layers=18) == {}
