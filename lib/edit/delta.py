"""A stored edit: the new values of the changed matrices (safetensors) and a json card that says
what it is.

Applying a delta to weights other than those it was made from is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.model.weights import kept, put, trainable
from lib.store import Store

DELTA, CARD = "delta.safetensors", "card.json"


def save(model, localization, card: dict, folder: Path) -> None:
    """Write the localization's matrices and a card; the card must name `base_checksum`."""
    values = {n: p.detach().cpu().contiguous() for n, p in trainable(model, localization).items()}
    save_file(values, folder / DELTA)
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")


def card(folder: Path) -> dict:
    """The card of a stored edit; FileNotFoundError if there is none."""
    path = folder / CARD
    if not path.exists():
        raise FileNotFoundError(f"there is no stored edit in '{folder}': name a folder with one")
    return json.loads(path.read_text())


def stored(store: Store, task: str, localization: str, seed: int) -> Path:
    """Folder of an edit: its own, or that of the localization that trains the same weights."""
    folder = store.find("edit", task, localization, seed)
    twin = card(folder).get("equals")
    return store.find("edit", task, twin, seed) if twin else folder


def at_hand(store: Store, task: str, names: list[str], seed: int) -> list[str]:
    """Which of some localizations can be attacked: all in the pipeline; when stepping by hand those
    whose edit has been made, and the others are named."""
    found = [n for n in names if not store.playing or store.has("edit", task, n, seed, file=CARD)]
    if not found:
        store.find("edit", task, names[0], seed)
    for name in names:
        if name not in found:
            print(f"no edit of {name} yet: notebook 20 with localization = '{name}' makes it")
    return found


def check(loaded, folder: Path) -> None:
    """ValueError if the edit was made from other weights than the loaded model's."""
    made_from = card(folder)["base_checksum"]
    if made_from != loaded.checksum:
        raise ValueError(
            f"this edit was made from weights {made_from[:12]}..., the loaded model has "
            f"{loaded.checksum[:12]}...: "
            "load the model named on its card, or make the edit again"
        )


@contextmanager
def applied(loaded, folder: Path) -> Iterator[dict[str, Tensor]]:
    """Inside, a stored edit is on its base model; gives the values that it replaced.

    ValueError if the edit was made from other weights.
    """
    check(loaded, folder)
    values = load_file(folder / DELTA)
    parameters = dict(loaded.model.named_parameters())
    with kept({name: parameters[name] for name in values}) as old:
        put(parameters, values)
        yield old


def edited(loaded, folder: Path) -> None:
    """Put a stored edit onto its base model for good; errors as of `applied`."""
    check(loaded, folder)
    put(dict(loaded.model.named_parameters()), load_file(folder / DELTA))
