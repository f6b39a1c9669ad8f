"""What each account predicts: one number of a set of MLPs decides how robust an edit there is.

y = low + (high - low) * x, where y is the share of old answers that come back, and x is 0 where the
account calls a set robust and 1 where it does not.
"""

from __future__ import annotations

from study.design import layers_of, measures, split_name

ACCOUNTS = {
    "depth": "robustness fades with the mean depth of what is trained",
    "extraction": "anything before the heads that read the answer will do",
    "lookup": "the set must hold the MLPs that look the fact up, in proportion to their effect",
    "upstream": "the set must begin at or before them, in proportion to what is still to come",
}


def predictor(
    account: str, task: str, layers: tuple[int, ...], planted: tuple[int, ...] = ()
) -> float:
    """x of one account for one set of MLPs, from 0 (robust) to 1, the facts being where they are by
    nature, or planted; ValueError for another name."""
    found = measures(task, layers, planted)
    if account == "depth":
        return found.depth
    if account == "extraction":
        return 1 - found.before
    if account == "lookup":
        return 1 - found.lookup
    if account == "upstream":
        return 1 - found.upstream
    raise ValueError(f"unknown account '{account}': use one of {', '.join(ACCOUNTS)}")


def predicted(account: str, task: str, cell: str, low: float, high: float) -> float:
    """Share of old answers that come back in a cell; not a number where the set is not one of whole
    MLPs."""
    planted, edited = split_name(cell)
    layers = layers_of(edited)
    if layers is None:
        return float("nan")
    where = layers_of(planted) if planted else ()
    return low + (high - low) * predictor(account, task, layers, where)
