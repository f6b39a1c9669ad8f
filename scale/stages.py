"""What one cell of every stage holds, computes and writes, from shapes alone.

The passes are those of `scale.passes`. Causal tracing, with L layers of H heads, runs every fact
once for each head and MLP from that layer on: (H + 1)(L + 1) / 2 passes a draw. Times are upper
bounds, since a plan counts every step that an edit may take; memory and disk are close.
"""

from __future__ import annotations

from dataclasses import replace

from lib.attacks import battery
from lib.model.names import PACKAGED, TINY
from lib.plant.planting import Plants
from scale import cost
from scale.cost import Cost
from scale.passes import SMALL, Passes


class Plan(Passes):
    """The costs of a profile, stage by stage."""

    def model_stage(self) -> Cost:
        """The `model` stage: a packaged model is written in float32; others need none."""
        if self.settings.model.name not in (*PACKAGED, *TINY):
            return Cost()
        weights = cost.size(cost.held(self.model)) / self.unit * 4
        return Cost({"weights": 2 * weights}, 0.0, weights)

    def text_stage(self) -> Cost:
        """Sampling passages token by token."""
        text = self.settings.text
        number = 0 if text.source else text.passages * text.tokens
        return replace(self.reading, operations=number * (self.token + self.answer), disk=SMALL)

    def cell(self, stage: str, task: str) -> Cost | None:
        """One cell of a stage for a task, all of its localizations together (of `edit`, one after
        another); None for stages that load no model."""
        method = getattr(self, f"_{stage}", None)
        return method(task, self.facts[task]) if method else None

    def _facts(self, task, facts) -> Cost:
        asked = facts.number + facts.formats * (facts.edited + facts.tested)
        return replace(self.reading, operations=self.asking(facts, asked), disk=SMALL)

    def _causal_tracing(self, task, facts) -> Cost:
        how, half = self.settings.causal_tracing, (self.layers + 1) / 2
        passes = how.facts * how.draws * how.repeats * (2 + (self.heads + 1) * half)
        maps = 3 * half * (facts.own + 4 * 4)  # three kinds of nodes: one fact, four by place
        return self._patched((passes + maps) * facts.own * self.token, 2)

    def _attribution_patching(self, task, facts) -> Cost:
        how, half = self.settings.attribution_patching, (self.layers + 1) / 2
        runs = how.facts * how.repeats * (2 * how.corruptions + 2)
        exact = min(8, how.facts) * (self.heads + 1) * half
        found = self._patched((runs + exact) * facts.own * self.token, 3)
        extra = self.slopes.memory["activations"]
        return found.with_memory(activations=found.memory["activations"] + extra)

    def _patched(self, operations: float, held: int) -> Cost:
        memory = self.reading.memory
        more = {"activations": memory["activations"] + held * self.stored}
        return Cost(memory | more, operations, SMALL)

    def _fact_lookup(self, task, facts) -> Cost:
        how, half = self.settings.fact_lookup, (self.layers + 1) / 2
        runs = facts.edited * how.corruptions * how.repeats
        heads = runs * (2 * facts.own + self.heads * half) * self.token
        mlps = runs * 3 * half / 2 * facts.own * self.token  # about three receivers
        found = self._patched(heads + mlps + self.asking(facts, facts.number), 2)
        width = self.model.get_input_embeddings().weight.shape[1]
        return found.with_memory(copies=4 * facts.number * (2 * self.layers + 1) * width)

    def _choose_components(self, task, facts) -> Cost:
        return Cost({"weights": self.reading.memory["weights"]}, 0.0, SMALL)

    def _engines(self, task, facts) -> Cost:
        return self._patched(4 * self.layers * facts.own * self.token, 2)

    def _settings(self, task, facts) -> Cost:
        edit, last = self.settings.edit, list(range(max(0, self.layers - 2), self.layers))
        mask = self.training(last)
        operations = mask.operations * edit.max_steps
        weights = sum(w.numel() for w in cost.localized(self.model, last)[0])
        tried = self.edits(task, edit.try_on if edit.choose == "grid" else [])
        operations += tried.operations * len(edit.pairs())
        memory = max(mask.memory | {"copies": weights * self.unit}, tried.memory, key=_sum)
        return Cost(memory, operations, 4.0 * weights + SMALL)

    def _edit(self, task, facts) -> Cost:
        made = self.edits(task, self.settings.compare)
        return made.with_memory(copies=0)  # stored, not put back

    def _sweep(self, task, facts) -> Cost:
        sweep = self.settings.sweep
        names = [*sweep.localizations.get(task, []), *sweep.several.get(task, [])]
        made = replace(self.edits(task, names), disk=SMALL)
        if not names:
            return replace(made, memory=self._choose_components(task, facts).memory)
        attack = self.relearned(task, self.settings.attack_relearn)
        attack = attack.with_memory(copies=attack.memory["copies"] + made.memory["copies"])
        spent = made.operations + len(names) * attack.operations
        return replace(max(made, attack, key=lambda c: c.bytes), operations=spent, disk=SMALL)

    def _weight_masks(self, task, facts) -> Cost:
        how = self.settings.weight_masks
        made = self.edits(task, how.compare)
        trained = max(made.disk / 4 / max(1, len(how.compare)), 0)
        copies = made.memory["copies"] + 3 * self.unit * trained  # scores, momentum, slopes
        asked = self.asking(facts, facts.read * len(how.counts) * 2 * len(how.compare))
        share = how.steps / self.settings.edit.max_steps
        memory = made.memory | {"moments": 0, "masters": 0, "copies": copies}
        return Cost(memory, made.operations * share + asked, SMALL)

    def _sequential(self, task, facts) -> Cost:
        how = self.settings.sequential
        made = self.edits(task, how.compare)
        looked = self._fact_lookup(task, facts).operations * len(how.compare)
        spent = how.batches * made.operations + looked
        return Cost(made.memory | {"copies": 0}, spent, SMALL)

    def _scaling(self, task, facts) -> Cost:
        made = self.edits(task, self.settings.scaling.compare)
        spent = made.operations * len(self.settings.scaling.sizes)
        return replace(made, operations=spent, disk=SMALL)

    def _plant(self, task, facts) -> Cost:
        made = self.edits(task, self.plants.compare)
        longer = self.plants.max_steps / self.settings.edit.max_steps
        return replace(made, operations=longer * made.operations)

    def _locate_planted(self, task, facts) -> Cost:
        kinds = (self._causal_tracing, self._attribution_patching, self._fact_lookup)
        found = [kind(task, facts) for kind in kinds]
        spent = (len(self.plants.compare) + 1) * sum(cost.operations for cost in found)
        return replace(max(found, key=lambda c: c.bytes), operations=spent, disk=SMALL)

    def _edit_planted(self, task, facts) -> Cost:
        made = self.edits(task, self.plants.compare)
        attack = self.relearned(task, self.settings.attack_relearn)
        number = len(self.plants.compare) + 1  # planted in each place, and nowhere
        spent = number * (made.operations + 2 * len(self.plants.compare) * attack.operations)
        return replace(max(made, attack, key=lambda c: c.bytes), operations=spent, disk=SMALL)

    @property
    def plants(self) -> Plants:
        """The block `plants` of the settings."""
        return Plants.of(self.settings)

    def _attacked(self, task, facts, one: Cost, names: list[str]) -> Cost:
        """An attack of the unedited model and of every named edit."""
        copies = one.memory.get("copies", 0) + self.deltas(task, names)
        operations = one.operations * (len(names) + 1)
        return Cost(one.memory | {"copies": copies}, operations, SMALL)

    def _attack_formats(self, task, facts) -> Cost:
        one = self.asking(facts, facts.formats * (facts.edited + facts.tested))
        return self._attacked(
            task, facts, replace(self.reading, operations=one), self.settings.compare
        )

    def _attack_relearn(self, task, facts) -> Cost:
        one = self.relearned(task, self.settings.attack_relearn)
        return self._attacked(task, facts, one, self.settings.compare)

    def _group(self, task, facts, group: str) -> Cost:
        """The attacks of one group, one after another."""
        found = [self._one(task, facts, *a) for a in battery.chosen(self.settings, group).values()]
        found = found or [self.reading]
        operations = sum(c.operations for c in found)
        largest = max(found, key=lambda c: c.bytes)
        one = replace(largest, operations=operations)
        return self._attacked(task, facts, one, self.settings.attacks.compare)

    def _one(self, task, facts, method: str, block) -> Cost:
        if method == "relearn":
            return self.relearned(task, block)
        reads = self.asking(facts, facts.read)
        if method in ("quantize", "prune", "noise", "interpolate"):
            kept = 2 * self.blocks * self.unit  # old values, and new ones before they are put in
            return replace(self.reading, operations=3 * reads).with_memory(copies=kept)
        if method in ("soft_prompt", "prompt_adapter", "token_search"):
            steps = getattr(block, "steps", 0) or block.rounds * block.tokens * block.candidates
            return replace(self.slopes, operations=steps * 3 * reads)
        if method == "in_context":
            return replace(self.reading, operations=sum(block.shots) * reads)
        return self._patched(reads * (self.layers if method == "transplant" else 4), 2)

    def _attack_prompts(self, task, facts) -> Cost:
        return self._group(task, facts, "prompts")

    def _attack_weights(self, task, facts) -> Cost:
        return self._group(task, facts, "weights")

    def _attack_inside(self, task, facts) -> Cost:
        return self._group(task, facts, "inside")

    def _side_effects(self, task, facts) -> Cost:
        text = self.settings.text
        passages = 2 * round(text.passages * (1 - text.train))
        words = self.model.get_output_embeddings().weight.shape[0]
        table = 4.0 * passages * (text.tokens - 1) * words  # probabilities of the unedited model
        pack = 2 * 4.0 * 8 * (text.tokens - 1) * words
        spent = passages * text.tokens * (self.token + self.answer)
        spent += self.asking(facts, facts.tested)
        one = replace(self.reading, operations=spent).with_memory(vocabulary=table + pack)
        return self._attacked(task, facts, one, self.settings.compare)


def _sum(memory: dict) -> float:
    return sum(memory.values())
