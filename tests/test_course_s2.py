"""Session 2 of the course: what the other course tests, which hold for any session, do not see."""

from __future__ import annotations

import pandas
import pytest
from mistakes import s2 as mistakes

import course
from course.checks import hints, s2
from lib import paths
from lib.store import Store


def test_the_table_of_draws_says_what_the_check_expects():
    rows = pandas.read_csv(course.TABLES / "draws.csv")
    assert rows.draw.nunique() == s2.DRAWS
    name = rows[rows.token != " of"]
    returned = (name.p_restored - name.p_corrupt) / (name.p_clean - name.p_corrupt)
    best = name.assign(returned=returned).sort_values("returned").groupby("draw").tail(1)
    found = {r.draw: (r.token, r.layer) for r in best.itertuples()}
    expected = course.answers("s2")["best_cell"]["by_draw"]
    assert found == {draw: (token, layer) for draw, (token, layer, _) in enumerate(expected)}


@pytest.mark.parametrize("mutant", mistakes.MUTANTS["effect"], ids=lambda m: m.__name__)
def test_a_wrong_effect_is_recognized_on_the_traced_facts(mutant):
    key = "sports-athletes", 0
    if not (paths.DATA / "causal_tracing" / "sports-athletes" / "0" / "rows.csv").exists():
        pytest.skip("no results of notebook 10 here")
    with pytest.raises(AssertionError) as caught:
        s2.effect_of_nodes(mutant, Store("data").load("causal_tracing/rows", *key))
    assert hints("s2")["effect"][mutant.__name__.replace("_", " ")] == str(caught.value)
