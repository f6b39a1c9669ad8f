"""Hooks that last as long as a `with` block, whatever happens inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def before(module: torch.nn.Module, function: Callable, kwargs: bool = False) -> Callable:
    """A hook for `hooked` that sees, and may replace, what enters a module."""
    return lambda: module.register_forward_pre_hook(function, with_kwargs=kwargs)


def after(module: torch.nn.Module, function: Callable, kwargs: bool = False) -> Callable:
    """A hook for `hooked` that sees, and may replace, what leaves a module."""
    return lambda: module.register_forward_hook(function, with_kwargs=kwargs)


@contextmanager
def hooked(*hooks: Callable) -> Iterator[None]:
    """Inside, the hooks (see `before` and `after`) are on their modules."""
    handles = [register() for register in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def entering(args: tuple, kwargs: dict) -> torch.Tensor:
    """The hidden states that enter a block, however its family hands them over: (1, T, d_model)."""
    return args[0] if args else kwargs["hidden_states"]


def leaving(output) -> torch.Tensor:
    """The hidden states that leave a module: (1, T, width)."""
    return output[0] if isinstance(output, tuple) else output
