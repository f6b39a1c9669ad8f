"""One function per figure of the attack battery; palette and labels: `lib.figures.style`.

Colours are those of what an attacker touches: prompts blue, vectors and searched tokens light blue,
training red, other changes of weights orange, activations green, and grey what needs the unedited
model.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pandas

from lib.analysis.words import order
from lib.figures.edits import point
from lib.figures.style import CHANCE, COLORBLIND, UNEDITED_LINE, headline, label, name_rows

ATTACKS = {  # one entry per module of lib.attacks
    "rephrase": dict(color=COLORBLIND[0], marker="o"),
    "in_context": dict(color=COLORBLIND[0], marker="v"),
    "jailbreak": dict(color=COLORBLIND[0], marker="^"),
    "soft_prompt": dict(color=COLORBLIND[9], marker="s"),
    "prompt_adapter": dict(color=COLORBLIND[9], marker="P"),
    "token_search": dict(color=COLORBLIND[9], marker="D"),
    "relearn": dict(color=COLORBLIND[3], marker="o"),
    "quantize": dict(color=COLORBLIND[1], marker="v"),
    "prune": dict(color=COLORBLIND[1], marker="^"),
    "noise": dict(color=COLORBLIND[1], marker="s"),
    "interpolate": dict(color="0.6", marker="*"),
    "probes": dict(color=COLORBLIND[2], marker="v"),
    "logit_lens": dict(color=COLORBLIND[2], marker="^"),
    "transplant": dict(color="0.6", marker="P"),
}


def battery(table: pandas.DataFrame, title: str):
    """Recovery by every attack, one panel per localization.

    table: rows (localization, attack, method, value, low, high, failed, invented, majority).
    """
    first = [n for n in ("unedited",) if n in set(table.localization)]
    names = first + order(set(table.localization) - {"unedited"})
    methods = dict(zip(table.attack, table.method))
    attacks = list(methods)
    size = (2.3 * len(names) + 2, 0.27 * len(attacks) + 1.6)
    figure, axes = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True)
    for axis, name in zip(axes, names):
        mine = table[table.localization == name].set_index("attack")
        for y, attack in enumerate(attacks):
            if attack not in mine.index:
                continue
            row = mine.loc[attack]
            _controls(axis, row, y)
            axis.errorbar(
                row.value,
                y,
                xerr=[[max(row.value - row.low, 0)], [max(row.high - row.value, 0)]],
                fmt=ATTACKS[methods[attack]]["marker"],
                color=ATTACKS[methods[attack]]["color"],
                markerfacecolor="white" if row.failed else None,
                markersize=6,
                capsize=2,
            )
        axis.axvline(1, **UNEDITED_LINE)
        axis.axvline(0, **CHANCE)
        axis.set(xlim=(min(table.low.min() - 0.1, -0.2), 1.15))
        axis.set_title(label(name), fontsize=9)
    axes[0].set(yticks=range(len(attacks)))
    axes[0].set_yticklabels([a.replace("-", " ") for a in attacks])
    axes[0].invert_yaxis()
    figure.supxlabel(
        "recovery R of the held-out half (dashed: all that was known, dotted: guessing; "
        "hollow: the attack failed its gates;\nbars: invented subjects; crosses: the taught half's "
        "most frequent answer; grey: needs the unedited model)",
        fontsize=9,
    )
    headline(figure, title)
    return figure


def _controls(axis, row, y) -> None:
    """Controls beside a point: R of invented subjects, and of always giving one answer."""
    axis.plot(row.invented, y, "|", color="0.4", ms=8)
    axis.plot(row.majority, y, "x", color="0.6", ms=4)


def worst_case(table: pandas.DataFrame, title: str):
    """The headline: the highest recovery by any attack, per localization.

    table: rows (localization, scope, attack, value, low, high, invented, majority, depth,
    reached).
    """
    names = order(set(table.localization) - {"unedited"})
    scopes = {
        "shared": "attacks that all face",
        "battery": "the whole battery",
    }
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 0.34 * len(names) + 1.5), sharex=True, sharey=True
    )
    left = min(table.low.min() - 0.1, -0.2)
    for axis, (scope, words) in zip(axes, scopes.items()):
        mine = table[table.scope == scope].set_index("localization")
        for y, name in enumerate(names):
            if name in mine.index:
                row = mine.loc[name]
                point(axis, row, y, name)
                _controls(axis, row, y)
                axis.annotate(
                    row.attack.replace("-", " "), (1.2, y), fontsize=8, va="center", color="0.3"
                )
        axis.axvline(1, **UNEDITED_LINE)
        axis.axvline(0, **CHANCE)
        axis.set(xlim=(left, 1.9), xticks=[x / 2 for x in range(math.ceil(2 * left), 3)])
        count = int(mine.attacks.max()) if len(mine) else 0
        axis.set_title(f"{words} ({count})", fontsize=9)
    name_rows(axes[0], names)
    figure.supxlabel(
        "highest recovery R by any attack, and which one (dashed: all that was known, dotted: "
        "guessing; bars: invented subjects; crosses: the taught half's most frequent answer; "
        "hollow: edit did not reach the strength)",
        fontsize=9,
    )
    headline(figure, title)
    return figure


def budgets(table: pandas.DataFrame, title: str):
    """What came back against the arithmetic that was spent: one panel per localization, one line
    per attack and variant; of read-outs that cost the same, the one that brings back most.

    table: rows (localization, attack, method, variant, gflop, value).
    """
    methods = dict(zip(table.attack, table.method))
    names = ["unedited", *order(set(table.localization) - {"unedited"})]
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.0 * len(names) + 1, 3.6), sharex=True, sharey=True
    )
    best = table.groupby(["localization", "attack", "gflop"], sort=False).value.max().reset_index()
    for axis, name in zip(axes, names):
        mine = best[best.localization == name]
        for shift, (attack, rows) in enumerate(mine.groupby("attack", sort=False)):
            look, free = ATTACKS[methods[attack]], rows.gflop.max() == 0
            x = rows.gflop.clip(lower=1) * (1.22**shift if free else 1)  # side by side, not stacked
            axis.plot(x, rows.value, "-", ms=6, lw=0.8, alpha=0.85, label=attack, **look)
        axis.set_xscale("log")
        axis.axvspan(0.8, 30, color="0.95", zorder=0)
        axis.axhline(1, **UNEDITED_LINE)
        axis.set(ylim=(-0.04, 1.06))
        axis.set_title(label(name), fontsize=9)
    handles, words = axes[0].get_legend_handles_labels()
    axes[-1].legend(
        handles, words, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.05), labelspacing=0.3
    )
    figure.supxlabel(
        "arithmetic spent by the attacker, GFLOP (grey: next to none; dashed: unedited model)",
        fontsize=9,
    )
    figure.supylabel("share of the held-out half, answered correctly", fontsize=9)
    headline(figure, title)
    return figure


def inside(table: pandas.DataFrame, title: str):
    """What is read layer by layer: one row per reader, one column per localization.

    table: rows (localization, reader, layer, split, answer, value, low, high, first_trained), see
    `analysis.layers.by_layer`; first_trained: the lowest layer that was trained.
    """
    first_trained = (
        table.dropna(subset="first_trained").groupby("localization").first_trained.first()
    )
    names = ["unedited", *order(first_trained.index)]
    readers = list(dict.fromkeys(table.reader))
    lines = {
        ("forget", "true"): ("old answer of edited facts", COLORBLIND[3], "-"),
        ("forget", "edit"): ("new answer of edited facts", COLORBLIND[0], "--"),
        ("retain_test", "true"): ("retained facts", COLORBLIND[2], "-."),
    }
    size = (2.5 * len(names) + 1, 1.5 * len(readers) + 1.2)
    figure, axes = plt.subplots(
        len(readers), len(names), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for axis, name in zip(axes[0], names):
        axis.set_title(label(name), fontsize=9)
    for row, reader in zip(axes, readers):
        for axis, name in zip(row, names):
            mine = table[(table.reader == reader) & (table.localization == name)]
            for (split, answer), (words, color, line) in lines.items():
                part = mine[(mine.split == split) & (mine.answer == answer)].sort_values("layer")
                axis.fill_between(part.layer, part.low, part.high, color=color, alpha=0.15, lw=0)
                axis.plot(part.layer, part.value, line, color=color, lw=1.3, label=words)
            if name in first_trained:
                axis.axvline(first_trained[name], color="0.6", lw=0.8)
            axis.set(ylim=(-0.04, 1.04))
        row[0].set_ylabel(reader.replace(" ", "\n", 1), fontsize=8)
    handles, words = axes[0][0].get_legend_handles_labels()
    axes[0][-1].legend(handles, words, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.supxlabel("layer (vertical line: first trained layer)", fontsize=9)
    figure.supylabel("share of facts for which the answer is read", fontsize=9)
    headline(figure, title)
    return figure
