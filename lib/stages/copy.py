"""A copy of the project in a place of its own, with a profile applied: for a class, or a test.

    python -m lib.stages.copy FOLDER PROFILE

The copy has its own settings, pipeline and results, so that nothing that is done there touches
results in git, and is a git repository of its own, since DVC refuses a folder that git ignores. A
copy that is there already keeps its results and gets the current sources.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from lib import paths
from lib.config.errors import on_the_command_line
from lib.config.profiles import apply_profile

PARTS = ("lib", "notebooks", "profiles", "data/raw", "data/reference", "dvc.yaml", "params.yaml")
PARTS += (".dvc/config", ".dvcignore", ".gitignore", "book/__init__.py", "book/live.py")
PARTS += ("book/computed.py", "book/data")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")


def make_copy(folder: Path, profile: Path) -> None:
    """Copy the sources and apply a profile; FileNotFoundError if there is no such profile."""
    for part in PARTS:
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (paths.ROOT / part).is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(paths.ROOT / part, target, ignore=LEFT_OUT)
        else:
            shutil.copy(paths.ROOT / part, target)
    (folder / "data" / "executed").mkdir(exist_ok=True)
    (folder / ".dvc" / "tmp").mkdir(exist_ok=True)
    apply_profile(profile, folder / "params.yaml")
    subprocess.run(["git", "init", "--quiet", folder], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m lib.stages.copy FOLDER profiles/NAME.yaml")
    with on_the_command_line():
        make_copy(Path(sys.argv[1]), Path(sys.argv[2]))
