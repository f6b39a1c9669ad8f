"""Components of a network, the units that are trained: which of them owns which weight matrices.

A trainable unit is a whole MLP layer or a whole attention layer, that is all of its weight
*matrices*, or a single one of them. Biases, norms, embeddings and the unembedding are never
trained (section 3). Names follow the family's own modules, so the same code serves Gemma, Llama,
Qwen, GPT-2 and GPT-NeoX. Activations, which are read and replaced, are in `lib.model.nodes`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.model.anatomy import blocks, kind_of
from lib.store import Store

KINDS = ("mlp", "attention")


@dataclass(frozen=True, order=True)
class Component:
    """One MLP or attention layer, or with `matrix` a single matrix of it; layers count from 0."""

    kind: str
    layer: int
    matrix: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"unknown kind of component '{self.kind}': use one of {', '.join(KINDS)}"
            )


@dataclass(frozen=True)
class Localization:
    """A named set of components with its exact size.

    weights: number of trained weights; budget: what was asked for (weights of fact-lookup), 0 if
    the set is not budget-matched; note: how the set was chosen, in words; equals: an earlier
    localization that is edited and trains exactly the same weights, so that the two share one edit.
    """

    name: str
    components: tuple[Component, ...]
    weights: int
    budget: int
    note: str = ""
    equals: str = ""

    @property
    def overshoot(self) -> float:
        """Share of weights above the budget (0 for sets without a budget)."""
        return self.weights / self.budget - 1 if self.budget else 0.0

    @property
    def first_layer(self) -> int:
        """Lowest layer that is trained: everything below it never changes."""
        return min(c.layer for c in self.components)

    def layers(self, kind: str) -> list[int]:
        """Sorted layers of one kind in which something is trained."""
        return sorted({c.layer for c in self.components if c.kind == kind})

    def save(self, path: Path) -> None:
        """Write a small readable json file."""
        row = asdict(self) | {
            "components": [
                [c.kind, c.layer, *([c.matrix] if c.matrix else [])] for c in self.components
            ]
        }
        path.write_text(json.dumps(row, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(path: Path) -> Localization:
        """Read what `save` wrote."""
        row = json.loads(path.read_text())
        return Localization(**row | {"components": tuple(Component(*c) for c in row["components"])})


def load_set(store: Store, task: str, name: str, seed: int) -> Localization:
    """The components that notebook 13 chose for a localization."""
    return Localization.load(store.find("choose_components", task, seed, file=f"{name}.json"))


def mean_depth(components, n_layers: int) -> float:
    """Mean relative depth: 0 = first layer, 1 = last."""
    return sum(c.layer for c in components) / len(components) / (n_layers - 1)


def matrices(model) -> dict[Component, dict[str, object]]:
    """Weight matrices of every layer: {Component: {parameter name: Parameter}}."""
    names = {id(p): n for n, p in model.named_parameters()}
    table: dict[Component, dict[str, object]] = {}
    for layer, block in enumerate(blocks(model)):
        for path, parameter in block.named_parameters():
            if parameter.ndim != 2:
                continue
            table.setdefault(Component(kind_of(path), layer), {})[names[id(parameter)]] = parameter
    return table


def single_matrices(model) -> dict[Component, dict[str, object]]:
    """The same, one matrix at a time; `matrix` is the family's own name, such as q_proj."""
    return {
        Component(c.kind, c.layer, name.split(".")[-2]): {name: parameter}
        for c, parameters in matrices(model).items()
        for name, parameter in parameters.items()
    }


def sizes(model) -> dict[Component, int]:
    """Number of trainable weights of every layer."""
    return _count(matrices(model))


def unit_sizes(model) -> dict[Component, int]:
    """Number of weights of every layer and of every single matrix."""
    return _count(matrices(model) | single_matrices(model))


def _count(units) -> dict[Component, int]:
    return {c: sum(p.numel() for p in ps.values()) for c, ps in units.items()}
