"""Differences between edits: their size, their p value, the price of many looks, the verdict."""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import numpy
import pandas
import pytest
from test_results import BACK, SETS, N, compared, measured, relearned

from lib.analysis import contrasts as questions
from lib.analysis import edits as results
from lib.model.components import Component, Localization
from lib.stats import (
    ALIKE,
    HIGHER,
    LOWER,
    UNRESOLVED,
    cohens_h,
    holm,
    luckiest,
    paired_difference,
    sign_flip,
    verdict,
    versus,
)
from lib.tables import TABLES


def series(values, start: int = 0) -> pandas.Series:
    return pandas.Series(list(values), index=range(start, start + len(values)), dtype=float)


def test_the_p_value_is_the_share_of_sign_patterns_that_do_as_well():
    x = numpy.array([1.0, 1, 1, 0.5, -0.5, 1, 0, 1])
    means = [(x * signs).mean() for signs in product([-1, 1], repeat=len(x))]
    share = numpy.mean(numpy.abs(means) >= abs(x.mean()) - 1e-12)
    assert sign_flip(x) == pytest.approx(share)


def test_no_difference_at_all_is_no_evidence():
    assert sign_flip(numpy.zeros(16)) == 1.0


def test_the_sign_of_a_difference_does_not_matter_to_its_p_value():
    x = numpy.random.default_rng(0).normal(0.5, 1, 40)
    assert sign_flip(x) == pytest.approx(sign_flip(-x), abs=0.005)
    assert sign_flip(x) == sign_flip(x)


def test_p_values_of_equal_sides_are_uniform():
    rng = numpy.random.default_rng(1)
    p = [sign_flip(rng.choice([-1, 1], 12) * rng.random(12)) for _ in range(300)]
    assert numpy.mean(numpy.array(p) < 0.05) == pytest.approx(0.05, abs=0.035)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert len(holm([])) == 0


def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order():
    p = numpy.random.default_rng(2).random(9) ** 3
    found = holm(p)
    assert (found >= p).all() and (found <= numpy.minimum(9 * p, 1) + 1e-12).all()
    assert (numpy.diff(found[numpy.argsort(p)]) >= 0).all()


def test_sizes_are_zero_between_equals_and_antisymmetric():
    assert cohens_h(0.3, 0.3) == 0
    assert cohens_h(1, 0) == pytest.approx(math.pi)
    assert cohens_h(0.7, 0.4) == pytest.approx(-cohens_h(0.4, 0.7))
    assert cohens_h(0.98, 0.88) > cohens_h(0.55, 0.45)  # the same step counts more near the edge


def test_versus_pairs_the_facts_both_sides_have():
    a, b = series([1, 1, 0, 1, 1, 1]), series([0, 1, 0, 0, 1], start=1)
    found, plain = versus(a, b), paired_difference(a, b)
    assert (found["value"], found["low"], found["high"]) == (plain.value, plain.low, plain.high)
    assert (found["n"], found["a_value"], found["b_value"]) == (5, 0.8, 0.4)
    assert found["size"] == pytest.approx(cohens_h(0.8, 0.4))
    assert found["p"] == pytest.approx(sign_flip([1, -1, 1, 1, 0]))


def test_sides_without_a_common_fact_are_refused(refuses):
    with refuses(ValueError, "no facts to compare"):
        versus(series([1, 0]), series([1, 0], start=5))


# Verdicts


@pytest.mark.parametrize(
    "ends, n, p, expected",
    [
        ((0.3, 0.1, 0.5), 40, 0.01, HIGHER),
        ((-0.3, -0.5, -0.1), 40, 0.01, LOWER),
        ((0.05, 0.01, 0.09), 400, 0.001, HIGHER),  # small, but shown
        ((0.3, 0.1, 0.5), 40, 0.06, UNRESOLVED),  # corrected for many looks
        ((0.02, -0.05, 0.09), 400, 0.3, ALIKE),
        ((0.02, -0.05, 0.11), 400, 0.3, UNRESOLVED),
        ((-0.02, -0.11, 0.05), 400, 0.3, UNRESOLVED),
        ((0.0, 0.0, 0.0), 400, 1.0, ALIKE),
        ((0.0, 0.0, 0.0), 16, 1.0, UNRESOLVED),
        ((math.nan, math.nan, math.nan), 400, math.nan, UNRESOLVED),
        ((math.nan, math.nan, math.nan), 400, 0.001, UNRESOLVED),
    ],
)
def test_the_verdict_of_a_difference(ends, n, p, expected):
    assert verdict(*ends, n, p, margin=0.1) == expected


@pytest.mark.parametrize("margin, least", [(0.1, 29), (0.2, 14), (0.05, 59)])
def test_alike_needs_as_many_facts_as_could_show_a_difference_of_the_margin(margin, least):
    """If a share of `margin` of all facts differed, at least one of so many would, 19 times of
    20."""
    assert (1 - margin) ** least < 0.05 < (1 - margin) ** (least - 1)
    assert verdict(0, 0, 0, least, 1.0, margin) == ALIKE
    assert verdict(0, 0, 0, least - 1, 1.0, margin) == UNRESOLVED
    assert verdict(0, 0, 0, least, 1.0, margin, level=0.99) == UNRESOLVED


@pytest.mark.parametrize("n, expected", [(16, UNRESOLVED), (100, ALIKE)])
def test_equal_answers_to_a_few_facts_do_not_show_that_two_edits_are_alike(settings, n, expected):
    found = questions.compared(series([1] * n), series([1] * n), settings)
    assert (found["value"], found["low"], found["high"], found["n"]) == (0, 0, 0, n)
    assert found["verdict"] == expected


def test_a_comparison_leaves_out_what_one_side_lacks(settings):
    a = series([1, 1, 1, 1, 1, 1, math.nan, 1])
    b = series([0, 0, 0, 0, 0, 0, 1, math.nan])
    found = questions.compared(a, b, settings)
    assert (found["n"], found["value"], found["verdict"]) == (6, 1, HIGHER)
    assert questions.compared(a, b, settings, p=0.2)["verdict"] == UNRESOLVED
    assert found["p"] == pytest.approx(2 / 2**6)


# Luck of the best of several


@pytest.mark.parametrize(
    "facts, prior, attempts", [(16, 1 / 3, 10), (16, 0.1, 3), (5, 0.5, 2), (40, 0.05, 20)]
)
def test_the_luckiest_guesser_against_a_simulation(facts, prior, attempts):
    rng = numpy.random.default_rng(facts)
    best = rng.binomial(facts, prior, (40_000, attempts)).max(axis=1)
    assert luckiest(facts, prior, attempts) == pytest.approx(best.mean() / facts, abs=0.004)


def test_one_guesser_has_the_luck_of_guessing_and_more_have_more():
    assert luckiest(16, 0.3, 1) == pytest.approx(0.3)
    assert (luckiest(16, 0.0, 9), luckiest(16, 1.0, 9)) == (0, 1)
    luck = [luckiest(16, 0.3, n) for n in (1, 2, 5, 50)]
    assert luck == sorted(set(luck)) and luck[-1] < 1


# Fact lookup against each other edit


def test_many_looks_make_a_difference_unresolved(settings):
    """Six of six facts differ: p = 2 / 64 alone, three times that among three edits."""
    table = pandas.DataFrame({"fact-lookup": [1.0] * 6, "low": [0.0] * 6}, index=list("abcdef"))
    alone = questions.pairwise({"m": table}, settings)
    assert (alone.p[0], alone.p_corrected[0]) == pytest.approx((2 / 64, 2 / 64))
    assert alone.verdict.to_list() == ["higher"]
    three = questions.pairwise({"m": table.assign(same=1.0, equal=1.0)}, settings)
    assert three.localization.to_list() == ["low", "same", "equal"]
    assert three.p_corrected.to_list() == pytest.approx([6 / 64, 1, 1])
    assert three.p.to_list() == pytest.approx([2 / 64, 1, 1])
    assert three.verdict.to_list() == ["unresolved"] * 3


def test_each_measure_is_corrected_for_itself(settings):
    table = pandas.DataFrame({"fact-lookup": [1.0] * 6, "low": [0.0] * 6})
    rows = questions.pairwise({"one": table, "two": table}, settings)
    assert rows.p_corrected.to_list() == pytest.approx([2 / 64] * 2)
    assert set(TABLES["results/pairwise"]) <= set(rows)


def test_without_fact_lookup_nothing_is_set_against_it(settings):
    rows = questions.pairwise({"m": pandas.DataFrame({"other": [1.0, 0.0]})}, settings)
    assert rows.empty and set(TABLES["results/pairwise"]) <= set(rows)


# A line or a step over depth

LAYERS = [0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 15]  # single MLPs of the default sweep


def fitted(heights, layers=LAYERS, **more) -> pandas.DataFrame:
    """Fits to edits of single MLPs with such means over two facts."""
    names = [f"mlp-{layer}" for layer in layers]
    wobble = numpy.array([[0.1], [-0.1]])
    table = pandas.DataFrame(numpy.array(heights) + wobble, columns=names).assign(**more)
    edits = pandas.DataFrame({"localization": names, "first_layer": layers})
    return questions.fits(edits, {"new-wording": table}).set_index("model")


def test_the_default_sweep_has_single_mlps_around_the_lookup(settings):
    names = settings.sweep.localizations["sports-athletes"]
    assert {f"mlp-{layer}" for layer in (2, 3, 4, 5, 6, 9)} <= set(names)


@pytest.mark.parametrize("place", [2.5, 3.5, 4.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_step_is_found_and_predicts_better_than_a_line(place, seed):
    noise = numpy.random.default_rng(seed).normal(0, 0.03, len(LAYERS))
    found = fitted(noise + [0.9 if layer < place else 0.1 for layer in LAYERS])
    assert found["at"]["step"] == place and found["at"]["line"] < 0
    assert found.left_out["step"] < 0.9 * found.left_out["line"]
    assert found.error["step"] < 0.05 < found.error["line"]
    assert (found.n == len(LAYERS)).all()


@pytest.mark.parametrize("slope", [-0.05, 0.04])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_line_is_found_and_predicts_better_than_a_step(slope, seed):
    noise = numpy.random.default_rng(seed).normal(0, 0.03, len(LAYERS))
    found = fitted(0.4 + noise + slope * numpy.array(LAYERS))
    assert found["at"]["line"] == pytest.approx(slope, abs=4 * 0.03 / 15)
    assert found.left_out["line"] < 0.9 * found.left_out["step"]
    assert found.at_error["line"] < 0.01


def test_a_line_without_noise_leaves_nothing():
    found = fitted(0.9 - 0.05 * numpy.array(LAYERS)).loc["line"]
    assert found["at"] == pytest.approx(-0.05)
    assert [found["error"], found["left_out"], found["at_error"]] == pytest.approx([0, 0, 0])


def test_what_is_left_by_a_line_and_by_a_step_by_hand():
    found = fitted([1, 1, 0, 0], layers=[0, 1, 2, 3])
    assert found["at"].to_dict() == pytest.approx({"line": -0.4, "step": 1.5})
    assert found.error.to_dict() == pytest.approx({"line": math.sqrt(0.2 / 4), "step": 0})
    # without layer 1 the step lies at 1, without layer 2 at 2: jackknife of 1.5, 1, 2, 1.5
    assert found.at_error["step"] == pytest.approx(math.sqrt(3 / 4 * 0.5))


def test_the_error_of_a_slope_is_that_of_regression():
    rng = numpy.random.default_rng(3)
    draws = [0.5 + rng.normal(0, 0.1, len(LAYERS)) for _ in range(40)]
    errors = [fitted(heights).at_error["line"] for heights in draws]
    expected = 0.1 / math.sqrt(len(LAYERS) * numpy.var(LAYERS))
    assert numpy.mean(errors) == pytest.approx(expected, rel=0.3)


def test_only_single_mlps_that_count_are_fitted():
    edges = {"mlp-window-0": 5.0, "fact-lookup": 5.0, "mlp-17": math.nan}
    found = fitted(0.9 - 0.05 * numpy.array(LAYERS), **edges)
    assert (found.n == len(LAYERS)).all() and found.error["line"] == pytest.approx(0)


def test_the_order_of_edits_does_not_matter_to_a_fit():
    heights = numpy.array([0.9] * 4 + [0.1] * 7)
    mixed = numpy.random.default_rng(0).permutation(len(LAYERS))
    one, other = fitted(heights), fitted(heights[mixed], [LAYERS[i] for i in mixed])
    pandas.testing.assert_frame_equal(one, other)


def test_three_single_mlps_are_too_few_for_a_fit():
    assert fitted([1, 0.5, 0], layers=[0, 1, 2]).empty
    assert len(fitted([1, 0.5, 0, 0], layers=[0, 1, 2, 3])) == 2


# From the edits of a task to its two questions


@pytest.fixture(scope="module")
def data() -> results.Measured:
    return measured()


@pytest.fixture(scope="module")
def tables(data, settings) -> dict[str, pandas.DataFrame]:
    """The measures of the five edits."""
    return compared(data, settings)


@pytest.fixture(scope="module")
def rows(data, tables, settings) -> pandas.DataFrame:
    found = questions.contrasts(data, tables, settings)
    assert set(TABLES["results/contrasts"]) <= set(found)
    return found.set_index(["question", "measure"])


MEASURES = ["new-wording", "new-vocabulary", "old-wording", "old-vocabulary", "back"]


def test_the_measures_hold_the_edits_that_count(tables):
    assert list(tables) == MEASURES
    every = list(SETS)
    unbroken = [n for n in every if n != "nonlocalized"]
    assert list(tables["new-wording"]) == list(tables["old-wording"]) == unbroken
    assert list(tables["new-vocabulary"]) == [n for n in every if n != "depth-matched-mlps"]
    assert list(tables["back"]) == every and len(tables["back"]) == 6
    assert tables["back"].sum().to_dict() == BACK


def test_an_edit_below_the_strength_is_shown_but_never_compared(data, settings):
    cards = data.cards.assign(reached=data.cards.localization != "mlp-window-6")
    weak = dataclasses.replace(data, cards=cards)
    assert "mlp-window-6" in set(results.answer_table(weak, settings).localization)
    tables = compared(weak, settings)
    assert all("mlp-window-6" not in table for table in tables.values())
    rows = questions.contrasts(weak, tables, settings).set_index(["question", "measure"])
    early = rows.loc["early-late"]
    assert early.value.isna().all() and (early.verdict == "unresolved").all()
    assert (early.a == "mlp-window-0").all() and (early.b == "").all()
    assert "mlp-window-6" not in set(questions.pairwise(tables, settings).localization)


@pytest.mark.parametrize("failure", [{"taught": 3}, {"kept": 5}])
def test_an_attack_that_fails_its_gate_is_no_evidence(data, settings, failure):
    parts = [relearned(n, b, **(failure if n == "mlp-window-6" else {})) for n, b in BACK.items()]
    failed = dataclasses.replace(data, relearned=pandas.concat(parts))
    tables = compared(failed, settings)
    assert "mlp-window-6" not in tables["back"] and "mlp-window-6" in tables["new-wording"]
    rows = questions.contrasts(failed, tables, settings).set_index(["question", "measure"])
    assert pandas.isna(rows.value["early-late", "back"])
    assert rows.value["early-late", "new-wording"] > 0.5


def test_where_no_edit_counts_nothing_is_compared(data, settings):
    none = dataclasses.replace(data, cards=data.cards.assign(reached=False))
    tables = compared(none, settings)
    assert all(table.shape[1] == 0 for table in tables.values())
    rows = questions.contrasts(none, tables, settings)
    assert rows.value.isna().all() and set(rows.verdict) == {"unresolved"} and len(rows) == 10
    assert questions.pairwise(tables, settings).empty
    assert questions.fits(results.edit_table(none, settings), tables).empty


def test_early_and_late_windows_are_told_apart(rows):
    assert len(rows) == 2 * len(MEASURES)
    new, back = rows.loc["early-late", "new-wording"], rows.loc["early-late", "back"]
    assert (new.a, new.b, new.n, new.verdict) == ("mlp-window-0", "mlp-window-6", N, "higher")
    assert (new.a_value, new.b_value) == (1, pytest.approx(6 / 36))
    assert new.value == pytest.approx(30 / 36) and new.p < 0.05
    assert (back.value, back.n, back.verdict) == (-1, 6, "lower")


def test_fact_lookup_is_set_against_its_depth_matched_controls(rows):
    row = rows.loc["lookup-depth", "new-wording"]
    assert (row.a, row.b) == ("fact-lookup", "depth-matched-mlps")
    assert row.value == pytest.approx(15 / 24 - 24 / 36) and row.verdict == "unresolved"
    missing = rows.loc["lookup-depth", "new-vocabulary"]
    assert pandas.isna(missing.value) and missing.verdict == "unresolved"


def test_several_edits_on_a_side_count_by_their_mean(data, settings):
    table = pandas.DataFrame({"mlp-window-0": [1.0, 1, 0, 0], "mlp-window-1": [0.0, 1, 1, 0]})
    starts = {"mlp-window-0": 0, "mlp-window-1": 1, "mlp-window-6": 6}
    sets = {n: mlps(n, at, at + 1) for n, at in starts.items()}
    few = dataclasses.replace(data, sets=sets)
    rows = questions.contrasts(few, {"m": table.assign(**{"mlp-window-6": 0.0})}, settings)
    assert rows.a[0] == "mlp-window-0 mlp-window-1"
    assert (rows.a_value[0], rows.b_value[0], rows.value[0]) == (0.5, 0, 0.5)


def mlps(name: str, *layers: int) -> Localization:
    return Localization(name, tuple(Component("mlp", layer) for layer in layers), 1, 1)


@pytest.mark.parametrize(
    "layers, third",
    [
        ((0, 1), "early"),
        ((1, 2), "early"),
        ((2, 3), None),
        ((5, 6), None),
        ((6, 7), "late"),
        ((7, 8), "late"),
        ((0, 8), None),
    ],
)
def test_a_window_lies_wholly_in_its_third(data, layers, third):
    one = dataclasses.replace(data, sets={"mlp-window-9": mlps("mlp-window-9", *layers)})
    found = [side for side in ("early", "late") if questions.windows(one, side)]
    assert found == ([third] if third else [])


def test_only_windows_stand_for_a_third_also_under_another_name(data):
    assert questions.windows(data, "early") == ["mlp-window-0"]
    twins = dataclasses.replace(data, also={"fact-lookup": ["mlp-window-1"]})
    assert questions.windows(twins, "early") == ["fact-lookup", "mlp-window-0"]
    attention = Localization("mlp-window-x", (Component("attention", 0),), 1, 1)
    odd = dataclasses.replace(data, sets={"mlp-window-x": attention})
    assert questions.windows(odd, "early") == questions.windows(odd, "late") == []


def test_holm_counts_each_edit_once(tables, settings):
    rows = questions.pairwise(tables, settings)
    assert set(rows.measure) == set(MEASURES)
    for measure, mine in rows.groupby("measure"):
        assert mine.localization.is_unique and "fact-lookup" not in set(mine.localization)
        assert mine.p_corrected.to_list() == pytest.approx(holm(mine.p)), measure
    back = rows[rows.measure == "back"].set_index("localization").value
    others = {n: (1 - b) / 6 for n, b in BACK.items() if n != "fact-lookup"}
    assert back.to_dict() == pytest.approx(others)


def test_every_fact_behind_a_comparison_is_listed_with_both_answers(data, tables):
    rows = questions.fact_table(data, tables)
    assert set(TABLES["results/facts"]) == set(rows)
    mine = rows[(rows.measure == "new-wording") & (rows.localization == "fact-lookup")]
    assert len(mine) == N and mine.value.mean() == pytest.approx(15 / 24)
    assert set(rows.true) == {"old"} and set(rows.edit) == {"new"}
    assert len(rows) == sum(table.size for table in tables.values())


def test_headline_numbers_leave_out_what_is_missing(data, settings):
    table = results.carried_table(data, results.answer_table(data, settings), settings)
    found = questions.metrics(table, results.back_table(data, settings))
    assert found["new-wording/fact-lookup"] == 0.625 and found["back/mlp-window-6"] == 6
    assert "new-wording/nonlocalized" not in found and "new-vocabulary/nonlocalized" in found
