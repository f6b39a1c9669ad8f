"""Palette, markers and display labels of localizations, splits and formats, shared by all figures.

The figures are in the other modules of this folder, colours of attacks in `lib.figures.attacks`.

Mechanistic sets are saturated blue, controls grey, windows run from green (early) to orange
(late); shape and order are the same in all figures, so each stays readable in greyscale. Every
figure takes a table the pipeline wrote and a title computed from it; intervals, chance and the
unedited model are always drawn.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import seaborn

seaborn.set_theme(style="whitegrid", context="notebook", font_scale=0.85)
COLORBLIND = seaborn.color_palette("colorblind")
UNEDITED_LINE = dict(color="black", linestyle="--", linewidth=1)
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
    "forget_heldout": "held-out half",
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
