"""An edited model for use elsewhere:

    python -m lib.edit.export data/edit/<task>/<localization>/<seed> FOLDER
    python -m lib.edit.export --undo FOLDER

The stored edit is put onto the base model named on its card and saved as an ordinary Hugging Face
folder (weights, tokenizer, config, and the edit's card), which `AutoModelForCausalLM` loads and
`model.name` in params.yaml takes. `--undo` gives the folder the base model's bytes back.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from lib.config.blocks import ModelSettings
from lib.config.errors import on_the_command_line
from lib.edit import delta
from lib.model.loading import load_model


def export(edit: Path, folder: Path) -> None:
    """Save base model plus edit as a Hugging Face folder, whole or not at all.

    FileExistsError if the folder exists; else the errors of `delta.card`, `load_model` and
    `delta.edited` (an edit made from other weights is refused).
    """
    if folder.exists():
        raise FileExistsError(f"'{folder}' exists: name a new folder, or delete that one first")
    loaded = load_model(ModelSettings(name=delta.card(edit)["model"], device="cpu"))
    delta.edited(loaded, edit)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _save(loaded, partial)
    shutil.copy(edit / delta.CARD, partial / delta.CARD)
    partial.rename(folder)


def undo(folder: Path) -> None:
    """Give an exported folder the base model's weights back, bit for bit, and drop the card.

    ValueError if the base model is no longer the one the edit was made from.
    """
    loaded = load_model(ModelSettings(name=delta.card(folder)["model"], device="cpu"))
    delta.check(loaded, folder)
    _save(loaded, folder)
    (folder / delta.CARD).unlink()


def _save(loaded, folder: Path) -> None:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def main(arguments: list[str]) -> None:
    """The command line; problems are one sentence."""
    parser = argparse.ArgumentParser(prog="python -m lib.edit.export")
    parser.add_argument("edit", nargs="?", type=Path, help="folder of a stored edit")
    parser.add_argument("folder", type=Path, help="folder of the edited model")
    parser.add_argument("--undo", action="store_true", help="restore the base model in FOLDER")
    wanted = parser.parse_args(arguments)
    if (wanted.edit is None) != wanted.undo:
        parser.error("give an edit and a folder, or --undo and a folder")
    with on_the_command_line():
        undo(wanted.folder) if wanted.undo else export(wanted.edit, wanted.folder)
    print(f"{'restored' if wanted.undo else 'saved'} {wanted.folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
