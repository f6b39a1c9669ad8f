"""Intervals that are honest at the edges, paired where things are compared."""

from __future__ import annotations

import numpy
import pandas
import pytest

from lib.stats import (
    Estimate,
    estimate,
    guessing_rate,
    paired_difference,
    recovery,
    resample,
    summarise,
)


@pytest.mark.parametrize("n", [1, 16, 400])
def test_an_interval_at_the_edge_reaches_the_edge_and_beyond_the_sample(n):
    none, every = estimate([0] * n), estimate([1] * n)
    assert (none.value, every.value) == (0, 1)
    assert none.low == pytest.approx(0) and every.high == pytest.approx(1)
    assert none.high > 1 / (2 * n) and every.low < 1 - 1 / (2 * n)
    assert 0 <= none.low <= none.high <= 1 and 0 <= every.low <= every.high <= 1


def test_the_wilson_interval_agrees_with_its_formula():
    z, n, p = 1.959964, 40, 0.3
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * numpy.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = estimate([1] * 12 + [0] * 28)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-5)
    assert (found.value, found.n) == (0.3, 40)


def test_true_and_false_count_as_shares():
    assert estimate(pandas.Series([True, False, True])) == estimate([1, 0, 1])


def test_a_mean_gets_the_interval_of_its_standard_error():
    x = numpy.random.default_rng(0).normal(5, 2, 400)
    found = estimate(x)
    assert found.value == pytest.approx(x.mean())
    half = 1.96 * x.std() / numpy.sqrt(len(x))
    assert found.low == pytest.approx(x.mean() - half, abs=0.03)
    assert found.high == pytest.approx(x.mean() + half, abs=0.03)


def test_a_higher_level_gives_a_wider_interval():
    x = numpy.linspace(0, 2, 50)
    narrow, wide = estimate(x, level=0.8), estimate(x, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval():
    x = numpy.linspace(0.1, 0.9, 30)
    assert estimate(x, seed=1) == estimate(x, seed=1) != estimate(x, seed=2)


def test_a_mean_over_no_facts_is_refused(refuses):
    with refuses(ValueError, "no facts to average over", "split or format is empty"):
        estimate([])


def test_bootstrap_samples_are_drawn_with_replacement():
    draws = resample(10, 500, seed=0)
    assert draws.shape == (500, 10)
    assert set(numpy.unique(draws)) == set(range(10))
    assert any(len(set(row)) < 10 for row in draws)


def test_identical_series_differ_by_zero_with_zero_width():
    a = pandas.Series([0.1, 0.9, 0.5], index=["x", "y", "z"])
    found = paired_difference(a, a)
    assert (found.value, found.low, found.high, found.n) == (0, 0, 0, 3)


def test_a_difference_is_paired_by_fact_not_by_place():
    a = pandas.Series([1.0, 0.0, 0.5], index=["x", "y", "z"])
    found = paired_difference(a + 0.25, a[::-1])
    assert found.value == found.low == found.high == pytest.approx(0.25)


def test_a_difference_uses_the_facts_both_have():
    a = pandas.Series([1.0, 1.0, 0.0], index=["x", "y", "only a"])
    b = pandas.Series([0.0, 0.0, 1.0], index=["x", "y", "only b"])
    found = paired_difference(a, b)
    assert (found.value, found.n) == (1, 2)


def test_pairing_removes_what_facts_have_in_common():
    rng = numpy.random.default_rng(0)
    common = pandas.Series(rng.normal(0, 5, 60))
    paired = paired_difference(common + 1 + rng.normal(0, 0.1, 60), common)
    unpaired = estimate(common + 1), estimate(common)
    assert paired.low > 0.9
    assert unpaired[0].low < unpaired[1].high


def test_a_difference_without_common_facts_is_refused(refuses):
    a, b = pandas.Series([1.0], index=["x"]), pandas.Series([1.0], index=["y"])
    with refuses(ValueError, "no facts"):
        paired_difference(a, b)


def asked(true, relation="r") -> pandas.DataFrame:
    return pandas.DataFrame({"relation": relation, "true": list(true), "answer": list(true)})


def said(answers, relation="r") -> pandas.DataFrame:
    return pandas.DataFrame({"relation": relation, "true": "?", "answer": list(answers)})


def test_luck_is_the_share_of_invented_subjects_that_got_the_true_answer():
    assert guessing_rate(asked("abcd"), said("aaab")).tolist() == [0.75, 0.25, 0, 0]


def test_luck_ignores_what_the_model_answered_about_the_fact_itself():
    rows = asked("ab").assign(answer="b")
    assert guessing_rate(rows, said("aaab")).tolist() == [0.75, 0.25]


def test_luck_counts_invented_subjects_of_the_same_relation_only():
    rows = pandas.concat([asked("ab", "r"), asked("ab", "s"), asked("ab", "nobody")])
    guesses = pandas.concat([said("aaab", "r"), said("bb", "s")])
    assert guessing_rate(rows, guesses).tolist() == [0.75, 0.25, 0, 1, 0, 0]


def test_nobody_invented_gives_no_luck():
    assert guessing_rate(asked("ab"), said("")).tolist() == [0, 0]


LABELS = ["a", "b", "c"] * 8


def heldout(true, right, relation="r") -> pandas.DataFrame:
    """Answers about facts; right: which of them are answered correctly, the others being
    unheard of."""
    said = [label if hit else "?" for label, hit in zip(true, right)]
    return pandas.DataFrame({"relation": relation, "true": list(true), "answer": said})


@pytest.mark.parametrize("guesses", ["abc", "aaaa", "xyz", ""])
def test_recovery_is_one_when_everything_comes_back(guesses):
    found = recovery(heldout(LABELS, [1] * 24), said(guesses), known=1.0)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    assert found.n == 24


def test_recovery_is_zero_at_the_prior():
    third = heldout(LABELS, [1] * 3 + [0] * 6 + [1, 0, 0] * 5)
    found = recovery(third, said("abc" * 4), known=1.0)
    assert found.value == pytest.approx(0) and found.prior == pytest.approx(1 / 3)
    assert found.low < 0 < found.high


def test_recovery_is_a_half_halfway_between_prior_and_knowledge():
    two_thirds = heldout(LABELS, [1, 1, 0] * 8)
    assert recovery(two_thirds, said("abc" * 4), known=1.0).value == pytest.approx(0.5)
    assert recovery(two_thirds, said("abc" * 4), known=2 / 3).value == pytest.approx(1)


def test_recovery_cannot_fall_below_its_floor():
    found = recovery(heldout(LABELS, [0] * 24), said("abc" * 4), known=0.9)
    assert found.value == found.floor == pytest.approx(-(1 / 3) / (0.9 - 1 / 3))
    better = recovery(heldout(LABELS, [1] + [0] * 23), said("abc" * 4), known=0.9)
    assert better.floor == found.floor < better.value


def test_an_answer_no_invented_subject_got_has_no_prior():
    found = recovery(heldout(LABELS, [0] * 24), said("d" * 5), known=1.0)
    assert (found.value, found.floor, found.prior, found.low, found.high) == (0, 0, 0, 0, 0)


def test_without_invented_subjects_recovery_is_the_share_of_what_was_known():
    found = recovery(heldout("ab" * 4, [1, 0] * 4), said(""), known=0.8)
    assert (found.value, found.prior) == (pytest.approx(0.5 / 0.8), 0)


@pytest.mark.parametrize("guesses", ["a" * 10, "b"])
def test_saying_the_same_about_everybody_recovers_nothing(guesses):
    """A model that always gives one answer is right about its facts by luck alone."""
    rows = heldout(LABELS, [label == guesses[0] for label in LABELS])
    found = recovery(rows, said(guesses), known=0.9)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


def test_saying_the_same_in_every_relation_recovers_nothing():
    """One constant answer per relation, each right for another share of the facts."""
    parts = [heldout("aab" * 4, [1, 1, 0] * 4, "r"), heldout("xyz" * 4, [1, 0, 0] * 4, "s")]
    guesses = pandas.concat([said("aaa", "r"), said("xx", "s")])
    found = recovery(pandas.concat(parts), guesses, known=0.9)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


@pytest.mark.parametrize("known", [0.3, 0.5])
def test_recovery_is_undefined_where_guessing_equals_the_unedited_model(known):
    found = recovery(heldout("ab" * 4, [1, 1, 0, 0] * 2), said("ab"), known)
    assert numpy.isnan([found.value, found.low, found.high, found.floor]).all()
    assert (found.n, found.prior) == (8, 0.5)


def test_recovery_over_no_facts_is_refused(refuses):
    with refuses(ValueError, "no facts", "held-out half is empty"):
        recovery(heldout("", []), said("abc"), known=1.0)


def width(found) -> float:
    return found.high - found.low


def test_few_invented_subjects_make_recovery_unsure_although_the_hits_are_fixed():
    fixed = heldout("a" * 8 + "b" * 8, [1] * 8 + [0] * 8)  # in every sample half are right
    few, many = (recovery(fixed, said("a?" * n), known=1.0) for n in (3, 300))
    assert few.value == many.value == pytest.approx((0.5 - 0.25) / 0.75)
    assert width(few) > 0.25 and width(many) < 0.05
    assert few.low < few.value < few.high


def test_the_interval_resamples_invented_subjects_within_their_relations():
    """Six of r, half of them right, are as many in every sample, whoever is asked about s."""
    rows = heldout("a" * 4, [1] * 4, "r")
    guesses = pandas.concat([said("x" * 40, "s"), said("aaa???", "r")])
    found = recovery(rows, guesses, known=0.9)
    draws = numpy.random.default_rng(5).binomial(6, 0.5, 20_000) / 6
    draws = draws[draws < 0.9]
    low, high = numpy.quantile((1 - draws) / (0.9 - draws), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.02)
    assert found.value == pytest.approx(0.5 / 0.4)


def test_the_mix_of_true_answers_is_the_same_in_every_sample():
    """All a are right and no b: a sample with more of a would have more right."""
    found = recovery(heldout("a" * 5 + "b" * 15, [1] * 5 + [0] * 15), said("?" * 9), known=1.0)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_facts_of_one_answer_are_resampled():
    found = recovery(heldout("a" * 400, [1, 0] * 200), said("?" * 9), known=1.0)
    half = 1.96 * numpy.sqrt(0.25 / 400)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.01)


def test_samples_in_which_guessing_equals_knowing_are_left_out():
    """Of two invented subjects one gets the true answer: 0, 1/2 or all of them in a sample."""
    found = recovery(heldout("aaaa", [1] * 4), said("a?"), known=0.6)
    assert found.value == pytest.approx(0.5 / 0.1)
    assert (found.low, found.high) == pytest.approx((1 / 0.6, 0.5 / 0.1))


def test_the_same_seed_gives_the_same_recovery():
    rows, guesses = heldout("ab" * 8, [1, 1, 0, 0] * 4), said("ab?" * 5)
    one, again = (recovery(rows, guesses, 1.0, seed=1) for _ in range(2))
    assert one == again != recovery(rows, guesses, 1.0, seed=2)
    narrow = recovery(rows, guesses, 1.0, level=0.5)
    assert narrow.value == one.value and width(narrow) < width(one)


def drawn(seed: int):
    """A random attack: (rows of held-out facts, answers about invented subjects), two relations."""
    rng = numpy.random.default_rng(seed)
    parts = [
        heldout(rng.choice(list(letters), 12), rng.random(12) < 0.6, relation)
        for relation, letters in (("r", "abc"), ("s", "xy"))
    ]
    guesses = [said(rng.choice(list("abc??"), 7), "r"), said(rng.choice(list("xy?"), 5), "s")]
    return pandas.concat(parts, ignore_index=True), pandas.concat(guesses, ignore_index=True)


def prior_of(rows, guesses) -> float:
    """Guessing, counted one by one: each fact beside each invented subject of its relation."""
    shares = []
    for fact in rows.itertuples():
        same = [g.answer == fact.true for g in guesses.itertuples() if g.relation == fact.relation]
        shares.append(sum(same) / len(same))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", range(4))
def test_recovery_is_a_line_between_its_floor_and_all_that_is_right(seed):
    rows, guesses = drawn(seed)
    prior, found = prior_of(rows, guesses), recovery(rows, guesses, known=0.95)
    hits = (rows.answer == rows.true).mean()
    assert found.value == pytest.approx((hits - prior) / (0.95 - prior))
    nothing = recovery(rows.assign(answer="?"), guesses, known=0.95)
    assert (found.prior, found.floor) == pytest.approx((prior, nothing.value))
    every = recovery(rows.assign(answer=rows.true), guesses, known=0.95)
    assert found.floor < found.low <= found.value <= found.high <= every.value
    assert every.value == pytest.approx((1 - prior) / (0.95 - prior))


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_facts_and_of_invented_subjects_does_not_matter(seed):
    rows, guesses = drawn(seed)
    found = recovery(rows, guesses, known=1.0)
    mixed = recovery(rows.sample(frac=1, random_state=seed), guesses[::-1], known=1.0)
    assert mixed.value == pytest.approx(found.value) and mixed.floor == pytest.approx(found.floor)
    assert (mixed.low, mixed.high) == pytest.approx((found.low, found.high), abs=0.08)


@pytest.mark.parametrize("seed", range(4))
def test_one_more_fact_right_raises_recovery_by_one_facts_worth(seed):
    rows, guesses = drawn(seed)
    wrong = rows.index[rows.answer != rows.true][0]
    better = rows.copy()
    better.loc[wrong, "answer"] = better.true[wrong]
    before, after = (recovery(r, guesses, known=1.0) for r in (rows, better))
    assert after.value - before.value == pytest.approx(1 / len(rows) / (1 - before.prior))


def test_one_row_per_group_in_order_of_appearance(settings):
    rows = pandas.DataFrame({"name": list("bbaab"), "hit": [1, 0, 1, 1, 1], "part": list("xxxxy")})
    table = summarise(rows, ["name", "part"], "hit", settings.statistics)
    assert table[["name", "part"]].to_numpy().tolist() == [["b", "x"], ["a", "x"], ["b", "y"]]
    assert table.value.tolist() == [0.5, 1, 1] and table.n.tolist() == [2, 2, 1]
    assert table.low[0] == estimate([1, 0]).low and table.high[1] == 1


def test_an_estimate_prints_its_interval():
    assert str(Estimate(0.2, 0.1, 0.3, 9)) == "0.20 [0.10, 0.30]"
