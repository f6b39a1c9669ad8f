"""Differences between localizations: their size, their p value, and the price of many looks."""

from __future__ import annotations

import math
from itertools import product

import numpy
import pandas
import pytest
from scipy import stats as scipy_stats

from lib.stats import area, cohens_h, holm, over_seeds, paired_difference, sign_flip, versus


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


@pytest.mark.parametrize("values, height", [([1, 1, 1], 1), ([0, 0.5, 1], 0.5), ([0, 0, 1], 0.25)])
def test_areas_are_mean_heights(values, height):
    assert area([0, 4, 8], values) == pytest.approx(height)


def test_areas_weigh_steps_by_their_length():
    assert area([0, 1, 10], [1, 1, 0]) == pytest.approx((1 + 4.5) / 10)


def test_one_seed_has_no_interval_over_seeds():
    assert all(math.isnan(x) for x in over_seeds([0.4]))


def test_the_interval_over_seeds_is_students():
    x = [0.2, 0.5, 0.4, 0.6]
    expected = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.9)
    assert over_seeds(x, 0.9) == pytest.approx((expected.low, expected.high))


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
