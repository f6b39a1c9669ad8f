"""The one vocabulary of places in a network: which component owns which weight matrices.

A trainable unit is a whole MLP layer or a whole attention layer, that is all of its weight
*matrices*, or a single one of them. Biases, norms, embeddings and the unembedding are never
trained (section 3). Names follow the family's own modules, so the same code serves Gemma, Llama,
Qwen, GPT-2 and GPT-NeoX.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

KINDS = ("mlp", "attention")
OUTPUT_MATRICES = ("down_proj", "c_proj", "dense_4h_to_h")  # the last matrix of an MLP, by family


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
    the set is not budget-matched; note: how the set was chosen, in words.
    """

    name: str
    components: tuple[Component, ...]
    weights: int
    budget: int
    note: str = ""

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
        """Read what `save` wrote; FileNotFoundError names the notebook that makes it."""
        if not path.exists():
            raise FileNotFoundError(
                f"no component set at {path.name}: '{path.stem}' is not a localization chosen by "
                "notebook 13; use a key of `localizations` in params.yaml and run `dvc repro`"
            )
        row = json.loads(path.read_text())
        return Localization(**row | {"components": tuple(Component(*c) for c in row["components"])})


def blocks(model):
    """The ModuleList of transformer blocks of any supported family."""
    base = model.base_model
    for name in ("layers", "h"):
        if hasattr(base, name):
            return getattr(base, name)
    raise ValueError(
        f"no list of blocks found in {type(model).__name__}: this family is not supported"
    )


def matrices(model) -> dict[Component, dict[str, object]]:
    """Weight matrices of every layer: {Component: {parameter name: Parameter}}."""
    names = {id(p): n for n, p in model.named_parameters()}
    table: dict[Component, dict[str, object]] = {}
    for layer, block in enumerate(blocks(model)):
        for path, parameter in block.named_parameters():
            if parameter.ndim != 2:
                continue
            kind = "mlp" if "mlp" in path.split(".")[0] else "attention"
            table.setdefault(Component(kind, layer), {})[names[id(parameter)]] = parameter
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
