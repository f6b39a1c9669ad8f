"""params.yaml as typed settings: a misspelt name or a bad value is one clear sentence, before
anything runs.

Every stage calls `load()` first, so no long computation starts on settings that a later stage
would refuse. Importing it loads no torch.
"""

from __future__ import annotations

from pathlib import Path

from lib import paths
from lib.config.blocks import Settings
from lib.config.errors import read_yaml
from lib.config.rules import parse


def load(path: Path = paths.PARAMS) -> Settings:
    """Read and check params.yaml; ValueError or FileNotFoundError in one sentence."""
    cure = f"restore it with `git checkout {path.name}`"
    raw = read_yaml(path, "settings", cure)
    if not isinstance(raw, dict):
        raise ValueError(f"{path.name} holds no settings: correct it, or {cure}")
    return parse(raw)
