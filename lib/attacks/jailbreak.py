"""Jailbreak prefixes: fixed wordings that ask for the old answer, before every prompt.

Needs nothing but prompts. The attacker keeps the wording that brings back most of the taught half.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from lib import paths
from lib.attacks.target import Level, Target
from lib.config import Block

SEES = "prompts; the taught half to choose a wording"
BUDGET = "wordings tried"
ORACLE = False


class Settings(Block):
    """wordings: file with a list of texts."""

    wordings: str


def attack(target: Target, settings: Settings) -> Iterator[Level]:
    """One level per wording."""
    for i, wording in enumerate(load_wordings(settings.wordings)):
        yield Level(target.read(prefix=wording + "\n"), i + 1, wording)


def load_wordings(file: str) -> list[str]:
    """The texts of a wordings file; ValueError or FileNotFoundError in one sentence."""
    path = paths.ROOT / file
    if not path.exists():
        raise FileNotFoundError(f"no wordings at {file}: correct `wordings` in params.yaml")
    found = yaml.safe_load(path.read_text())
    if not isinstance(found, list) or not all(isinstance(w, str) and w.strip() for w in found):
        raise ValueError(f"{path.name} must be a list of texts: correct it")
    return found
