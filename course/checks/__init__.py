"""Checks of the exercises, one module a session: plain functions that need no installation.

A check tests properties and numbers and knows no solution. It runs the student's function on an
example made by hand, then on random input whose answer is known because the input was made from
it. Where the result is that of a typical mistake, the check raises the hint for this mistake.
Expected numbers of the real model come from `course/answers/SESSION.json`.
"""

from __future__ import annotations

import secrets
import textwrap
from pathlib import Path

import torch
import yaml

RANDOM = (
    "Right on the small example, wrong on random input. Does your function use a number that holds "
    "only for the example?"
)


def hints(session: str) -> dict[str, dict[str, str]]:
    """{exercise: {mistake: what it teaches}} of a session."""
    return yaml.safe_load((Path(__file__).parent / f"{session}.yaml").read_text())


class Hint(AssertionError):
    """What a failed check says. A notebook shows it alone, without the code of the check."""

    def _render_traceback_(self) -> list[str]:  # IPython's own name for it
        return ["Not passed yet.", *textwrap.wrap(str(self), 90)]


def expect(right: bool, hint: str) -> None:
    """Raise the hint unless `right`."""
    if not right:
        raise Hint(hint)


def recognize(got, mistakes: dict[str, object], hints: dict[str, str]) -> None:
    """Raise the hint of the mistake whose result `got` is, if it is one."""
    for name, result in mistakes.items():
        expect(not same(got, result), hints[name])


def same(a, b, tolerance: float = 1e-5) -> bool:
    """Are two tensors (or things that compare) equal, numbers within the tolerance?"""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=tolerance, rtol=0)
    return a == b


def fresh() -> torch.Generator:
    """A generator with a seed that nobody has seen."""
    return torch.Generator().manual_seed(secrets.randbits(31))


def uniform(generator: torch.Generator, *shape: int, low=0.0, high=1.0) -> torch.Tensor:
    """Random numbers between low and high."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def shown(numbers: torch.Tensor) -> list[float]:
    """Numbers as one prints them."""
    return [round(x, 4) for x in numbers.flatten().tolist()]


def passed(what: str) -> None:
    """Say what has been shown."""
    print(f"passed: {what}")
