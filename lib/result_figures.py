"""One function per figure of edits, attacks and comparisons; palette and labels are `lib.figures`'.

Apart from those of the localization stages so that a changed figure of results does not run them
again.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas

from lib.figures import CHANCE, COLORBLIND, UNEDITED, headline, label, name_rows, order, style


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
        axis.axvline(rows.loc["unedited", "value"], **UNEDITED)
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
    headline(figure, title)
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
    headline(figure, title)
    return figure


SIDE_EFFECTS = {
    "retained": "retained facts\nanswered truly",
    "neighbours": "neighbours of edited\nfacts answered truly",
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
        axis.axvline(references[measure], **UNEDITED)
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
                width, shade = (2, 1.0) if chosen else (0.7, 0.35)
                axis.plot(
                    rows.strength, rows[column], "-", color=look["color"], lw=width, alpha=shade
                )
                end = rows.iloc[-1]
                axis.plot(
                    end.strength,
                    end[column],
                    look["marker"],
                    color=look["color"],
                    alpha=shade,
                    ms=7 if chosen else 4,
                    label=label(name) if chosen else None,
                )
        axis.axhline(1.0 if column == "retained" else 0.0, **UNEDITED)
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


def removals(table: pandas.DataFrame, chance: float, title: str):
    """Forgetting against the number of removed weights: one column per order of removal, the
    training prompt above and other answer words below.

    table: rows (localization, count, kind, split, value, low, high), splits forget and
    retain_test.
    """
    words = {"retain_test": "retained facts", "forget": "facts to forget"}
    figure, axes = _against(table, "count", words, "answered truly")
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
    share answered truly.
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


def beside(table: pandas.DataFrame, title: str):
    """Transfer of every localization, published and ours, one panel per task.

    table: rows (task, source, localization, value, low, high).
    """
    names = order(table.localization.unique())
    tasks = list(dict.fromkeys(table.task))
    size = (4.6 * len(tasks) + 2, 0.3 * len(names) + 1.5)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, sharey=True, squeeze=False)
    for axis, task in zip(axes.flat, tasks):
        mine = table[table.task == task]
        for source, shift, look in (
            ("published", -0.15, dict(color="0.5", marker="x", linestyle="none")),
            ("ours", 0.15, dict(color=COLORBLIND[0], marker="o", linestyle="none")),
        ):
            rows = mine[mine.source == source].set_index("localization")
            y = [names.index(n) + shift for n in rows.index]
            error = [rows.value - rows.low, rows.high - rows.value]
            axis.errorbar(rows.value, y, xerr=error, ms=5, capsize=2, label=source, **look)
        axis.set(xlim=(-0.04, 1.04))
        axis.set_title(task, fontsize=9)
    name_rows(axes.flat[0], names)
    axes.flat[-1].legend(fontsize=8, loc="lower right", frameon=True)
    figure.supxlabel(
        "transfer (published: multiple choice, mean of three models; ours: another answer "
        "vocabulary); only orders can be compared",
        fontsize=9,
    )
    headline(figure, title)
    return figure
