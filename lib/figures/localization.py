"""One function per figure of the localization stages."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy
import pandas
import seaborn

from lib.analysis.words import order
from lib.figures import style
from lib.model.components import Localization


def probe_curve(probes: pandas.DataFrame, layers: list[int], majority: float, title: str):
    """Probe accuracy by layer with intervals, controls, and the layers of the rise marked.

    probes: rows (control, kind, layer, value, low, high); layers: of the rise.
    """
    figure, axis = plt.subplots(figsize=(style.WIDTH, 3.2))
    looks = {
        "known": ("-", style.early(0), "known subjects"),
        "shuffled": ("--", "0.7", "same, labels shuffled"),
        "never_known": ("--", style.GREY, "invented subjects"),
    }
    for control, rows in probes[probes.kind != "mid"].groupby("control", sort=False):
        rows, (line, color, words) = rows.sort_values("layer"), looks[control]
        style.band(axis, rows.layer, rows, line, 0.2, marker=".", color=color, label=words)
    if layers:
        first, last = layers[0], layers[-1]
        span = f"rise: MLP {first}" + (f" to {last}" if last > first else "")
        axis.axvspan(first - 0.5, last + 0.5, color="0.9", lw=0, label=span, zorder=0)
    axis.axhline(majority, **style.CHANCE, label="majority answer")
    axis.set(ylim=(-0.03, 1.03), xticks=range(-1, int(probes.layer.max()) + 1))
    axis.set_xlabel("layer whose output is read (-1: the embedding)")
    axis.set_ylabel("probe accuracy, held-out facts")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    style.headline(figure, title)
    return figure


def circuit(heads: pandas.DataFrame, mlps: pandas.DataFrame, found: dict, title: str):
    """The two steps of path patching: heads as a map with the strongest framed, MLPs below the
    receiver as points with two standard errors, those that feed it filled.

    heads, mlps: rows (layer, head, effect, error); found: heads ([layer, head] of the strongest),
    path-patching (layers that feed them), receiver, threshold.
    """
    strongest, fed, receiver = (found[k] for k in ("heads", "path-patching", "receiver"))
    figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 2.9), width_ratios=(1.25, 1))
    _head_map(axes[0], heads)
    for place in strongest:
        axes[0].add_patch(plt.Rectangle(place, 1, 1, fill=False, lw=1.6, ec="black"))
    axes[0].set(title=f"step 1: heads (framed: the {len(strongest)} strongest)")
    for layer, effect, error in mlps[["layer", "effect", "error"]].itertuples(index=False):
        face = style.early(0) if layer in fed else "white"
        look = dict(fmt="o", ms=6, color=style.early(0), mfc=face, capsize=2)
        axes[1].errorbar(layer, effect, 2 * error, **look)
    axes[1].axhline(found["threshold"], **style.CHANCE)
    axes[1].set(title=f"step 2: MLPs below layer {receiver} (filled: they feed it)")
    axes[1].set(xlabel="layer", ylabel="share of the logit difference", xticks=range(receiver))
    style.headline(figure, title)
    return figure


def _head_map(axis, effect: pandas.DataFrame) -> None:
    """Effects of heads as a map, head x layer."""
    heads = effect.pivot(index="head", columns="layer", values="effect")
    size = heads.abs().to_numpy().max()
    seaborn.heatmap(heads, ax=axis, cmap="vlag", center=0, vmin=-size, vmax=size, linewidths=0.3)
    axis.set(title="attention heads", xlabel="layer", ylabel="head")
    axis.set_xticks([i + 0.5 for i in range(heads.shape[1])], list(heads.columns), rotation=0)


def heat_maps(rows: pandas.DataFrame, title: str):
    """Effect of restoring one place at one layer, one panel per kind of node.

    rows: (node, order, place, layer, returned); places stand in their order from the top.
    """
    nodes, top = list(rows.node.unique()), rows.returned.max()
    height = 0.27 * rows.order.nunique() + 1.3
    figure, axes = plt.subplots(1, len(nodes), figsize=(style.WIDTH, height), sharey=True)
    for axis, node in zip(axes, nodes):
        mine = rows[rows.node == node]
        table = mine.pivot(index="order", columns="layer", values="returned")
        bar = dict(cbar=axis is axes[-1], cbar_kws={"label": "share of the answer that returns"})
        seaborn.heatmap(table, ax=axis, vmin=0, vmax=top, cmap="Purples", linewidths=0.3, **bar)
        axis.set(xlabel="layer", ylabel="", title=node)
        shown = range(0, table.shape[1], 2)
        axis.set_xticks([i + 0.5 for i in shown], list(table.columns[::2]), rotation=0)
        words = mine.drop_duplicates("order").sort_values("order").place
        axis.set_yticks([i + 0.5 for i in range(len(table))], words.tolist(), rotation=0)
    style.headline(figure, title)
    return figure


def node_effects(effect: pandas.DataFrame, words: str, title: str):
    """Effects of all nodes: heads as a map (head x layer), MLPs as points with intervals.

    effect: rows (kind, layer, head, effect, low, high); words: what an effect of 1 means.
    """
    figure, axes = plt.subplots(1, 2, figsize=(style.WIDTH, 2.9), width_ratios=(1.15, 1))
    _head_map(axes[0], effect[effect.kind == "head"])
    mlps = effect[effect.kind == "mlp"].sort_values("layer")
    error = [mlps.effect - mlps.low, mlps.high - mlps.effect]
    look = dict(fmt="o", ms=4, color=style.early(0), capsize=2)
    axes[1].errorbar(mlps.layer, mlps.effect, yerr=error, **look)
    axes[1].axhline(0, **style.CHANCE)
    axes[1].set(title="MLPs", xlabel="layer", ylabel=words, xticks=range(len(mlps)))
    style.headline(figure, title)
    return figure


def by_layer(table: pandas.DataFrame, title: str):
    """Probabilities by layer, mean and every single case; table: rows (curve, case, layer,
    probability)."""
    figure, axis = plt.subplots(figsize=(style.WIDTH, 3.2))
    for color, (name, rows) in zip(style.COLORBLIND, table.groupby("curve", sort=False)):
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
    looks = {"head": (style.GREY, "o", "attention heads"), "mlp": (style.early(0), "D", "MLPs")}
    for kind, (color, marker, words) in looks.items():
        rows = table[table.kind == kind]
        axis.plot(rows.exact, rows.estimate, marker, color=color, ms=4.5, alpha=0.8, label=words)
    ends = [table[["exact", "estimate"]].min().min(), table[["exact", "estimate"]].max().max()]
    axis.plot(ends, ends, **style.CHANCE, label="estimate = exact")
    axis.set(xlabel="exact change by patching", ylabel="change estimated from one gradient")
    axis.legend(frameon=True)
    axis.set_title(title, loc="left", fontsize=10)
    return figure


def component_map(sets: dict[str, Localization], n_layers: int, edited: list[str], title: str):
    """Where each localization lies in the network: one row per set, one column per layer; grey:
    localizations that are not edited; open marks are layers of which single matrices are
    trained."""
    names = order(sets)
    figure, axis = plt.subplots(figsize=(style.WIDTH, 0.21 * len(names) + 1.2))
    for row, name in enumerate(names):
        chosen = sets[name]
        depth = numpy.mean([c.layer for c in chosen.components]) / max(n_layers - 1, 1)
        color = style.early(depth) if name in edited else "0.75"
        face = "none" if any(c.matrix for c in chosen.components) else color
        for kind, shift, size, marker in (("mlp", 0, 55, "s"), ("attention", 0.36, 12, "o")):
            layers = chosen.layers(kind)
            marks = dict(edgecolor=color, facecolor=face, marker=marker)
            axis.scatter(layers, [row + shift] * len(layers), size, **marks)
        axis.text(n_layers - 0.2, row, f"{chosen.weights / 1e6:.1f} M", va="center", fontsize=8)
    style.name_rows(axis, names)
    axis.set(xticks=range(n_layers), xlim=(-0.7, n_layers + 1.6))
    axis.set_xlabel("layer (squares: MLP, dots: attention, open: single matrices; right: weights)")
    style.headline(figure, title)
    return figure


def overlaps(table: pandas.DataFrame, title: str):
    """How much of each mechanism a localization trains, one panel per set of facts the mechanism
    was found on; beside the name, what random weights of equal number would.

    table: rows (facts, localization, mechanism, of_mechanism, expected).
    """
    groups = list(table.groupby("facts", sort=False))
    names = order(table.localization.unique())
    height = 0.22 * len(names) + 1.6
    figure, axes = plt.subplots(1, len(groups), figsize=(style.WIDTH, height))
    for axis, (facts, rows) in zip(numpy.atleast_1d(axes), groups):
        wide = rows.pivot(index="localization", columns="mechanism", values="of_mechanism")
        wide = wide[list(rows.mechanism.unique())].loc[names]
        wide["random\nweights"] = rows.groupby("localization").expected.first()[names]
        wide.columns = [c.replace(" ", "\n") for c in wide.columns]
        first = axis is numpy.atleast_1d(axes)[0]
        look = dict(vmin=0, vmax=1, cmap="Purples", annot=True, fmt=".2f", cbar=False)
        seaborn.heatmap(wide, ax=axis, **look)
        axis.set(xlabel="", ylabel="", title=f"found on {facts}")
        axis.set_yticks([i + 0.5 for i in range(len(names))], map(style.label, names), rotation=0)
        axis.tick_params(labelleft=first)
        axis.axvline(len(wide.columns) - 1, color="white", lw=6)
    style.headline(figure, title)
    return figure
