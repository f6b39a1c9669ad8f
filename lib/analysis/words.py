"""Findings in sentences, computed from the tables."""

from __future__ import annotations

import pandas

MEASURES = {
    "transfer": "New answer in another vocabulary",
    "heldout": "Old answer back after relearning, held-out half",
}


def sentence(row, what: str, a: str, b: str) -> str:
    """A contrast in words; says so where the interval covers zero or where nothing can be
    compared."""
    if pandas.isna(row.value):
        empty = b if isinstance(row.a, str) and row.a else a
        return f"{what}: no comparison, no edit of {empty} counts"
    compared = (
        f"{a} {row.a_value:.2f} [{row.a_low:.2f}, {row.a_high:.2f}], "
        f"{b} {row.b_value:.2f} [{row.b_low:.2f}, {row.b_high:.2f}]"
    )
    sure = row.low > 0 or row.high < 0
    verdict = "" if sure else ", no clear difference"
    interval = f"[{row.low:+.2f}, {row.high:+.2f}]"
    return f"{what}: {compared}; difference {row.value:+.2f} {interval}{verdict}"


def against_each(rows: pandas.DataFrame, what: str, level: float = 0.95) -> str:
    """`pairwise` of one measure in words: where fact lookup is higher or lower after Holm's
    correction."""
    if rows.empty:
        return f"{what}: no comparison, no edit of fact lookup counts"
    sure = rows[rows.p_corrected < 1 - level]
    groups = {
        "higher than": sure[sure.value > 0],
        "lower than": sure[sure.value < 0],
        "no clear difference from": rows.drop(sure.index),
    }
    parts = [
        f"{words} " + ", ".join(f"`{r.localization}` ({r.value:+.2f})" for r in part.itertuples())
        for words, part in groups.items()
        if len(part)
    ]
    return f"{what}, fact lookup against each other set (Holm-corrected): {'; '.join(parts)}"


def measures(forget: bool) -> dict[str, str]:
    """{measure of a comparison: its words}; forget: were answers only to be forgotten?"""
    words = {"transfer": "Old answer gone in another vocabulary"} if forget else {}
    return MEASURES | words


SIDES = {
    "early-late": ("early windows", "late windows"),
    "lookup-depth": ("fact lookup", "depth-matched controls"),
}


def findings(contrasts: pandas.DataFrame, forget: bool) -> dict[str, list[str]]:
    """{question: one sentence per measure} from the table of contrasts."""
    rows = contrasts.set_index(["question", "measure"])
    return {
        question: [sentence(rows.loc[question, m], w, *sides) for m, w in measures(forget).items()]
        for question, sides in SIDES.items()
    }


def worst_case(worst: pandas.DataFrame, scope: str) -> str:
    """The worst case of every localization in words."""
    mine = worst[(worst.scope == scope) & (worst.localization != "unedited")]
    parts = [
        f"`{r.localization}` {r.value:.2f} [{r.low:.2f}, {r.high:.2f}] by {r.attack}"
        for r in mine.itertuples()
    ]
    invented = f"arbitrary labels of invented subjects: at most {mine.invented.max():.2f}"
    return (
        f"Highest recovery by any of {mine.attacks.max()} attacks: {'; '.join([*parts, invented])}"
    )


def order(names) -> list[str]:
    """Fact lookup, its controls, sets by effect, windows by depth, unmatched sets; then others."""
    ranks = ["fact-lookup", "depth-matched", "causal-tracing", "attribution-patching", "random"]
    ranks += ["mlp-window", "all-mlps", "nonlocalized"]

    def key(name):
        rank = next((i for i, r in enumerate(ranks) if name.startswith(r)), len(ranks))
        tail = name.rsplit("-", 1)[-1]
        return rank, int(tail) if tail.isdigit() else 0, name

    return sorted(names, key=key)
