"""What a tiny model is taught, and preparing a model where the pipeline has not run yet."""

from __future__ import annotations

from lib import paths
from lib.config.blocks import Settings
from lib.facts.tasks import load_task
from lib.model.prepare import prepare
from lib.store import Store


def teaching_texts(settings: Settings) -> list[str]:
    """What a tiny model is taught: every fact in every format, and to say the label after the name.

    The latter stands three times, so that the label can be read at the name's last token, as in a
    model that looks facts up.
    """
    texts = []
    for task in settings.tasks.values():
        data = load_task(task)
        for row in data.table.itertuples():
            forms = data.formats.sets[row.relation]
            plain = [form for form in forms.formats if form.kind != "choice"]
            asked = [(form.ask(row), form.words([row.label])[row.label]) for form in plain]
            texts += [f"{prompt} {word}" for prompt, word in asked if prompt]
            prompt = forms.training.ask(row)
            name_ends = prompt.rindex(row.subject) + len(row.subject)
            texts += 3 * [f"{prompt[:name_ends]} {row.label}"]
    return texts


def at_hand(settings: Settings, store: Store) -> None:
    """Prepare the model if nobody has: for stepping by hand before the pipeline ran."""
    name = settings.model.name
    if not paths.model(name).exists():
        prepare(name, teaching_texts(settings), store.home)
