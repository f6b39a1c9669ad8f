"""How much of a mechanism does a localization train? Overlaps in weights (section 9).

A mechanism is a group of heads or MLPs, found by path patching (`circuit`). A head holds an equal
share of the matrices of its attention layer.
"""

from __future__ import annotations

import pandas

from lib.model.components import Component, Localization
from lib.model.nodes import Node


def trained_share(chosen: Localization, sizes: dict[Component, int]) -> dict[Component, float]:
    """{layer: share of its weights that the localization trains}; sizes: with single matrices."""
    shares: dict[Component, float] = {}
    for c in chosen.components:
        layer = Component(c.kind, c.layer)
        shares[layer] = shares.get(layer, 0.0) + sizes[c] / sizes[layer]
    return shares


def overlap(
    chosen: Localization, group: list[Node], sizes: dict[Component, int], n_heads: int
) -> tuple[float, float]:
    """(share of the group's weights that are trained, share of the trained weights in the group).

    ValueError if the group is empty: it has no weights to share.
    """
    if not group:
        raise ValueError("the mechanism is empty: no head or MLP exceeds the threshold")
    trained, held, total = trained_share(chosen, sizes), 0.0, 0.0
    for node in group:
        layer = Component("mlp" if node.kind == "mlp" else "attention", node.layer)
        weights = sizes[layer] / (1 if node.kind == "mlp" else n_heads)
        total += weights
        held += trained.get(layer, 0.0) * weights
    return held / total, held / chosen.weights


def overlap_table(
    sets: dict[str, Localization],
    groups: dict[str, list[Node]],
    sizes: dict[Component, int],
    n_heads: int,
) -> pandas.DataFrame:
    """Rows (localization, mechanism, of_mechanism, of_trained, expected): expected is the first
    share for weights drawn at random anywhere, as many as the localization trains."""
    every = sum(n for c, n in sizes.items() if not c.matrix)
    rows = []
    for name, chosen in sets.items():
        for mechanism, group in groups.items():
            if not group:
                continue
            of_mechanism, of_trained = overlap(chosen, group, sizes, n_heads)
            rows.append((name, mechanism, of_mechanism, of_trained, chosen.weights / every))
    columns = ["localization", "mechanism", "of_mechanism", "of_trained", "expected"]
    return pandas.DataFrame(rows, columns=columns)
