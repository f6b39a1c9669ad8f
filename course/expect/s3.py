"""Session 3: budget, objective, trained weights, strength, settings, transfer, a rank-one edit."""

from __future__ import annotations

import pandas
import torch

from course import TABLES
from lib import config, paths
from lib.edit import delta, rome, tune
from lib.edit.losses import Sampler, losses, make_step
from lib.edit.train import EditData
from lib.facts import text
from lib.facts.formats import Catalogue, encode, first_tokens, load_formats
from lib.facts.records import load_facts
from lib.localize.scores import layer_scores, ranking
from lib.localize.select import fill
from lib.model.anatomy import blocks, output_matrix
from lib.model.components import Component, load_set, sizes
from lib.model.hooks import before, hooked
from lib.model.loading import load_model
from lib.model.runner import Runner
from lib.model.weights import kept, trainable
from lib.store import Store

TASK, SEED, RELATION = "sports-athletes", 0, "plays-sport"
EDITS = {"early": "fact-lookup", "late": "mlp-window-12"}
KINDS = {"words": "vocabulary", "wording": "wording"}  # the students' names of two kinds of format
SUBJECT, NEIGHBOUR, NOBODY = "Tyrese Haliburton", "Mike Conley", "Denzo Drusky"
QUESTIONS = (
    ("training prompt", "training", SUBJECT),
    ("other wording", "question", SUBJECT),
    ("as a sentence", "sentence", SUBJECT),
    ("league", "league", SUBJECT),
    ("neighbour", "training", NEIGHBOUR),
    ("invented name", "training", NOBODY),
)
OTHERS = ("fact-lookup", "depth-matched-mlps", "attribution-patching-mlps", "random-mlps")
OTHERS += ("causal-tracing-mlps", "mlp-window-4", "mlp-window-8", "mlp-window-12", "mlp-window-14")


def found() -> dict:
    """What the checks of session 3 expect; writes the tables that its notebook reads."""
    settings, store = config.load(), Store("data")
    loaded = load_model(settings.model)
    facts, split = load_facts(store.find("facts", TASK, SEED))
    lesson = first_step(loaded, settings, store, facts, split)
    place = load_set(store, TASK, EDITS["early"], SEED)
    return {
        "take": take(loaded.model, store, place),
        "objective": objective(loaded, store, lesson),
        "trainable": {"weights": place.weights, "matrices": sorted(trainable(loaded.model, place))},
        "stop_at": stop_at(store),
        "pick": pick(settings, store),
        "questions": questions(loaded, store, settings),
        "invented": invented(store),
        "transfer": transfer(),
        "rank_one": rank_one(loaded, store, settings, lesson),
    }


def take(model, store: Store, place) -> dict:
    """Units by their effect in causal tracing, all and MLPs only, taken until the budget of fact
    lookup is reached; writes the effects."""
    weights = sizes(model)
    scores = layer_scores(store.load("causal_tracing/effects", TASK, SEED), weights)
    order = ranking(scores)
    rows = [(_name(c), scores[c]) for c in sorted(scores)]
    table = pandas.DataFrame(rows, columns=["unit", "effect"])
    table.to_csv(TABLES / "units.csv", index=False, float_format="%.6g")
    mlps = [c for c in order if c.kind == "mlp"]
    taken = {"all": _taken(order, weights, place.weights)}
    taken["mlps"] = _taken(mlps, weights, place.weights)
    for name, chosen in {"all": "causal-tracing", "mlps": "causal-tracing-mlps"}.items():
        stored = load_set(store, TASK, chosen, SEED).components
        assert set(taken[name]) == {_name(c) for c in stored}
    holds = {k: sum(weights[_unit(n)] for n in v) for k, v in taken.items()}
    return {"budget": place.weights, "units": taken, "weights": holds}


def _taken(order: list[Component], weights, budget: int) -> list[str]:
    chosen = set(fill(order, weights, budget))
    return [_name(c) for c in order if c in chosen]


def _name(unit: Component) -> str:
    return f"{unit.kind} {unit.layer}"


def _unit(name: str) -> Component:
    kind, layer = name.split()
    return Component(kind, int(layer))


def first_step(loaded, settings, store: Store, facts, split) -> EditData:
    """What the trainer saw in its first step, edited facts first; writes it as a table."""
    passages = text.load(store.find("text"))["train"]
    changed, others = ([facts[i] for i in s] for s in (split.forget, split.retain_train))
    edit = Sampler(range(len(changed)), SEED)(settings.edit.batch_facts)
    retain = Sampler(range(len(others)), SEED + 1)(settings.edit.batch_retain)
    (passage,) = Sampler(passages, SEED + 2)(settings.edit.batch_passages)
    assert len(edit) == len(changed)
    some = [others[i] for i in retain]
    rows = [("edit", f.subject, f.true, f.edit, f.prompt) for f in changed]
    rows += [("retain", f.subject, f.true, f.true, f.prompt) for f in some]
    written = loaded.tokenizer.decode(passage[1:])
    assert tuple(loaded.tokenizer(written).input_ids) == tuple(passage)
    rows += [("text", "", "", "", written)]
    table = pandas.DataFrame(rows, columns=["part", "subject", "true", "wanted", "text"])
    table.to_csv(TABLES / "first_step.csv", index=False)
    return EditData.of(loaded.tokenizer, changed, some, [passage])


def objective(loaded, store: Store, lesson: EditData) -> dict:
    """The three terms before the first step, which are the first row of both edits' logs."""
    n, every = lesson.n_changed, len(lesson.prompts)
    indices = [*range(n)], [*range(n, every)]
    step = make_step(lesson.prompts, *indices, lesson.targets, lesson.passages)
    with torch.no_grad():
        terms = {k: v.item() for k, v in losses(Runner(loaded.model), step).items()}
    for name in EDITS.values():
        first = store.load("edit/log", TASK, name, SEED).iloc[0]
        assert all(abs(first[k] - v) < 1e-3 for k, v in terms.items()), "another first step"
    return {k: round(v, 5) for k, v in terms.items()} | {
        "n": [n, every - n, len(step.pack.text_rows)]
    }


def stop_at(store: Store) -> dict:
    """Steps after which each edit first has a strength; writes the strength after every step."""
    logs = {k: store.load("edit/log", TASK, name, SEED).strength for k, name in EDITS.items()}
    rows = [(k, i + 1, s) for k, log in logs.items() for i, s in enumerate(log)]
    table = pandas.DataFrame(rows, columns=["edit", "step", "strength"])
    table.to_csv(TABLES / "strengths.csv", index=False)
    cards = {k: delta.card(delta.stored(store, TASK, n, SEED)) for k, n in EDITS.items()}
    steps = {
        k: {str(s): int((log >= s).idxmax()) + 1 for s in (0.45, 0.8, 0.95)}
        for k, log in logs.items()
    }
    assert all(cards[k]["steps"] == found["0.95"] for k, found in steps.items())
    equal = round(float(logs["late"][steps["early"]["0.95"] - 1]), 4)
    return {"steps": steps, "late_after_as_many": equal}


def pick(settings, store: Store) -> dict:
    """The pair that notebook 15 took; writes its trials."""
    ends = tune.ended(store.load("settings/trials", TASK, SEED), settings.edit)
    ends["reached"] = ends.strength >= settings.edit.strength
    table = ends[["lr", "weight_edit", "localization", "step", "reached", "kept", "added"]]
    table.to_csv(TABLES / "trials.csv", index=False, float_format="%.6g")
    pair = store.load_json("settings/pair", TASK, SEED)
    assert pair["admissible"]
    limits = {"keep": settings.edit.keep_retained, "nats": settings.edit.keep_text}
    fastest = ends.iloc[0]
    first = {k: round(float(fastest[k]), 3) for k in ("kept", "added")}
    return {"pair": [pair["lr"], pair["weight_edit"]], "limits": limits, "fastest": first}


def questions(loaded, store: Store, settings) -> dict:
    """Six questions to the unedited and the two edited models: p of the old and new answer."""
    answers = {"unedited": _six(loaded, settings)}
    for edit, name in EDITS.items():
        with delta.applied(loaded, delta.stored(store, TASK, name, SEED)):
            answers[edit] = _six(loaded, settings)
    return answers


def _six(loaded, settings) -> dict:
    catalogue, runner = _catalogue(settings), Runner(loaded.model)
    said = {}
    for what, name, subject in QUESTIONS:
        form = catalogue.forms(name)[RELATION]
        tokens = first_tokens(loaded.tokenizer, form, ("basketball", "baseball"))
        logits = runner.answer_logits(encode(loaded.tokenizer, [form.prompt(subject)]))
        p = logits.log_softmax(1)[0, list(tokens.values())].exp()
        said[what] = [round(x, 4) for x in p.tolist()]
    return said


def _catalogue(settings) -> Catalogue:
    return load_formats(paths.ROOT / settings.task(TASK).formats)


def invented(store: Store) -> dict:
    """What is said of invented names in the training prompt: how often the most frequent answer."""
    rows = store.load("attack_formats/rows", TASK, SEED)
    nobody = rows[(rows.split == "never_known") & (rows.format == "training")]
    counts = nobody.groupby("localization").answer.value_counts().unstack(fill_value=0)
    names = {"unedited": "unedited"} | EDITS
    return {k: {a: int(n) for a, n in counts.loc[name].items()} for k, name in names.items()}


def transfer() -> dict:
    """Shares of new and old answers of both edits in two kinds of formats, as notebook 50 has them;
    writes them for other localizations too."""
    folder = paths.DATA / "tables" / "results" / TASK
    carried, edits = (pandas.read_csv(folder / f"{t}.csv") for t in ("carried", "edits"))
    rows, shares = [], carried.set_index(["localization", "kind", "says"])
    for name in OTHERS:
        row = {"localization": name, "MLPs": edits.set_index("localization").mlp[name]}
        for label, kind in KINDS.items():
            here = shares.loc[name, kind, "new"]
            row |= {f"new, other {label}": here.value, f"formats, other {label}": here.formats}
            row |= {f"no gate, other {label}": here.all_formats}
        rows.append(row)
    pandas.DataFrame(rows).to_csv(TABLES / "other_sets.csv", index=False, float_format="%.4f")
    out = {}
    for edit, name in EDITS.items():
        for label, kind in KINDS.items():
            said = {s: shares.loc[name, kind, s] for s in ("new", "old")}
            value = {s: _number(x.value) for s, x in said.items()}
            out[f"{edit}, {label}"] = value | {
                "formats": int(said["new"].formats),
                "no gate": {s: _number(x.all_formats) for s, x in said.items()},
            }
    return out


def _number(x) -> float | None:
    return None if pandas.isna(x) else round(float(x), 6)


def rank_one(loaded, store: Store, settings, lesson: EditData) -> dict:
    """One fact, written by lib's closed-form edit; writes the value that it puts into the matrix.

    The moment of the keys comes from the facts to keep and the passage of the first step.
    """
    model, (facts, split) = loaded.model, load_facts(store.find("facts", TASK, SEED))
    place = load_set(store, TASK, "rome-lookup", SEED)
    (fact,) = [facts[i] for i in split.forget if facts[i].subject == SUBJECT]
    rows = pandas.read_csv(TABLES / "first_step.csv").query("part == 'retain'")
    others = [facts[f"{RELATION}/{s}"] for s in rows.subject]
    data = EditData.of(loaded.tokenizer, [fact], others, lesson.passages)
    subjects = [f.subject_positions[-1] for f in (fact, *others)]
    (weight,) = trainable(model, place).values()
    with kept(trainable(model, place)):
        key = _key(loaded, fact, place.first_layer)
        p_before = _six(loaded, settings)
        result = rome.edit(model, place, data, subjects, settings.rome)
        p_after = _six(loaded, settings)
        value = (weight.detach() @ key).cpu()
    table = pandas.DataFrame({"value": value.tolist()})
    table.to_csv(TABLES / "value.csv", index=False, float_format="%.7g")
    return {
        "layer": place.first_layer,
        "position": fact.subject_positions[-1],
        "steps": result.steps,
        "before": p_before,
        "after": p_after,
    }


def _key(loaded, fact, layer: int) -> torch.Tensor:
    """What enters the last matrix of an MLP at the last token of the fact's subject."""
    seen = []
    hook = before(output_matrix(blocks(loaded.model)[layer]), lambda _, args: seen.append(args[0]))
    ids = loaded.tokenizer(fact.prompt, return_tensors="pt").input_ids.to(loaded.model.device)
    with torch.no_grad(), hooked(hook):
        loaded.model(ids, logits_to_keep=1)
    return seen[0][0, fact.subject_positions[-1]]
