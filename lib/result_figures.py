"""One function per figure of edits, attacks and comparisons; palette and labels are `lib.figures`'.

Apart from those of the localization stages so that a changed figure of results does not run them
again.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas

from lib.figures import CHANCE, COLORBLIND, UNEDITED, label, order, style


def transfer(table: pandas.DataFrame, answerable: dict[str, bool], chance: float, title: str):
    """Share of edited facts that give the new answer, by format and localization.

    table: rows (localization, format, value, low, high, reached, depth), localization "unedited"
    included.
    """
    formats = list(answerable)
    names = order(set(table.localization) - {"unedited"})
    figure, axes = plt.subplots(
        1, len(formats), figsize=(1.75 * len(formats) + 1.5, 0.3 * len(names) + 1.6), sharey=True
    )
    for axis, form in zip(axes, formats):
        rows = table[table.format == form].set_index("localization")
        for y, name in enumerate(names):
            _point(axis, rows.loc[name], y, name, faded=not answerable[form])
        axis.axvline(rows.loc["unedited", "value"], **UNEDITED)
        axis.axvline(chance, **CHANCE)
        heading = form.replace("-", "\n", 1)
        axis.set_title(heading if answerable[form] else f"{heading}\n(not answerable)", fontsize=9)
        axis.set(xlim=(-0.04, 1.04), xticks=[0, 0.5, 1])
    axes[0].set(yticks=range(len(names)))
    axes[0].set_yticklabels([label(n) for n in names])
    axes[0].invert_yaxis()
    figure.supxlabel(
        "share of edited facts that give the new answer (dashed: unedited model, dotted: chance; "
        "hollow: edit did not reach the strength)",
        fontsize=9,
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure


def _point(axis, row, y, name, faded: bool = False):
    look = style(name, row.depth)
    axis.errorbar(
        row.value,
        y,
        xerr=[[row.value - row.low], [row.high - row.value]],
        fmt=look["marker"],
        color="0.8" if faded else look["color"],
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
        axis.axhline(1, **UNEDITED)
        axis.axhline(chance, **CHANCE)
        axis.set(ylim=(-0.04, 1.06))
        axis.set_title(f"{label(name)}\n{verdicts[name]}", fontsize=9)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    handles, words = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="lower right", ncol=2, frameon=True)
    figure.supxlabel("steps of relearning (dashed: unedited model, dotted: chance)", fontsize=9)
    figure.supylabel("share of facts answered truly", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", wrap=True)
    figure.tight_layout()
    return figure


def position(table: pandas.DataFrame, references: dict[str, tuple[float, float]], title: str):
    """The signature figure: effect against where in the network the trained layers lie.

    table: rows (localization, measure, depth, value, low, high, reached, seed_low, seed_high),
    measures "transfer" and "recovery"; references: {measure: (unedited model, chance)}. Thin bars:
    interval over facts; wide pale bars, where there are several seeds: over seeds.
    """
    words = {
        "transfer": "transfer: new answer in\nanother answer vocabulary",
        "recovery": "recovery of the other half\nby relearning (R)",
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
        unedited, chance = references[measure]
        axis.axhline(unedited, **UNEDITED)
        axis.axhline(chance, **CHANCE)
        axis.set_ylabel(words[measure])
        axis.set_ylim(min(-0.12, rows.low.min() - 0.05), 1.12)
    axes[1].legend(title="circles: windows", fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.supxlabel(
        "mean depth of the trained MLP layers, 0 first to 1 last "
        "(dashed: unedited model, dotted: chance; hollow: below the edit strength)",
        fontsize=9,
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    return figure


SIDE_EFFECTS = {
    "retained": "retained facts\nanswered truly",
    "heldout_loss": "held-out text:\nadded loss (nats)",
    "heldout_kl": "held-out text:\nKL from unedited (nats)",
    "second_loss": "second text:\nadded loss (nats)",
}


def side_effects(table: pandas.DataFrame, references: dict[str, float], chance: float, title: str):
    """What else changed: rows (localization, measure, value, low, high, reached, depth)."""
    names = order(table.localization.unique())
    figure, axes = plt.subplots(1, 4, figsize=(12, 0.3 * len(names) + 1.4), sharey=True)
    for axis, (measure, words) in zip(axes, SIDE_EFFECTS.items()):
        rows = table[table.measure == measure].set_index("localization")
        for y, name in enumerate(names):
            _point(axis, rows.loc[name], y, name)
        axis.axvline(references[measure], **UNEDITED)
        if measure == "retained":
            axis.axvline(chance, **CHANCE)
        axis.set_title(words, fontsize=9)
    axes[0].set(yticks=range(len(names)))
    axes[0].set_yticklabels([label(n) for n in names])
    axes[0].invert_yaxis()
    figure.supxlabel(
        "dashed: unedited model; dotted: chance; hollow: edit did not reach the strength",
        fontsize=9,
    )
    figure.suptitle(title, x=0.01, ha="left", wrap=True)
    figure.tight_layout()
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
                _point(axis, rows.loc[name], y, name)
        axis.axvline(0, **CHANCE)
        axis.set(xlim=(-1.05, 1.05))
        axis.set_title(heading, fontsize=9)
    axes.flat[0].set(yticks=range(len(names)), yticklabels=[label(n) for n in names])
    axes.flat[0].invert_yaxis()
    figure.supxlabel(
        "fact lookup minus the other set, paired over facts (filled: a difference after Holm's "
        "correction; no point: edit or attack does not count)",
        fontsize=9,
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, wrap=True)
    figure.tight_layout()
    return figure
