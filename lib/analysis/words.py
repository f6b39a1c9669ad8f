"""Findings in sentences, computed from the tables: titles of figures and claims of the README.

A sentence says only what its numbers show: where a comparison is unresolved, it says so. Each is a
`Claim`, which names the cells of the tables that its numbers come from; a test reads these cells
again (`tests/test_claims.py`).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

import pandas

from lib.stats import ALIKE, HIGHER, LOWER

MEASURES = {
    "new-vocabulary": "New answer with other answer words",
    "new-wording": "New answer in another wording",
    "old-vocabulary": "Old answer with other answer words",
    "old-wording": "Old answer in another wording",
    "back": "Old answer of the held-out half after relearning",
}


@dataclass(frozen=True)
class Claim:
    """text: a sentence with `{name}` for each number; cells: {name: (table, {column: value},
    column, format)}, the number being that column of the one row that matches."""

    text: str
    cells: dict[str, tuple] = field(default_factory=dict)

    def filled(self, read) -> str:
        """The sentence with its numbers; read(table): a table by name."""
        return self.text.format(**{n: self.number(n, read) for n in self.cells})

    def number(self, name: str, read) -> str:
        """One number as it is printed; ValueError unless exactly one row matches."""
        table, where, column, form = self.cells[name]
        rows = read(table)
        for key, value in where.items():
            rows = rows[rows[key] == value]
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} rows of {table} match {where}: correct the claim")
        return format(rows[column].iloc[0], form)

    def as_json(self) -> dict:
        """What `from_json` reads."""
        return asdict(self)

    @staticmethod
    def from_json(row: dict) -> Claim:
        """A claim as `as_json` wrote it."""
        return Claim(row["text"], {n: tuple(cell) for n, cell in row["cells"].items()})


def contrast(rows: pandas.DataFrame, question: str, measure: str, a: str, b: str) -> Claim:
    """One comparison; rows: the table of contrasts; a, b: names of the two sides."""
    found = rows[(rows.question == question) & (rows.measure == measure)]
    what = MEASURES[measure]
    if found.empty or pandas.isna(found.value.iloc[0]):
        return Claim(f"{what}: {a} and {b} cannot be compared, an edit or format does not count.")
    verdict = found.verdict.iloc[0]
    verb = "are" if a.endswith("windows") else "is"
    ends = {
        HIGHER: f"{a} {verb} higher",
        LOWER: f"{a} {verb} lower",
        ALIKE: "alike within the margin",
    }
    where = {"question": question, "measure": measure}
    cells = {n: ("contrasts", where, n, ".2f") for n in ("a_value", "b_value")}
    cells |= {n: ("contrasts", where, n, "+.2f") for n in ("value", "low", "high")}
    return Claim(
        f"{what}: {a} {{a_value}}, {b} {{b_value}}, difference {{value}} [{{low}}, {{high}}]: "
        f"{ends.get(verdict, 'unresolved')}.",
        cells,
    )


SIDES = {
    "early-late": ("early windows", "late windows"),
    "lookup-depth": ("fact lookup", "depth-matched MLPs"),
}


def questions(rows: pandas.DataFrame) -> dict[str, list[Claim]]:
    """{question: one claim per measure}."""
    return {q: [contrast(rows, q, m, *sides) for m in MEASURES] for q, sides in SIDES.items()}


def against_each(rows: pandas.DataFrame, measure: str) -> str:
    """Fact lookup against every other edit in words: which are lower, higher, alike, unresolved."""
    mine = rows[rows.measure == measure]
    groups = [
        f"{words} {', '.join(f'`{n}`' for n in part)}"
        for verdict, words in (
            (HIGHER, "higher than"),
            (LOWER, "lower than"),
            (ALIKE, "alike"),
            ("unresolved", "unresolved against"),
        )
        if len(part := mine.localization[mine.verdict == verdict])
    ]
    return f"{MEASURES[measure]}, fact lookup is {'; '.join(groups) or 'compared with no edit'}."


def step(fits: pandas.DataFrame, measure: str) -> Claim:
    """Is it a line or a step in depth? The model that predicts left-out layers better, if clearly
    so (by a tenth)."""
    rows = fits[fits.measure == measure].set_index("model")
    what = MEASURES[measure]
    if not {"line", "step"} <= set(rows.index):
        return Claim(f"{what}: too few single MLPs count to fit a line or a step.")
    line, jump = rows.left_out["line"], rows.left_out["step"]
    better = "a step" if jump < 0.9 * line else "a line" if line < 0.9 * jump else "neither clearly"
    key = {"measure": measure, "model": "step"}
    cells = {
        "at": ("fits", key, "at", ".1f"),
        "step": ("fits", key, "left_out", ".2f"),
        "line": ("fits", key | {"model": "line"}, "left_out", ".2f"),
        "n": ("fits", key, "n", "d"),
    }
    return Claim(
        f"{what}, {{n}} single MLPs: left-out layers are missed by {{step}} under a step at layer "
        f"{{at}} and by {{line}} under a line; {better} predicts better.",
        cells,
    )


def by_layer(edits: pandas.DataFrame, back: pandas.DataFrame) -> list[Claim]:
    """What relearning brings back after each single MLP, and after each window of MLPs, in order of
    depth; a kind of which nothing was edited has no claim."""
    named = [
        (n, r.localization, r.reached)
        for r in edits.itertuples()
        for n in (r.localization, *r.also.split())
    ]
    kinds = {
        r"mlp-\d+": "by the one MLP that is trained",
        r"mlp-window-\d+": "by the first layer of a window that is trained",
    }
    found = []
    for kind, what in kinds.items():
        mine = {int(n.rsplit("-", 1)[1]): rest for n, *rest in named if re.fullmatch(kind, n)}
        found += [_counts(what, mine, back.set_index("localization"))] if mine else []
    return found


def _counts(what: str, edits: dict[int, tuple[str, bool]], back: pandas.DataFrame) -> Claim:
    """Old answers back in order of layer; edits: {layer: (localization, was the strength
    reached?)}."""
    cells, parts = {}, []
    for layer, (edit, reached) in sorted(edits.items()):
        cells[f"b{layer}"] = ("back", {"localization": edit}, "back", "d")
        note = " (failed a gate)" if back.failed[edit] else "" if reached else " (missed)"
        parts.append(f"{layer}: {{b{layer}}}{note}")
    cells["n"] = ("back", {"localization": edit}, "n", "d")
    text = f"Old answers that relearning brings back, of {{n}} held out, {what}: "
    return Claim(f"{text}{', '.join(parts)}.", cells)


def worst_case(worst: pandas.DataFrame) -> str:
    """The worst case of every edit in words."""
    parts = [
        f"`{r.localization}` {r.back} of {r.n} by {r.attack} (R {r.value:.2f}; highest of any "
        f"{r.highest:.2f}, by luck {r.luck:.2f})"
        for r in worst[worst.localization != "unedited"].itertuples()
    ]
    return f"Worst case, as its attacker would choose: {'; '.join(parts)}."


def order(names) -> list[str]:
    """Fact lookup, its controls, sets by effect, windows and single MLPs by depth, unmatched
    sets; then others."""
    ranks = ["fact-lookup", "depth-matched", "causal-tracing", "attribution-patching", "random"]
    ranks += ["mlp-window", "mlp-", "all-mlps", "nonlocalized"]

    def key(name):
        rank = next((i for i, r in enumerate(ranks) if name.startswith(r)), len(ranks))
        tail = name.rsplit("-", 1)[-1]
        return rank, int(tail) if tail.isdigit() else 0, name

    return sorted(names, key=key)


def sweep_title(fits: pandas.DataFrame) -> str:
    """What the sweep over single MLPs shows, in at most a dozen words."""
    rows = fits[fits.measure == "new-wording"].set_index("model")
    if not {"line", "step"} <= set(rows.index):
        return "Edits of one MLP and of windows, layer by layer"
    falls = rows["last"] < rows["first"]
    line, jump = rows.left_out["line"], rows.left_out["step"]
    if jump < 0.9 * line and falls["step"]:
        return f"New answers carry over before layer {rows['at']['step']:.1f}, and less after it"
    if line < 0.9 * jump and falls["line"]:
        return "The later the trained MLP, the less the edit carries over"
    return "Where one MLP is trained: new and old answers, layer by layer"


def _range(rows: pandas.DataFrame, what: str, none: str, number: str = "{r.value:.2f}") -> str:
    """`what`, from the edit with the least to that with the most; `none` where there is no row."""
    if rows.empty:
        return none
    ends = rows.sort_values("value").iloc[[0, -1]].itertuples()
    return f"{what} {' to '.join(f'{number.format(r=r)} ({r.localization})' for r in ends)}"


def answers_title(carried: pandas.DataFrame) -> str:
    """How much of the old answer is left in other wordings."""
    rows = carried[(carried.kind == "wording") & (carried.says == "old")].dropna(subset="value")
    rows = rows[rows.localization != "unedited"]
    return _range(rows, "Old answers in another wording:", "New, old and other answers by format")


def way_title(way: pandas.DataFrame) -> str:
    """What formats say at half the strength and at the end."""
    rows = way[(way.what == "wording new") & (way.localization == "fact-lookup")].sort_values("at")
    if len(rows) < 2:
        return "What strength costs"
    start, end = rows.iloc[0], rows.iloc[-1]
    return (
        f"Fact lookup, strength {start.strength:.2f} to {end.strength:.2f}: new answers elsewhere "
        f"{start.value:.2f} to {end.value:.2f}"
    )


def back_title(back: pandas.DataFrame, names: list[str]) -> str:
    """The least and the most that relearning brings back."""
    rows = back[back.localization.isin(names) & (back.failed == "")]
    none = "No relearning attack passed its gates"
    return _range(rows, "Relearning brings back", none, "{r.back} of {r.n}")


def wordings_title(table: pandas.DataFrame) -> str:
    """What several wordings in training change for the first edit."""
    name, number = table.localization.iloc[0], int(table.trained_on.max())
    rows = table[(table.localization == name) & (table.kind == "wording") & (table.says == "old")]
    rows = rows.set_index("trained_on").value.dropna()
    if not {1, number} <= set(rows.index):
        return f"Edits trained on one wording and on {number}"
    return (
        f"Trained on {number} wordings, {name} leaves {rows[number]:.2f} old answers, on one "
        f"{rows[1]:.2f}"
    )
