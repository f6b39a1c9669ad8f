"""Palette, and one function per figure of the localization stages; the only place that knows
colours, markers and display labels (figures of edits and attacks: `lib.result_figures`).

Mechanistic sets are saturated blue, controls grey, windows run from green (early) to orange
(late); shape and order are the same in all figures, so each stays readable in greyscale. Every
figure takes a table the pipeline wrote and a title computed from it; intervals, chance and the
unedited model are always drawn.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import pandas
import seaborn

from lib.components import Localization

seaborn.set_theme(style="whitegrid", context="notebook", font_scale=0.85)
COLORBLIND = seaborn.color_palette("colorblind")
UNEDITED = dict(color="black", linestyle="--", linewidth=1)
CHANCE = dict(color="0.5", linestyle=":", linewidth=1.2)

LABELS = {
    "fact-lookup": "fact lookup",
    "fact-lookup-swapped": "fact lookup, swapped",
    "depth-matched-mlps": "depth-matched",
    "random-mlps": "random MLPs",
    "random": "random matrices",
    "causal-tracing-mlps": "causal tracing, MLPs",
    "causal-tracing": "causal tracing",
    "attribution-patching-mlps": "attribution patching, MLPs",
    "attribution-patching": "attribution patching",
    "all-mlps": "all MLPs",
    "nonlocalized": "nonlocalized",
    "unedited": "unedited model",
    "forget_train": "taught half",
    "forget_heldout": "other half",
    "retain_test": "retained facts",
    "never_known": "invented subjects",
}


def label(name: str) -> str:
    """Display label of a localization, split or format."""
    for key in sorted(LABELS, key=len, reverse=True):
        if name.startswith(key):
            return LABELS[key] + name[len(key) :].replace("-", " ")
    return name.replace("mlp-window-", "window from ").replace("-", " ")


def style(name: str, depth: float = 0.5) -> dict:
    """Colour and marker of a localization; depth (0 first layer, 1 last) colours the windows."""
    if name == "fact-lookup":
        return dict(color=COLORBLIND[0], marker="D")
    if name == "fact-lookup-swapped":
        return dict(color=COLORBLIND[9], marker="d")
    if name.startswith("depth-matched-mlps"):
        return dict(color="0.35", marker="s")
    if name.startswith("random"):
        return dict(color="0.55", marker="P" if name.startswith("random-mlps") else "X")
    if name.startswith("causal-tracing"):
        return dict(color=COLORBLIND[6], marker="<" if name.endswith("mlps") else ">")
    if name.startswith("attribution-patching"):
        return dict(color=COLORBLIND[8], marker="<" if name.endswith("mlps") else ">")
    if name.startswith("mlp-window"):
        early, late = numpy.array(COLORBLIND[2]), numpy.array(COLORBLIND[3])
        return dict(color=tuple((1 - depth) * early + depth * late), marker="o")
    return dict(color=COLORBLIND[4] if name == "all-mlps" else COLORBLIND[5], marker="^")


def order(names) -> list[str]:
    """Fact lookup, its controls, sets by effect, windows by depth, unmatched sets; then others."""
    ranks = ["fact-lookup", "depth-matched", "causal-tracing", "attribution-patching", "random"]
    ranks += ["mlp-window", "all-mlps", "nonlocalized"]

    def key(name):
        rank = next((i for i, r in enumerate(ranks) if name.startswith(r)), len(ranks))
        tail = name.rsplit("-", 1)[-1]
        return rank, int(tail) if tail.isdigit() else 0, name

    return sorted(names, key=key)


def name_rows(axis, names: list[str]) -> None:
    """One row per localization, the first on top."""
    axis.set(yticks=range(len(names)), yticklabels=[label(n) for n in names])
    axis.invert_yaxis()


def headline(figure, title: str) -> None:
    """The finding above the figure, and no axes on top of each other."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, wrap=True)
    figure.tight_layout()


def save(figure, name: str, folder: Path) -> list[Path]:
    """Write png and pdf that repeat byte for byte; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{name}.png", folder / f"{name}.pdf"]
    figure.savefig(made[0], dpi=130, bbox_inches="tight", metadata={"Software": None})
    figure.savefig(made[1], bbox_inches="tight", metadata={"CreationDate": None})
    return made


def probe_curve(probes: pandas.DataFrame, rise, majority: float, title: str):
    """Probe accuracy by layer with intervals, controls, and the layers of the rise marked.

    probes: rows (control, kind, layer, value, low, high); rise: see `probes.Rise`.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4))
    colors = {"known": COLORBLIND[0], "shuffled": "0.6", "never_known": COLORBLIND[1]}
    words = {
        "known": "known subjects",
        "shuffled": "same, labels shuffled",
        "never_known": "invented subjects",
    }
    for control, rows in probes[probes.kind != "mid"].groupby("control", sort=False):
        rows = rows.sort_values("layer")
        axis.fill_between(rows.layer, rows.low, rows.high, color=colors[control], alpha=0.2, lw=0)
        line = "-" if control == "known" else "--"
        axis.plot(
            rows.layer, rows.value, line, marker=".", color=colors[control], label=words[control]
        )
    if rise.layers:
        first, last = rise.layers[0], rise.layers[-1]
        span = f"rise: MLP {first}" + (f" to {last}" if last > first else "")
        axis.axvspan(first - 0.5, last + 0.5, color=COLORBLIND[0], alpha=0.12, lw=0, label=span)
    axis.axhline(majority, **CHANCE, label="majority answer")
    axis.set(ylim=(-0.03, 1.03), xticks=range(-1, int(probes.layer.max()) + 1))
    axis.set(
        xlabel="layer whose output is read (-1: the embedding)",
        ylabel="probe accuracy, held-out facts",
    )
    axis.set_title(title, loc="left", wrap=True)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def circuit(heads, mlps, strongest, fed: list[int], receiver: int, threshold: float, title: str):
    """The two steps of path patching: heads as a map with the strongest framed, MLPs below the
    receiver as points with two standard errors, those that feed it filled.

    heads, mlps: rows (layer, head, effect, error); strongest: head nodes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(1.25, 1))
    _head_map(axes[0], heads)
    for node in strongest:
        frame = plt.Rectangle((node.layer, node.head), 1, 1, fill=False, lw=1.6, ec="black")
        axes[0].add_patch(frame)
    axes[0].set(title=f"step 1: heads (framed: the {len(strongest)} strongest)")
    for layer, effect, error in mlps[["layer", "effect", "error"]].itertuples(index=False):
        face = COLORBLIND[0] if layer in fed else "white"
        look = dict(fmt="o", ms=6, color=COLORBLIND[0], mfc=face, capsize=2)
        axes[1].errorbar(layer, effect, 2 * error, **look)
    axes[1].axhline(threshold, **CHANCE)
    axes[1].set(title=f"step 2: MLPs below layer {receiver} (filled: they feed it)")
    axes[1].set(xlabel="layer", ylabel="share of the logit difference", xticks=range(receiver))
    headline(figure, title)
    return figure


def _head_map(axis, effect: pandas.DataFrame) -> None:
    """Effects of heads as a map, head x layer."""
    heads = effect.pivot(index="head", columns="layer", values="effect")
    size = heads.abs().to_numpy().max()
    seaborn.heatmap(heads, ax=axis, cmap="vlag", center=0, vmin=-size, vmax=size, linewidths=0.3)
    axis.set(title="attention heads", xlabel="layer", ylabel="head")
    axis.set_xticks([i + 0.5 for i in range(heads.shape[1])], list(heads.columns), rotation=0)


def heat_maps(tables: dict[str, pandas.DataFrame], title: str):
    """Effect of restoring one token at one layer, one panel per kind of node.

    tables: {heading: effects, one row per token (in order of the prompt), one column per layer}.
    """
    height = 0.32 * len(next(iter(tables.values()))) + 1.3
    figure, axes = plt.subplots(1, len(tables), figsize=(4.2 * len(tables), height), sharey=True)
    top = max(table.to_numpy().max() for table in tables.values())

    def scale(axis) -> dict:
        return dict(cbar=axis is axes[-1], cbar_kws={"label": "share of the answer that returns"})

    for axis, (heading, table) in zip(axes, tables.items()):
        seaborn.heatmap(
            table, ax=axis, vmin=0, vmax=top, cmap="Purples", linewidths=0.3, **scale(axis)
        )
        axis.set(xlabel="layer", title=heading)
        shown = range(0, table.shape[1], 2)
        axis.set_xticks([i + 0.5 for i in shown], list(table.columns[::2]), rotation=0)
        axis.set_yticks([i + 0.5 for i in range(len(table))], list(table.index), rotation=0)
    headline(figure, title)
    return figure


def node_effects(effect: pandas.DataFrame, words: str, title: str):
    """Effects of all nodes: heads as a map (head x layer), MLPs as points with intervals.

    effect: rows (kind, layer, head, effect, low, high); words: what an effect of 1 means.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(1.15, 1))
    _head_map(axes[0], effect[effect.kind == "head"])
    mlps = effect[effect.kind == "mlp"].sort_values("layer")
    error = [mlps.effect - mlps.low, mlps.high - mlps.effect]
    axes[1].errorbar(
        mlps.layer, mlps.effect, yerr=error, fmt="o", ms=4, color=COLORBLIND[0], capsize=2
    )
    axes[1].axhline(0, **CHANCE)
    axes[1].set(title="MLPs", xlabel="layer", ylabel=words, xticks=range(len(mlps)))
    headline(figure, title)
    return figure


def by_layer(table: pandas.DataFrame, title: str):
    """Probabilities by layer, mean and every single case; table: rows (curve, case, layer,
    probability)."""
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    for color, (name, rows) in zip(COLORBLIND, table.groupby("curve", sort=False)):
        wide = rows.pivot(index="layer", columns="case", values="probability")
        axis.plot(wide, color=color, lw=0.7, alpha=0.35)
        axis.plot(wide.mean(axis=1), color=color, lw=2.2, marker=".", label=name)
    axis.set(xlabel="layer", ylabel="probability", ylim=(-0.03, 1.03), xticks=wide.index)
    axis.set_title(title, loc="left", wrap=True)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    return figure


def agreement(table: pandas.DataFrame, title: str):
    """Estimated against exact effects, one point per node; table: rows (kind, estimate, exact)."""
    figure, axis = plt.subplots(figsize=(5.4, 4.6))
    looks = {"head": (COLORBLIND[1], "o", "attention heads"), "mlp": (COLORBLIND[0], "D", "MLPs")}
    for kind, (color, marker, words) in looks.items():
        rows = table[table.kind == kind]
        axis.plot(rows.exact, rows.estimate, marker, color=color, ms=4.5, alpha=0.8, label=words)
    ends = [table[["exact", "estimate"]].min().min(), table[["exact", "estimate"]].max().max()]
    axis.plot(ends, ends, **CHANCE, label="estimate = exact")
    axis.set(xlabel="exact change by patching", ylabel="change estimated from one gradient")
    axis.legend(frameon=True)
    axis.set_title(title, loc="left", fontsize=10)
    return figure


def component_map(sets: dict[str, Localization], n_layers: int, title: str):
    """Where each localization lies in the network: one row per set, one column per layer; open
    marks are layers of which single matrices are trained."""
    names = order(sets)
    figure, axis = plt.subplots(figsize=(8, 0.32 * len(names) + 1.2))
    for row, name in enumerate(names):
        chosen = sets[name]
        depth = numpy.mean([c.layer for c in chosen.components]) / max(n_layers - 1, 1)
        color = style(name, depth)["color"]
        face = "none" if any(c.matrix for c in chosen.components) else color
        for kind, shift, size, marker in (("mlp", 0, 95, "s"), ("attention", 0.36, 18, "o")):
            layers = chosen.layers(kind)
            marks = dict(edgecolor=color, facecolor=face, marker=marker)
            axis.scatter(layers, [row + shift] * len(layers), size, **marks)
        axis.text(n_layers - 0.2, row, f"{chosen.weights / 1e6:.1f} M", va="center", fontsize=8)
    name_rows(axis, names)
    axis.set(xticks=range(n_layers), xlim=(-0.7, n_layers + 1.6))
    axis.set_xlabel("layer (squares: MLP, dots: attention, open: single matrices; right: weights)")
    axis.set_title(title, loc="left", wrap=True)
    return figure


def overlaps(table: pandas.DataFrame, title: str):
    """How much of each mechanism a localization trains, one panel per set of facts the mechanism
    was found on; beside the name, what random weights of equal number would.

    table: rows (facts, localization, mechanism, of_mechanism, expected).
    """
    groups = list(table.groupby("facts", sort=False))
    names = order(table.localization.unique())
    height = 0.3 * len(names) + 1.5
    figure, axes = plt.subplots(1, len(groups), figsize=(4.6 * len(groups) + 1, height))
    for axis, (facts, rows) in zip(numpy.atleast_1d(axes), groups):
        wide = rows.pivot(index="localization", columns="mechanism", values="of_mechanism")
        wide = wide[list(rows.mechanism.unique())].loc[names]
        wide["random\nweights"] = rows.groupby("localization").expected.first()[names]
        wide.columns = [c.replace(" ", "\n") for c in wide.columns]
        first = axis is numpy.atleast_1d(axes)[0]
        seaborn.heatmap(
            wide, ax=axis, vmin=0, vmax=1, cmap="Purples", annot=True, fmt=".2f", cbar=False
        )
        axis.set(xlabel="", ylabel="", title=f"found on {facts}")
        axis.set_yticks([i + 0.5 for i in range(len(names))], [label(n) for n in names], rotation=0)
        axis.tick_params(labelleft=first)
        axis.axvline(len(wide.columns) - 1, color="white", lw=6)
    headline(figure, title)
    return figure
