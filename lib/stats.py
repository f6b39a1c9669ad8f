"""Intervals, differences and recovery: how sure a number is.

The unit is a fact (a fact of one seed's draw, where there are several seeds). Shares of facts get
a Wilson interval, which stays honest at 0 and 1; means, differences and ratios get a percentile
bootstrap over facts, with the same resampled facts for everything compared (paired).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pandas
from scipy.stats import binomtest, permutation_test, ttest_1samp
from tqdm.auto import tqdm

from lib.config.blocks import Statistics


@dataclass(frozen=True)
class Estimate:
    """A value with its interval and the number of facts behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(values, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of values with an interval: Wilson for shares (only 0 and 1 occur), bootstrap otherwise.

    ValueError on an empty input: a mean over no facts is no result.
    """
    x = numpy.asarray(values, float)
    if not len(x):
        raise ValueError("no facts to average over: the chosen split or format is empty")
    if numpy.isin(x, (0, 1)).all():
        ci = binomtest(int(x.sum()), len(x)).proportion_ci(level, method="wilson")
        return Estimate(float(x.mean()), float(ci.low), float(ci.high), len(x))
    draws = resample(len(x), resamples, seed)
    return _percentile(x.mean(), x[draws].mean(axis=1), level, len(x))


def summarise(
    rows: pandas.DataFrame, by: list[str], value: str, how: Statistics
) -> pandas.DataFrame:
    """One row per group of `by`, in order of appearance, with the estimate of column `value`."""
    groups = rows.groupby(by, sort=False)
    found = [
        dict(zip(by, key)) | vars(estimate(group[value], how.level, how.resamples))
        for key, group in tqdm(groups, desc=f"intervals of {value}", leave=False)
    ]
    return pandas.DataFrame(found)


def resample(n: int, resamples: int, seed: int) -> numpy.ndarray:
    """Indices of bootstrap samples: (resamples, n)."""
    return numpy.random.default_rng(seed).integers(0, n, (resamples, n))


def paired_difference(
    a: pandas.Series, b: pandas.Series, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of a - b over the facts both have (indices match), with a bootstrap interval."""
    joint = pandas.concat([a, b], axis=1, join="inner")
    x = (joint.iloc[:, 0] - joint.iloc[:, 1]).to_numpy(float)
    if not len(x):
        raise ValueError("no facts to compare: the two sides share none")
    draws = resample(len(x), resamples, seed)
    return _percentile(x.mean(), x[draws].mean(axis=1), level, len(x))


def guessing_rate(rows: pandas.DataFrame, guesses: pandas.DataFrame) -> numpy.ndarray:
    """How often guessing would be correct for each of `rows`: the share of the answers about
    invented subjects of its relation (`guesses`) that equal its true answer; columns relation,
    true, answer. 0 for a relation of which no invented subject was asked."""
    share = guesses.groupby("relation").answer.value_counts(normalize=True)
    wanted = pandas.MultiIndex.from_frame(rows[["relation", "true"]])
    return share.reindex(wanted).fillna(0.0).to_numpy(float)


def recovery(
    relearned,
    lucky,
    unedited: float,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """R = (held-out accuracy after the attack - prior) / (unedited accuracy - prior) (section 8.4).

    relearned: 0/1 per held-out fact; lucky: per fact, how often guessing would be correct (see
    `guessing_rate`); its mean is the prior. R = 1: as many facts are answered correctly as by the
    unedited model. R = 0: as many as by guessing. R < 0: fewer than by guessing, because the edited
    answer holds. R is undefined for resamples in which guessing is as good as the unedited model
    (with few facts there are some); the interval is over the others.
    """
    hits, lucky = numpy.asarray(relearned, float), numpy.asarray(lucky, float)
    if not len(hits):
        raise ValueError("no facts to average over: the held-out half is empty")
    if lucky.mean() >= unedited:
        raise ValueError(
            "recovery is undefined: guessing is as good as the unedited model; use more facts, or "
            "facts with more even labels"
        )

    def ratio(index):
        prior = lucky[index].mean(axis=-1)
        room = numpy.where(prior < unedited, unedited - prior, numpy.nan)
        return (hits[index].mean(axis=-1) - prior) / room

    everything = numpy.arange(len(hits))
    return _percentile(
        ratio(everything), ratio(resample(len(hits), resamples, seed)), level, len(hits)
    )


def _percentile(value, draws, level: float, n: int) -> Estimate:
    low, high = numpy.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), n)


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
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = ttest_1samp(values, 0).confidence_interval(level)
    return float(low), float(high)
