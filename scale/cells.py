"""How many cells every stage of a profile has, as DVC itself counts them.

DVC expands the matrix of each stage over the merged settings; nothing is run. A cell is one line
that `dvc repro` would run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import yaml

from lib import paths
from lib.config.blocks import Settings
from lib.config.errors import read_yaml
from lib.config.profiles import merge
from lib.config.rules import parse


def merged(profile: Path | None) -> dict:
    """params.yaml with a profile merged into it; ValueError or FileNotFoundError in one sentence if
    the result is bad."""
    base = yaml.safe_load(paths.PARAMS.read_text())
    names = ", ".join(sorted(p.stem for p in (paths.ROOT / "profiles").glob("*.yaml")))
    patch = read_yaml(profile, "profile", f"name one of {names} in profiles/") if profile else {}
    return merge(base, patch or {})


def settings_of(profile: Path | None) -> Settings:
    """`merged`, checked."""
    return parse(merged(profile))


def count(raw: dict) -> dict[str, int]:
    """{stage: number of cells} of dvc.yaml with these settings, in its order."""
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(paths.ROOT / "dvc.yaml", folder)
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(raw))
        with redirect_stdout(StringIO()), Repo.init(folder, no_scm=True) as repo:
            found = Counter(stage.name.split("@")[0] for stage in repo.index.stages)
    order = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]
    return {name: found[name] for name in order}
