"""The `text` stage: passages that edits must leave alone. `python -m lib.stages.text`"""

from __future__ import annotations

from lib import config, paths
from lib.facts.text import make, save
from lib.model.loading import load_model


def main() -> None:
    """Sample or cut the passages and write them."""
    settings = config.load()
    parts = make(load_model(settings.model), settings.text)
    save(parts, paths.DATA / "text")
    counts = ", ".join(f"{len(passages)} {part}" for part, passages in parts.items())
    print(f"text: {counts} passages of {settings.text.tokens} tokens")


if __name__ == "__main__":
    main()
