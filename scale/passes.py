"""What reading, editing and attacking the facts of a profile cost, put together from the passes of
`scale.cost`; `scale.stages` makes cells of them.

With f operations per token forward through the blocks, u per answer over the vocabulary and t own
tokens of a prompt, asking n facts takes n (t f + u). Training takes `max_steps` steps at most, and
a plan counts them all. Weights that are put back are held twice. Which layers fact lookup finds,
and which facts the model knows, only a run can say: a plan takes the layers of `shapes.lookup_of`
and as many facts as the table has.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from lib import paths
from lib.config.blocks import Relearn, Settings
from lib.facts.tasks import load_task
from scale import cost
from scale.cost import PACK, Batch, Cost
from scale.shapes import lookup_of, meta_model

STAND_IN = {"table": "data/raw/world.csv", "formats": "data/raw/world_formats.yaml"}
STAND_IN |= {"never_known": "data/raw/invented_things.csv", "source": "table"}
STAND_IN |= {"subject_column": "subject", "label_column": "object", "relation_column": "relation"}
CASES = 2200  # facts of CounterFact that the paper's models know, where its file is not at hand
SMALL = 2 * 2**20  # bytes of a cell's tables and of its executed notebook


class Facts:
    """The prompts of one task: training prompts, mean own tokens, numbers of facts and formats."""

    def __init__(self, settings: Settings, name: str):
        task = settings.task(name)
        there = task.source == "table" or (paths.ROOT / task.table).is_file()
        data = load_task(task if there else task.model_copy(update=STAND_IN))
        rows = list(data.table.itertuples())[: None if there else CASES]
        self.texts = [data.formats.sets[r.relation].training.ask(r) for r in rows]
        packed = cost.Prompts.of([cost.tokens_of(text) for text in self.texts[:200]])
        self.own = sum(map(len, packed.suffixes)) / len(packed)
        self.number, self.formats = len(rows), max(1, len(data.formats.kinds))
        by_label = sum(r.label == task.forget_label for r in rows)
        self.edited = min(task.forget or by_label or self.number, self.number)
        self.read = self.edited + min(settings.attacks.control * 2, self.number)
        self.tested = round(self.number * (1 - task.retain_train - task.retain_val))


class Passes:
    """What reading, editing and attacking cost with the settings and the model of a profile."""

    def __init__(self, settings: Settings, model=None):
        self.settings = settings
        self.model = model if model is not None else meta_model(settings.model)
        config = self.model.config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.unit = next(self.model.parameters()).element_size()
        self.facts = {name: Facts(settings, name) for name in settings.tasks}
        self._trained: dict[tuple, Cost] = {}

    # Passes

    @cached_property
    def reading(self) -> Cost:
        """A pack that is read, answers at every tenth token."""
        return cost.reading(self.model, PACK // 10)

    @cached_property
    def slopes(self) -> Cost:
        """A pack with gradients of all activations."""
        return cost.slopes(self.model)

    @property
    def answer(self) -> float:
        """Operations of one answer over the vocabulary."""
        weight = self.model.get_output_embeddings().weight
        return 2.0 * weight.numel()

    @property
    def token(self) -> float:
        """Operations of one token through all blocks."""
        return (self.reading.operations - PACK // 10 * self.answer) / PACK

    def asking(self, facts: Facts, number: float) -> float:
        """Operations of asking so many facts in one format."""
        return number * (facts.own * self.token + self.answer)

    @property
    def stored(self) -> float:
        """Bytes of all activations of a pack that patching keeps: streams, heads and MLPs."""
        width = self.model.get_input_embeddings().weight.shape[1]
        return self.layers * PACK * 4 * width * self.unit

    # Edits

    def layers_of(self, task: str, name: str) -> tuple[list[int], list[int]]:
        """(MLPs, attention layers) of a localization; sets that only a run can find are as large as
        fact lookup and begin at the bottom, where most is kept."""
        block, every = self.settings.localization(name), list(range(self.layers))
        lookup = lookup_of(self.settings.model.name, self.layers, self._lookup_number(task))
        start = block.start or 0
        found = {
            "fact-lookup": (lookup, []),
            "literal": (block.mlps, block.attention),
            "rome": ([min(start or lookup[0], self.layers - 1)], []),
            "mlp-window": ([min(start + i, every[-1]) for i in range(len(lookup))], []),
            "all-mlps": (every, []),
            "nonlocalized": (every, every),
        }
        mlps, attention = found.get(block.method, (every[: len(lookup)], []))
        return sorted(set(mlps)), list(attention)

    def _lookup_number(self, task: str) -> int | None:
        return self.settings.task(task).lookup_layers

    @cached_property
    def batch(self) -> Batch:
        """A training step of the task with the longest one: it stands for those of all tasks."""
        edit, made = self.settings.edit, []
        for facts in self.facts.values():
            number = min(facts.edited, edit.batch_facts)
            texts = facts.texts[: number + edit.batch_retain]
            sizes = number, edit.batch_retain, edit.batch_passages
            made.append(Batch.of(texts, *sizes, self.settings.text.tokens + 1))
        return max(made, key=lambda batch: batch.step().pack.ids.numel())

    def training(self, mlps: list[int], attention: list[int] = ()) -> Cost:
        """One step of an edit of some layers; sets of one size that begin at about the same layer
        are taken for one."""
        first = min([*mlps, *attention])
        key = len(mlps), len(attention), first - first % max(1, self.layers // 6)
        if key not in self._trained:
            weights, first = cost.localized(self.model, mlps, attention)
            self._trained[key] = cost.training(self.model, weights, first, self.batch)
        return self._trained[key]

    def edits(self, task: str, names: list[str]) -> Cost:
        """Making some edits one after another: memory of the largest, old values kept, all steps;
        disk of their deltas in float32."""
        found = [self.edit(task, name) for name in names] or [Cost()]
        largest = max(found, key=lambda c: c.bytes)
        copies = max(c.disk for c in found) / 4 * self.unit
        operations, disk = (sum(getattr(c, n) for c in found) for n in ("operations", "disk"))
        return Cost(largest.memory | {"copies": copies}, operations, disk)

    def edit(self, task: str, name: str) -> Cost:
        """One edit up to the step limit, with the formats that are asked on its way."""
        facts, edit = self.facts[task], self.settings.edit
        mlps, attention = self.layers_of(task, name)
        if self.settings.localization(name).method == "rome":
            return self._closed_form(task, mlps[0])
        step = self.training(mlps, attention)
        trained = sum(w.numel() for w in cost.localized(self.model, mlps, attention)[0])
        asked = self.asking(facts, facts.read * facts.formats * (1 + len(edit.read_at)))
        kept = self.asking(facts, 2 * facts.tested)
        operations = step.operations * edit.max_steps + asked + kept
        return Cost(step.memory, operations, 4.0 * trained)

    def _closed_form(self, task: str, layer: int) -> Cost:
        weights, _ = cost.localized(self.model, [layer])
        matrix = max(weights, key=lambda w: w.numel())
        moment = 3 * 8 * max(matrix.shape) ** 2  # double precision: the moment and its solution
        facts, rome = self.facts[task], self.settings.rome
        steps = rome.steps * 3 * self.asking(facts, facts.edited)
        memory = self.reading.memory | {"copies": moment}
        return Cost(memory, steps + self.asking(facts, facts.number), 4.0 * matrix.numel())

    # Attacks

    def relearned(self, task: str, settings: Relearn) -> Cost:
        """One attack by fine-tuning, up to its last step, and its read-outs."""
        facts, key = self.facts[task], (task, settings.model_dump_json())
        if key not in self._trained:
            sizes = settings.batch_facts, settings.batch_retain, settings.batch_passages
            texts = facts.texts[: sizes[0] + sizes[1]]
            batch = Batch.of(texts, *sizes, self.settings.text.tokens + 1)
            self._trained[key] = cost.relearning(self.model, settings, batch)
        step = self._trained[key]
        reads = len(settings.read_at) * self.asking(facts, facts.read)
        return replace(step, operations=settings.steps * step.operations + reads)

    def deltas(self, task: str, names: list[str]) -> float:
        """Bytes of the largest stored edit while it is on the model: new values and old ones."""
        sizes = [
            sum(w.numel() for w in cost.localized(self.model, *self.layers_of(task, n))[0])
            for n in names
        ]
        return max(sizes, default=0) * (4 + self.unit)

    @cached_property
    def blocks(self) -> int:
        """Weights of all blocks' matrices."""
        every = list(range(self.layers))
        return sum(w.numel() for w in cost.localized(self.model, every, every)[0])
