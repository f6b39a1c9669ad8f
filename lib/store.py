"""Where results lie: every folder and every table, by name, with its columns.

The pipeline reads and writes `data`. A notebook stepped through by hand has its own home,
`data/play`: what it makes is written there, and what it needs is read from there if an earlier
notebook has made it, else from the pipeline's results; it prints which. So stepping by hand never
changes what the pipeline made, and notebooks can be stepped through in order before the pipeline
ever ran.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas

from lib import paths
from lib.tables import STAGES, TABLES

PUBLISHED = (
    "results",
    "comparison",
    "score_card",
)  # in git: six significant digits instead of six decimals


class Store:
    """Results of one home; home: "data" for the pipeline, another folder for stepping by hand."""

    def __init__(self, home: str):
        self.home = paths.ROOT / home
        self.playing = self.home != paths.DATA
        self._said: set[Path] = set()

    def folder(self, stage: str, *key) -> Path:
        """The folder to write to, made if need be; key: task, (localization,) seed."""
        path = self._path(self.home, stage, key)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def find(self, stage: str, *key, file: str = "") -> Path:
        """A folder (or a file in it) to read: this home's, else the pipeline's.

        FileNotFoundError in one sentence names the notebook and the command that make it.
        """
        for home in dict.fromkeys((self.home, paths.DATA)):
            path = self._path(home, stage, key) / file
            if path.is_file() or path.is_dir() and any(path.iterdir()):
                if self.playing and path not in self._said:
                    print("reading", path.relative_to(paths.ROOT))
                    self._said.add(path)
                return path
        notebook, name = STAGES[stage]
        wanted = "/".join(map(str, (*key, file) if file else key))
        raise FileNotFoundError(
            f"there is no {stage.replace('_', ' ')} of {wanted} yet: run all of notebook "
            f"{notebook} with these parameters, or `dvc repro {name}`"
        )

    def has(self, stage: str, *key, file: str = "") -> bool:
        """Would `find` succeed?"""
        homes = (self.home, paths.DATA)
        return any((self._path(home, stage, key) / file).exists() for home in homes)

    @staticmethod
    def _path(home: Path, stage: str, key: tuple) -> Path:
        if stage not in STAGES:
            raise ValueError(f"unknown stage '{stage}': use one of {', '.join(STAGES)}")
        folder = home / "tables" / stage if stage in PUBLISHED else home / stage
        return folder.joinpath(*map(str, key))

    def save(self, table: str, rows: pandas.DataFrame, *key) -> None:
        """Write a table of TABLES as csv; ValueError if it lacks a column."""
        stage, name = table.split("/")
        _check(table, rows)
        path = self.folder(stage, *key) / f"{name}.csv"
        if stage in PUBLISHED:
            rows.to_csv(path, index=False, float_format="%.6g")
        else:
            rows.round(6).to_csv(path, index=False)
        print(path.relative_to(paths.ROOT), len(rows), "rows")

    def load(self, table: str, *key) -> pandas.DataFrame:
        """Read what `save` wrote; only empty cells are missing values, and none in `variant`."""
        stage, name = table.split("/")
        path = self.find(stage, *key, file=f"{name}.csv")
        text = {
            c: str
            for c in ("variant", "layers", "mlps", "mlp", "attention", "also", "a", "b", "failed")
        }
        rows = pandas.read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
        for column in set(text) & set(rows.columns):
            rows[column] = rows[column].fillna("")
        _check(table, rows)
        return rows

    def load_seeds(self, table: str, task: str, seeds: list[int], *key) -> pandas.DataFrame:
        """The tables of several seeds below each other with column seed; fact ids carry theirs."""
        parts = []
        for seed in seeds:
            rows = self.load(table, task, *key, seed)
            if "id" in rows:
                rows["id"] = f"{seed}/" + rows["id"]
            parts.append(rows.assign(seed=seed))
        return pandas.concat(parts, ignore_index=True)

    def save_json(self, name: str, value, *key) -> None:
        """Write `stage/name` as json with sorted keys."""
        stage, file = name.split("/")
        path = self.folder(stage, *key) / f"{file}.json"
        path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        print(path.relative_to(paths.ROOT))

    def load_json(self, name: str, *key):
        """Read what `save_json` wrote."""
        stage, file = name.split("/")
        return json.loads(self.find(stage, *key, file=f"{file}.json").read_text())

    def remembered(
        self, name: str, mark: str, make: Callable[[], dict[str, pandas.DataFrame]], *key
    ) -> dict[str, pandas.DataFrame]:
        """The tables of one part of a long stage: as an earlier, interrupted run made them, if it
        left them with the same `mark`; else made now and kept. name: `stage/part`."""
        stage, part = name.split("/")
        path = self.folder(stage, *key, "parts") / f"{part}.json"
        left = json.loads(path.read_text()) if path.exists() else {}
        if left.get("mark") != mark:
            tables = {n: t.round(6).to_csv(index=False) for n, t in make().items()}
            left = {"mark": mark, "tables": tables}
            whole = path.with_suffix(".new")  # a kill while writing leaves no half file
            whole.write_text(json.dumps(left))
            whole.replace(path)
        return {
            n: pandas.read_csv(StringIO(t), keep_default_na=False, na_values=[""])
            for n, t in left["tables"].items()
        }

    def mark_of(self, stage: str, *values) -> str:
        """What a part of a stage depends on, as one short text: its code (in the pipeline, as stage
        `code` lists it; by hand, all of `lib`) and any values that json can write."""
        listed = paths.DATA / "code" / f"{STAGES[stage][0]}.txt"
        if self.playing or not listed.exists():
            code = "".join(p.read_text() for p in sorted((paths.ROOT / "lib").rglob("*.py")))
        else:
            code = listed.read_text()
        whole = json.dumps([code, *values], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def figures(self, name: str, *key) -> Path:
        """Folder for the figures of one notebook, by its name without number; made if need be."""
        root = self.home / "figures" if self.playing else paths.FIGURES
        path = root.joinpath(*map(str, key[:1]), name, *map(str, key[1:]))
        path.mkdir(parents=True, exist_ok=True)
        return path


def _check(table: str, rows: pandas.DataFrame) -> None:
    missing = [c for c in TABLES[table] if c not in rows]
    if missing:
        notebook, stage = STAGES[table.split("/")[0]]
        raise ValueError(
            f"table {table} lacks column '{missing[0]}': make it anew with notebook {notebook} or "
            f"`dvc repro {stage}`"
        )
