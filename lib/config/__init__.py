"""params.yaml as typed settings: a misspelt name or a bad value is one clear sentence, before
anything runs.

Every stage calls `load()` first, so no long computation starts on settings that a later stage
would refuse. Importing it loads no torch.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from lib import paths
from lib.config.blocks import Settings
from lib.config.rules import parse


def load(path: Path = paths.PARAMS) -> Settings:
    """Read and check params.yaml; ValueError or FileNotFoundError in one sentence."""
    cure = f"correct it, or restore it with `git checkout {path.name}`"
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path.name}: {cure}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ValueError(f"{path.name} is no valid yaml{line}: {cure}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path.name} holds no settings: {cure}")
    return parse(raw)
