"""Intervals, differences and recovery: how sure a number is.

The unit is a fact (a fact of one seed's draw, where there are several seeds). Shares of facts get
a Wilson interval, which stays honest at 0 and 1; means, differences and ratios get a percentile
bootstrap over facts, with the same resampled facts for everything compared (paired).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pandas
from scipy.stats import binom, binomtest, permutation_test
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


@dataclass(frozen=True)
class Recovery(Estimate):
    """R with its interval; floor: the least it can be, if none of the facts is answered
    correctly; prior: what guessing would score."""

    floor: float
    prior: float


def recovery(
    heldout: pandas.DataFrame,
    invented: pandas.DataFrame,
    known: float,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Recovery:
    """R = (held-out accuracy after the attack - prior) / (known - prior) (section 8.4).

    heldout, invented: rows of answers after the attack, columns relation, true, answer; known: the
    unedited model's accuracy; prior: see `guessing_rate`. R = 1: as many facts are answered
    correctly as by the unedited model. R = 0: as many as by guessing. R < 0: fewer than by
    guessing, because the edited answer holds. The interval resamples held-out facts within their
    true answers, whose mix the split fixes, and the answers about invented subjects within their
    relations (those that stand alone, together). Not a number where guessing is as good as the
    unedited model; samples in which it is are left out.
    """
    if heldout.empty:
        raise ValueError("no facts to average over: the held-out half is empty")
    hits = (heldout.answer == heldout.true).to_numpy(float)
    said, wanted = _guesses(heldout, invented)
    rng = numpy.random.default_rng(seed)
    facts = _within(_alike(heldout.true), resamples, rng)
    names = _within(_alike(invented.relation), resamples, rng)
    share = hits[facts].mean(1)
    prior = numpy.array([said[:, draw].sum(1) @ wanted for draw in names])
    with numpy.errstate(divide="ignore", invalid="ignore"):
        draws = numpy.where(prior < known, (share - prior) / (known - prior), numpy.nan)
    base = float(guessing_rate(heldout, invented).mean())
    if base >= known:
        nothing = [float("nan")] * 3
        return Recovery(*nothing, len(hits), float("nan"), base)
    value = (hits.mean() - base) / (known - base)
    found = _percentile(value, draws, level, len(hits))
    return Recovery(*vars(found).values(), -base / (known - base), base)


def _guesses(heldout: pandas.DataFrame, invented: pandas.DataFrame):
    """(said, wanted): prior = sum over (relation, answer) of the share of invented subjects that
    get this answer, times the share of held-out facts that need it. said: (n_kinds, n_invented),
    1 / size of its relation where a subject got the answer; wanted: (n_kinds,)."""
    need = heldout.groupby(["relation", "true"]).size() / len(heldout)
    size = invented.groupby("relation").answer.transform("size").to_numpy(float)
    got = list(zip(invented.relation, invented.answer))
    said = numpy.array([[pair == kind for pair in got] for kind in need.index], float)
    return (said / size if len(got) else numpy.zeros((len(need), 0))), need.to_numpy()


def _alike(labels: pandas.Series) -> numpy.ndarray:
    """The groups to resample within; members of groups of one, which could not vary, are put
    together."""
    return labels.where(labels.map(labels.value_counts()) > 1, "").to_numpy()


def _within(groups: numpy.ndarray, resamples: int, rng) -> numpy.ndarray:
    """Bootstrap samples in which every group keeps its size: indices (resamples, n)."""
    found = numpy.empty((resamples, len(groups)), int)
    for group in dict.fromkeys(groups):
        where = numpy.flatnonzero(groups == group)
        found[:, where] = where[rng.integers(0, len(where), (resamples, len(where)))]
    return found


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


HIGHER, LOWER, ALIKE, UNRESOLVED = "higher", "lower", "alike", "unresolved"


def verdict(
    value: float, low: float, high: float, n: int, p: float, margin: float, level: float = 0.95
) -> str:
    """What a paired difference shows: HIGHER or LOWER if p is below 1 - level; ALIKE if the
    interval lies within the margin of equivalence and n facts could show a difference of that size
    (none of n facts differing bounds it at 1 - (1 - level)^(1/n)); else UNRESOLVED."""
    if numpy.isnan(value):
        return UNRESOLVED
    if p < 1 - level:
        return HIGHER if value > 0 else LOWER
    able = 1 - (1 - level) ** (1 / n) < margin
    return ALIKE if able and -margin < low and high < margin else UNRESOLVED


def luckiest(facts: int, prior: float, attempts: int) -> float:
    """Expected share of `facts` that the best of `attempts` independent guessers answers correctly,
    each with probability `prior`."""
    below = binom.cdf(numpy.arange(facts), facts, prior) ** attempts
    return float((1 - below).sum() / facts)
