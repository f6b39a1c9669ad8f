"""From per-fact rows to comparisons: what counts, what is only shown, and in which words."""

from __future__ import annotations

import dataclasses

import pandas
import pytest

from lib import config
from lib.analysis import contrasts as questions
from lib.analysis import costs, words
from lib.analysis import edits as results
from lib.model.components import Component, Localization
from lib.stats import holm

N = 12  # facts; the second half is not taught by the attack
SETS = {
    "fact-lookup": (1, 2),
    "depth-matched-mlps": (0, 3),
    "mlp-window-0": (0, 1),
    "mlp-window-6": (6, 7),
    "nonlocalized": tuple(range(9)),
}
LAST = config.load().attack_relearn.steps
TRANSFER = {"unedited": 0, "fact-lookup": 9, "depth-matched-mlps": 8, "mlp-window-0": 10}
TRANSFER |= {"mlp-window-6": 2, "nonlocalized": 5}
BACK = {"fact-lookup": 1, "depth-matched-mlps": 2, "mlp-window-0": 0, "mlp-window-6": 6}
BACK |= {"nonlocalized": 3}


def ids(seed=0) -> list[str]:
    return [f"{seed}/fact{i:02}" for i in range(N)]


def answers(new: int, **more) -> pandas.DataFrame:
    """Answers of which the first `new` are the new one."""
    said = ["new"] * new + ["old"] * (N - new)
    rows = {"id": ids(), "relation": "r", "true": "old", "edit": "new", "answer": said, "seed": 0}
    half = ["forget_train"] * (N // 2) + ["forget_heldout"] * (N // 2)
    return pandas.DataFrame(rows | {"split": half, "p_true": 0.5, "p_edit": 0.5} | more)


def relearned(name: str, back: int, taught: float = 1.0, retained: float = 1.0) -> pandas.DataFrame:
    parts = []
    for step in (0, LAST):
        rows = answers(N, localization=name, step=step)
        if step:
            known = [*ids()[: round(taught * N / 2)], *ids()[N // 2 : N // 2 + back]]
            rows.loc[rows.id.isin(known), "answer"] = "old"
        kept = answers(0, localization=name, step=step, split="retain_test")
        kept.loc[kept.index >= round(retained * N), "answer"] = "new"
        nobody = answers(6, localization=name, step=step, split="never_known")
        parts += [rows, kept.assign(id="kept" + kept.id), nobody.assign(id="x" + nobody.id)]
    return pandas.concat(parts)


@pytest.fixture
def data():
    formats = [
        answers(n, localization=name, format=form)
        for name, n in TRANSFER.items()
        for form in ("training", "league")
    ]
    kept = [answers(0, localization=n, format="training", split="retain_test") for n in TRANSFER]
    formats += [rows.assign(id="kept" + rows.id) for rows in kept]
    cards = [
        {"localization": n, "seed": 0, "reached": True, "lr": 0.1, "weight_edit": 1.0} for n in SETS
    ]
    trials = [
        {"localization": n, "seed": 0, "lr": lr, "weight_edit": 1.0, "step": step}
        | {"strength": step / 4, "retained": 0.8 - lr * step, "text": 2 + lr * step}
        for n in SETS
        for lr in (0.05, 0.1)
        for step in (0, 4)
    ]
    return results.Measured(
        "task",
        False,
        pandas.concat(formats),
        pandas.concat([relearned(n, back) for n, back in BACK.items()]),
        pandas.concat(kept).assign(group="neighbours"),
        pandas.DataFrame(),
        pandas.DataFrame(cards),
        pandas.DataFrame(trials),
        {
            n: Localization(n, tuple(Component("mlp", i) for i in layers), 1, 1)
            for n, layers in SETS.items()
        },
        9,
        {"training": True, "league": True},
        ["league"],
        1 / 3,
    )


def test_early_and_late_windows_are_told_apart(data, settings):
    row = questions.contrasts(data, settings).set_index(["question", "measure"])
    moved = row.loc["early-late", "transfer"]
    assert (moved.a, moved.b) == ("mlp-window-0", "mlp-window-6")
    assert moved.value == pytest.approx(8 / N) and moved.p < 0.05
    back = row.loc["early-late", "heldout"]
    assert back.value == pytest.approx(-1.0) and back.n == N / 2


def test_an_edit_below_the_strength_enters_no_comparison(data, settings):
    cards = data.cards.assign(reached=data.cards.localization != "mlp-window-6")
    weak = dataclasses.replace(data, cards=cards)
    row = questions.contrasts(weak, settings).set_index(["question", "measure"])
    assert row.loc["early-late"].value.isna().all()
    assert "mlp-window-6" not in set(questions.pairwise(weak, settings).localization)
    said = words.sentence(row.loc["early-late", "transfer"], "Transfer", "early", "late")
    assert said == "Transfer: no comparison, no edit of late counts"


@pytest.mark.parametrize("failure", [{"taught": 0.5}, {"retained": 0.5}])
def test_an_attack_that_fails_its_gate_is_no_evidence(data, settings, failure):
    parts = [relearned(n, b, **(failure if n == "mlp-window-6" else {})) for n, b in BACK.items()]
    failed = dataclasses.replace(data, relearned=pandas.concat(parts))
    each = questions.pairwise(failed, settings).set_index("measure").localization
    assert "mlp-window-6" in set(each["transfer"])
    assert "mlp-window-6" not in set(each["heldout"])


def test_fact_lookup_is_set_against_each_other_set(data, settings):
    each = questions.pairwise(data, settings)
    for measure, rows in each.groupby("measure"):
        assert set(rows.localization) == set(SETS) - {"fact-lookup"}, measure
        assert rows.p_corrected.to_list() == pytest.approx(holm(rows.p))
    moved = each[each.measure == "transfer"].set_index("localization")
    assert moved.value["mlp-window-6"] == pytest.approx(7 / N)
    said = words.against_each(each[each.measure == "transfer"], "Transfer")
    assert "no clear difference from `depth-matched-mlps` (+0.08)" in said
    none = words.against_each(each.head(0), "Transfer")
    assert none == "Transfer: no comparison, no edit of fact lookup counts"


def test_the_words_follow_the_corrected_test():
    rows = pandas.DataFrame(
        {"localization": ["a", "b", "c"], "value": [0.5, -0.4, 0.3], "p_corrected": [0, 0.01, 0.2]}
    )
    said = words.against_each(rows, "Transfer", 0.95)
    assert "higher than `a` (+0.50); lower than `b` (-0.40)" in said
    assert said.endswith("no clear difference from `c` (+0.30)")
    assert "higher than" not in words.against_each(rows.tail(1), "Transfer", 0.95)


def test_forgetting_counts_every_other_answer(data, settings):
    asked = data.asked.assign(edit="third")
    assert (results.transfer_by_fact(dataclasses.replace(data, asked=asked)) == 0).all(axis=None)
    gone = dataclasses.replace(data, asked=asked, forget=True)
    moved = results.transfer_by_fact(gone).mean()
    assert {n: round(moved[n] * N) for n in TRANSFER} == TRANSFER
    assert gone.chance_changed == pytest.approx(2 / 3) and data.chance_changed == 1 / 3


def test_the_frontier_is_relative_to_the_unedited_model(data, settings):
    rows = costs.frontier_table(data, settings)
    assert len(rows) == len(data.trials)
    start, end = rows[rows.step == 0], rows[rows.step == 4]
    assert (start.retained == 1).all() and (start.text == 0).all()
    assert end[end.chosen].retained.to_list() == pytest.approx([0.5] * len(SETS))
    assert end[~end.chosen].text.to_list() == pytest.approx([0.2] * len(SETS))
    assert set(rows[rows.chosen].lr) == {0.1}


def test_areas_see_answers_that_come_back_early(data, settings):
    early = data.relearned.copy()
    late = early[early.localization == "mlp-window-6"].copy()
    middle = late[late.step == LAST].assign(step=4)
    rows = pandas.concat([early, middle])
    areas = results.relearn_areas(dataclasses.replace(data, relearned=rows), settings)
    areas = areas.set_index(["localization", "split"]).value
    assert areas["mlp-window-6", "forget_heldout"] == pytest.approx(1 - 2 / LAST)
    assert areas["fact-lookup", "retain_test"] == 1


def test_positions_have_an_interval_over_seeds_if_there_are_several(data, settings):
    alone = results.position_table(data, settings)
    assert alone.seed_low.isna().all() and "nonlocalized" not in set(alone.localization)
    again = {
        name: pandas.concat([rows, rows.assign(seed=1, id="1" + rows.id)])
        for name, rows in (("asked", data.asked), ("relearned", data.relearned))
    }
    cards = pandas.concat([data.cards, data.cards.assign(seed=1)])
    both = results.position_table(dataclasses.replace(data, cards=cards, **again), settings)
    moved = both[both.measure == "transfer"].set_index("localization")
    assert moved.value["fact-lookup"] == pytest.approx(9 / N)
    assert moved.seed_low["fact-lookup"] == pytest.approx(moved.seed_high["fact-lookup"])
