"""Everything that can be refused before a long computation is refused here, in one sentence each.

`python -m lib.checks` (run first by `make repro`) takes a few seconds and loads no model.
"""

from __future__ import annotations

import shutil
import sys

from lib import config, paths

FREE_GIB = (
    8  # model 1.1 GiB and, at default scale, edits 2 GiB; twice for DVC's cache where it must copy
)


def check_all() -> config.Settings:
    """Check settings, model name, fact tables, formats and free disk; returns the settings."""
    from lib.facts.tasks import load_task
    from lib.models import check_name

    settings = config.load()
    check_name(settings.model.name)
    for task in settings.tasks.values():
        load_task(task)
    free = shutil.disk_usage(paths.ROOT).free / 2**30
    if free < FREE_GIB and not paths.model(settings.model.name).exists():
        raise OSError(
            f"only {free:.1f} GiB of disk are free, a full run needs about {FREE_GIB}: make "
            "room first"
        )
    return settings


if __name__ == "__main__":
    try:
        found = check_all()
    except (ValueError, OSError) as problem:
        sys.exit(f"error: {problem}")
    print(
        f"settings and tables are sound: {len(found.localizations)} localizations, seeds "
        f"{found.seeds}"
    )
