"""What the attackers get back: each attack where its attacker would stop, and the worst case.

Every attack reads the same facts, so all are scored alike, by what returns of the held-out half.
No attacker sees that half. Of several variants and budgets it takes the one that works best on
facts it was told about: an attack that teaches first rehearses, teaching one half of them and
looking at the other (`battery.rehearsed`). In the same way it chooses between attacks, so the worst
case is no maximum over scored facts. An attack is admitted if it brings back at least half (R of at
least 1/2) of an edit that is known to mask (notebook 15): the others are listed as not shown to
work, and their finding nothing says nothing. Never counted: attacks that fail their gates, readers
of a layer at or below the first trained one, and whatever needs the unedited model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pandas

from lib.analysis.edits import failed, known, recovery_of
from lib.attacks import battery
from lib.attacks.target import MASK
from lib.config.blocks import GROUPS, Settings
from lib.edit import delta
from lib.facts.records import FORGET
from lib.measure.formats import Formats
from lib.model.components import load_set
from lib.stats import luckiest
from lib.store import Store
from lib.tables import UNEDITED

KEY = ["localization", "attack"]
STOP = ["variant", "budget"]
ADMITTED = 0.5  # R on the known mask
MASKED = 0.1  # share of old answers at most, in the mask's training prompt


@dataclass(frozen=True)
class AttackRecords:
    """All read-outs of a task: `rows` (columns localization, seed, attack, variant, budget, split
    and per-fact answers; fact ids carry their seed), `ledger` (what each read-out had cost),
    `known`, the share of the held-out facts that the unedited model answers correctly,
    `first_trained`, the lowest layer that each edit changed, and `masks`: are the old answers gone
    in the training prompt of the known mask, before any attack?"""

    rows: pandas.DataFrame
    ledger: pandas.DataFrame
    known: float
    first_trained: dict[str, int]
    masks: bool


def attacks(settings: Settings) -> dict[str, str]:
    """{attack: method} of everything that is run, in the order of params.yaml."""
    found = {"formats": "rephrase", "relearn": "relearn"}
    for group in GROUPS:
        found |= {name: method for name, (method, _) in battery.chosen(settings, group).items()}
    return found


def collect(store: Store, task: str, settings: Settings) -> AttackRecords:
    """Read what notebooks 30 to 34 wrote; FileNotFoundError names what is missing."""
    seeds, groups = settings.seeds, ("formats", "relearn", *GROUPS)
    faced = [UNEDITED, MASK, *settings.attacks.compare]
    tables = []
    for table in ("rows", "ledger"):
        parts = [store.load_seeds(f"attack_{g}/{table}", task, seeds) for g in groups]
        found = pandas.concat(parts, ignore_index=True)
        tables.append(found[found.localization.isin(faced)])
    rows, ledger = tables
    formats = Formats.load(store.find("unedited", task, seeds[0]))
    rows = rows[(rows.attack != "formats") | rows.variant.isin(formats.counted)]
    first = {n: load_set(store, task, n, seeds[0]).first_layer for n in settings.attacks.compare}
    card = delta.card(store.find("settings", task, seeds[0]) / MASK)
    unedited = store.load_seeds("unedited/unedited", task, seeds).assign(localization=UNEDITED)
    first[MASK] = card["first_layer"]
    asked = rows[(rows.localization == MASK) & (rows.variant == formats.training)]
    left = asked[asked.split.isin(FORGET)]
    masks = bool((left.answer == left.true).mean() <= MASKED)
    return AttackRecords(rows, ledger, known(unedited, formats.training), first, masks)


def allowed(records: AttackRecords, settings: Settings) -> pandas.DataFrame:
    """The rows of read-outs that an attacker could make: no layer at or below the first trained
    one, nothing that needs the unedited model."""
    methods, rows = attacks(settings), records.rows
    layer = rows.attack.map({a: battery.module(m).BUDGET == "layer" for a, m in methods.items()})
    lowest = rows.localization.map(records.first_trained).fillna(-2)
    oracle = [battery.oracle(methods[a], v) for a, v in zip(rows.attack, rows.variant)]
    return rows[~(layer & (rows.budget <= lowest)) & ~numpy.array(oracle)]


def attack_table(records: AttackRecords, settings: Settings) -> pandas.DataFrame:
    """One row per edit and attack, where the attacker stops.

    variant, budget; chosen_on: share of the facts it chose by that were answered correctly; back of
    n held-out facts; value, low, high, floor, prior: recovery R; taught, retained, invented: shares
    answered correctly; failed: why the attack does not count, "" if it does; admitted: does it
    bring back at least half of the known mask?
    """
    rows, teaches = [], records.ledger.groupby("attack").taught.any()
    for (name, attack), part in allowed(records, settings).groupby(KEY, sort=False):
        stopped, chosen_on = stop(part)
        right = (stopped.answer == stopped.true).groupby(stopped.split).mean()
        heldout = stopped[stopped.split == "forget_heldout"]
        row = {"localization": name, "attack": attack, "variant": stopped.variant.iloc[0]}
        row |= {"budget": stopped.budget.iloc[0], "chosen_on": chosen_on}
        row |= {"back": int((heldout.answer == heldout.true).sum())}
        row |= vars(recovery_of(stopped, records.known, settings))
        row |= {"taught": right.get("forget_train"), "retained": right.get("retain_test")}
        row |= {"invented": right.get("never_known")}
        rows.append(row | {"failed": failed(right, settings) if teaches[attack] else ""})
    table = _retaining(pandas.DataFrame(rows), records, settings)
    mask = table[(table.localization == MASK) & (table.failed == "")].set_index("attack").value
    admitted = table.attack.map(mask).fillna(-1.0) >= ADMITTED
    return table.assign(admitted=admitted & records.masks)


def _retaining(
    table: pandas.DataFrame, records: AttackRecords, settings: Settings
) -> pandas.DataFrame:
    """An attack that teaches nothing fails too, where fewer retained facts are left than
    `attack_formats.keep` of what the same attack leaves of the unedited model's."""
    rows = records.rows[(records.rows.localization == UNEDITED)]
    rows = rows[rows.split == "retain_test"]
    left = (rows.answer == rows.true).groupby([rows[c] for c in ("attack", *STOP)]).mean()
    before = left.reindex(pandas.MultiIndex.from_frame(table[["attack", *STOP]])).to_numpy()
    broken = (table.failed == "") & (table.retained < settings.attack_formats.keep * before)
    why = "retained " + table.retained.map("{:.2f}".format)
    return table.assign(failed=table.failed.where(~broken, why))


def stop(part: pandas.DataFrame) -> tuple[pandas.DataFrame, float]:
    """(rows of the read-out at which the attacker stops, share by which it chose it); part: all
    read-outs of one attack on one edit. Of equal ones it takes the cheapest."""
    seen = part[part.split == battery.CHOOSING]
    seen = seen if len(seen) else part[part.split == "forget_train"]
    right = (seen.answer == seen.true).groupby([seen[c] for c in STOP], sort=False)
    score = right.mean()[right.size() >= right.size().max() / 2]  # not formats that ask few facts
    score = score.reset_index(name="share")
    order = score.sort_values(["share", "budget"], ascending=[False, True])
    variant, budget, share = order.iloc[0]
    full = part[(part.variant == variant) & (part.split != battery.CHOOSING)]
    full = full[full.budget <= budget]  # it may have had enough earlier, with each seed's facts
    last = full.groupby("seed").budget.transform("max")
    return full[full.budget == last], float(share)


def worst_case(
    table: pandas.DataFrame, records: AttackRecords, settings: Settings
) -> pandas.DataFrame:
    """One row per edit: the admitted attack that its attacker would choose (highest `chosen_on`),
    with its recovery; attacks: how many were admitted and passed their gates; highest: the largest
    R of any of these on the scored half, which no attacker could pick; luck: what the largest R of
    as many guessers would be."""
    counts = table[table.admitted & (table.failed == "") & (table.localization != MASK)]
    kept, rows = [*KEY, *STOP, "back", "n", "value", "low", "high", "floor"], []
    for _, mine in counts.groupby("localization", sort=False):
        best = mine.sort_values("chosen_on", ascending=False, kind="stable").iloc[0]
        share = luckiest(int(best.n), best.prior, len(mine))
        luck = (share - best.prior) / (records.known - best.prior)
        found = {"attacks": len(mine), "highest": mine.value.max(), "luck": luck}
        rows.append(best[kept].to_dict() | found)
    return pandas.DataFrame(rows, columns=[*kept, "attacks", "highest", "luck"])
