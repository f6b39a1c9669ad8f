"""An edit that another localization makes as well: the same weights, the same training, made once.

    python -m lib.stages.twin TASK LOCALIZATION SEED NOTEBOOK

Where notebook 13 found that a localization trains exactly the weights of one edited before it, its
edit is a card that names the other, and this succeeds; else nothing is written and the edit is
made. NOTEBOOK is where the executed notebook would stand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lib.edit.delta import CARD
from lib.model.components import load_set
from lib.store import Store


def main(task: str, localization: str, seed: str, notebook: str) -> bool:
    """Write the card if there is a twin; returns whether there is one."""
    store = Store("data")
    twin = load_set(store, task, localization, int(seed)).equals
    if not twin:
        return False
    card = json.dumps({"equals": twin}) + "\n"
    (store.folder("edit", task, localization, seed) / CARD).write_text(card)
    text = f"`{localization}` trains the same weights as `{twin}`: see its edit."
    cell = {"cell_type": "markdown", "id": "twin", "metadata": {}, "source": text}
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    Path(notebook).write_text(json.dumps(book) + "\n")
    print(text)
    return True


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
