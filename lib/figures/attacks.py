"""Figures of the attack battery; words and colours: `lib.figures.style`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas

from lib.analysis.words import order
from lib.figures import style

USES = {  # what an attacker may do; one entry per module of lib/attacks
    "another prompt": ("rephrase", "in_context", "jailbreak"),
    "gradients for a prompt": ("soft_prompt", "prompt_adapter", "token_search"),
    "training": ("relearn",),
    "other changes of weights": ("quantize", "prune", "noise"),
    "activations": ("probes", "logit_lens"),
    "needs the unedited model": ("interpolate", "transplant"),
}


def battery(table: pandas.DataFrame, n: int, title: str):
    """What every attack brings back where its attacker stops: one column per edit, attacks grouped
    by what the attacker may do.

    table: rows (localization, attack, method, value, low, high, failed, admitted, floor), recovery
    R; n: held-out facts. Filled: counts; hollow: failed a gate or was not shown to work.
    """
    group = {method: words for words, methods in USES.items() for method in methods}
    rank = [m for methods in USES.values() for m in methods]
    attacks = sorted(dict(zip(table.attack, table.method)).items(), key=lambda a: rank.index(a[1]))
    names = ["known-mask", *order(set(table.localization) - {"unedited", "known-mask"})]
    size = (style.WIDTH, 0.25 * len(attacks) + 1.5)
    figure, axes = plt.subplots(1, len(names), figsize=size, sharex=True, sharey=True)
    for axis, name in zip(axes, names):
        mine = table[table.localization == name].set_index("attack")
        mine = mine.reindex([attack for attack, _ in attacks])
        ok = mine.admitted.fillna(False).astype(bool) & (mine.failed.fillna("x") == "")
        for counts, face in ((ok, style.OLD), (~ok, "white")):
            rows, at = mine[counts], [i for i, c in enumerate(counts) if c]
            look = dict(fmt="o", color=style.OLD if counts is ok else "0.6", mfc=face, ms=5)
            axis.errorbar(rows.value, at, xerr=style.errors(rows), **look)
        axis.axvline(1, **style.UNEDITED_LINE)
        axis.axvline(0, **style.CHANCE)
        axis.set(xlim=(max(table.low.min() - 0.1, -1.2), 1.15), title=style.label(name))
    words = [a.replace("-", " ") for a, _ in attacks]
    axes[0].set(yticks=range(len(attacks)), yticklabels=words)
    for y, (_, method) in enumerate(attacks):
        if not y or group[method] != group[attacks[y - 1][1]]:
            beside = dict(xycoords=("axes fraction", "data"), fontsize=7.5)
            axes[-1].annotate(group[method], (1.02, y), **beside)
            for axis in axes:
                axis.axhline(y - 0.5, color="0.8", lw=0.6)
    axes[0].invert_yaxis()
    words = "recovery R of the held-out half: 0 guessing, 1 all that was known"
    figure.supxlabel(words, fontsize=8.5)
    style.headline(figure, title)
    return figure


LINES = {
    ("forget", "true"): ("old answer", style.OLD, "-"),
    ("forget", "edit"): ("new answer", style.NEW, "--"),
    ("retain_test", "true"): ("retained facts", style.GREY, ":"),
}


def inside(table: pandas.DataFrame, title: str, readers: tuple[str, ...] = ()):
    """What is read layer by layer: one row per reader, one column per edit.

    table: rows (localization, reader, layer, split, answer, value, low, high, first_trained), see
    `analysis.layers.by_layer`; first_trained: the lowest layer that was trained, below which
    nothing can have changed (shaded); readers: which, all by default.
    """
    first = table.dropna(subset="first_trained").groupby("localization").first_trained.first()
    names = ["unedited", *order(first.index)]
    readers = readers or tuple(dict.fromkeys(table.reader))
    size = (style.WIDTH, 1.35 * len(readers) + 1.2)
    grid = dict(figsize=size, sharex=True, sharey=True, squeeze=False)
    figure, axes = plt.subplots(len(readers), len(names), **grid)
    for row, reader in zip(axes, readers):
        for axis, name in zip(row, names):
            mine = table[(table.reader == reader) & (table.localization == name)]
            for (split, answer), (words, color, line) in LINES.items():
                part = mine[(mine.split == split) & (mine.answer == answer)].sort_values("layer")
                style.band(axis, part.layer, part, line, 0.15, color=color, lw=1.3, label=words)
            if name in first:
                axis.axvspan(-1, first[name], color="0.93", lw=0, zorder=0)
            axis.set(ylim=(-0.04, 1.04), xlim=(-1, table.layer.max()))
        row[0].set_ylabel(reader, fontsize=8)
    for axis, name in zip(axes[0], names):
        axis.set_title(style.label(name))
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    words = "layer (shaded: up to the first trained one, nothing has changed)"
    figure.supxlabel(words, fontsize=8.5)
    style.headline(figure, title)
    return figure
