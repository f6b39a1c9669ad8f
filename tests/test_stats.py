"""Intervals that are honest at the edges, paired where things are compared."""

from __future__ import annotations

import numpy
import pandas
import pytest

from lib.stats import Estimate, estimate, guessing_rate, paired_difference, recovery, resample


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
EVEN = guessing_rate(asked(LABELS), said("abc" * 4))


def test_recovery_is_one_when_everything_comes_back():
    found = recovery([1.0] * 24, EVEN, unedited=1.0)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert found.n == 24


def test_recovery_is_near_zero_at_the_prior():
    found = recovery(pandas.Series([1.0, 0.0, 0.0] * 8), EVEN, unedited=1.0)
    assert found.value == pytest.approx(0)
    assert found.low < 0 < found.high


def test_saying_the_same_about_everybody_recovers_nothing():
    """A model that always answers "a" is right about the a's by luck alone."""
    hits = [float(label == "a") for label in LABELS]
    found = recovery(hits, guessing_rate(asked(LABELS), said("a" * 10)), unedited=0.9)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


def test_saying_the_same_in_every_relation_recovers_nothing():
    """One constant answer per relation, each right for another share of the facts."""
    rows = pandas.concat([asked("aab" * 4, "r"), asked("xyz" * 4, "s")])
    guesses = pandas.concat([said("aaa", "r"), said("xx", "s")])
    hits = [float(t in "ax") for t in rows.true]
    found = recovery(hits, guessing_rate(rows, guesses), unedited=0.9)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


def test_recovery_is_a_half_halfway_between_prior_and_knowledge():
    hits = [1.0] * 16 + [0.0] * 8  # 2/3 right, prior 1/3
    assert recovery(hits, EVEN, unedited=1.0).value == pytest.approx(0.5)


def test_recovery_is_paired_with_the_luck_of_the_same_fact():
    """Hits that luck predicts exactly leave an interval of no width, in any order."""
    order = numpy.random.default_rng(0).permutation(24)
    lucky = numpy.array([1.0, 0, 0] * 8)[order]
    found = recovery(lucky, lucky, unedited=0.9)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0))


def test_an_answer_no_invented_subject_got_has_no_prior():
    found = recovery([0.0] * 24, guessing_rate(asked(LABELS), said("d" * 5)), unedited=1.0)
    assert found.value == 0


def test_recovery_over_no_facts_is_refused(refuses):
    with refuses(ValueError, "no facts", "held-out half is empty"):
        recovery([], [], unedited=1.0)


@pytest.mark.parametrize("unedited", [0.2, 1 / 3])
def test_recovery_is_refused_where_guessing_is_as_good_as_knowing(refuses, unedited):
    with refuses(ValueError, "recovery is undefined", "use more facts"):
        recovery([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], unedited)


def test_recovery_has_an_interval_where_some_resamples_can_be_guessed():
    """Three facts, of which guesses get one label right: a tenth of resamples holds no other."""
    lucky = guessing_rate(asked("aab"), said("a" * 5))
    found = recovery([1.0, 0.0, 0.0], lucky, unedited=1.0)
    assert found.value == pytest.approx(-1)
    assert numpy.isfinite([found.low, found.high]).all() and found.low <= -1 <= found.high


def test_an_estimate_prints_its_interval():
    assert str(Estimate(0.2, 0.1, 0.3, 9)) == "0.20 [0.10, 0.30]"
