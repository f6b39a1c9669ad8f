"""The folders of the compendium; the only place that builds paths.

Inputs of a stage are found here by (task, localization, seed). The folder a notebook *writes* to
is its own parameter `out`: the pipeline names it in dvc.yaml, and a notebook stepped through by
hand writes to `data/play/`, so that playing never changes what the pipeline made.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
EXECUTED = DATA / "executed"
TEXT = DATA / "text"


def model(name: str) -> Path:
    """Folder with the plain safetensors copy of a packaged model."""
    return DATA / "model" / name


def facts(task: str, seed: int) -> Path:
    """Folder with facts.json, split.json and invented subjects."""
    return DATA / "facts" / task / str(seed)


def unedited(task: str, seed: int) -> Path:
    """Folder with the unedited model's answers in every format: apart from the facts, so that a new
    format makes no edit anew."""
    return DATA / "unedited" / task / str(seed)


def localize(task: str, seed: int) -> Path:
    """Folder with the scores of the localization methods."""
    return DATA / "localize" / task / str(seed)


def effects(method: str, task: str, seed: int) -> Path:
    """Folder with the effects of heads and MLPs on the output, by one method."""
    return DATA / method.replace("-", "_") / task / str(seed)


def chosen(task: str, seed: int, localization: str = "") -> Path:
    """Folder of the chosen component sets, or the json file of one localization."""
    folder = DATA / "chosen" / task / str(seed)
    return folder / f"{localization}.json" if localization else folder


def edit(task: str, localization: str, seed: int) -> Path:
    """Folder with one edit: delta.safetensors, card.json, log.csv."""
    return DATA / "edit" / task / localization / str(seed)


def attack(group: str, task: str, seed: int) -> Path:
    """Folder with every edit's answers under one group of attacks (one run for all localizations):
    formats, relearn, prompts, weights or inside."""
    return DATA / f"attack_{group}" / task / str(seed)


def side_effects(task: str, seed: int) -> Path:
    """Folder with every edit's loss on held-out text (one run for all localizations)."""
    return DATA / "side_effects" / task / str(seed)


def tables(task: str) -> Path:
    """Folder with the tables behind the figures (in git)."""
    return DATA / "tables" / task


def out(folder: str) -> Path:
    """Create and return the folder a notebook writes to (relative to the project's root)."""
    path = ROOT / folder
    path.mkdir(parents=True, exist_ok=True)
    return path
