"""From effects of nodes to a ranking of layers: one rule for causal tracing and attribution
patching.

A layer's score is the sum over its nodes of the absolute effect (section 4.2, 4.3); divided by its
weights for `per-weight`; the published rule is the absolute value of the signed sum, so effects
cancel inside a layer.
"""

from __future__ import annotations

from itertools import combinations

import numpy
import pandas
from scipy.stats import hypergeom
from tqdm.auto import tqdm

from lib.localize.corruption import NODE
from lib.model.components import Component
from lib.stats import resample

RULES = ("raw-sum", "per-weight", "published")


def traced(rows: pandas.DataFrame, min_effect: float) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(change, gap) of causal tracing: change (facts x nodes) = p_restored - p_corrupt; gap (facts)
    = p_clean - p_corrupt. Facts whose gap is below min_effect are left out: noise did not hurt
    them. ValueError if none is left.
    """
    rows = rows.assign(change=rows.p_restored - rows.p_corrupt, gap=rows.p_clean - rows.p_corrupt)
    return _table(rows, rows.gap >= min_effect, "noise on the subject hurts no fact")


def attributed(rows: pandas.DataFrame) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """(change, gap) of attribution or exact patching: change = score; gap = ld_clean - ld_corrupt.

    Facts whose gap is not above zero are left out: for them the corrupt prompt is no worse.
    """
    rows = rows.assign(change=rows.score, gap=rows.ld_clean - rows.ld_corrupt)
    return _table(rows, rows.gap > 0, "no fact is told apart from its corruption")


def _table(rows, keep, reason):
    kept = rows[keep]
    if kept.empty:
        raise ValueError(f"{reason}: raise the noise, use more facts or a larger model")
    change = kept.pivot_table("change", "id", NODE, sort=False)
    return change, kept.groupby("id").gap.first()[change.index]


def effects(
    change: pandas.DataFrame,
    gap: pandas.Series,
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> pandas.DataFrame:
    """One row per node: effect = mean change / mean gap (ratio of means), with a bootstrap interval
    over facts."""
    values, weight = change.to_numpy(), gap.to_numpy()
    draws = resample(len(weight), resamples, seed)
    spread = values[draws].mean(1) / weight[draws].mean(1)[:, None]
    low, high = numpy.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    nodes = change.columns.to_frame(index=False)
    return nodes.assign(effect=values.mean(0) / weight.mean(), low=low, high=high, n=len(weight))


def layer_scores(
    effect: pandas.DataFrame, sizes: dict[Component, int], rule: str = "raw-sum"
) -> dict[Component, float]:
    """{component: score} from rows (kind, layer, head, effect); ValueError for an unknown rule."""
    if rule not in RULES:
        raise ValueError(f"unknown rule '{rule}' for layer scores: use one of {', '.join(RULES)}")
    kind = effect.kind.map(lambda k: "mlp" if k == "mlp" else "attention")
    groups = effect.assign(kind=kind).groupby(["kind", "layer"]).effect
    total = groups.sum().abs() if rule == "published" else groups.apply(lambda e: e.abs().sum())
    scores = {Component(k, int(layer)): float(v) for (k, layer), v in total.items()}
    return {c: v / sizes[c] for c, v in scores.items()} if rule == "per-weight" else scores


def ranking(scores: dict[Component, float]) -> list[Component]:
    """Components, highest score first; ties by component, so that the order is always the same."""
    return sorted(scores, key=lambda c: (-scores[c], c))


def pooled(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Rows of several repeats (column repeat, other random numbers each) as one row per fact and
    node."""
    keys = [k for k in ("id", "place", *NODE, "receiver") if k in rows]
    return rows.drop(columns="repeat").groupby(keys, sort=False).mean().reset_index()


def over_halves(ids: list[str], choose, draws: int = 20, seed: int = 0) -> list[float]:
    """Overlap (Jaccard) of what `choose(ids)` picks from two random halves of the facts."""
    rng, found = numpy.random.default_rng(seed), []
    for _ in tqdm(range(draws), desc="halves of the facts", leave=False):
        order = [ids[i] for i in rng.permutation(len(ids))]
        half = len(order) // 2
        found.append(jaccard(choose(order[:half]), choose(order[half:])))
    return found


def over_repeats(sets: list) -> list[float]:
    """Overlap (Jaccard) of every two of the sets chosen with other random numbers."""
    return [jaccard(a, b) for a, b in combinations(sets, 2)]


def jaccard(a, b) -> float:
    """Overlap of two sets, 0 to 1; two empty sets agree."""
    both = set(a) | set(b)
    return len(set(a) & set(b)) / len(both) if both else 1.0


def chance_jaccard(size: int, total: int) -> float:
    """Expected overlap of two random sets of `size` out of `total`; two empty sets agree."""
    if not size:
        return 1.0
    shared = numpy.arange(size + 1)
    odds = hypergeom(total, size, size).pmf(shared)
    return float((odds * shared / numpy.maximum(2 * size - shared, 1)).sum())


def stability(
    halves: list[float], repeats: list[float], size: int, total: int, level: float = 0.95
) -> pandas.DataFrame:
    """Rows (over, value, low, high, chance): mean overlap over random halves of the facts and over
    repeats with other random numbers; low, high: where `level` of the overlaps lie; chance: two
    random sets of `size` out of `total`."""
    rows = []
    for over, found in (("halves of the facts", halves), ("random numbers", repeats)):
        low, high = numpy.quantile(found, [(1 - level) / 2, (1 + level) / 2])
        chance = chance_jaccard(size, total)
        rows.append((over, float(numpy.mean(found)), float(low), float(high), chance))
    return pandas.DataFrame(rows, columns=["over", "value", "low", "high", "chance"])


def first_layers(
    change: pandas.DataFrame, gap: pandas.Series, sizes: dict[Component, int], count: int
) -> list[Component]:
    """The `count` layers with the largest raw-sum scores over some facts."""
    value = change.to_numpy().mean(0) / gap.to_numpy().mean()
    effect = change.columns.to_frame(index=False).assign(effect=value)
    return ranking(layer_scores(effect, sizes))[:count]
