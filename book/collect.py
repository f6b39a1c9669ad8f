"""Small copies of what a full run left, for the book: `python -m book.collect` (half a minute).

It writes to `book/data`: one executed copy a notebook without prose and with recompressed pictures,
the tables behind figures that are not in git already, rows for the explorers, and the seconds that
every notebook took. Alt texts are the titles of the figures, drawn again from their tables.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot
import nbformat
import pandas
from PIL import Image

import lib.store
from book import DATA, TASK
from lib import config, paths
from lib.analysis import score_card
from lib.attacks import battery
from lib.figures import style
from lib.measure.formats import Formats
from lib.store import PUBLISHED, Store
from lib.tables import UNEDITED

EDIT = "fact-lookup"  # whose executed notebook 20 is shown
COLOURS = 64  # of a picture in an executed copy
LARGEST = 400_000  # bytes of a table behind a figure


# Executed notebooks


def executed(name: str, task: str) -> list[Path]:
    """What the run left of one notebook: its computing part, and the part that draws."""
    found = []
    for part in (name, f"draw_{name[3:]}"):
        kinds = (f"{part}__{task}*.ipynb", f"{part}__*.ipynb", f"{part}.ipynb")
        every = (sorted(paths.EXECUTED.glob(kind)) for kind in kinds)
        parts = next((some for some in every if some), [])
        wanted = [p for p in parts if EDIT in p.name] or parts
        found += wanted[:1]
    return found


def small(output: dict) -> dict | None:
    """An output as it is kept: no progress bars, no paths of this machine, small pictures."""
    if output.output_type == "stream":
        return dict(output) if output.name == "stdout" else None
    data = dict(output.get("data", {}))
    if any("widget-view" in kind for kind in data) or "PosixPath" in data.get("text/plain", ""):
        return None
    kept = {kind: data[kind] for kind in ("text/html", "text/plain") if kind in data}
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        file = io.BytesIO()
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        kept = {"image/png": base64.b64encode(file.getvalue()).decode()}
    elif "text/html" in kept:
        kept.pop("text/plain", None)
    elif kept.get("text/plain", "").startswith("<Figure"):
        return None
    return {"output_type": "display_data", "metadata": {}, "data": kept} if kept else None


def copy(parts: list[Path], drawn: dict[str, dict]) -> dict:
    """Code cells with outputs of a notebook that ran in parts; drawn: what `figures` found."""
    code = {}
    for part in parts:
        for cell in nbformat.read(part, 4).cells:
            if cell.cell_type == "code" and (cell.outputs or cell.id not in code):
                code[cell.id] = cell
    cells = []
    for cell in code.values():
        outputs = [o for o in map(small, cell.outputs) if o]
        if outputs:
            kept = {"id": cell.id, "source": cell.source, "outputs": outputs}
            cells.append(kept | drawn.get(cell.id, {}))
    return {"shown": [p.stem.replace("__", " ") for p in parts], "cells": cells}


def figures(path: Path, task: str, seed: int) -> dict[str, dict]:
    """{cell: {alt, tables}} of the figure cells of a notebook, from running them: the text that a
    figure has as its title, and the tables that it is drawn from."""
    found, names, read, titles = {}, {"task": task, "home": "data", "seed": seed}, [], []

    class Watched(Store):
        def load(self, table, *key):
            stage, name = table.split("/")
            read.append(self.find(stage, *key, file=f"{name}.csv"))
            return super().load(table, *key)

        def figures(self, name, *key):
            return Path(mkdtemp(dir=scratch))

    def save(figure, name, folder):
        title = figure._suptitle.get_text() if figure._suptitle else ""
        if not title:
            places = ((axis, loc) for axis in figure.axes for loc in ("left", "center"))
            title = " ".join(filter(None, (axis.get_title(loc) for axis, loc in places)))
        titles.append(title)

    original = style.save, Store
    scratch = mkdtemp()
    try:
        style.save, lib.store.Store = save, Watched
        for cell in nbformat.read(path, 4).cells:
            if "figure" in cell.metadata.get("tags", []):
                first = len(read), len(titles)
                exec(compile(cell.source, path.name, "exec"), names)
                tables = dict.fromkeys(
                    p.relative_to(paths.DATA).as_posix() for p in read[first[0] :]
                )
                alt = " ".join(" ".join(titles[first[1] :]).split())
                found[cell.id] = {"alt": alt, "tables": list(tables)}
                matplotlib.pyplot.close("all")
    finally:
        style.save, lib.store.Store = original
        shutil.rmtree(scratch)
    return found


def notebooks(settings) -> None:
    """Executed copies, and the tables behind their figures that are not published already."""
    home, times = DATA / "executed", []
    for folder in (home, DATA / "tables"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    alts = {}  # by picture: the first notebook shows pictures of the others
    for path in sorted((paths.ROOT / "notebooks").glob("*.ipynb"), reverse=True):
        task = TASK
        parts = executed(path.stem, task)
        if parts and TASK not in parts[0].name and "world-facts" in parts[0].name:
            task = "world-facts"
        if not parts:
            continue
        drawn = figures(path, task, settings.seeds[0])
        for cell in nbformat.read(path, 4).cells:
            named = re.findall(r'(\w+)(?:\.png|", pictures\)|", folder\))', cell.source)
            if cell.id in drawn:
                alts |= dict.fromkeys(named, drawn[cell.id]["alt"])
            elif ".png" in cell.source and path.stem.startswith("00"):
                alt = "; ".join(alts[name] for name in named if name in alts)
                drawn[cell.id] = {"alt": alt, "tables": []}
        for table in {t for d in drawn.values() for t in d["tables"]}:
            source = paths.DATA / table
            if not table.startswith("tables/") and source.stat().st_size <= LARGEST:
                (DATA / "tables" / table).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, DATA / "tables" / table)
        left = json.dumps(copy(parts, drawn), indent=1, ensure_ascii=False)
        (home / f"{path.stem}.json").write_text(left + "\n")
        print(path.stem, task, *(p.name for p in parts))
    for path in sorted(paths.EXECUTED.glob("*.ipynb")):
        took = nbformat.read(path, 4).metadata.get("papermill", {}).get("duration")
        if took is not None:
            times.append({"notebook": path.stem.replace("__", " "), "seconds": round(took, 1)})
    pandas.DataFrame(times).to_csv(DATA / "times.csv", index=False)


# Rows of the explorers


def edits(store: Store, settings) -> pandas.DataFrame:
    """Answers in every format, of the unedited model and after every edit of the task."""
    seed = settings.seeds[0]
    asked = store.load("attack_formats/rows", TASK, seed)
    rest = store.load("sweep/asked", TASK, seed)
    rows = pandas.concat([asked, rest[rest.trained_on == 1]], ignore_index=True)
    shown = store.load("results/edits", TASK).localization
    return rows[rows.localization.isin([UNEDITED, *shown])]


def ask(store: Store, settings) -> None:
    """Edit and ask: p of the old and the new answer and the answer, by person, format and edit."""
    rows = edits(store, settings)
    rows = rows[rows.split.isin(["forget_train", "forget_heldout"])]
    rows = rows.assign(subject=rows.id.str.split("/").str[-1])
    rows = rows.drop_duplicates(["localization", "format", "subject"])
    columns = ["localization", "format", "subject", "true", "edit", "answer", "p_true", "p_edit"]
    rows[columns].round(3).to_csv(DATA / "ask.csv", index=False)
    formats = Formats.load(store.find("unedited", TASK, settings.seeds[0]))
    found = json.loads(
        store.find("unedited", TASK, settings.seeds[0], file="formats.json").read_text()
    )
    keep = ("name", "kind", "template", "answers")
    first = [{k: f[k] for k in keep} for f in next(iter(found["formats"].values()))]
    first = [f | {"counts": f["name"] in formats.counted} for f in first]
    (DATA / "formats.json").write_text(json.dumps(first, indent=1, ensure_ascii=False) + "\n")


def relearn(store: Store, settings) -> None:
    """Relearning: what the attacked model answers, by edit, step and subject."""
    seed = settings.seeds[0]
    ours, rest = (
        store.load("attack_relearn/rows", TASK, seed),
        store.load("sweep/relearned", TASK, seed),
    )
    rows = pandas.concat([ours, rest[rest.trained_on == 1]], ignore_index=True)
    rows = rows[rows.split != battery.CHOOSING]
    shown = [UNEDITED, *store.load("results/edits", TASK).localization]
    rows = rows[rows.localization.isin(shown)]
    rows = rows.assign(subject=rows.id.str.split("/").str[-1], step=rows.budget)
    rows = rows.drop_duplicates(["localization", "step", "split", "subject"])
    columns = ["localization", "step", "split", "subject", "true", "edit", "answer"]
    rows[columns].to_csv(DATA / "relearn.csv", index=False)


def card(store: Store, settings) -> None:
    """Score card: one row per read-out and split, with counts: n facts, how many were answered
    correctly, how many have each true answer and how many got each answer; excluded: why an
    attacker could not make it."""
    records = score_card.collect(store, TASK, settings)
    methods = score_card.attacks(settings)
    teaches = records.ledger.groupby("attack").taught.any()
    keys = ["localization", "attack", "variant", "budget", "split"]
    options = sorted(records.rows.true.unique())
    found = []
    for key, part in records.rows.groupby(keys, sort=False):
        row = dict(zip(keys, key))
        method = methods[row["attack"]]
        layer = battery.module(method).BUDGET == "layer"
        below = layer and row["budget"] <= records.first_trained.get(row["localization"], -2)
        oracle = battery.oracle(method, row["variant"])
        row |= {"teaches": bool(teaches[row["attack"]])}
        row |= {"excluded": "below" if below else "oracle" if oracle else ""}
        row |= {"n": len(part), "right": int((part.answer == part.true).sum())}
        row |= {f"true {o}": int((part.true == o).sum()) for o in options}
        row |= {f"said {o}": int((part.answer == o).sum()) for o in options}
        found.append(row)
    pandas.DataFrame(found).to_csv(DATA / "card.csv", index=False)
    rules = {"known": records.known, "masks": records.masks, "admitted": score_card.ADMITTED}
    rules |= {
        "gate_retain": settings.attacks.gate_retain,
        "gate_train": settings.attacks.gate_train,
    }
    rules |= {"keep": settings.attack_formats.keep}
    (DATA / "card.json").write_text(json.dumps(rules, indent=1) + "\n")


def main() -> None:
    """Everything, from the results of a full run."""
    settings, store = config.load(), Store("data")
    assert set(PUBLISHED) >= {"results", "score_card"}
    ask(store, settings)
    relearn(store, settings)
    card(store, settings)
    notebooks(settings)


if __name__ == "__main__":
    matplotlib.use("agg")
    main()
