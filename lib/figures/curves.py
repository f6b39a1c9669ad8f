"""One function per figure of the studies beside the main comparison."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas

from lib.figures.style import CHANCE, COLORBLIND, headline, label


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
    """(figure, axes): one column per localization, one row per kind of format, one line with
    interval per split against column `x`."""
    names, kinds = list(dict.fromkeys(table.localization)), list(dict.fromkeys(table.kind))
    size = (3.1 * len(names) + 0.8, 2.4 * len(kinds) + 0.9)
    figure, axes = plt.subplots(
        len(kinds), len(names), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    lines = {"retain_test": (COLORBLIND[2], "-.", "s"), "forget": (COLORBLIND[3], "-", "o")}
    for row, kind in enumerate(kinds):
        for axis, name in zip(axes[row], names):
            mine = table[(table.localization == name) & (table.kind == kind)]
            for split, (color, line, marker) in lines.items():
                rows = mine[mine.split == split].sort_values(x)
                axis.fill_between(rows[x], rows.low, rows.high, color=color, alpha=0.2, lw=0)
                axis.plot(
                    rows[x], rows.value, line, color=color, marker=marker, ms=3, label=words[split]
                )
            axis.set(ylim=(-0.04, 1.04))
            if row == 0:
                axis.set_title(label(name), fontsize=9)
        axes[row][0].set_ylabel(f"{what},\n{kind}", fontsize=9)
    axes[0][-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure, axes


def batches(table: pandas.DataFrame, title: str):
    """Share of new answers of every batch after each edit: one column per localization, the
    training prompt above and other answer words below.

    table: rows (localization, kind, batch, after, value, low, high); batch 0: retained facts, the
    share answered correctly.
    """
    names, kinds = list(dict.fromkeys(table.localization)), list(dict.fromkeys(table.kind))
    size = (3.8 * len(names) + 1, 2.4 * len(kinds) + 1)
    figure, axes = plt.subplots(
        len(kinds), len(names), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    number = int(table.batch.max())
    for row, kind in enumerate(kinds):
        for axis, name in zip(axes[row], names):
            mine = table[(table.localization == name) & (table.kind == kind)]
            for batch, rows in mine.groupby("batch"):
                shade = (batch - 1) / max(number - 1, 1)
                color = tuple((1 - shade) * a + shade * b for a, b in zip(*_ENDS))
                look = {"color": color, "marker": "o", "label": f"batch {batch}"}
                if batch == 0:
                    look = {"color": "0.4", "ls": "--", "marker": "s", "label": "retained facts"}
                rows = rows.sort_values("after")
                axis.fill_between(
                    rows.after, rows.low, rows.high, color=look["color"], alpha=0.08, lw=0
                )
                axis.plot(rows.after, rows.value, ms=3, **look)
            axis.set(ylim=(-0.04, 1.04), xticks=range(number + 1))
            if row == 0:
                axis.set_title(label(name), fontsize=9)
        axes[row][0].set_ylabel(f"new answer (retained:\ntrue), {kind}", fontsize=9)
    axes[0][-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.supxlabel("after this many batches have been edited", fontsize=9)
    headline(figure, title)
    return figure


_ENDS = COLORBLIND[0], COLORBLIND[3]  # first batch, last batch
