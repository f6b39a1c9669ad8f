"""The `after_facts` stage: what only the facts can show is checked for all later stages at once.

`python -m lib.stages.after_facts TASK SEED`
"""

from __future__ import annotations

import sys

from lib import config, paths
from lib.config.errors import on_the_command_line
from lib.facts.records import load_facts
from lib.stages.checks import check_facts
from lib.store import Store


def main(task: str, seed: str) -> None:
    """ValueError in one sentence for what a later stage would refuse."""
    facts, split = load_facts(Store("data").find("facts", task, seed))
    check_facts(config.load(), task, facts, split)
    done = paths.DATA / "checked" / task / seed
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text("sound\n")


if __name__ == "__main__":
    with on_the_command_line():
        main(*sys.argv[1:])
