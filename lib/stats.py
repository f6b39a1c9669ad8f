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


def luck(rows: pandas.DataFrame, guesses: pandas.DataFrame) -> numpy.ndarray:
    """How often the answers about invented subjects (`guesses`) of the same relation would be right
    for each of `rows`; columns relation, true, answer. 0 where nobody invented was asked."""
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

    relearned: 0/1 per held-out fact; lucky: the chance that what the attacked model says about
    invented subjects would be right (see `luck`), whose mean is the prior. 0 = only what it says
    about anybody, 1 = all that the unedited model knew. R is undefined for resamples that guesses
    get wholly right (with a handful of facts there are some); the interval is over the others.
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
