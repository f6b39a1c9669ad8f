"""Intervals, differences and recovery: how sure a number is.

The unit is a fact (a fact of one seed's draw, where there are several seeds). Shares of facts get
a Wilson interval, which stays honest at 0 and 1; means, differences and ratios get a percentile
bootstrap over facts, with the same resampled facts for everything compared (paired).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pandas
from scipy.stats import binomtest


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


def recovery(
    relearned: pandas.Series,
    true: pandas.Series,
    guesses: pandas.Series,
    unedited: float,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """R = (held-out accuracy after the attack - prior) / (unedited accuracy - prior) (section 8.4).

    relearned: 0/1 per held-out fact; true: its true label; guesses: labels the attacked model
    gives invented subjects. prior: accuracy those guesses would have on the held-out label mix. 0
    = only what it says about anybody, 1 = all that the unedited model knew. R is undefined for
    resamples that guesses get wholly right (with a handful of facts there are some); the interval
    is over the others.
    """
    if not len(relearned):
        raise ValueError("no facts to average over: the held-out half is empty")
    share = guesses.value_counts(normalize=True)
    hits = relearned.to_numpy(float)
    lucky = true.map(share).fillna(0.0).to_numpy(float)
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
