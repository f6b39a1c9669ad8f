"""Comparing many localizations at once: how large, how sure, and how sure after that many looks.

Differences are paired over facts. Their p value is that of a sign-flip permutation test: if two
edits did the same, each fact's difference could as well have had the other sign. Several such
tests on one question are corrected by Holm's step-down rule, which bounds the chance of even one
false difference. Sizes are Cohen's h, a difference of shares on a scale where steps near 0 and 1
count as much as in the middle (0.2 is called small, 0.5 medium, 0.8 large). Where facts were drawn
under several seeds, `over_seeds` gives the interval over those draws.
"""

from __future__ import annotations

import numpy
import pandas
from scipy.stats import permutation_test, t

from lib.stats import Estimate, estimate, paired_difference


def versus(
    a: pandas.Series, b: pandas.Series, level: float = 0.95, resamples: int = 2000
) -> dict[str, float]:
    """Everything about a against b on the facts both have: value, low, high (the difference and its
    interval), n, a_value, a_low, a_high, b_..., size (Cohen's h), p (not corrected).

    a, b: shares in [0, 1] per fact, with fact ids as index. ValueError if they share no fact.
    """
    difference = paired_difference(a, b, level, resamples)
    joint = pandas.concat([a, b], axis=1, join="inner").astype(float)
    row = vars(difference)
    for side, column in zip("ab", joint):
        found = estimate(joint[column], level, resamples)
        row |= _prefixed(side, found)
    size = cohens_h(row["a_value"], row["b_value"])
    return row | {"size": size, "p": sign_flip(joint.iloc[:, 0] - joint.iloc[:, 1])}


def _prefixed(side: str, found: Estimate) -> dict:
    return {f"{side}_{k}": v for k, v in vars(found).items() if k != "n"}


def sign_flip(differences, resamples: int = 9999) -> float:
    """Two-sided p value of a mean difference, by flipping the signs of the facts' differences; all
    patterns of signs where there are few enough."""
    x = numpy.asarray(differences, float)
    if not x.any():
        return 1.0
    found = permutation_test(
        (x,),
        numpy.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        rng=numpy.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p) -> numpy.ndarray:
    """Holm-corrected p values, in the order given: the smallest is multiplied by their number, the
    next by one less, and so on, never falling below one before it."""
    p = numpy.asarray(p, float)
    order = numpy.argsort(p, kind="stable")
    steps = p[order] * numpy.arange(len(p), 0, -1)
    corrected = numpy.empty_like(p)
    corrected[order] = numpy.minimum(numpy.maximum.accumulate(steps), 1.0)
    return corrected


def cohens_h(a: float, b: float) -> float:
    """2 asin(sqrt(a)) - 2 asin(sqrt(b)) for two shares."""
    return float(2 * numpy.arcsin(numpy.sqrt(a)) - 2 * numpy.arcsin(numpy.sqrt(b)))


def area(steps, values) -> float:
    """Mean height of a curve over its steps (trapezoids): 1 if it stays at 1."""
    steps, values = numpy.asarray(steps, float), numpy.asarray(values, float)
    return float(numpy.trapezoid(values, steps) / (steps[-1] - steps[0]))


def over_seeds(values, level: float = 0.95) -> tuple[float, float]:
    """Interval (Student's t) of the mean over seeds; not a number for a single seed."""
    x = numpy.asarray(values, float)
    if len(x) < 2:
        return float("nan"), float("nan")
    half = t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / numpy.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)
