"""A stored edit: the new values of the changed matrices (safetensors) and a json card that says
what it is.

Applying a delta to weights other than those it was made from is refused; `apply` returns the old
values, so that `restore` gives back the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.edit.train import trainable

DELTA, CARD = "delta.safetensors", "card.json"


def save(model, localization, card: dict, folder: Path) -> None:
    """Write the localization's matrices and a card; the card must name `base_checksum`."""
    values = {n: p.detach().cpu().contiguous() for n, p in trainable(model, localization).items()}
    save_file(values, folder / DELTA)
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")


def card(folder: Path) -> dict:
    """The card of a stored edit; FileNotFoundError names the notebook that makes it."""
    path = folder / CARD
    if not path.exists():
        raise FileNotFoundError(
            f"no edit at {'/'.join(folder.parts[-4:])}: run notebook 20, or `dvc repro`, for "
            "it first"
        )
    return json.loads(path.read_text())


def check(loaded, folder: Path) -> None:
    """ValueError if the edit was made from other weights than the loaded model's."""
    made_from = card(folder)["base_checksum"]
    if made_from != loaded.checksum:
        raise ValueError(
            f"this edit was made from weights {made_from[:12]}..., the loaded model has "
            f"{loaded.checksum[:12]}...: "
            "load the model named on its card, or make the edit again"
        )


@torch.no_grad()
def apply(loaded, folder: Path) -> dict[str, Tensor]:
    """Put a stored edit onto its base model, in place; returns the old values for `restore`.

    ValueError if the delta was made from other weights.
    """
    check(loaded, folder)
    parameters = dict(loaded.model.named_parameters())
    old = {}
    for name, value in load_file(folder / DELTA).items():
        old[name] = parameters[name].detach().clone()
        parameters[name].copy_(value)
    return old


@torch.no_grad()
def restore(model, old: dict[str, Tensor]) -> None:
    """Undo `apply`: the same bytes as before."""
    parameters = dict(model.named_parameters())
    for name, value in old.items():
        parameters[name].copy_(value)
