"""Which weights are trained, how they are put back, and checks that no others changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lib.model.components import Localization, matrices, single_matrices


def trainable(model, localization: Localization) -> dict[str, torch.nn.Parameter]:
    """{name: weight matrix} of a localization, in order of name."""
    table = matrices(model) | single_matrices(model)
    found = {n: p for c in localization.components for n, p in table[c].items()}
    return dict(sorted(found.items()))


def block_matrices(model) -> dict[str, torch.nn.Parameter]:
    """{name: weight matrix} of all blocks."""
    return {n: p for parameters in matrices(model).values() for n, p in parameters.items()}


@torch.no_grad()
def put(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copy `values` into weights of the same names, in place."""
    for name, value in values.items():
        weights[name].copy_(value)


@contextmanager
def kept(weights: dict[str, torch.nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    """Inside, weights may change and be trained; at the end they have their old bytes and no
    gradients. Gives {name: old value}."""
    old = {name: parameter.detach().clone() for name, parameter in weights.items()}
    try:
        yield old
    finally:
        for parameter in weights.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        put(weights, old)


@torch.no_grad()
def fingerprint(model, except_for: set[str] = frozenset()) -> dict[str, int]:
    """Checksum of the bytes of every parameter but the named ones: their sum as whole numbers, ten
    times faster than a cyclic one; no training step leaves that of a changed matrix as it was."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(parameter.detach().contiguous().view(kinds[parameter.element_size()]).sum())
        for name, parameter in model.named_parameters()
        if name not in except_for
    }


@contextmanager
def nothing_else_changes(model, weights: dict[str, torch.nn.Parameter]) -> Iterator[None]:
    """AssertionError if a parameter other than `weights` has other bytes at the end of the
    block."""
    before = fingerprint(model, set(weights))
    yield
    if fingerprint(model, set(weights)) != before:
        raise AssertionError("weights outside the trained matrices changed: this is a bug")
