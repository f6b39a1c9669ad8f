"""Changes of all weight matrices of the blocks at once, undone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lib.attacks.target import ReadOut, Target
from lib.model.weights import block_matrices, kept, put


@contextmanager
def perturbed(model, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, every weight matrix of the blocks is `change` of itself (d_out, d_in or the other way
    round, as the family stores it)."""
    weights = block_matrices(model)
    with kept(weights), torch.no_grad():
        put(weights, {name: change(weight) for name, weight in weights.items()})
        yield


def levels(target: Target, changes: dict[float, Callable[[Tensor], Tensor]]) -> Iterator[ReadOut]:
    """One read-out per budget: what the model answers with its weights changed in this way."""
    for budget, change in changes.items():
        with perturbed(target.loaded.model, change):
            rows = target.read()
        yield ReadOut(rows, budget)
