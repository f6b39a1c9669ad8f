"""Fact lookup by probes: at which layer can the label be read at the subject's last token?

A linear probe (multinomial logistic regression on standardized features) reads the residual
stream at the last token of the subject, before block 0, after each attention layer (mid) and
after each block (post). Where its held-out accuracy rises from what the name alone gives away to
its maximum, the fact is being looked up; the MLPs of those layers are the `fact-lookup` set. The
rise is a numeric rule fixed before any edit is run (departs from the paper, which chose by eye;
section 4.4).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy
import pandas
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lib.facts.formats import encode
from lib.facts.records import FactRecord
from lib.model.runner import Runner


@dataclass(frozen=True)
class Site:
    """A place in the residual stream; kind: embedding, mid (after attention) or post (after the
    MLP)."""

    kind: str
    layer: int


def sites(n_layers: int) -> list[Site]:
    """All sites from the embedding (layer -1) upwards, in the order of `features`."""
    inside = [Site(kind, layer) for layer in range(n_layers) for kind in ("mid", "post")]
    return [Site("embedding", -1), *inside]


def most_frequent(facts) -> str:
    """The relation with the most facts."""
    return Counter(f.relation for f in facts).most_common(1)[0][0]


def probeable(facts: list[FactRecord], relation: str, least: int) -> list[FactRecord]:
    """The facts of a relation whose label at least `least` of them share: a probe can learn it.
    None if fewer than two labels are left, which no probe could tell apart."""
    mine = [f for f in facts if f.relation == relation]
    count = Counter(f.true for f in mine)
    found = [f for f in mine if count[f.true] >= least]
    return found if len({f.true for f in found}) > 1 else []


def features(runner: Runner, tokenizer, facts: list[FactRecord]) -> Tensor:
    """Residual stream at each subject's last token in the training prompt: (n_sites, n_facts,
    d_model)."""
    last = [f.subject_positions[-1] for f in facts]
    found = []
    packs = runner.packs(encode(tokenizer, [f.prompt for f in facts]))
    for index, pack in tqdm(packs, desc="residual streams", leave=False):
        found.append(runner.residuals(pack, pack.position_rows([last[i] for i in index])))
    return torch.cat(found, dim=1).float()


def probe_accuracy(
    x: Tensor, labels: list[str], splits: int, test_share: float, regularization: float, seed: int
) -> numpy.ndarray:
    """Held-out correctness of each subject at each site: (n_sites, n_subjects), mean over its
    splits.

    x: (n_sites, n_subjects, d). Splits are stratified and the same at every site; a subject that no
    split holds out is NaN.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y = numpy.array(labels)
    folds = StratifiedShuffleSplit(splits, test_size=test_share, random_state=seed).split(y, y)
    right, count = numpy.zeros(x.shape[:2]), numpy.zeros(len(y))
    for train, test in tqdm(folds, desc="probes", unit="split", total=splits, leave=False):
        count[test] += 1
        for site, data in enumerate(x.numpy()):
            probe = make_pipeline(
                StandardScaler(), LogisticRegression(C=regularization, max_iter=300)
            )
            right[site, test] += probe.fit(data[train], y[train]).predict(data[test]) == y[test]
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return right / count


def pooled(repeats: list[numpy.ndarray]) -> numpy.ndarray:
    """Mean correctness over repeats with other splits; NaN where none held the subject out."""
    total = numpy.stack(repeats)
    seen = (~numpy.isnan(total)).sum(0)
    return numpy.where(seen > 0, numpy.nansum(total, 0) / numpy.maximum(seen, 1), numpy.nan)


@dataclass(frozen=True)
class Rise:
    """Where probe accuracy rises: the MLPs of `layers` write the label (none if it never rises).

    base: what the name alone gives away; top: the best accuracy.
    """

    layers: list[int]
    base: float
    top: float


def rise_rule(
    accuracy: list[float],
    at_embedding: float,
    majority: float,
    start_fraction: float,
    end_fraction: float,
) -> Rise:
    """Layers in which accuracy rises (section 4.4).

    accuracy: of the probe on post[l], l = 0 ... L-1. With b = max(at_embedding, majority) and M =
    max accuracy: start = first l with accuracy >= b + start_fraction (M - b), end = first l >=
    start with accuracy >= b + end_fraction (M - b). No layers if accuracy never exceeds b.
    """
    base, top = max(at_embedding, majority), max(accuracy)
    if top <= base:
        return Rise([], base, top)

    def first(fraction: float, start: int) -> int:
        level = base + fraction * (top - base)
        return next(i for i in range(start, len(accuracy)) if accuracy[i] >= level)

    start = first(start_fraction, 0)
    end = first(max(start_fraction, end_fraction), start)
    return Rise(list(range(start, end + 1)), base, top)


def rise(
    correct: numpy.ndarray,
    labels: list[str],
    start_fraction: float,
    end_fraction: float,
    number: int | None = None,
) -> Rise:
    """`rise_rule` on the correctness of some subjects, (n_sites, n_subjects) as `probe_accuracy`
    gives it, with their labels. With a `number` instead: so many neighbouring layers over which
    accuracy rises most."""
    mean = numpy.nanmean(correct, axis=1)
    majority = max(Counter(labels).values()) / len(labels)
    after = list(mean[2::2])
    found = rise_rule(after, float(mean[0]), majority, start_fraction, end_fraction)
    if not number or not found.layers:
        return found
    number, before = min(number, len(after)), [float(mean[0]), *after]
    start = max(range(len(after) - number + 1), key=lambda i: before[i + number] - before[i])
    return Rise(list(range(start, start + number)), found.base, found.top)


def sensitivity(correct: numpy.ndarray, labels: list[str]) -> pandas.DataFrame:
    """The rule's answer over a grid of its two fractions."""
    rows = [
        {"start_fraction": round(s, 3), "end_fraction": e}
        | {"layers": " ".join(map(str, rise(correct, labels, s, e).layers))}
        for s in (0.25, 1 / 3, 0.5)
        for e in (0.65, 0.75, 0.85)
    ]
    return pandas.DataFrame(rows)
