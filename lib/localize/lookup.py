"""The fact-lookup layers of a model as it is now, by the route of its task, in one call.

Notebook 12 walks through both routes with their controls; this is the same rule for edits that
follow one another, where the layers are found anew before each.
"""

from __future__ import annotations

from lib.config.blocks import FactLookup, Task
from lib.facts.formats import Format
from lib.facts.records import FactRecord
from lib.localize import circuit, probes
from lib.localize.cases import Cases
from lib.localize.corruption import plain_tokens
from lib.model.runner import Runner


def lookup_layers(
    loaded,
    task: Task,
    rule: FactLookup,
    forms: dict[str, Format],
    changed: list[FactRecord],
    others: list[FactRecord],
    seed: int,
) -> list[int]:
    """MLP layers in which `changed` facts are looked up: by probes on `others` (known facts that
    are not edited), or by path patching on `changed` themselves; none if the rule finds none."""
    by = _by_probes if task.lookup == "probes" else _by_path_patching
    return by(loaded, task, rule, forms, changed, others, seed)


def _by_probes(loaded, task, rule, forms, changed, others, seed) -> list[int]:
    relation = task.probed_relation or probes.most_frequent(others)
    known = probes.probeable(others, relation, 5)
    if not known:
        return []
    x = probes.features(Runner(loaded.model), loaded.tokenizer, known)
    labels = [f.true for f in known]
    correct = probes.probe_accuracy(
        x, labels, rule.splits, rule.test_share, rule.regularization, 1000 * seed
    )
    fractions = rule.start_fraction, rule.end_fraction
    return probes.rise(correct, labels, *fractions, task.lookup_layers).layers


def _by_path_patching(loaded, task, rule, forms, changed, others, seed) -> list[int]:
    cases = Cases.of(loaded.tokenizer, forms, changed)
    words = plain_tokens(loaded.tokenizer)
    how = circuit.Corruptions(words, rule.corruptions, 1000 * seed)
    heads = circuit.head_effects(loaded.model, cases, how)
    receiver = circuit.receiver_of(heads, rule.heads)
    mlps = circuit.mlp_effects(loaded.model, cases, how, [receiver])
    number = task.lookup_layers
    return circuit.lookup_layers(heads, mlps, rule.heads, rule.threshold, rule.rule, number)
