"""One function per figure of edits and what they withstand."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas

from lib.analysis.words import order
from lib.figures.style import CHANCE, COLORBLIND, UNEDITED_LINE, headline, label, name_rows, style


def transfer(table: pandas.DataFrame, answerable: dict[str, bool], chance: float, title: str):
    """Share of edited facts that give the new answer, by format and localization.

    table: rows (localization, format, value, low, high, reached, depth), localization "unedited"
    included.
    """
    formats = [name for name, ok in answerable.items() if ok]
    refused = [name for name, ok in answerable.items() if not ok]
    names = order(set(table.localization) - {"unedited"})
    columns = len(formats) if len(formats) <= 8 else -(-len(formats) // 2)
    lines = -(-len(formats) // columns)
    size = (1.75 * columns + 1.5, (0.3 * len(names) + 1.0) * lines + 0.9)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for axis, form in zip(axes, formats):
        rows = table[table.format == form].set_index("localization")
        for y, name in enumerate(names):
            point(axis, rows.loc[name], y, name)
        axis.axvline(rows.loc["unedited", "value"], **UNEDITED_LINE)
        axis.axvline(chance, **CHANCE)
        axis.set_title(form.replace("-", "\n", 1), fontsize=9)
        axis.set(xlim=(-0.04, 1.04), xticks=[0, 0.5, 1])
    for axis in axes[len(formats) :]:
        axis.axis("off")
    name_rows(axes[0], names)
    for line in grid[1:]:
        line[0].set_yticklabels([label(n) for n in names])
    left_out = f"; not answerable: {', '.join(refused)}" if refused else ""
    figure.supxlabel(
        "share of edited facts that give the new answer (dashed: unedited model, dotted: chance; "
        f"hollow: edit did not reach the strength{left_out})",
        fontsize=9,
    )
    headline(figure, title)
    return figure


def point(axis, row, y, name):
    """A localization's value with its interval at height y; hollow below the edit strength."""
    look = style(name, row.depth)
    axis.errorbar(
        row.value,
        y,
        xerr=[[row.value - row.low], [row.high - row.value]],
        fmt=look["marker"],
        color=look["color"],
        markerfacecolor=None if row.reached else "white",
        markersize=6,
        capsize=2,
    )


def relearning(table: pandas.DataFrame, verdicts: dict[str, str], chance: float, title: str):
    """Curves of the attack, one panel per localization.

    table: rows (localization, split, step, value, low, high); verdicts: {localization: words
    under its name}.
    """
    names = order(table.localization.unique())
    columns = 5
    height = -(-len(names) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(2.5 * columns, 2.1 * height + 0.6), sharex=True, sharey=True
    )
    colors = {
        "forget_heldout": (COLORBLIND[3], "-", "o"),
        "forget_train": (COLORBLIND[1], "--", "v"),
        "retain_test": (COLORBLIND[2], "-.", "s"),
        "never_known": ("0.5", ":", "x"),
    }
    for axis, name in zip(axes.flat, names):
        for split, (color, line, marker) in colors.items():
            rows = table[(table.localization == name) & (table.split == split)].sort_values("step")
            axis.fill_between(rows.step, rows.low, rows.high, color=color, alpha=0.15, lw=0)
            axis.plot(
                rows.step, rows.value, line, color=color, marker=marker, ms=3, label=label(split)
            )
        axis.axhline(1, **UNEDITED_LINE)
        axis.axhline(chance, **CHANCE)
        axis.set(ylim=(-0.04, 1.06))
        axis.set_title(f"{label(name)}\n{verdicts[name]}", fontsize=9)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    handles, words = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="lower right", ncol=2, frameon=True)
    figure.supxlabel("steps of relearning (dashed: unedited model, dotted: chance)", fontsize=9)
    figure.supylabel("share of facts answered correctly", fontsize=9)
    headline(figure, title)
    return figure


def position(table: pandas.DataFrame, references: dict[str, tuple[float, float]], title: str):
    """The main figure: effect against where in the network the trained layers lie.

    table: rows (localization, measure, depth, value, low, high, reached, seed_low, seed_high),
    measures "transfer" and "recovery"; references: {measure: (unedited model, chance)}. Thin bars:
    interval over facts; wide pale bars, where there are several seeds: over seeds.
    """
    words = {
        "transfer": "transfer: new answer in\nanother answer vocabulary",
        "recovery": "recovery of the held-out half\nby relearning (R)",
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharex=True)
    for axis, measure in zip(axes, words):
        rows = table[table.measure == measure]
        windows = rows[rows.localization.str.startswith("mlp-window")].sort_values("depth")
        axis.plot(windows.depth, windows.value, "-", color="0.75", zorder=0)
        for row in rows.itertuples():
            look = style(row.localization, row.depth)
            single = not row.localization.startswith("mlp-window")
            if row.seed_low == row.seed_low:  # several seeds
                over = [row.seed_low, row.seed_high]
                axis.plot([row.depth] * 2, over, color=look["color"], alpha=0.3, lw=7)
            axis.errorbar(
                row.depth,
                row.value,
                yerr=[[max(row.value - row.low, 0)], [max(row.high - row.value, 0)]],
                fmt=look["marker"],
                color=look["color"],
                markerfacecolor=None if row.reached else "white",
                markersize=9 if single else 7,
                capsize=2,
                label=label(row.localization) if single else None,
            )
        for level, look in zip(references[measure], (UNEDITED_LINE, CHANCE)):
            axis.axhline(level, **look)
        axis.set_ylabel(words[measure])
        axis.set_ylim(min(-0.12, rows.low.min() - 0.05), 1.12)
    axes[1].legend(title="circles: windows", fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.supxlabel(
        "mean depth of the trained MLP layers, 0 first to 1 last "
        "(dashed: unedited model, dotted: chance; hollow: below the edit strength)",
        fontsize=9,
    )
    headline(figure, title)
    return figure


SIDE_EFFECTS = {
    "retained": "retained facts\nanswered correctly",
    "neighbours": "neighbours of edited\nfacts answered correctly",
    "heldout_loss": "held-out text:\nadded loss (nats)",
    "heldout_kl": "held-out text:\nKL from unedited (nats)",
    "second_loss": "second text:\nadded loss (nats)",
}


def side_effects(table: pandas.DataFrame, references: dict[str, float], chance: float, title: str):
    """What else changed: rows (localization, measure, value, low, high, reached, depth)."""
    names = order(table.localization.unique())
    panels = {m: words for m, words in SIDE_EFFECTS.items() if m in set(table.measure)}
    size = (2.8 * len(panels) + 1, 0.3 * len(names) + 1.4)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True)
    for axis, (measure, words) in zip(axes, panels.items()):
        rows = table[table.measure == measure].set_index("localization")
        for y, name in enumerate(names):
            point(axis, rows.loc[name], y, name)
        axis.axvline(references[measure], **UNEDITED_LINE)
        if measure in ("retained", "neighbours"):
            axis.axvline(chance, **CHANCE)
        axis.set_title(words, fontsize=9)
    name_rows(axes[0], names)
    figure.supxlabel(
        "dashed: unedited model; dotted: chance; hollow: edit did not reach the strength",
        fontsize=9,
    )
    headline(figure, title)
    return figure


def pairwise(table: pandas.DataFrame, words: dict[str, str], level: float, title: str):
    """Fact lookup minus every other localization, one panel per measure.

    table: rows (measure, localization, value, low, high, p_corrected, reached, depth); words:
    {measure: what is compared}; filled where the corrected test finds a difference at `level`.
    """
    names = order(table.localization.unique())
    size = (4.2 * len(words) + 2, 0.32 * max(len(names), 3) + 1.5)
    figure, axes = plt.subplots(1, len(words), figsize=size, sharey=True, squeeze=False)
    for axis, (measure, heading) in zip(axes.flat, words.items()):
        rows = table[table.measure == measure].set_index("localization")
        rows = rows.assign(reached=rows.p_corrected < 1 - level)
        for y, name in enumerate(names):
            if name in rows.index:
                point(axis, rows.loc[name], y, name)
        axis.axvline(0, **CHANCE)
        axis.set(xlim=(-1.05, 1.05))
        axis.set_title(heading, fontsize=9)
    name_rows(axes.flat[0], names)
    figure.supxlabel(
        "fact lookup minus the other set, paired over facts (filled: a difference after Holm's "
        "correction; no point: edit or attack does not count)",
        fontsize=9,
    )
    headline(figure, title)
    return figure


def _way(axis, rows: pandas.DataFrame, column: str, look: dict, words: str | None) -> None:
    """From the unedited model to the strength, under one pair of settings; words: of the chosen
    pair."""
    width, size, shade = (2, 7, 1.0) if words else (0.7, 4, 0.35)
    line = dict(color=look["color"], alpha=shade)
    axis.plot(rows.strength, rows[column], "-", lw=width, **line)
    end = rows.iloc[-1]
    axis.plot(end.strength, end[column], look["marker"], ms=size, label=words, **line)


def frontier(table: pandas.DataFrame, strength: float, title: str):
    """What reaching a strength costs, on validation facts: one line per localization and pair of
    settings, the chosen pair bold.

    table: rows (localization, seed, lr, weight_edit, step, strength, retained, text, chosen,
    depth); strength: where edits stop.
    """
    panels = {
        "retained": "probability of retained answers,\nshare of the unedited model's",
        "text": "loss on text not trained on,\nadded nats per token",
    }
    names = order(table.localization.unique())
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharex=True)
    for axis, (column, words) in zip(axes, panels.items()):
        for name in names:
            mine = table[table.localization == name]
            look = style(name, mine.depth.iloc[0])
            for (*_, chosen), rows in mine.groupby(["seed", "lr", "weight_edit", "chosen"]):
                _way(axis, rows, column, look, label(name) if chosen else None)
        axis.axhline(1.0 if column == "retained" else 0.0, **UNEDITED_LINE)
        axis.axvline(strength, color="0.7", lw=0.8)
        axis.set_ylabel(words, fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    axes[1].legend(
        unique.values(), unique.keys(), fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1)
    )
    figure.supxlabel(
        "strength of the edit on validation facts (bold: the chosen settings; thin: other pairs of "
        "the grid; dashed: unedited model; vertical: where edits stop)",
        fontsize=9,
    )
    headline(figure, title)
    return figure
