"""Session 2: noise on a name, the map of one fact, estimates, the rise of a probe, paths."""

from __future__ import annotations

import pandas
import torch
from scipy.stats import spearmanr

from course import TABLES
from course.checks.s2 import DRAWS, FEW, NAME, NOISE, RECEIVER, SHOWN, START, case_of, name_words
from lib import config, paths
from lib.facts.formats import load_formats
from lib.localize import circuit
from lib.localize.attribution import attribute, patch
from lib.localize.cases import logit_differences
from lib.localize.corruption import corrupt_runs, plain_tokens
from lib.localize.tracing import noise_for, trace
from lib.model import unembed
from lib.model.loading import load_model
from lib.model.nodes import Node, PatchRunner, heads_and_mlps
from lib.model.packing import Pack, Prompts
from lib.store import Store

TASK, SEED = "sports-athletes", 0
INVENTED = ("Denzo Drusky", "basketball")
EXAMPLE = "Wayne Gretzky"  # another name in the prompt: the control of the corruption


def found() -> dict:
    """What the checks of session 2 expect; writes `course/tables/draws.csv`."""
    settings, store = config.load(), Store("data")
    loaded = load_model(settings.model)
    form = load_formats(paths.DATA / "raw" / "sports_formats.yaml").sets["plays-sport"].training
    fact = case_of(loaded.tokenizer, form, NAME, "basketball")
    rows = draws(loaded, fact)
    rows.to_csv(TABLES / "draws.csv", index=False, float_format="%.5f")
    return {
        "add_noise": noised(loaded, form),
        "controls": controls(loaded, form, fact),
        "effect": effect(store),
        "best_cell": best_cell(rows),
        "attribution": attribution(loaded, fact, store),
        "rise": rise(store),
        "path_effect": path_effect(loaded, fact, store),
    }


def noised(loaded, form) -> dict:
    """{name: probability of the true answer without and with noise on the name}."""
    answers = {}
    for name, sport in SHOWN.items():
        case = case_of(loaded.tokenizer, form, name, sport)
        row = trace(loaded.model, case, [Node("residual", 0)], NOISE, 1, SEED).iloc[0]
        answers[name] = {"clean": _short(row.p_clean), "corrupt": _short(row.p_corrupt)}
    return answers


def controls(loaded, form, fact) -> dict:
    """Means over draws: noise on other tokens than the whole name, and on an invented name."""
    tokens = [loaded.tokenizer.decode(t) for t in _whole(fact).prompts.suffixes[0]]
    name, width = list(fact.subjects[0]), len(tokens)
    first = [p for p in name if p < name[0] + 2]
    example = [tokens.index(" Wayne") + i for i in range(3)]
    spans = {
        "name": name,
        "first name": first,
        "last name": [p for p in name if p not in first],
        EXAMPLE: example,
        "words after the name": list(range(name[-1] + 1, width)),
    }
    means = {words: _with_noise(loaded, fact, span, name) for words, span in spans.items()}
    case = case_of(loaded.tokenizer, form, *INVENTED)
    span = list(case.subjects[0])
    return means | {INVENTED[0]: _with_noise(loaded, case, span, span)}


def _with_noise(loaded, case, span: list[int], name: list[int]) -> dict:
    """Probability of the answer with noise on `span`, as strong as on the name: by draw."""
    runner = PatchRunner(loaded.model)
    clean = runner.read(_whole(case)).before[0]
    sigma = NOISE * clean[name].std()
    found = []
    for draw in range(-1, FEW):  # -1: no noise
        hidden = clean.clone()
        if draw >= 0:
            hidden[span] += sigma * noise_for(case.ids[0], draw, SEED, (len(span), clean.shape[1]))
        found.append(_p(runner, case, hidden))
    by_draw = [_short(p) for p in found[1:]]
    return {"clean": _short(found[0]), "draws": by_draw, "mean": _short(sum(by_draw) / FEW)}


def _whole(case):
    """The prompt as a pack of its own, without a shared prefix."""
    return Pack(Prompts((), (case.prompts.prefix + case.prompts.suffixes[0],)))


def _p(runner, case, hidden) -> float:
    pack = _whole(case)
    with torch.no_grad():
        final = runner.from_block(pack, 0, hidden, pack.answer_rows)
        return (-unembed.nll(runner.model, final, case.targets)).exp().item()


def draws(loaded, fact) -> pandas.DataFrame:
    """Rows (draw, token, layer, p_clean, p_corrupt, p_restored): the residual stream restored at
    one token, for several draws of the noise."""
    places = [*fact.subjects[0], len(fact.prompts.suffixes[0]) - 1]
    nodes = [Node("residual", layer) for layer in range(loaded.model.config.num_hidden_layers)]
    parts = []
    for place in places:  # one case at a time: so the noise is scaled by this name alone
        parts.append(trace(loaded.model, fact, nodes, NOISE, 1, SEED, [place], repeats=DRAWS))
    rows = pandas.concat(parts, ignore_index=True)
    words = name_words(loaded.tokenizer, fact)
    rows["token"] = rows.place.map(dict(zip(places, words)))
    rows = rows.rename(columns={"repeat": "draw"})
    return rows[["draw", "token", "layer", "p_clean", "p_corrupt", "p_restored"]]


def effect(store: Store) -> dict:
    """Effects of single nodes on the facts that notebook 10 traced, and what typical mistakes
    give for the two largest."""
    rows = store.load("causal_tracing/rows", TASK, SEED)
    table = store.load("causal_tracing/effects", TASK, SEED)
    change, gap = rows.p_restored - rows.p_corrupt, rows.p_clean - rows.p_corrupt
    named = {"head 12.2": ("head", 12, 2), "MLP 3": ("mlp", 3, -1)}
    found = {}
    for name, (kind, layer, head) in named.items():
        mine = (rows.kind == kind) & (rows.layer == layer) & (rows["head"] == head)
        (right,) = table[
            (table.kind == kind) & (table.layer == layer) & (table["head"] == head)
        ].effect
        found[name] = {
            "effect": _short(right),
            "mean of ratios": _short((change / gap)[mine].mean()),
            "of the clean run": _short(change[mine].mean() / rows.p_clean[mine].mean()),
            "without the corrupt run": _short(
                rows.p_restored[mine].mean() / rows.p_clean[mine].mean()
            ),
        }
    return found


def best_cell(rows: pandas.DataFrame) -> dict:
    """Where most of the answer returns inside the name: in the first draw, in each, in the mean."""
    name = rows[rows.token != rows.token.iloc[-1]]
    returned = (name.p_restored - name.p_corrupt) / (name.p_clean - name.p_corrupt)
    name = name.assign(returned=returned)
    best = name.loc[name.groupby("draw").returned.idxmax()]
    cells = [[r.token, int(r.layer), _short(r.returned)] for r in best.itertuples()]
    mean = name.groupby(["token", "layer"], sort=False)[
        ["p_clean", "p_corrupt", "p_restored"]
    ].mean()
    mean = (mean.p_restored - mean.p_corrupt) / (mean.p_clean - mean.p_corrupt)
    tops = mean.groupby("token", sort=False).max()
    corrupt = name.groupby("draw").p_corrupt.first()
    return {
        "by_draw": cells,
        "p_corrupt": [_short(p) for p in corrupt],
        "mean": {token: _short(value) for token, value in tops.items()},
    }


def attribution(loaded, fact, store: Store) -> dict:
    """Estimated and exact changes of the logit difference by every MLP, for one fact and one random
    name; and how well the two agree over all nodes of notebook 11."""
    words, nodes = plain_tokens(loaded.tokenizer), _mlps(loaded.model)
    guess = attribute(loaded.model, fact, nodes, words, 1, SEED)
    exact = patch(loaded.model, fact, nodes, words, 1, SEED)
    both = store.load("attribution_patching/agreement", TASK, SEED)
    mlp = both[both.kind == "mlp"].set_index("layer")
    agreed = spearmanr(both.exact, both.estimate).statistic
    assert len(both) == len(heads_and_mlps(loaded.model))
    return {
        "gap": _short(guess.ld_clean[0] - guess.ld_corrupt[0]),
        "estimate": [_short(x) for x in guess.score],
        "exact": [_short(x) for x in exact.score],
        "rank": _short(spearmanr(exact.score, guess.score).statistic),
        "table": {
            "rank": _short(agreed),
            "MLP 0": [_short(mlp.exact[0]), _short(mlp.estimate[0])],
            "MLP 3": [_short(mlp.exact[3]), _short(mlp.estimate[3])],
        },
    }


def rise(store: Store) -> dict:
    """Layers of the rise at three thresholds, and what typical mistakes give at the middle one."""
    rows = store.load("fact_lookup/probes", TASK, SEED)
    known = rows[rows.control == "known"].sort_values("layer")
    after, base = (
        [*known[known.kind == "post"].value],
        float(known[known.kind == "embedding"].value.iloc[0]),
    )
    grid = store.load("fact_lookup/sensitivity", TASK, SEED)
    mine = grid[(grid.start_fraction == round(START, 3))].set_index("end_fraction").layers
    layers = {str(e): [int(x) for x in text.split()] for e, text in mine.items()}
    right, level = layers["0.75"], base + START * (max(after) - base)
    alone = [next(i for i, value in enumerate(after) if value >= bar) for bar in (START, 0.75)]
    mistakes = {
        "fractions alone": list(range(alone[0], alone[1] + 1)),
        "without the end": right[:-1],
        "every high layer": [i for i, value in enumerate(after) if value >= level],
    }
    numbers = {"base": _short(base), "top": _short(max(after))}
    return numbers | {"layers": layers, "mistakes": mistakes}


def path_effect(loaded, fact, store: Store) -> dict:
    """Effect of every MLP through the receiver, for one fact and one random name; and the means
    over all facts of notebook 12."""
    how = circuit.Corruptions(plain_tokens(loaded.tokenizer), 1, SEED)
    rows = circuit.mlp_effects(loaded.model, fact, how, [RECEIVER])
    late = circuit.mlp_effects(loaded.model, fact, how, [RECEIVER + 1])
    past = [_short(x) for x in late.change[:RECEIVER]]
    table = store.load("fact_lookup/mlps", TASK, SEED)
    found = store.load_json("fact_lookup/lookup", TASK, SEED)
    assert found["receiver"] == RECEIVER, "the receiver is that of other results"
    return {
        "gap": _short(rows.gap[0]),
        "change": [_short(x) for x in rows.change],
        "mistakes": {"total": _total(loaded, fact), "past the receiver": past},
        "mean": {str(int(r.layer)): _short(r.effect) for r in table.itertuples()},
        "lookup": found["path-patching"],
        "probes": found["probes"],
    }


def _total(loaded, fact) -> list[float]:
    """What each MLP below the receiver changes on all paths together."""
    runner, words = PatchRunner(loaded.model), plain_tokens(loaded.tokenizer)
    (run,) = corrupt_runs(runner, fact, words, 1, SEED, "total effects")
    found = []
    for layer in range(RECEIVER):
        hidden = run.corrupt.after[layer] + run.clean.mlp[layer] - run.corrupt.mlp[layer]
        with torch.no_grad():
            final = runner.from_block(
                run.corrupt_pack, layer + 1, hidden, run.corrupt_pack.answer_rows
            )
            ld = logit_differences(loaded.model, final, fact.targets, fact.contrasts)
        found.append(_short(ld[0] - run.ld_corrupt[0]))
    return found


def _mlps(model) -> list[Node]:
    return [Node("mlp", layer) for layer in range(model.config.num_hidden_layers)]


def _short(x) -> float:
    return round(float(x), 5)
