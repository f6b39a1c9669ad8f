"""Does a localization method find the MLPs in which a fact was planted?

Every method of the compendium gives each MLP a score on planted facts. The planted MLPs are known,
so a method can be marked: which share of its highest-scored MLPs, as many as were planted, are
right (precision; as both sets have the same size, it is the recall too), and where the planted ones
stand in its order. Section 12 of METHOD.md.
"""

from __future__ import annotations

import numpy
import pandas

from lib.attacks.target import Target
from lib.config.blocks import Settings
from lib.facts.records import FactRecord
from lib.localize import attribution, circuit, probes, scores, tracing
from lib.localize.cases import Cases
from lib.localize.corruption import plain_tokens
from lib.model.anatomy import blocks
from lib.model.nodes import Node
from lib.model.runner import Runner

CHANCE = "chance"


def mlp_scores(
    target: Target, facts: list[FactRecord], settings: Settings, seed: int
) -> pandas.DataFrame:
    """Rows (method, layer, score) of the model as it is, by every method, on `facts`.

    Causal tracing and attribution patching: absolute effect of the MLP; path patching: its effect
    on the extraction heads; probes: by how much accuracy rises behind it. A method that finds
    nothing to measure gives zeros.
    """
    cases = Cases.of(target.loaded.tokenizer, target.forms, facts)
    found = {
        "causal tracing": _traced(target, cases, settings, seed),
        "attribution patching": _attributed(target, cases, settings, seed),
        "path patching": _path_patched(target, cases, settings, seed),
        "probes": _probed(target, facts, settings, seed),
    }
    every = range(len(blocks(target.loaded.model)))
    parts = [
        pandas.DataFrame({"method": name, "layer": every, "score": [by.get(i, 0.0) for i in every]})
        for name, by in found.items()
    ]
    return pandas.concat(parts, ignore_index=True)


def marks(rows: pandas.DataFrame, planted: list[int]) -> pandas.DataFrame:
    """Rows (method, precision, rank, first) for one plant, and what a random order is expected to
    give; rank: mean place of the planted MLPs, 1 is best; first: place of the best of them."""
    found, number = [], rows.layer.nunique()
    for method, mine in rows.groupby("method", sort=False):
        order = mine.sort_values(["score", "layer"], ascending=[False, True]).layer.tolist()
        places = [1 + order.index(layer) for layer in planted]
        right = sum(place <= len(planted) for place in places) / len(planted)
        found.append((method, right, float(numpy.mean(places)), min(places)))
    size = len(planted)
    found.append((CHANCE, size / number, (number + 1) / 2, (number + 1) / (size + 1)))
    return pandas.DataFrame(found, columns=["method", "precision", "rank", "first"])


def _nodes(target: Target) -> list[Node]:
    return [Node("mlp", layer) for layer in range(len(blocks(target.loaded.model)))]


def _by_layer(table: pandas.DataFrame) -> dict[int, float]:
    return dict(zip(table.layer.astype(int), table.effect.astype(float)))


def _traced(target, cases, settings, seed) -> dict[int, float]:
    how = settings.causal_tracing
    some = cases.take(range(min(how.facts, len(cases.ids))))
    rows = tracing.trace(
        target.loaded.model, some, _nodes(target), how.noise, how.draws, seed, None, how.repeats
    )
    return _sizes(scores.traced, scores.pooled(rows), how.min_gap)


def _attributed(target, cases, settings, seed) -> dict[int, float]:
    how = settings.attribution_patching
    words = plain_tokens(target.loaded.tokenizer)
    rows = attribution.attribute(
        target.loaded.model, cases, _nodes(target), words, how.corruptions * how.repeats, seed
    )
    return _sizes(scores.attributed, rows)


def _sizes(gaps, *args) -> dict[int, float]:
    """Absolute effects; none where no fact can be told apart from its corruption."""
    try:
        change, gap = gaps(*args)
    except ValueError:
        return {}
    table = scores.effects(change, gap, resamples=2)
    return _by_layer(table.assign(effect=table.effect.abs()))


def _path_patched(target, cases, settings, seed) -> dict[int, float]:
    how, model = settings.fact_lookup, target.loaded.model
    corrupt = circuit.Corruptions(plain_tokens(target.loaded.tokenizer), how.corruptions, seed)
    heads = circuit.head_effects(model, cases, corrupt)
    receiver = circuit.receiver_of(heads, how.heads)
    return _by_layer(circuit.shares(circuit.mlp_effects(model, cases, corrupt, [receiver])))


def _probed(target, facts, settings, seed) -> dict[int, float]:
    how = settings.fact_lookup
    x = probes.features(Runner(target.loaded.model), target.loaded.tokenizer, facts)
    labels = [fact.true for fact in facts]
    correct = probes.probe_accuracy(x, labels, how.splits, how.test_share, how.regularization, seed)
    accuracy = numpy.nanmean(correct, axis=1)
    places = probes.sites(len(blocks(target.loaded.model)))
    at = dict(zip(places, accuracy))
    return {
        site.layer: float(at[site] - at[before])
        for before, site in zip(places, places[1:])
        if site.kind == "post"
    }
