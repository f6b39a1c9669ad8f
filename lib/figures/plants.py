"""Figures of planted facts: verified, located, and edited in their place and elsewhere."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas
import seaborn

from lib.figures.style import GREY, OLD, WIDTH, early, headline, label

NOWHERE = "nowhere"
MEASURES = {
    "new-vocabulary": "new answers, in other answer words",
    "old-back": "old answers after relearning, held out",
}


def _planted(name: str) -> str:
    return "never planted" if name == NOWHERE else f"planted: {label(name)}"


def verified(known: pandas.DataFrame, patched: pandas.DataFrame, title: str):
    """Left: share of planted answers by format and place of the plant; right: what is left when a
    window's outputs at the subject are the unplanted model's.

    known: rows (planted, format, right); patched: rows (planted, patched, right).
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4), width_ratios=(1.5, 1))
    names, formats = list(known.planted.unique()), list(known.format.unique())
    for i, name in enumerate(names):
        mine = known[known.planted == name].set_index("format").right[formats]
        color = GREY if name == NOWHERE else early((i - 1) / max(len(names) - 2, 1))
        look = dict(color=color, marker="sox^Dv"[i % 6], ls="none", ms=5)
        axes[0].plot(mine, range(len(formats)), label=_planted(name), **look)
    axes[0].set(yticks=range(len(formats)), yticklabels=formats, xlim=(-0.03, 1.03))
    axes[0].set(xlabel="share of planted answers")
    axes[0].invert_yaxis()
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.4, -0.24), frameon=False)
    wide = patched.pivot(index="patched", columns="planted", values="right")
    wide = wide.loc[patched.patched.unique(), patched.planted.unique()]
    heat(axes[1], wide, "share of planted answers left")
    axes[1].set(xlabel="planted in", ylabel="outputs taken away")
    headline(figure, title)
    return figure


def located(scores: pandas.DataFrame, holds: dict[str, list[int]], title: str):
    """Score of every MLP by every method, a panel per place of the plant (planted MLPs framed).

    scores: rows (planted, method, layer, score); holds: {place: planted layers}. Scores are divided
    by the largest of their method.
    """
    names = list(scores.planted.unique())
    height = 0.55 + 1.35 * len(names)
    figure, axes = plt.subplots(len(names), 1, figsize=(WIDTH, height), sharex=True, squeeze=False)
    for axis, name in zip(axes[:, 0], names):
        mine = scores[scores.planted == name]
        wide = mine.pivot(index="method", columns="layer", values="score")
        wide = wide.loc[mine.method.unique()].clip(lower=0)
        wide = wide.div(wide.max(axis=1).where(lambda top: top > 0, 1), axis=0)
        look = dict(cmap="Greys", vmin=0, vmax=1, cbar=False, linewidths=0.4)
        seaborn.heatmap(wide, ax=axis, **look)
        layers = holds.get(name, [])
        for first in [layer for layer in layers if layer - 1 not in layers]:
            last = next(layer for layer in range(first, len(wide.T)) if layer + 1 not in layers)
            size = last - first + 1, len(wide)
            axis.add_patch(plt.Rectangle((first, 0), *size, fill=False, ec=OLD, lw=2))
        axis.set(title=_planted(name), xlabel="", ylabel="")
    axes[-1, 0].set(xlabel="MLP (framed: planted; dark: highest score of the method)")
    headline(figure, title)
    return figure


def moved(grid: pandas.DataFrame, title: str):
    """Where a fact was planted against where it was edited, a map per measure, with counts.

    grid: rows (measure, planted, localization, value, n), shares of facts.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 1.3 + 0.5 * grid.planted.nunique()))
    for axis, (measure, words) in zip(axes, MEASURES.items()):
        mine = grid[grid.measure == measure]
        order = mine.planted.unique(), mine.localization.unique()
        wide = mine.pivot(index="planted", columns="localization", values="value").loc[order]
        heat(axis, wide, words)
        axis.set_yticklabels([_planted(name) for name in order[0]])
        axis.set(xlabel="edited in", ylabel="")
    axes[1].set_yticklabels([])
    headline(figure, title)
    return figure


def moved_title(grid: pandas.DataFrame) -> str:
    """What the map of old answers says about the last place of editing: facts planted first and
    last."""
    back = grid[grid.measure == "old-back"].set_index(["planted", "localization"])
    places = [name for name in grid.planted.unique() if name != NOWHERE]
    last = places[-1]
    one, other = (back.loc[(planted, last)] for planted in (places[0], last))
    early, late = (round(row.value * row.n) for row in (one, other))
    return f"A late edit: {early} of {one.n:.0f} early plants return, {late} late ones"


def heat(axis, wide: pandas.DataFrame, title: str) -> None:
    """Shares as a map with numbers; rows and columns are localizations."""
    look = dict(annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, cbar=False, linewidths=1)
    seaborn.heatmap(wide, ax=axis, **look)
    axis.set(title=title)
    axis.set_xticklabels([label(name) for name in wide.columns], rotation=0)
    axis.set_yticklabels([label(name) for name in wide.index], rotation=0)
