"""Changes of all weight matrices of the blocks at once, undone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lib.attacks.target import Level, Target
from lib.components import matrices


@contextmanager
def perturbed(model, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, every weight matrix of the blocks is `change` of itself (d_out, d_in or the other way
    round, as the family stores it)."""
    weights = [p for parameters in matrices(model).values() for p in parameters.values()]
    before = [w.detach().clone() for w in weights]
    with torch.no_grad():
        try:
            for weight in weights:
                weight.copy_(change(weight))
            yield
        finally:
            for weight, value in zip(weights, before):
                weight.copy_(value)


def levels(target: Target, changes: dict[float, Callable[[Tensor], Tensor]]) -> Iterator[Level]:
    """One level per budget: what the model answers while its weights are changed so."""
    for budget, change in changes.items():
        with perturbed(target.loaded.model, change):
            rows = target.read()
        yield Level(rows, budget)
