"""The top folders of the compendium. What lies in them is named in `lib.store`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params.yaml"
DATA = ROOT / "data"
PLAY = DATA / "play"  # what is stepped through by hand
FIGURES = ROOT / "figures"
EXECUTED = DATA / "executed"
CODE = DATA / "code"


def model(name: str) -> Path:
    """Folder with the plain safetensors copy of a packaged model: the pipeline's, or one made while
    stepping by hand."""
    made_by_hand = PLAY / "model" / name
    ours = DATA / "model" / name
    return made_by_hand if made_by_hand.exists() and not ours.exists() else ours
