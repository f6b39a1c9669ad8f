"""Fact lookup by probes: at which layer can the label be read at the subject's last token?

A linear probe (multinomial logistic regression on standardized features) reads the residual
stream at the last token of the subject, before block 0, after each attention layer (mid) and
after each block (post). Where its held-out accuracy rises from what the name alone gives away to
its maximum, the fact is being looked up; the MLPs of those layers are the `fact-lookup` set. The
rise is a numeric rule fixed before any edit is run (departs from the paper, which chose by eye;
section 4.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pandas
import torch
from torch import Tensor

from lib.facts.formats import Format, encode, subject_positions
from lib.packing import Runner


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


def features(runner: Runner, tokenizer, form: Format, subjects: list[str]) -> Tensor:
    """Residual stream at each subject's last token in the prompt: (n_sites, n_subjects,
    d_model)."""
    last = [subject_positions(tokenizer, form, s)[-1] for s in subjects]
    found = []
    for index, pack in runner.packs(encode(tokenizer, form, subjects)):
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
    for train, test in folds:
        count[test] += 1
        for site, data in enumerate(x.numpy()):
            probe = make_pipeline(
                StandardScaler(), LogisticRegression(C=regularization, max_iter=300)
            )
            right[site, test] += probe.fit(data[train], y[train]).predict(data[test]) == y[test]
    with numpy.errstate(invalid="ignore", divide="ignore"):
        return right / count


@dataclass(frozen=True)
class Rise:
    """Where probe accuracy rises: layers start ...

    end write the attribute.
    """

    start: int
    end: int
    base: float
    top: float

    @property
    def layers(self) -> list[int]:
        """The fact-lookup MLP layers."""
        return list(range(self.start, self.end + 1))


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
    start with accuracy >= b + end_fraction (M - b). ValueError if accuracy never exceeds b.
    """
    base, top = max(at_embedding, majority), max(accuracy)
    if top <= base:
        raise ValueError(
            f"probe accuracy never rises above what the name alone gives away ({base:.2f}): "
            "this model shows no "
            "lookup of this fact; use more known facts or a larger model"
        )

    def first(fraction: float, start: int) -> int:
        level = base + fraction * (top - base)
        return next(i for i in range(start, len(accuracy)) if accuracy[i] >= level)

    start = first(start_fraction, 0)
    return Rise(start, first(max(start_fraction, end_fraction), start), base, top)


def sensitivity(accuracy: list[float], at_embedding: float, majority: float) -> pandas.DataFrame:
    """The rule's answer over a grid of its two fractions."""
    rows = [
        {"start_fraction": round(s, 3), "end_fraction": e, "start": r.start, "end": r.end}
        for s in (0.25, 1 / 3, 0.5)
        for e in (0.65, 0.75, 0.85)
        for r in [rise_rule(accuracy, at_embedding, majority, s, e)]
    ]
    return pandas.DataFrame(rows)
