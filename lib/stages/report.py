"""What `make repro` prints at the end: the summary table, and where the time went.

Times come from the executed notebooks, where papermill leaves them; they are no results and enter
no table. A stage's start-up is everything before its first computing cell: starting papermill and
the kernel, importing, loading the model. `python -m lib.stages.report failure` names why the last
notebook stopped, `python -m lib.stages.report readme` writes the numbers in docs/.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas

from lib import config, paths
from lib.analysis.readme import findings, summary, write_docs

LAUNCH_S = 1.7  # importing papermill, before its own clock starts: median of three on two cores
LOADING = ("import ", "load_model(", "config.load(")


def timings(folder: Path = paths.EXECUTED) -> pandas.DataFrame:
    """One row per executed notebook: seconds in all and seconds of start-up."""
    rows = []
    for path in sorted(folder.glob("*.ipynb")):
        book = json.loads(path.read_text())
        meta = book["metadata"].get("papermill", {})
        if not meta.get("duration"):
            continue
        computing = sum(
            cell["metadata"]["papermill"].get("duration") or 0
            for cell in book["cells"]
            if cell["cell_type"] == "code" and not _only_loads("".join(cell["source"]))
        )
        total = meta["duration"] + LAUNCH_S
        rows.append({"notebook": path.stem, "seconds": total, "start_up": total - computing})
    return pandas.DataFrame(rows, columns=["notebook", "seconds", "start_up"])


def _only_loads(source: str) -> bool:
    """Is this a cell that imports or loads, and does no computing of its own?"""
    return any(word in source for word in LOADING) and "papermill_description" not in source


def failure(folder: Path = paths.EXECUTED) -> str:
    """The sentence with which the last notebook stopped, or "" if none did."""
    for path in sorted(folder.glob("*.ipynb"), key=lambda p: p.stat().st_mtime, reverse=True)[:1]:
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    return f"{path.stem} stopped: {_plain(output['evalue'])}"
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def main() -> None:
    """Print summary, contrasts, figures and times."""
    settings = config.load()
    pandas.set_option("display.width", 140)
    for task in settings.tasks:
        print(f"\n{task}, {settings.model.name}, seeds {settings.seeds}\n")
        print(summary(task).to_string())
        print("", *findings(task), sep="\n")
        made = sorted(p.stem for p in (paths.FIGURES / task).rglob("*.png"))
        print(f"\nfigures/{task}: {', '.join(made)}")
    times = timings()
    share = times.start_up.sum() / max(times.seconds.sum(), 1e-9)
    print(
        f"\n{len(times)} notebook runs, {times.seconds.sum() / 60:.1f} minutes; starting and "
        "loading took "
        f"{share:.0%} of them"
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["failure"]:
        sys.exit(failure())
    if sys.argv[1:] == ["readme"]:
        write_docs(config.load().tasks)
    else:
        main()
