"""Writes `course/answers/SESSION.json`: `python -m course.expect [SESSION ...]`, a few minutes.

Needs the default model and the results of the pipeline. `dvc repro course/dvc.yaml:answers` runs
it where the results have changed since.
"""

from __future__ import annotations

import importlib
import json
import sys

from course import ANSWERS, FOLDER, TABLES


def main(sessions: list[str]) -> None:
    """Compute and write the numbers of the sessions named, by default of all."""
    every = sorted(path.stem for path in (FOLDER / "expect").glob("s*.py"))
    for folder in (ANSWERS, TABLES):
        folder.mkdir(exist_ok=True)
    for session in sessions or every:
        found = importlib.import_module(f"course.expect.{session}").found()
        text = json.dumps(found, indent=1, sort_keys=True)
        (ANSWERS / f"{session}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
