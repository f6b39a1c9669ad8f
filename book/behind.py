"""Which tables a picture is drawn from, for pages that show one without its notebook."""

from __future__ import annotations

import json
import re
from functools import cache

from book import DATA, TASK

OTHERS = {  # pictures that no notebook's cell draws from tables it names
    "abstract": [f"tables/results/{TASK}/{n}.csv" for n in ("carried", "back", "edits", "facts")],
    "decides": ["tables/study/cells.csv", "tables/study/decisions.csv"],
    "speed": ["tables/bench/speed.csv"],
}


@cache
def drawn() -> dict[tuple[str, str], list[str]]:
    """{(folder of figures, name of a picture): tables}, from the executed copies."""
    found = {}
    for path in sorted((DATA / "executed").glob("*.json")):
        for cell in json.loads(path.read_text())["cells"]:
            for name in re.findall(r'save\(.*"(\w+)", ', cell["source"]):
                if cell.get("tables"):
                    found[path.stem[3:], name] = cell["tables"]
    return found


def tables(picture: str) -> list[str]:
    """Tables of a picture, by its path (`figures/<task>/<folder>/<seed>/<name>.png`), of the task
    that is shown; empty for what is no figure, such as a photograph of a screen."""
    *folders, name = re.sub(r"\.\w+$", "", picture).split("/")
    if name in OTHERS:
        return OTHERS[name]
    return next((t for (home, n), t in drawn().items() if n == name and home in folders), [])


def shown(source: str) -> list[str]:
    """Tables of the pictures that the code of a cell names."""
    named = re.findall(r'"(\w+)\.(?:png|svg)"', source)
    return list(dict.fromkeys(t for (_, n), found in drawn().items() if n in named for t in found))
