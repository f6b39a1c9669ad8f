"""Does a default run agree with the study? `python -m study.reproduced`, which ends `make repro`.

For every set of MLPs that both have edited, the study's folds give a prediction interval of what
one more split should show; the run's share of old answers that come back lies in it or does not.
"""

from __future__ import annotations

import numpy
import pandas
from scipy import stats

from lib import config, paths
from study import cells, decide, design, tables

LEAST = 3  # folds that a prediction needs
RESULTS = paths.DATA / "tables" / "results"


def predicted(shares: numpy.ndarray, n: int, level: float = 0.05) -> tuple[float, float]:
    """Prediction interval of the share among `n` facts of one more split, from the shares of some
    folds of `size` facts: Student's, with what a smaller number of facts adds to the variance."""
    mean, folds = shares.mean(), len(shares)
    least = 1 / design.params()["size"]
    more = max(1 / n - 1 / design.params()["size"], 0) * mean * (1 - mean)
    spread = max(shares.std(ddof=1), least) ** 2 * (1 + 1 / folds) + more
    reach = stats.t.ppf(1 - level / 2, folds - 1) * spread**0.5
    return max(float(mean - reach), 0.0), min(float(mean + reach), 1.0)


def compared(task: str, made: pandas.DataFrame) -> pandas.DataFrame:
    """Rows (localization, back, n, value, low, high, folds) of the default run's sets of whole MLPs
    that the study has edited in at least LEAST folds."""
    back = pandas.read_csv(RESULTS / task / "back.csv", keep_default_na=False)
    edits = pandas.read_csv(RESULTS / task / "edits.csv", keep_default_na=False)
    whole = edits[(edits.attention == "") & edits.steps.gt(0)].set_index("localization").mlp
    rows, first = [], made.drop_duplicates(["fold", "cell"])
    for run in back[back.localization.isin(whole.index)].itertuples():
        name = design.mlps(*map(int, whole[run.localization].split()))
        shares = first[(first.cell == name) & first.reached][decide.PRIMARY].to_numpy()
        if len(shares) >= LEAST:
            low, high = predicted(shares, run.n)
            key = {"localization": run.localization, "back": run.back, "n": run.n}
            rows.append(key | {"value": run.value, "low": low, "high": high, "folds": len(shares)})
    return pandas.DataFrame(rows)


def main() -> None:
    """Print how many numbers of the run lie within the study's prediction intervals."""
    parts = []
    for task in [t for t in config.load().tasks if t in design.params()["tasks"]]:
        if len(made := tables.load(task, *cells.catalogue_of(task))):
            parts.append(compared(task, made).assign(task=task))
    rows = pandas.concat(parts) if parts else pandas.DataFrame()
    if rows.empty:
        print("\nreproduced: the study has no set in common with this run in enough folds yet")
        return
    inside = rows.value.between(rows.low, rows.high)
    print(f"\nreproduced: {inside.sum()} of {len(rows)} within the study's prediction intervals")
    for row in rows[~inside].itertuples():
        print(
            f"outside: {row.task}, {row.localization}, {row.back} of {row.n} old answers back, "
            f"predicted {row.low:.2f} to {row.high:.2f} from {row.folds} folds"
        )


if __name__ == "__main__":
    main()
