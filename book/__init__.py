"""The book: a site from the README, the notebooks with their outputs, the docs and four explorers.

`make book` builds it from what is committed. What it shows of results lies in `data/tables`,
`figures` and `book/data`; the last is made by `python -m book.collect` and `python -m book.trace`
after a full run.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
DATA = FOLDER / "data"  # committed: executed notebooks and the explorers' rows
SITE = FOLDER / "site"  # built
TASK = "sports-athletes"  # what the explorers show
EARLY, LATE = "fact-lookup", "mlp-window-12"  # the two stored edits of the score card
