"""In-context attack: true answers of taught facts stand as examples before the question.

Needs no weights, only prompts and true facts; the budget is the number of shots (section 8.5).
"""

from __future__ import annotations

from collections.abc import Iterator

from lib.attacks.target import ReadOut, Target, last_line
from lib.config.errors import Block, Count, Some

SEES = "prompts; true answers of the taught half as examples"
BUDGET = "shots"
ORACLE = False


class Settings(Block):
    """shots: how many examples, one read-out each."""

    shots: Some[Count]


def attack(target: Target, settings: Settings) -> Iterator[ReadOut]:
    """One read-out per number of shots (all taught facts, if there are fewer)."""
    for shots in sorted(settings.shots):
        lines = [_line(target, fact) for fact in target.taught[:shots]]
        yield ReadOut(
            target.read(prefix="".join(line + "\n" for line in lines)), shots, taught=True
        )


def _line(target: Target, fact) -> str:
    form = target.forms[fact.relation]
    return f"{last_line(form.ask(fact))} {form.words([fact.true])[fact.true]}"
