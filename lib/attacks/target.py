"""What every attack gets and gives: one model to attack, and read-outs of what it then answers.

A `Target` is an edited model (or, as the reference of every attack, the unedited one) with all that
attackers may use. An attack is a module of `lib.attacks` with

    class Settings(Block)      its block in params.yaml, without `method`
    SEES                       what the attacker sees and may change, in words
    BUDGET                     what its budget counts: steps, shots, bits, ...
    ORACLE                     does it need the unedited model, which no attacker has? True,
                               False, or the variants that do
    attack(target, settings)   yields one `ReadOut` each time; undoes every change it makes

Every read-out asks the same facts in the training format: both halves of the edited facts, retained
facts (a collapse shows there), and invented subjects with arbitrary labels (guessing shows there).
The attacker knows the true answers of the taught half; the held-out half is to be recovered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

from lib.config.blocks import Settings
from lib.edit import delta
from lib.facts import text
from lib.facts.formats import Catalogue, Format, read_catalogue
from lib.facts.records import (
    FORGET,
    READ,
    FactRecord,
    FactSplit,
    evenly,
    load_facts,
    load_never_known,
)
from lib.measure.answers import score_facts
from lib.model.loading import LoadedModel, load_model
from lib.model.runner import Runner
from lib.model.weights import kept, put
from lib.store import Store

NEVER_KNOWN = "never_known"
MASK = "known-mask"  # an edit that is known to mask, of facts that are scored nowhere else


@dataclass(frozen=True)
class ReadOut:
    """One read-out of an attack.

    rows: columns of `answers.score_facts` and split; budget: how much of BUDGET was spent; variant:
    which of several ways; trained: how many numbers; steps: of training or search; taught: did the
    true answers of the taught half enter?
    """

    rows: pandas.DataFrame
    budget: float
    variant: str = ""
    trained: int = 0
    steps: int = 0
    taught: bool = False


@dataclass
class Target:
    """A model under attack.

    passages: text like that the edit was to keep; heldout: the same, not trained on; other_text:
    another text that no edit saw; unedited:
    values that the edit replaced (empty: this is the unedited model); control: how many retained
    and how many invented facts are read; seen: what attacks keep of the unedited model, shared by
    all targets of a task.
    """

    store: Store
    task: str
    loaded: LoadedModel
    formats: Catalogue
    facts: dict[str, FactRecord]
    split: FactSplit
    invented: list[FactRecord]
    passages: list[tuple[int, ...]]
    heldout: list[tuple[int, ...]]
    other_text: list[tuple[int, ...]]
    seed: int
    control: int
    unedited: dict[str, Tensor] = field(default_factory=dict)
    seen: dict = field(default_factory=dict)
    work: Operations = field(default_factory=lambda: Operations())

    @staticmethod
    def of(store: Store, task: str, seed: int, settings: Settings) -> Target:
        """The unedited model with a task's facts, as earlier stages wrote them; it is asked in the
        training format unless `formats` is replaced."""
        folder, passages = store.find("facts", task, seed), text.load(store.find("text"))
        facts, split = load_facts(folder)
        return Target(
            store,
            task,
            load_model(settings.model),
            read_catalogue(folder / "training.json")[0],
            facts,
            split,
            load_never_known(folder),
            passages["train"],
            passages["heldout"],
            passages["second"],
            seed,
            settings.attacks.control,
        )

    @contextmanager
    def edited(self, folder: Path) -> Iterator[Target]:
        """Inside, the stored edit of `folder` is on the model, and the target knows it."""
        with delta.applied(self.loaded, folder) as old:
            yield replace(self, unedited=old)

    @contextmanager
    def masked(self) -> Iterator[Target]:
        """Inside, the known mask of notebook 15 is on the model: validation facts are the edited
        ones, in two halves like those of the task."""
        folder = self.store.find("settings", self.task, self.seed) / MASK
        changed = delta.card(folder)["facts"]
        halves = {"forget_train": changed[0::2], "forget_heldout": changed[1::2]}
        with delta.applied(self.loaded, folder) as old:
            yield replace(self, unedited=old, split=replace(self.split, **halves, retain_val=()))

    def rehearsal(self) -> Target:
        """The same for an attacker who tries out on the taught half: one half of it is taught, the
        other one scored."""
        known = self.split.forget_train
        halves = {"forget_train": known[0::2], "forget_heldout": known[1::2]}
        return replace(self, split=replace(self.split, **halves))

    @property
    def forms(self) -> dict[str, Format]:
        """{relation: training format}."""
        return self.formats.forms(self.formats.training)

    @property
    def taught(self) -> list[FactRecord]:
        """The half whose true answers the attacker knows."""
        return [self.facts[i] for i in self.split.forget_train]

    def asked(self, roles: tuple[str, ...] = (*READ, NEVER_KNOWN)) -> dict[str, list[FactRecord]]:
        """{role: facts read out}; controls are cut to `control` facts (splits keep their mix of
        relations in every slice) and to relations of edited facts."""
        found = {r: [self.facts[i] for i in getattr(self.split, r)] for r in READ}
        wanted = {f.relation for r in FORGET for f in found[r]}
        nobody = evenly([f for f in self.invented if f.relation in wanted], self.control)
        found |= {"retain_test": found["retain_test"][: self.control], NEVER_KNOWN: nobody}
        return {role: found[role] for role in roles}

    def read(
        self,
        runner: Runner | None = None,
        prefix: str = "",
        form: str = "",
        roles: tuple[str, ...] = (*READ, NEVER_KNOWN),
    ) -> pandas.DataFrame:
        """Rows of `answers.score_facts` with their split; its own arithmetic is not counted as the
        attacker's.

        runner: answers instead of the model as it is; prefix: text before every prompt; form: name
        of the format, default the training format; roles: see `asked`.
        """
        asked = self.asked(roles)
        split = {f.id: role for role, facts in asked.items() for f in facts}
        facts = [f for facts in asked.values() for f in facts]
        forms = self.formats.forms(form or self.formats.training)
        forms = {relation: prefixed(form, prefix) for relation, form in forms.items()}
        facts = [replace(f, prompt=prefix + f.prompt) if prefix else f for f in facts]
        with self.work.paused():
            runner = runner or Runner(self.loaded.model)
            rows = score_facts(runner, self.loaded.tokenizer, forms, facts)
        rows.insert(1, "split", rows.id.map(split))
        return rows

    @contextmanager
    def without_edit(self) -> Iterator[None]:
        """Inside, the model is the unedited one."""
        parameters = dict(self.loaded.model.named_parameters())
        with kept({name: parameters[name] for name in self.unedited}):
            put(parameters, self.unedited)
            yield


class Operations(TorchDispatchMode):
    """Counts floating-point operations of matrix products, by PyTorch's own formulas."""

    def __init__(self):
        super().__init__()
        self.restart()

    def restart(self) -> None:
        """Count from zero."""
        self.total, self.per_step = 0, None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside is one of many steps alike: the first is counted, each other one is taken to cost
        as much and is spared the counting, which would take an eighth of its time."""
        if self.per_step is None:
            before = self.total
            yield
            self.per_step = self.total - before
        else:
            with self.paused():
                yield
            self.total += self.per_step

    @staticmethod
    def paused() -> AbstractContextManager:
        """Inside, nothing is counted."""
        return _disable_current_modes()


def prefixed(form: Format, prefix: str) -> Format:
    """The same question after `prefix`; facts with wordings of their own must bring it along."""
    return replace(form, template=form.template and prefix + form.template)


def last_line(text: str) -> str:
    """The question itself, without examples before it."""
    return text.rsplit("\n", 1)[-1]
