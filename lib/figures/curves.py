"""One function per figure of the studies beside the main comparison."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas
import seaborn

from lib.figures.style import CHANCE, COLORBLIND, band, headline, label


def removals(table: pandas.DataFrame, chance: float, title: str):
    """Forgetting against the number of removed weights: one column per order of removal, the
    training prompt above and other answer words below.

    table: rows (localization, count, kind, split, value, low, high), splits forget and
    retain_test.
    """
    words = {"retain_test": "retained facts", "forget": "facts to forget"}
    figure, axes = _against(table, "count", words, "answered correctly")
    for axis in axes.flat:
        axis.axhline(chance, **CHANCE)
        least = max(table["count"][table["count"] > 0].min(), 1)
        axis.set_xscale("symlog", linthresh=least)
        axis.set_xlim(-0.2 * least, 1.3 * table["count"].max())
        axis.set_xticks([0, *(10**e for e in range(3, 7) if 10**e <= table["count"].max())])
    figure.supxlabel("number of weights set to zero (dotted: chance)", fontsize=9)
    headline(figure, title)
    return figure


def scaling(table: pandas.DataFrame, title: str):
    """New answers and retained facts against the number of facts edited at once; table: rows
    (localization, facts, kind, split, value, low, high)."""
    words = {"retain_test": "retained facts, true answer", "forget": "edited facts, new answer"}
    figure, axes = _against(table, "facts", words, "answered so")
    for axis in axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(table.facts.unique()))
        axis.xaxis.set_major_formatter("{x:.0f}")
    figure.supxlabel("number of facts edited at once", fontsize=9)
    headline(figure, title)
    return figure


def _against(table: pandas.DataFrame, x: str, words: dict[str, str], what: str):
    """(figure, axes): see `_grid`; one line with interval per split against column `x`."""
    lines = {"retain_test": (COLORBLIND[2], "-.", "s"), "forget": (COLORBLIND[3], "-", "o")}

    def draw(axis, mine):
        for split, (color, line, marker) in lines.items():
            rows = mine[mine.split == split].sort_values(x)
            look = dict(color=color, marker=marker, ms=3, label=words[split])
            band(axis, rows[x], rows, line, 0.2, **look)

    return _grid(table, 3.1, f"{what},\n", draw)


def _grid(table: pandas.DataFrame, width: float, what: str, draw):
    """(figure, axes): one column per localization, `width` inches wide, and one row per kind of
    format; draw(axis, rows) fills each."""
    names, kinds = table.localization.unique(), table.kind.unique()
    size = (width * len(names) + 1, 2.4 * len(kinds) + 1)
    shared = dict(sharex=True, sharey=True, squeeze=False)
    figure, axes = plt.subplots(len(kinds), len(names), figsize=size, **shared)
    for row, kind in zip(axes, kinds):
        for axis, name in zip(row, names):
            draw(axis, table[(table.localization == name) & (table.kind == kind)])
            axis.set(ylim=(-0.04, 1.04))
        row[0].set_ylabel(f"{what}{kind}", fontsize=9)
    for axis, name in zip(axes[0], names):
        axis.set_title(label(name), fontsize=9)
    axes[0][-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure, axes


def batches(table: pandas.DataFrame, title: str):
    """Share of new answers of every batch after each edit: one column per localization, the
    training prompt above and other answer words below.

    table: rows (localization, kind, batch, after, value, low, high); batch 0: retained facts, the
    share answered correctly.
    """
    number = int(table.batch.max())
    shades = seaborn.blend_palette([COLORBLIND[0], COLORBLIND[3]], number)

    def draw(axis, mine):
        for batch, rows in mine.sort_values("after").groupby("batch"):
            line, look = "-", dict(color=shades[batch - 1], marker="o", label=f"batch {batch}")
            if batch == 0:
                line, look = "--", dict(color="0.4", marker="s", label="retained facts")
            band(axis, rows.after, rows, line, 0.08, ms=3, **look)
        axis.set_xticks(range(number + 1))

    figure, _ = _grid(table, 3.8, "new answer (retained:\ntrue), ", draw)
    figure.supxlabel("after this many batches have been edited", fontsize=9)
    headline(figure, title)
    return figure
