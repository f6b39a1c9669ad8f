"""Jailbreak prefixes: fixed wordings that ask for the old answer, before every prompt.

Needs nothing but prompts. The attacker keeps the wording that brings back most of the taught half.
"""

from __future__ import annotations

from collections.abc import Iterator

from lib import paths
from lib.attacks.target import ReadOut, Target
from lib.config.errors import Block, Word, read_yaml

SEES = "prompts; the taught half to choose a wording"
BUDGET = "wordings tried"
ORACLE = False


class Settings(Block):
    """wordings: file with a list of texts."""

    wordings: Word


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per wording."""
    for i, wording in enumerate(load_wordings(settings.wordings)):
        yield ReadOut(target.read(prefix=wording + "\n"), i + 1, wording)


def load_wordings(file: str) -> list[str]:
    """The texts of a wordings file; ValueError or FileNotFoundError in one sentence."""
    path = paths.ROOT / file
    found = read_yaml(path, "wordings", "correct `wordings` in params.yaml")
    texts = isinstance(found, list) and all(isinstance(w, str) and w.strip() for w in found)
    if not texts or not found or len(set(found)) < len(found):
        raise ValueError(f"{path.name} must be a list of texts, none of them twice: correct it")
    return found
