"""The `code` stage: check everything, then write what every other stage runs and depends on.

For every notebook data/code gets NN_name.ipynb (what is executed) and NN_name.txt (what the stage
depends on, see `lib.stages.closure`); for a notebook with figures also draw_name.ipynb and
draw_name.txt. `python -m lib.stages.code`
"""

from __future__ import annotations

import json
from pathlib import Path

from lib import paths
from lib.config.errors import on_the_command_line
from lib.stages.checks import check_all
from lib.stages.closure import Library, cells, code_of, runnable

SCRIPTS = ("model", "text", "after_facts")  # stages that are no notebooks


def generated(root: Path) -> dict[str, str]:
    """{file name: content} of everything in data/code, from the sources under `root`."""
    library, files = Library(root), {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        drawn = [False, True] if cells(notebook, figures=True) else [False]
        for figures in drawn:
            name = f"draw_{path.stem[3:]}" if figures else path.stem
            files[f"{name}.txt"] = library.manifest(code_of(notebook, figures))
            files[f"{name}.ipynb"] = json.dumps(runnable(notebook, figures), indent=1) + "\n"
    for name in SCRIPTS:
        files[f"{name}.txt"] = library.manifest(f"from lib.stages import {name}")
    return files


def main() -> None:
    """Check, then write; ValueError or OSError in one sentence for what is wrong."""
    settings = check_all()
    files = generated(paths.ROOT)
    paths.CODE.mkdir(parents=True, exist_ok=True)
    for old in paths.CODE.iterdir():
        old.unlink()
    for name, content in files.items():
        (paths.CODE / name).write_text(content)
    print(f"{len(settings.localizations)} localizations, seeds {settings.seeds}: all is sound")


if __name__ == "__main__":
    with on_the_command_line():
        main()
