"""Session 4: recovery, paired differences, the worst case, where robustness ends, silenced MLPs.

Beside the answers it writes three small tables for the students: `attacks.csv`, every attack on
three edits at every budget; `facts.csv`, what each edited fact says after the edits that are
compared; `sweep.csv`, the edits of single MLPs and of windows, for both kinds of facts.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pandas
import torch

from course import TABLES
from lib import config
from lib.analysis import contrasts, edits, score_card
from lib.attacks import battery
from lib.attacks.target import MASK, Target
from lib.config.blocks import Settings
from lib.edit import delta
from lib.facts.records import load_facts
from lib.model.anatomy import blocks
from lib.model.weights import block_matrices, kept
from lib.stats import guessing_rate, paired_difference, recovery
from lib.store import Store
from lib.tables import UNEDITED

TASK, SEED = "sports-athletes", 0
EDITS = {"fact-lookup": "early", "mlp-window-12": "late", MASK: "known mask"}
TASKS = {TASK: "athletes", "world-facts": "world facts"}
MEASURES = {"new-wording": "new, reworded", "back": "old, back"}
PAIRS = {contrasts.EARLY_LATE: ("early", "late"), contrasts.LOOKUP_DEPTH: ("lookup", "depth")}
SILENCED = (0, 2, 4, 6)  # of the last MLPs
CONTROL = 12  # retained and invented facts that are read with each of them


def found() -> dict:
    """What the checks of session 4 expect; writes the tables."""
    settings, store = config.load(), Store("data")
    tables = {
        "attacks": every_attack(settings, store),
        "facts": every_fact(settings, store),
        "sweep": sweep(store),
    }
    for name, table in tables.items():
        table.to_csv(TABLES / f"{name}.csv", index=False, float_format="%.6g")
    read = {name: pandas.read_csv(TABLES / f"{name}.csv") for name in tables}  # as students do
    return {
        "halves": halves(store),
        "recovery": recoveries(store),
        "why_failed": why_failed(read["attacks"]),
        "paired": differences(store, read["facts"]),
        "worst": worst(store, read["attacks"]),
        "step_or_line": step_or_line(store),
        "attack": silenced(settings, store),
    }


def halves(store: Store) -> dict:
    """Edited athletes by sport, and how often a random cut has the sports balanced."""
    facts, split = load_facts(store.find("facts", TASK, SEED))
    labels = pandas.Series([facts[i].true for i in split.forget]).value_counts().sort_index()
    ways = math.prod(math.comb(n, n // 2) * (1 + n % 2) for n in labels.tolist())
    return {
        "labels": labels.to_dict(),
        "balanced_by_chance": ways / math.comb(len(split.forget), 16),
    }


def recoveries(store: Store) -> dict:
    """Recovery after relearning, by edit, and its results with typical mistakes."""
    rows = store.load("attack_relearn/rows", TASK, SEED)
    rows, known = rows[rows.split != battery.CHOOSING], {}
    for name, edit in list(EDITS.items())[:2]:
        mine = rows[rows.localization == name]
        end = mine[mine.budget == mine.budget.max()]
        heldout, nobody = (end[end.split == s] for s in ("forget_heldout", "never_known"))
        r = recovery(heldout, nobody, 1.0)
        back = int((heldout.answer == heldout.true).sum())
        prior = float(guessing_rate(heldout, nobody).mean())
        known[edit] = {"back": back, "n": r.n, "prior": prior, "R": r.value}
        known[edit] |= {"low": r.low, "high": r.high, "floor": r.floor}
    return known


def every_attack(settings: Settings, store: Store) -> pandas.DataFrame:
    """One row for each edit and each way in which an attacker could run an attack.

    told: share of the facts it chooses by that get their old answer; back of n held-out facts; R;
    taught, retained: shares answered correctly; teaches: do true answers enter; failed: why it does
    not count; oracle: does it need the unedited model; admitted: does it find the known mask?
    """
    records, methods = score_card.collect(store, TASK, settings), score_card.attacks(settings)
    records = replace(
        records, rows=records.rows[records.rows.localization.isin([UNEDITED, *EDITS])]
    )
    admitted = set(score_card.attack_table(records, settings).query("admitted").attack)
    may, parts = score_card.allowed(records, settings), []
    for (attack, variant), mine in may[may.localization != UNEDITED].groupby(
        ["attack", "variant"], sort=False
    ):
        for budget in sorted(mine.budget.unique()):
            parts.append(_at(records, settings, attack, variant, budget))
    table = pandas.concat(parts, ignore_index=True)
    teaches = records.ledger.groupby("attack").taught.any()
    table = table.assign(oracle=False, teaches=table.attack.map(teaches))
    table = pandas.concat([table, _oracles(records, methods, settings)], ignore_index=True)
    table["admitted"] = table.attack.isin(admitted) & ~table.oracle
    table["edit"] = table.localization.map(EDITS)
    table = table.rename(columns={"chosen_on": "told", "value": "R"})
    order = {edit: i for i, edit in enumerate(EDITS.values())}
    table = table.sort_values("edit", key=lambda e: e.map(order), kind="stable")
    columns = [
        "edit",
        "attack",
        "variant",
        "budget",
        "told",
        "back",
        "n",
        "R",
        "taught",
        "retained",
    ]
    return table[[*columns, "teaches", "failed", "oracle", "admitted"]]


def _at(records, settings: Settings, attack: str, variant: str, budget: float) -> pandas.DataFrame:
    """Rows of `score_card.attack_table`, as if this variant and budget were all there is."""
    rows = records.rows
    mine = (rows.attack == attack) & (rows.variant == variant)
    tried, asked = mine & (rows.budget == budget), mine & (rows.budget <= budget)
    rehearsed = rows.split == battery.CHOOSING
    those = set(rows[tried].localization)
    with_rehearsal = set(rows[mine & rehearsed].localization)
    those -= with_rehearsal - set(rows[tried & rehearsed].localization)
    kept = rows[(tried & rehearsed | asked & ~rehearsed) & rows.localization.isin(those)]
    last = kept.groupby("localization").budget.transform("max")
    kept = kept[(kept.budget == last) | (kept.split == battery.CHOOSING)]
    kept = kept.assign(budget=budget)
    before = rows[mine & (rows.localization == UNEDITED)]
    before = before[before.budget == before.budget.where(before.budget <= budget).max()]
    kept = pandas.concat([kept[kept.localization != UNEDITED], before.assign(budget=budget)])
    ledger = records.ledger[records.ledger.attack == attack]
    table = score_card.attack_table(replace(records, rows=kept, ledger=ledger), settings)
    return table[table.localization != UNEDITED].drop(columns="admitted")


def _oracles(records, methods: dict[str, str], settings: Settings) -> pandas.DataFrame:
    """The read-outs that need the unedited model, at layers that the edit could change."""
    rows, found = records.rows, []
    needs = [battery.oracle(methods[a], v) for a, v in zip(rows.attack, rows.variant)]
    rows = rows[numpy.array(needs) & rows.localization.isin(EDITS)]
    for key, part in rows.groupby(["localization", "attack", "variant", "budget"], sort=False):
        if key[3] <= records.first_trained[key[0]]:
            continue
        right = (part.answer == part.true).groupby(part.split).mean()
        held, nobody = (part[part.split == s] for s in ("forget_heldout", "never_known"))
        row = dict(zip(("localization", "attack", "variant", "budget"), key))
        row |= {"chosen_on": right["forget_train"], "taught": right["forget_train"]}
        row |= {"retained": right.get("retain_test"), "back": int((held.answer == held.true).sum())}
        r = recovery(held, nobody, records.known, settings.statistics.level, 100)
        row |= {"n": r.n, "value": r.value}
        found.append(row | {"failed": "", "oracle": True, "teaches": False})
    return pandas.DataFrame(found)


def why_failed(table: pandas.DataFrame) -> dict:
    """Gates that the attacks which teach miss, by edit, attack and budget, as `lib` finds them."""
    settings, known = config.load(), {}
    for row in table[table.teaches].itertuples():
        right = pandas.Series({"retain_test": row.retained, "forget_train": row.taught})
        missed = edits.failed(right, settings)
        known[f"{row.edit}/{row.attack}/{row.budget:g}"] = [
            gate for gate in ("retained", "taught") if gate in missed
        ]
    return known


def every_fact(settings: Settings, store: Store) -> pandas.DataFrame:
    """What each edited fact says, mean over the edits of each side of a comparison, in formats that
    count for all of them."""
    parts = []
    for task, facts in TASKS.items():
        data = edits.collect(store, task, settings)
        made, answers = edits.edit_table(data, settings), edits.answer_table(data, settings)
        every, written = (
            contrasts.measures(data, made, answers, settings),
            store.load("results/contrasts", task),
        )
        for measure, name in MEASURES.items():
            sides = {}
            for question, pair in PAIRS.items():
                asked = written[(written.question == question) & (written.measure == measure)]
                names = [asked[side].iloc[0].split() for side in "ab"]
                if all(names):
                    table = contrasts.in_shared_formats(
                        data, answers, every[measure], measure, sum(names, [])
                    )
                    sides |= {side: table[n].mean(axis=1) for side, n in zip(pair, names)}
            side = pandas.DataFrame(sides).dropna(how="all").rename_axis("id").reset_index()
            side["id"] = side.id.str.removeprefix(f"{SEED}/")
            parts.append(side.assign(facts=facts, measure=name))
    columns = ["facts", "measure", "id", *[side for pair in PAIRS.values() for side in pair]]
    return pandas.concat(parts, ignore_index=True)[columns]


def differences(store: Store, table: pandas.DataFrame) -> dict:
    """Paired differences of the table, as `lib` computes them and as notebook 50 wrote them."""
    settings, known = config.load(), {}
    how = settings.statistics
    for task, facts in TASKS.items():
        written = store.load("results/contrasts", task)
        for measure, name in MEASURES.items():
            mine = table[(table.facts == facts) & (table.measure == name)].set_index("id")
            for question, (a, b) in PAIRS.items():
                asked = written[(written.question == question) & (written.measure == measure)]
                if numpy.isnan(asked.value.iloc[0]):
                    continue
                d = paired_difference(mine[a], mine[b], how.level, how.resamples)
                ends = [d.value, d.low, d.high]
                assert numpy.allclose(ends, asked[["value", "low", "high"]], atol=1e-4)
                row = {"value": d.value, "low": d.low, "high": d.high, "n": d.n}
                row |= {"alike": bool(-how.margin < d.low and d.high < how.margin)}
                known[f"{facts}/{name}/{a}-{b}"] = row | {"verdict": asked.verdict.iloc[0]}
    return known


def worst(store: Store, table: pandas.DataFrame) -> dict:
    """The worst case that notebook 52 wrote, and what typical mistakes would take for it."""
    written, known = store.load("score_card/worst_case", TASK), {}
    counts = table[~table.oracle & (table.failed.fillna("") == "") & table.admitted]
    wrong = {
        "highest": counts.sort_values("R", ascending=False, kind="stable"),
        "oracle": _chosen(table[(table.failed.fillna("") == "") & (table.admitted | table.oracle)]),
        "failed": _chosen(table[~table.oracle & table.admitted]),
        "not shown": _chosen(table[~table.oracle & (table.failed.fillna("") == "")]),
    }
    for name, edit in list(EDITS.items())[:2]:
        row = written[written.localization == name].iloc[0]
        right = {"attack": row.attack, "variant": row.variant, "budget": float(row.budget)}
        known[edit] = right | {"back": int(row.back), "n": int(row.n), "R": float(row.value)}
        known[edit]["low"], known[edit]["high"] = float(row.low), float(row.high)
        takes = {mistake: rows[rows.edit == edit].iloc[0] for mistake, rows in wrong.items()}
        takes = {
            mistake: {"attack": r.attack, "budget": float(r.budget), "back": int(r.back), "R": r.R}
            for mistake, r in takes.items()
        }
        same = {"attack": right["attack"], "budget": right["budget"]}
        known[edit]["mistakes"] = {
            m: r for m, r in takes.items() if {k: r[k] for k in same} != same
        }
    return known


def _chosen(rows: pandas.DataFrame) -> pandas.DataFrame:
    return rows.sort_values("told", ascending=False, kind="stable")


def sweep(store: Store) -> pandas.DataFrame:
    """One row for each edit of a single MLP and of a window of neighbours.

    layer: the first that is trained; back of n held-out answers after relearning; new: share of new
    answers in another wording, missing where no format counts; back_counts, new_counts: is the
    number a result (strength reached, gates passed)? path: share of the path-patching effect that
    its layers carry, where it was measured.
    """
    parts = []
    for task, facts in TASKS.items():
        made, back = (store.load(f"results/{t}", task) for t in ("edits", "back"))
        carried = store.load("results/carried", task)
        new = carried[(carried.kind == "wording") & (carried.says == "new")]
        share = store.load("fact_lookup/how_often", task, SEED).set_index("layer").share
        table = made.merge(back[["localization", "back", "n", "failed"]], on="localization")
        table = table.merge(new[["localization", "value"]], on="localization")
        names = table.localization + " " + table.also
        window = names.str.contains("mlp-window")
        table = table[window | names.str.fullmatch(r"mlp-\d+ ")]
        layers = table.mlp.str.split().map(lambda each: [int(layer) for layer in each])
        table = table.assign(
            facts=facts,
            kind=window.map({True: "window", False: "single"}),
            layer=table.first_layer,
            new=table.value,
            new_counts=table.reached & table.value.notna(),
            back_counts=table.reached & (table.failed == ""),
            path=[share.reindex(each).sum(min_count=len(each)) for each in layers],
        )
        parts.append(table.sort_values(["kind", "layer"]))
    columns = ["facts", "kind", "layer", "mlp", "back", "n", "back_counts", "new", "new_counts"]
    return pandas.concat(parts, ignore_index=True)[[*columns, "path"]]


def step_or_line(store: Store) -> dict:
    """Error on left-out layers of a line and of a step, as notebook 50 wrote them; and for athletes
    on the layers only that world facts have too."""
    known = {}
    for task, facts in TASKS.items():
        fits = store.load("results/fits", task)
        for measure, name in MEASURES.items():
            known[f"{facts}/{name}"] = _errors(fits[fits.measure == measure])
    rows = store.load("results/facts", TASK)
    names = [f"mlp-{layer}" for layer in range(7)]
    tables = {
        measure: rows[(rows.measure == measure) & rows.localization.isin(names)].pivot(
            index="id", columns="localization", values="value"
        )
        for measure in MEASURES
    }
    fits = contrasts.fits(store.load("results/edits", TASK), tables)
    for measure, name in MEASURES.items():
        known[f"athletes, layers 0 to 6/{name}"] = _errors(fits[fits.measure == measure])
    return known


def _errors(fits: pandas.DataFrame) -> dict:
    rows = fits.set_index("model")
    return {"line": rows.left_out["line"], "step": rows.left_out["step"], "at": rows["at"]["step"]}


def silenced(settings: Settings, store: Store) -> dict:
    """Facts that get their true answer after the output of the last MLPs was taken away, by edit,
    number of MLPs and split."""
    target, known = replace(Target.of(store, TASK, SEED, settings), control=CONTROL), {}
    for name, edit in EDITS.items():
        folder = None if name == MASK else delta.stored(store, TASK, name, SEED)
        with target.masked() if name == MASK else target.edited(folder) as edited:
            known[edit] = {str(n): _silent(edited, n) for n in SILENCED}
    return known


def _silent(target: Target, count: int) -> dict:
    model = target.loaded.model
    layers = list(blocks(model))
    last = [id(p) for block in layers[len(layers) - count :] for p in block.mlp.parameters()]
    weights = {n: p for n, p in block_matrices(model).items() if id(p) in last}
    with kept(weights), torch.no_grad():
        for weight in weights.values():
            weight.zero_()
        rows = target.read()
    return (rows.answer == rows.true).groupby(rows.split).sum().to_dict()
