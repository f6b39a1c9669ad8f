"""Rules between the blocks of params.yaml: names that must exist, sums that must fit."""

from __future__ import annotations

from lib.config.blocks import GROUPS, Settings, Task, Teaching
from lib.config.errors import Block, checked

EXPERIMENTS = ("weight_masks", "sequential", "scaling", "attacks")
TAUGHT = {"half": "batch_facts", "related": "batch_retain", "text": "batch_passages"}


def parse(raw: dict) -> Settings:
    """Check a plain mapping; ValueError in one sentence names the parameter and the cure."""
    settings = checked(Settings, raw)
    _check_localizations(settings)
    for name in ("engines", *EXPERIMENTS):
        for task in getattr(settings, name).tasks:
            settings.task(task)
    _check_names(settings)
    for name, task in settings.tasks.items():
        _check_task(name, task, settings)
    if settings.edit.choose == "grid" and not settings.edit.try_on:
        raise ValueError("edit.try_on is empty: list localizations that the settings are tried on")
    for late in (share for share in settings.edit.read_at if share >= settings.edit.strength):
        raise ValueError(
            f"edit.read_at has {late}, but edits stop at edit.strength "
            f"{settings.edit.strength}: delete it"
        )
    if (settings.edit.choose == "published") != (settings.edit.published_model is not None):
        raise ValueError(
            f"edit.choose is {settings.edit.choose} but edit.published_model is "
            f"{'not set' if settings.edit.published_model is None else 'set'}: set both "
            "(gemma-7b, gemma-2-9b or llama-3-8b), or choose to grid and published_model to null"
        )
    check_reads("attack_relearn", settings.attack_relearn)
    names = [name for group in GROUPS for name in getattr(settings, f"attack_{group}")]
    for name in (n for n in names if names.count(n) > 1):
        raise ValueError(f"two attacks are called '{name}': rename one of them in params.yaml")
    return settings


def _check_localizations(settings: Settings) -> None:
    for name, block in settings.localizations.items():
        if block.method == "mlp-window" and block.start is None:
            raise ValueError(
                f"localization '{name}' needs `start`, the first layer of the window: add it"
            )
        if block.method == "literal" and not block.mlps + block.attention:
            raise ValueError(
                f"localization '{name}' is empty: list layers under `mlps` or `attention`"
            )
    if "fact-lookup" not in settings.localizations:
        raise ValueError(
            "localization 'fact-lookup' is missing: it sets the budget of the others, add it"
        )


def _check_names(settings: Settings) -> None:
    for name in settings.compare:
        settings.localization(name)
    _check_sweep(settings)
    _check_trained("edit.try_on", settings.edit.try_on, settings)
    for where in EXPERIMENTS:
        block = getattr(settings, where)
        methods = {name: settings.localization(name).method for name in block.compare}
        if block.tasks and not methods:
            raise ValueError(f"`{where}` has tasks but an empty `compare`: list localizations")
        if where == "weight_masks" or not block.tasks and where != "attacks":
            continue
        for absent in (n for n in methods if n not in settings.compare):
            raise ValueError(
                f"`{where}.compare` lists '{absent}', which `compare` does not: it needs that "
                "edit, add it there"
            )
        if where != "attacks":
            _check_trained(f"{where}.compare", block.compare, settings)


def _check_sweep(settings: Settings) -> None:
    for task, names in settings.sweep.localizations.items():
        settings.task(task)
        again = {name for name in names if settings.localization(name)} & set(settings.compare)
        if again:
            raise ValueError(
                f"`sweep` edits '{min(again)}', which `compare` does already: delete it in one of "
                "the two"
            )
    for task, names in settings.sweep.several.items():
        settings.task(task)
        _check_trained("sweep.several", names, settings)
        edited = {*settings.compare, *settings.sweep.localizations.get(task, ())}
        for alone in (name for name in names if name not in edited):
            raise ValueError(
                f"`sweep.several` lists '{alone}', which is edited on one wording nowhere: add "
                f"it to `sweep.localizations` of '{task}'"
            )


def _check_trained(where: str, names: list[str], settings: Settings) -> None:
    closed = [name for name in names if settings.localization(name).method == "rome"]
    if closed:
        raise ValueError(
            f"`{where}` lists '{closed[0]}', which is not trained but edited in closed form: "
            "delete it there"
        )


def _check_task(name: str, task: Task, settings: Settings) -> None:
    needed = ("formats", "never_known", "subject_column", "label_column")
    for lacking in (n for n in needed if task.source == "table" and getattr(task, n) is None):
        raise ValueError(f"task '{name}' lacks the parameter '{lacking}': add it")
    columns = ("relation_column", "subject_column", "label_column", "edit_column")
    read = [getattr(task, c) for c in columns if getattr(task, c) is not None]
    if len(set(read)) < len(read):
        raise ValueError(
            f"task '{name}' reads one column twice ({', '.join(read)}): name another in params.yaml"
        )
    if task.forget is None and task.forget_label is None:
        raise ValueError(
            f"task '{name}' forgets neither a number of facts nor a label: set `forget` to a "
            "number, or `forget_label` to a label"
        )
    if task.edit_to is not None and task.edit_to == task.forget_label:
        raise ValueError(
            f"task '{name}' would edit '{task.edit_to}' to itself: set `edit_to` to another label"
        )
    if task.retain_train + task.retain_val >= 1:
        raise ValueError(
            f"retain_train and retain_val of task '{name}' leave no facts for the test: "
            "lower them so that their sum is below 1"
        )
    if settings.edit.choose == "published" and not task.published:
        raise ValueError(
            f"task '{name}' does not say which published settings to take: set `published`, or "
            "`edit.choose` to grid"
        )
    _check_swap(name, task, settings)


def _check_swap(name: str, task: Task, settings: Settings) -> None:
    swapped = [n for n, b in settings.localizations.items() if b.method == "fact-lookup-swapped"]
    if swapped and task.swap_with not in {*settings.tasks} - {name}:
        raise ValueError(
            f"localization '{swapped[0]}' needs the fact-lookup layers of another task: set "
            f"`swap_with` of task '{name}' to one of the tasks, or delete the localization"
        )


def check_reads(where: str, settings: Block) -> None:
    """ValueError unless an attacker that teaches has something to teach, and is asked in rising
    order and at its end."""
    if not isinstance(settings, Teaching):
        return
    reads, taught = settings.read_at, TAUGHT[getattr(settings, "teach", "half")]
    if sorted(reads) != reads or reads[-1] != settings.steps:
        raise ValueError(f"{where}.read_at must rise to {where}.steps: correct the list")
    if not getattr(settings, taught):
        raise ValueError(f"{where}.{taught} is 0, so nothing is taught: set it to at least 1")
