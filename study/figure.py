"""The figures: differences over folds beside what each account predicts, and planted facts."""

from __future__ import annotations

import numpy
import pandas
from matplotlib import pyplot

from lib.figures import plants, style
from study import decide, design
from study.accounts import ACCOUNTS

QUESTIONS = ("cliff", "above", "below")
NAMES = {"cliff": "window behind the lookup", "above": "MLP above instead"}
NAMES |= {"below": "MLP below instead"}
MARKS = dict(zip(ACCOUNTS, "ovsD"))
PLACES = ("below", "at", "above")


def draw(tables: dict[str, pandas.DataFrame], title: str):
    """A column per task with triples; above, the differences of the three questions, fold by fold;
    below, every triple of sets that differ in one MLP. tables: {task: what `tables.load` gives}."""
    tables = {t: table for t, table in tables.items() if design.PAIRS in design.experiments(t)}
    size = style.WIDTH, 5.2
    figure, axes = pyplot.subplots(
        2, len(tables), figsize=size, squeeze=False, sharex="row", sharey="row"
    )
    for column, (task, table) in zip(axes.T, tables.items()):
        column[0].set_title(task.replace("-", " "))
        _differences(column[0], task, table)
        _triples(column[1], task, table)
    axes[0, 0].set(yticks=range(3), yticklabels=[NAMES[q] for q in QUESTIONS], ylim=(2.6, -0.6))
    axes[1, 0].set(ylabel="old answers back", ylim=(0, 1))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    style.headline(figure, title)
    figure.subplots_adjust(bottom=0.16)
    figure.legend(handles, labels, loc="lower center", ncol=5, frameon=False)
    return figure


def planted(table: pandas.DataFrame, title: str):
    """Left: old answers that come back, by where facts were planted and edited in windows; right:
    the same cells, and those of single MLPs, against the share of the plant that the edited set
    holds, filled where it begins at or before all of it.

    table: what `study.planted.mapped` gives.
    """
    windows = design.params()[design.PLANTED]["windows"]
    rows = [name for name in (design.NOWHERE, *windows) if name in set(table.planted)]
    wide = table.pivot(index="planted", columns="edited", values=decide.PRIMARY)
    wide = wide.reindex(index=rows, columns=[n for n in windows if n in wide])
    figure, axes = pyplot.subplots(1, 2, figsize=(style.WIDTH, 3.6), width_ratios=(1.3, 1))
    plants.heat(axes[0], wide, "old answers back after relearning")
    names = {design.NOWHERE: "nowhere"} | {n: _span(n) for n in windows}
    axes[0].set_xticklabels([names[n] for n in wide.columns], rotation=0)
    axes[0].set_yticklabels([names[n] for n in wide.index], rotation=0)
    axes[0].set(xlabel="edited in MLPs", ylabel="planted in MLPs")
    known = table.dropna(subset="holds")
    for reached, face, words in ((True, style.OLD, "at or before"), (False, "white", "behind")):
        mine = known[(known.upstream > 0.99) == reached]
        look = dict(marker="o", ls="none", color=style.OLD, mfc=face, ms=5)
        axes[1].plot(mine.holds, mine[decide.PRIMARY], label=f"begins {words} it", **look)
    zero = table[table.planted == design.NOWHERE][decide.PRIMARY].mean()
    axes[1].axhline(zero, **style.CHANCE, label="never planted")
    axes[1].set(xlabel="share of the plant that is edited", ylim=(-0.03, 1.03))
    axes[1].set(ylabel="old answers back", xlim=(-0.06, 1.06))
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.32), frameon=False)
    style.headline(figure, title)
    return figure


def _span(name: str) -> str:
    layers = design.layers_of(name)
    return f"{layers[0]}-{layers[-1]}"


def _differences(axis, task: str, table: pandas.DataFrame) -> None:
    margin = design.params()["margin"]
    axis.axvspan(-margin, margin, color="0.93", zorder=0)
    axis.axvline(0, color="0.6", linewidth=0.8)
    for row, question in enumerate(QUESTIONS):
        for account, mark in MARKS.items():
            x = decide.expected(question, task, account)
            label = f"{account} predicts" if not row else None
            axis.plot(x, row - 0.25, mark, ms=5, mfc="none", color=style.GREY, label=label)
        found = numpy.array([*decide.differences(question, task, table).values()])
        axis.plot(found, [row + 0.2] * len(found), "|", ms=9, color=style.OLD)
        if len(found) > 1:
            low, high = decide.interval(found, 0.05)
            axis.plot([low, high], [row, row], color=style.OLD, linewidth=1.5)
        label = "seen: mean, each fold" if not row else None
        axis.plot(found.mean() if len(found) else numpy.nan, row, "o", color=style.OLD, label=label)
    axis.set(xlabel="difference in old answers back")


def _triples(axis, task: str, table: pandas.DataFrame) -> None:
    shown = []
    for number in design.folds(task):
        mine = table[(table.fold == number) & table.reached].drop_duplicates("cell")
        back = mine.set_index("cell")[decide.PRIMARY]
        shown += [
            [back.get(three[p], numpy.nan) for p in PLACES] for three in design.paired(task, number)
        ]
    for line in shown:
        axis.plot(line, marker=".", color=style.GREY, linewidth=0.8, alpha=0.6)
    means = pandas.DataFrame(shown, columns=PLACES).mean()
    axis.plot(means.to_numpy(), "o-", color=style.OLD, linewidth=2)
    at = design.lookup(task)
    names = [f"MLP {at - 1}", f"MLP {at}\n(lookup)", f"MLP {at + 1}"]
    axis.set(xticks=range(3), xticklabels=names, xlabel="beside the same three later MLPs")
