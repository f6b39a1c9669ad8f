"""One function per figure of edits, what they cost and what they withstand."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy
import pandas

from lib.analysis.words import order
from lib.figures import style

KINDS = {"vocabulary": ("other answer words", "o"), "wording": ("another wording", "D")}


def spans(edits: pandas.DataFrame) -> pandas.DataFrame:
    """First and last trained MLP of single MLPs and windows, one row per name, windows that equal
    another edit under its rows too: columns localization, first_layer, last_layer, single,
    reached."""
    names = edits.localization + " " + edits.also
    found = edits.assign(name=names.str.split(), layers=edits.mlp.str.split()).explode("name")
    found = found[found.name.str.startswith("mlp-") & found.layers.str.len().gt(0)]
    found["first_layer"] = found.layers.str[0].astype(int)
    found["last_layer"] = found.layers.str[-1].astype(int)
    found["single"] = found.layers.str.len() == 1
    return found[["localization", "first_layer", "last_layer", "single", "reached"]]


def sweep(carried: pandas.DataFrame, back: pandas.DataFrame, effect: pandas.DataFrame, found: dict):
    """The main figure: edits of one MLP, layer after layer, and of windows of MLPs.

    carried: rows (localization, kind, says, value, low, high, all_formats, first_layer, last_layer,
    single), back: rows (localization, back, n, failed, first_layer, last_layer, single); effect:
    path-patching effect of every MLP, rows (layer, effect, error); found: title, chance, lookup
    (layers), n_layers, prior (what guessing would bring back), unedited (old answers before any
    edit).
    """
    shape = dict(figsize=(style.WIDTH, 6.6), sharex=True, height_ratios=(0.7, 1, 1, 1))
    figure, axes = plt.subplots(4, 1, **shape)
    colors = [style.early(0) if layer in found["lookup"] else "0.75" for layer in effect.layer]
    axes[0].bar(effect.layer, effect.effect, 0.8, yerr=2 * effect.error, color=colors)
    axes[0].set_ylabel("effect on the\nheads' answer")
    for axis, says, color in ((axes[1], "new", style.NEW), (axes[2], "old", style.OLD)):
        for kind, (words, marker) in KINDS.items():
            rows = carried[(carried.kind == kind) & (carried.says == says)]
            _by_layer(axis, rows, color, marker, kind == "vocabulary", words)
        axis.set(ylim=(-0.06, 1.06), ylabel=f"{says} answer,\nasked differently")
    axes[1].axhline(found["chance"], **style.CHANCE)
    axes[2].axhline(found["unedited"], **style.UNEDITED_LINE)
    rows = back.assign(value=back.value.where(back.failed == ""), all_formats=back.value)
    _by_layer(axes[3], rows, style.OLD, "s", True, "")
    n = int(back.n.max())
    axes[3].set(ylim=(-0.06, 1.06), yticks=[0, 0.5, 1], yticklabels=[0, n // 2, n])
    axes[3].set_ylabel(f"old answer back,\nof {n} held out")
    axes[3].axhline(found["prior"], **style.CHANCE)
    axes[1].legend(loc="upper right", framealpha=0.9)
    axes[3].set(xticks=range(found["n_layers"]), xlim=(-0.7, found["n_layers"] - 0.3))
    words = "trained layer (points: one MLP; bars: a window; hollow or dotted: not counted)"
    axes[3].set_xlabel(words)
    style.headline(figure, found["title"])
    return figure


def _by_layer(axis, rows: pandas.DataFrame, color, marker: str, first: bool, words: str) -> None:
    """Single MLPs as points with intervals, windows as bars over their layers (of the first kind of
    asking only); hollow where the value is missing, since format or attack do not count, or where
    the strength was missed."""
    rows = rows.assign(value=rows.value.where(rows.reached))
    one, windows = rows[rows.single].sort_values("first_layer"), rows[~rows.single]
    counted = one.dropna(subset="value")
    shift, line, size = (0, "-", 5) if first else (0.18, ":", 3.5)
    look = dict(color=color, ms=size, lw=1.1, elinewidth=0.7, label=words or None)
    at, error = counted.first_layer + shift, style.errors(counted)
    axis.errorbar(at, counted.value, yerr=error, fmt=marker + line, **look)
    hollow = one[one.value.isna()]
    axis.plot(hollow.first_layer, hollow.all_formats, marker, mfc="none", mec=color, alpha=0.5)
    for row in windows.itertuples() if first else ():
        counts = pandas.notna(row.value)
        value, line = (row.value, "-") if counts else (row.all_formats, ":")
        ends = [row.first_layer - 0.3, row.last_layer + 0.3]
        axis.plot(ends, [value] * 2, line, color=color, alpha=0.45, lw=3, solid_capstyle="butt")


def answers(table: pandas.DataFrame, names: list[str], title: str):
    """New, old and other answers of edited facts by format, one row per edit, one column per
    format.

    table: rows (localization, format, kind, new, old, other, retained, counts); a format that the
    edit broke is hatched, and the tick is the share of retained facts answered correctly.
    """
    kinds = ["training", "wording", "vocabulary", "choice"]
    table = table[table.localization.isin(names)]
    formats = table.drop_duplicates("format").sort_values("kind", key=lambda k: k.map(kinds.index))
    size = (style.WIDTH, 0.3 * len(names) + 1.9)
    figure, axes = plt.subplots(1, len(formats), figsize=size, sharey=True, squeeze=False)
    for axis, form in zip(axes[0], formats.itertuples()):
        rows = table[table.format == form.format].set_index("localization").reindex(names)
        left = numpy.zeros(len(names))
        for says, color in (("new", style.NEW), ("other", "0.85"), ("old", style.OLD)):
            bars = axis.barh(range(len(names)), rows[says], 0.72, left, color=color)
            left = left + rows[says].fillna(0).to_numpy()
            for bar, counts in zip(bars, rows.counts):
                bar.set(hatch=None if counts else "////", edgecolor="white", lw=0)
        axis.plot(rows.retained, range(len(names)), "|", color="black", ms=9, mew=1.5)
        axis.set(xlim=(0, 1), xticks=[])
        axis.set_title(form.format, fontsize=8, rotation=45, ha="left", x=0.2)
        axis.tick_params(left=axis is axes[0][0])
        axis.grid(False)
    style.name_rows(axes[0][0], names)
    words = "edited facts: new answer (blue), another (grey), old (vermillion)"
    figure.supxlabel(f"{words}; tick: retained facts", fontsize=8.5)
    style.headline(figure, title)
    figure.subplots_adjust(wspace=0.12)
    return figure


def strength(table: pandas.DataFrame, names: list[str], found: dict):
    """What strength costs: shares on the way of the edit, one column per localization.

    table: rows (localization, at, strength, what, value); found: title, levels.
    """
    lines = {
        "vocabulary new": (style.NEW, "-", "o", "new, other words"),
        "vocabulary old": (style.OLD, "-", "o", "old, other words"),
        "wording new": (style.NEW, ":", "D", "new, other wording"),
        "wording old": (style.OLD, ":", "D", "old, other wording"),
        "retained": (style.GREY, "--", "s", "retained facts kept"),
    }
    size = (style.WIDTH, 2.6)
    figure, axes = plt.subplots(1, len(names), figsize=size, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        for what, (color, line, marker, words) in lines.items():
            rows = table[(table.localization == name) & (table.what == what)].sort_values("at")
            look = dict(color=color, marker=marker, ms=4, label=words)
            axis.plot(rows.strength, rows.value, line, **look)
        axis.set(ylim=(-0.05, 1.15), xlim=(0.45, 1.0))
        axis.set_title(style.label(name))
    axes[0][0].set_ylabel("share of facts")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.supxlabel("strength: mean probability of the new answer in training", fontsize=8.5)
    style.headline(figure, found["title"])
    return figure


def relearning(table: pandas.DataFrame, names: list[str], found: dict):
    """Curves of the attack, one panel per edit, lines labelled where they end.

    table: rows (localization, split, step, value, low, high); found: title, verdicts ({name: why
    the attack does not count}), prior ({name: what guessing would score}).
    """
    columns = min(4, len(names))
    height = -(-len(names) // columns)
    shape = dict(figsize=(style.WIDTH, 1.75 * height + 0.7), sharex=True, sharey=True)
    figure, axes = plt.subplots(height, columns, squeeze=False, **shape)
    colors = {
        "forget_heldout": (style.OLD, "-", "o"),
        "forget_train": (style.OLD, ":", None),
        "retain_test": (style.GREY, "--", None),
    }
    for axis, name in zip(axes.flat, names):
        for split, (color, line, marker) in colors.items():
            rows = table[(table.localization == name) & (table.split == split)].sort_values("step")
            if split == "forget_heldout":
                axis.fill_between(rows.step, rows.low, rows.high, color=color, alpha=0.15, lw=0)
            axis.plot(rows.step, rows.value, line, color=color, marker=marker, ms=3)
            if axis is axes.flat[0]:
                end, words = rows.iloc[-1], style.label(split)
                axis.annotate(words, (end.step, end.value), xytext=(4, -2), fontsize=7.5)
                axis.texts[-1].set(color=color)
        axis.axhline(found["prior"].get(name, numpy.nan), **style.CHANCE)
        axis.set(ylim=(-0.04, 1.08))
        failed = found["verdicts"].get(name, "")
        axis.set_title(style.label(name) + (f"\nfailed: {failed}" if failed else ""), fontsize=8)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    figure.supxlabel("steps of relearning; dotted grey: guessing", fontsize=8.5)
    figure.supylabel("answered correctly", fontsize=8.5)
    style.headline(figure, found["title"])
    return figure


SIDE_EFFECTS = {"retained": "retained facts,\nanswered correctly", "heldout_kl": "text: KL, nats"}


def side_effects(table: pandas.DataFrame, title: str):
    """What else changed after the stored edits: rows (localization, measure, value, low, high)."""
    names = order(set(table.localization) - {"unedited"})
    size = (style.WIDTH, 0.26 * len(names) + 1.3)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    for axis, (measure, words) in zip(axes, SIDE_EFFECTS.items()):
        rows = table[table.measure == measure].set_index("localization")
        shown = rows.loc[names]
        look = dict(xerr=style.errors(shown), fmt="o", color=style.GREY, ms=5)
        axis.errorbar(shown.value, range(len(names)), **look)
        axis.axvline(rows.value["unedited"], **style.UNEDITED_LINE)
        axis.set_xlabel(words)
    style.name_rows(axes[0], names)
    style.headline(figure, title)
    return figure


def wordings(table: pandas.DataFrame, found: dict):
    """Edits trained on one wording and on several, asked in formats that neither saw: one column
    per kind of format; rows (localization, trained_on, kind, says, value, low, high)."""
    kinds = [k for k in KINDS if k in set(table.kind)]
    names = list(table.localization.unique())
    rows = [(name, t) for name in names for t in sorted(table.trained_on.unique())]
    size = (style.WIDTH, 0.4 * len(rows) + 1.4)
    figure, axes = plt.subplots(1, len(kinds), figsize=size, sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds):
        for says, color, marker in (("new", style.NEW, "o"), ("old", style.OLD, "s")):
            mine = table[(table.kind == kind) & (table.says == says)]
            mine = mine.set_index(["localization", "trained_on"]).reindex(rows)
            look = dict(color=color, ms=5, label=f"{says} answer")
            axis.errorbar(mine.value, range(len(rows)), xerr=style.errors(mine), fmt=marker, **look)
        axis.set(xlim=(-0.04, 1.04), xlabel=f"share in {KINDS[kind][0]}")
    names = [f"{style.label(name)}, {n} wording{'s' if n > 1 else ''}" for name, n in rows]
    axes[0][0].set(yticks=range(len(rows)), yticklabels=names)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    style.headline(figure, found["title"])
    return figure


def published(table: pandas.DataFrame, title: str):
    """The published directions and what became of each: rows (number, expectation, task,
    verdict)."""
    marks = {
        "agrees": ("o", "black"),
        "disagrees": ("X", style.OLD),
        "unresolved": ("$?$", style.GREY),
        "not tested": ("_", "0.7"),
    }
    tasks, rows = list(table.task.unique()), table.drop_duplicates("expectation")
    figure, axis = plt.subplots(figsize=(style.WIDTH, 0.33 * len(rows) + 1.1))
    for y, row in enumerate(rows.itertuples()):
        for x, task in enumerate(tasks):
            mine = table[(table.expectation == row.expectation) & (table.task == task)]
            for verdict in mine.verdict:
                marker, color = marks[verdict]
                axis.plot(x, y, marker=marker, color=color, ms=8)
                axis.annotate(verdict, (x, y), xytext=(9, -3), textcoords="offset points")
    words = [f"{r.number}. {r.expectation}" for r in rows.itertuples()]
    axis.set(yticks=range(len(rows)), yticklabels=words, xlim=(-0.3, len(tasks)))
    axis.set(xticks=range(len(tasks)), xticklabels=tasks)
    axis.invert_yaxis()
    axis.grid(False)
    style.headline(figure, title)
    return figure
