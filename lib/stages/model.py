"""The `model` stage: the model of params.yaml as a plain folder. `python -m lib.stages.model`"""

from __future__ import annotations

from lib import config, paths
from lib.facts.teaching import teaching_texts
from lib.model.prepare import prepare


def main() -> None:
    """Prepare the model; hub ids and local folders need none."""
    settings = config.load()
    folder = prepare(settings.model.name, teaching_texts(settings))
    (paths.DATA / "model").mkdir(parents=True, exist_ok=True)
    found = folder.relative_to(paths.ROOT) if folder else "nothing to prepare"
    print(f"model {settings.model.name}: {found}")


if __name__ == "__main__":
    main()
