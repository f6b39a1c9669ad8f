"""Colours, markers and words shared by all figures.

Colour has four meanings and no other: blue is the new answer, vermillion the old one, grey a
control or reference, and cividis (dark to light) how early the first trained layer is. A black dash
is the unedited model, a dotted line chance. Each stays readable in greyscale, by shape or place.
Every figure takes a table the pipeline wrote and a title computed from it; intervals are drawn
where the table has them. Figures are 7 inches wide: 8 points are then 14 pixels at 900.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import seaborn

WIDTH = 7.0  # inches
NEW, OLD, GREY = "#0072b2", "#d55e00", "0.45"
COLORBLIND = seaborn.color_palette("colorblind")
UNEDITED_LINE = dict(color="black", linestyle="--", linewidth=1)
CHANCE = dict(color="0.4", linestyle=":", linewidth=1.2)
FONTS = {"font.size": 8.5, "axes.titlesize": 9, "axes.labelsize": 8.5, "legend.fontsize": 8}
FONTS |= {"xtick.labelsize": 8, "ytick.labelsize": 8, "axes.edgecolor": "0.6"}
seaborn.set_theme(style="ticks", rc=FONTS | {"axes.grid": True, "grid.color": "0.92"})

LABELS = {
    "fact-lookup": "fact lookup",
    "fact-lookup-swapped": "fact lookup, swapped",
    "depth-matched-mlps": "depth-matched MLPs",
    "random-mlps": "random MLPs",
    "random": "random matrices",
    "causal-tracing-mlps": "causal tracing, MLPs",
    "causal-tracing": "causal tracing",
    "attribution-patching-mlps": "attribution patching, MLPs",
    "attribution-patching": "attribution patching",
    "all-mlps": "all MLPs",
    "nonlocalized": "nonlocalized",
    "rome-lookup": "ROME at the lookup",
    "rome-late": "ROME, late",
    "known-mask": "known mask",
    "unedited": "unedited model",
    "forget_train": "taught half",
    "forget_heldout": "held-out half",
    "retain_test": "retained facts",
    "never_known": "invented subjects",
}


def label(name: str) -> str:
    """Display label of a localization, split or format."""
    if name.startswith("mlp-window-"):
        return f"window from {name.removeprefix('mlp-window-')}"
    if name.removeprefix("mlp-").isdigit():
        return f"MLP {name.removeprefix('mlp-')}"
    for key in sorted(LABELS, key=len, reverse=True):
        if name.startswith(key):
            return LABELS[key] + name[len(key) :].replace("-", " ")
    return name.replace("-", " ")


def early(depth: float):
    """Colour of a first trained layer; depth: 0 first to 1 last."""
    return matplotlib.colormaps["cividis"](0.05 + 0.8 * depth)


def errors(rows) -> list:
    """Distances from values to the ends of their intervals, as `errorbar` wants them."""
    return [(rows.value - rows.low).clip(lower=0), (rows.high - rows.value).clip(lower=0)]


def band(axis, x, rows, line: str, alpha: float, **look) -> None:
    """A line over its intervals; rows: value, low, high, one for each of x."""
    axis.fill_between(x, rows.low, rows.high, color=look["color"], alpha=alpha, lw=0)
    axis.plot(x, rows.value, line, **look)


def name_rows(axis, names: list[str]) -> None:
    """One row per localization, the first on top."""
    axis.set(yticks=range(len(names)), yticklabels=[label(n) for n in names])
    axis.invert_yaxis()


def headline(figure, title: str) -> None:
    """The finding above the figure, and no axes on top of each other."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", wrap=True)
    figure.tight_layout()


def save(figure, name: str, folder: Path) -> list[Path]:
    """Write png and pdf that repeat byte for byte; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{name}.png", folder / f"{name}.pdf"]
    figure.savefig(made[0], dpi=200, bbox_inches="tight", metadata={"Software": None})
    figure.savefig(made[1], bbox_inches="tight", metadata={"CreationDate": None})
    return made
