"""Which components each localization trains: one function, one budget rule, exact counts.

Budget B = number of weights of the fact-lookup MLPs. Every budget-matched method puts components
in an order and takes them until the total reaches B: never under, by at most one layer over
(section 3). Controls that the paper does not have: `depth-matched-mlps` (equally early layers other
than the lookup set) tells "lookup" from "early enough"; `fact-lookup-swapped` trains the layers in
which another task's facts are looked up; `mlp-window` slides a window of the same budget through
the model. `random` draws single matrices, all kinds alike (as published it never drew the gate).
"""

from __future__ import annotations

import random
from dataclasses import replace

import pandas

from lib.config.blocks import LocalizationSettings, Settings
from lib.localize.scores import jaccard, layer_scores, ranking
from lib.model.anatomy import OUTPUT_MATRICES
from lib.model.components import Component, Localization, mean_depth, unit_sizes
from lib.store import Store

DEPTH_TOLERANCE = 0.03  # difference in mean relative depth (section 4.6)
MAX_OVERLAP = 0.5  # Jaccard overlap with fact-lookup (section 4.6)
TRIES = 20_000
UNMATCHED = ("all-mlps", "nonlocalized", "literal", "rome", "fact-lookup-swapped")
RANKED = ("causal-tracing", "attribution-patching")  # by effect on the output


def fill(order: list[Component], sizes: dict[Component, int], budget: int) -> tuple[Component, ...]:
    """The first components of `order` whose weights reach the budget; ValueError if all do not."""
    chosen, total = [], 0
    for component in order:
        if total >= budget:
            break
        chosen.append(component)
        total += sizes[component]
    if total < budget:
        raise ValueError(
            f"{len(order)} components hold {total:,} weights, fewer than the budget of "
            f"{budget:,}: choose a smaller budget"
        )
    return tuple(sorted(chosen))


def select(
    name: str,
    settings: LocalizationSettings,
    sizes: dict[Component, int],
    lookup: list[int],
    seed: int,
    effects: dict[str, pandas.DataFrame] | None = None,
    swapped: list[int] | None = None,
) -> Localization:
    """The components that localization `name` trains.

    sizes: weights of every component of the model, single matrices too for `random`
    (`components.unit_sizes`); lookup: fact-lookup layers, which set the budget; effects: {method:
    rows (kind, layer, head, effect)} for methods that rank by effect on the output; swapped: the
    fact-lookup layers of another task, taken as they are. Random draws depend on (method, seed,
    draw) only. ValueError names a window that does not fit.
    """
    lookup_set = tuple(Component("mlp", layer) for layer in lookup)
    budget = sum(sizes[c] for c in lookup_set)
    if settings.method in RANKED:
        chosen, note = _ranked(settings, sizes, budget, effects[settings.method])
    elif settings.method == "fact-lookup-swapped":
        chosen = tuple(Component("mlp", layer) for layer in swapped)
        note = "MLP layers in which the facts of another task are looked up"
    else:
        chosen, note = _METHODS[settings.method](name, settings, sizes, lookup_set, budget, seed)
    weights = sum(sizes[c] for c in chosen)
    matched = settings.method not in UNMATCHED
    return Localization(name, chosen, weights, budget if matched else 0, note)


def last_mlps(model, number: int) -> Localization:
    """The MLPs of the last `number` layers."""
    size = {c: n for c, n in unit_sizes(model).items() if c.kind == "mlp" and not c.matrix}
    chosen = tuple(sorted(size)[-number:])
    return Localization("last-mlps", chosen, sum(size[c] for c in chosen), 0, "the last MLPs")


def inputs(
    store: Store, task: str, other_task: str | None, seed: int
) -> tuple[dict[str, pandas.DataFrame], list[int] | None]:
    """(effects, swapped) that `select` needs: rankings by method, and the lookup layers of another
    task. Stepping by hand, what is not there is left out; in the pipeline it is an error."""

    def wanted(*key, **file) -> bool:
        return not store.playing or store.has(*key, **file)

    effects = {}
    for method in RANKED:
        stage = method.replace("-", "_")
        if wanted(stage, task, seed, file="effects.csv"):
            effects[method] = store.load(f"{stage}/effects", task, seed)
    found = other_task and wanted("fact_lookup", other_task, seed, file="lookup.json")
    lookup = store.load_json("fact_lookup/lookup", other_task, seed) if found else None
    return effects, lookup and lookup["layers"]


def select_all(
    settings: Settings,
    task: str,
    sizes: dict[Component, int],
    lookup: list[int],
    seed: int,
    effects: dict[str, pandas.DataFrame],
    swapped: list[int] | None,
) -> dict[str, Localization]:
    """`select` for every localization of params.yaml whose ranking or other task is at hand; the
    others are named. Of those that are edited, each says which earlier one it equals, if any."""
    sets, edited = {}, {}
    for name, block in settings.localizations.items():
        lacks_effects = block.method in RANKED and block.method not in effects
        if lacks_effects or block.method == "fact-lookup-swapped" and swapped is None:
            print(f"{name} is left out: it needs {block.method} (notebooks 10 to 12) made first")
            continue
        sets[name] = select(name, block, sizes, lookup, seed, effects, swapped)
    for name in (*settings.compare, *settings.sweep.localizations.get(task, ())):
        if name in sets:
            by_training = settings.localization(name).method != "rome"
            first = edited.setdefault((sets[name].components, by_training), name)
            sets[name] = replace(sets[name], equals="" if first == name else first)
    return sets


def _mlps(sizes) -> list[Component]:
    return sorted(c for c in sizes if c.kind == "mlp" and not c.matrix)


def _fact_lookup(name, settings, sizes, lookup, budget, seed):
    return lookup, "MLP layers in which facts are looked up (notebook 12)"


def _ranked(settings, sizes, budget, effects):
    order = ranking(layer_scores(effects, sizes, settings.rule))
    if settings.mlps_only:
        order = [c for c in order if c.kind == "mlp"]
    what = "MLP layers" if settings.mlps_only else "layers"
    return fill(order, sizes, budget), f"{what} by {settings.method}, {settings.rule}"


def _random_mlps(name, settings, sizes, lookup, budget, seed):
    order = _mlps(sizes)
    random.Random(f"random-mlps {seed} {settings.draw}").shuffle(order)
    return fill(
        order, sizes, budget
    ), f"MLP layers drawn at random (seed {seed}, draw {settings.draw})"


def _random(name, settings, sizes, lookup, budget, seed):
    order = sorted(c for c in sizes if c.matrix)
    random.Random(f"random {seed} {settings.draw}").shuffle(order)
    note = f"single matrices drawn at random (seed {seed}, draw {settings.draw})"
    return fill(order, sizes, budget), note


def _depth_matched(name, settings, sizes, lookup, budget, seed):
    layers = _mlps(sizes)
    rng = random.Random(f"depth-matched-mlps {seed} {settings.draw}")
    target, closest = mean_depth(lookup, len(layers)), None
    for _ in range(TRIES):
        drawn = tuple(sorted(rng.sample(layers, len(lookup))))
        if abs(mean_depth(drawn, len(layers)) - target) > DEPTH_TOLERANCE:
            continue
        if sum(sizes[c] for c in drawn) < budget:
            continue
        overlap = jaccard(drawn, lookup)
        if overlap <= MAX_OVERLAP:
            return drawn, f"random MLP layers as deep as fact-lookup, overlap {overlap:.2f}"
        if closest is None or overlap < closest[0]:
            closest = (overlap, drawn)
    if closest is None:
        raise ValueError(
            f"no set of {len(lookup)} MLP layers is as deep as fact-lookup: delete '{name}'"
        )
    return closest[1], f"as deep as fact-lookup, but no set overlaps less than {closest[0]:.2f}"


def _window(name, settings, sizes, lookup, budget, seed):
    layers = _mlps(sizes)
    try:
        chosen = fill(layers[settings.start :], sizes, budget)
    except ValueError:
        last = len(layers) - len(lookup)
        raise ValueError(
            f"'{name}' does not fit: a window of {len(lookup)} MLP layers can start at layer "
            f"{last} at the latest; "
            "correct its `start` in params.yaml or delete it"
        ) from None
    return chosen, f"contiguous MLP layers from layer {settings.start}"


def _literal(name, settings, sizes, lookup, budget, seed):
    chosen = [Component("mlp", i) for i in settings.mlps]
    chosen += [Component("attention", i) for i in settings.attention]
    unknown = [c for c in chosen if c not in sizes]
    if unknown:
        raise ValueError(
            f"'{name}' names layer {unknown[0].layer}, which this model does not have: correct it"
        )
    return tuple(sorted(set(chosen))), "layers listed in params.yaml"


def _rome(name, settings, sizes, lookup, budget, seed):
    layer = lookup[len(lookup) // 2].layer if settings.start is None else settings.start
    found = [c for c in sizes if c.kind == "mlp" and c.layer == layer]
    found = [c for c in found if c.matrix in OUTPUT_MATRICES]
    if not found:
        raise ValueError(
            f"'{name}' starts at layer {layer}, which this model does not have: correct it"
        )
    where = "the middle of fact-lookup" if settings.start is None else "params.yaml"
    return tuple(found), f"output matrix of MLP {layer} (from {where}), edited in closed form"


def _all_mlps(name, settings, sizes, lookup, budget, seed):
    return tuple(_mlps(sizes)), "every MLP layer (not budget-matched)"


def _nonlocalized(name, settings, sizes, lookup, budget, seed):
    every = tuple(sorted(c for c in sizes if not c.matrix))
    return every, "every MLP and attention layer (not budget-matched)"


_METHODS = {
    "fact-lookup": _fact_lookup,
    "random-mlps": _random_mlps,
    "random": _random,
    "depth-matched-mlps": _depth_matched,
    "mlp-window": _window,
    "literal": _literal,
    "rome": _rome,
    "all-mlps": _all_mlps,
    "nonlocalized": _nonlocalized,
}
