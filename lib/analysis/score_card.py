"""The worst that known attackers can do: recovery by attack, and over all of them.

Every attack reads the same facts, so all are scored alike: by recovery R on the held-out half
(section 8.4). R is 1 if all that was known is back, 0 for guessing, and below 0 if guessing would
be correct more often, because the edited answer holds. Of an attack with several variants or
budgets the attacker keeps what brings back most of the taught half; one that trains on that half
stops at its full budget. The worst case is the highest R of any attack that an attacker could run;
its interval resamples facts, the same for all attacks. A maximum over many attacks is biased
upwards: invented subjects with arbitrary labels, read in the same way, show by how much. Beside
them stands R of always giving the taught half's most frequent answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pandas

from lib.attacks import battery
from lib.config.blocks import GROUPS, Settings
from lib.facts.records import FORGET
from lib.measure.formats import Formats
from lib.stats import Estimate, estimate, guessing_rate, recovery, resample
from lib.store import Store

KEY = ["localization", "attack"]
STOP = ["variant", "budget"]


@dataclass(frozen=True)
class AttackRecords:
    """All read-outs of a task: `rows` (columns localization, seed, attack, variant, budget, split
    and per-fact answers; fact ids carry their seed), `ledger` (what each read-out had cost) and
    `known`, the share of the edited facts that the unedited model answers correctly."""

    rows: pandas.DataFrame
    ledger: pandas.DataFrame
    known: float


def attacks(settings: Settings) -> dict[str, str]:
    """{attack: method} of everything that is run, in the order of params.yaml."""
    found = {"formats": "rephrase", "relearn": "relearn"}
    for group in GROUPS:
        found |= {name: method for name, (method, _) in battery.chosen(settings, group).items()}
    return found


def collect(store: Store, task: str, settings: Settings) -> AttackRecords:
    """Read what notebooks 30 to 34 wrote; FileNotFoundError names what is missing."""
    seeds, groups = settings.seeds, ("formats", "relearn", *GROUPS)
    rows, ledger = (
        {g: store.load_seeds(f"attack_{g}/{table}", task, seeds) for g in groups}
        for table in ("rows", "ledger")
    )
    asked, counted = rows["formats"], {}
    for seed in seeds:
        counted[seed] = Formats.load(store.find("unedited", task, seed)).counted
    counts = [v in counted[s] for v, s in zip(asked.variant, asked.seed)]
    rows["formats"] = asked[counts]
    unedited = store.load_seeds("unedited/unedited", task, seeds)
    training = unedited[unedited["format"] == unedited["format"].iloc[0]]
    training = training[training.split == "forget_heldout"]
    known = (training.answer == training.true).groupby(training.seed).mean().mean()
    tables = (pandas.concat(t.values(), ignore_index=True) for t in (rows, ledger))
    return AttackRecords(*tables, float(known))


def stopped(evidence: AttackRecords) -> pandas.DataFrame:
    """The read-outs at which each attacker stops: rows of the chosen variant and budget of every
    (localization, attack)."""
    kept, taught = [], evidence.ledger.groupby("attack").taught.any()
    for (_, attack), rows in evidence.rows.groupby(KEY, sort=False):
        known = rows[rows.split == "forget_train"]
        if taught[attack]:
            best = known[STOP].iloc[known.budget.to_numpy().argmax()]
        else:
            right = (known.answer == known.true).groupby([known[c] for c in STOP], sort=False)
            enough = right.size() >= right.size().max() / 2  # formats that ask for few facts
            best = pandas.Series(right.mean()[enough].idxmax(), STOP)
        kept.append(rows[(rows[STOP] == best).all(axis=1)])
    return pandas.concat(kept, ignore_index=True)


def attack_table(evidence: AttackRecords, settings: Settings) -> pandas.DataFrame:
    """One row per localization and attack, where the attacker stops.

    variant, budget; value, low, high, n: recovery R; prior: what guessing would score; heldout,
    forget_train, retain_test: shares answered correctly; invented: R of the arbitrary labels of
    invented subjects, which nothing could have stored; majority: R of always giving the most
    frequent answer of the taught half; failed: why the attack does not count, if so; oracle: does
    it need the unedited model?
    """
    rows, taught = [], evidence.ledger.groupby("attack").taught.any()
    for (name, attack), part in stopped(evidence).groupby(KEY, sort=False):
        right = (part.answer == part.true).groupby(part.split).mean()
        heldout, nobody = (part[part.split == s] for s in ("forget_heldout", "never_known"))
        lucky = guessing_rate(heldout, nobody)
        row = {"localization": name, "attack": attack, "variant": part.variant.iloc[0]}
        row |= {"budget": part.budget.iloc[0]}
        row |= vars(_recovery(heldout, lucky, evidence.known, settings))
        row |= {"prior": lucky.mean(), "heldout": right["forget_heldout"]}
        row |= {s: right.get(s, float("nan")) for s in ("forget_train", "retain_test")}
        row |= {"invented": _invented(nobody), "majority": _majority(part, lucky, evidence.known)}
        row |= {"failed": _failed(right, settings) if taught[attack] else ""}
        row |= {"oracle": battery.module(attacks(settings)[attack]).ORACLE}
        rows.append(row)
    return pandas.DataFrame(rows)


def _recovery(heldout, lucky, known: float, settings: Settings) -> Estimate:
    """`stats.recovery`, not a number where guessing would score as high as the unedited model."""
    hits = heldout.answer == heldout.true
    if lucky.mean() >= known:
        return Estimate(float("nan"), float("nan"), float("nan"), len(hits))
    return recovery(hits, lucky, known, settings.statistics.level, settings.statistics.resamples)


def _invented(nobody: pandas.DataFrame) -> float:
    """R of arbitrary labels: 0 if they are given as often as guessing would give them."""
    prior = guessing_rate(nobody, nobody).mean()
    return ((nobody.answer == nobody.true).mean() - prior) / (1 - prior) if prior < 1 else 0.0


def _majority(rows: pandas.DataFrame, lucky: numpy.ndarray, known: float) -> float:
    """R of giving, for every fact of a relation, the most frequent true answer of its taught
    half."""
    taught, heldout = (rows[rows.split == half] for half in FORGET)
    said = taught.groupby("relation").true.agg(lambda labels: labels.mode()[0])
    share, prior = (heldout.relation.map(said) == heldout.true).mean(), lucky.mean()
    return (share - prior) / (known - prior) if prior < known else float("nan")


def _failed(right: pandas.Series, settings: Settings) -> str:
    """Why an attack that teaches does not count (section 8.4); "" if it does."""
    gates = {
        "retained": (right.get("retain_test", 1.0), settings.attacks.gate_retain),
        "taught": (right["forget_train"], settings.attacks.gate_train),
    }
    return ", ".join(f"{what} {share:.2f}" for what, (share, gate) in gates.items() if share < gate)


def worst_case(evidence: AttackRecords, settings: Settings) -> pandas.DataFrame:
    """One row per localization and scope: attack (the strongest), value, low, high (its R), n,
    attacks (how many could be run), invented (the highest R of arbitrary labels, by any attack),
    majority (R of giving the taught half's most frequent answer).

    scope: `shared` (attacks that all localizations face) or `battery` (all attacks, for those that
    face them).
    """
    rows = stopped(evidence)
    oracle = {a for a, method in attacks(settings).items() if battery.module(method).ORACLE}
    rows = rows[~rows.attack.isin(oracle)]
    faced = rows.groupby("localization").attack.agg(set)
    shared = set.intersection(*faced)
    found = []
    for name, mine in rows.groupby("localization", sort=False):
        found.append(
            _worst(mine[mine.attack.isin(shared)], evidence.known, settings, name, "shared")
        )
        if faced[name] > shared:
            found.append(_worst(mine, evidence.known, settings, name, "battery"))
    return pandas.DataFrame(found)


def _worst(rows, known: float, settings: Settings, name: str, scope: str) -> dict:
    heldout = rows[rows.split == "forget_heldout"]
    hits, lucky, labels, often = {}, {}, {}, {}
    for attack, part in heldout.groupby("attack", sort=False):
        all_of_it = rows[rows.attack == attack]
        nobody = all_of_it[all_of_it.split == "never_known"]
        hits[attack] = (part.answer == part.true).astype(float).set_axis(part.id)
        lucky[attack] = pandas.Series(guessing_rate(part, nobody), part.id)
        labels[attack] = _invented(nobody)
        often[attack] = _majority(all_of_it, lucky[attack], known)
    hits, lucky = pandas.DataFrame(hits), pandas.DataFrame(lucky)
    everyone = numpy.arange(len(hits))[None]
    draws = resample(len(hits), settings.statistics.resamples, 0)
    each = ratios(hits, lucky, known, everyone)[0]
    highest = numpy.nanmax(ratios(hits, lucky, known, draws), axis=1)
    level = settings.statistics.level
    low, high = numpy.nanquantile(highest, [(1 - level) / 2, (1 + level) / 2])
    best = int(numpy.nanargmax(each))
    return {
        "localization": name,
        "scope": scope,
        "attack": hits.columns[best],
        "value": each[best],
        "low": low,
        "high": high,
        "n": len(hits),
        "attacks": hits.shape[1],
        "invented": numpy.nanmax(list(labels.values())),
        "majority": numpy.nanmax(list(often.values())),
    }


def ratios(
    hits: pandas.DataFrame, lucky: pandas.DataFrame, known: float, draws: numpy.ndarray
) -> numpy.ndarray:
    """R of every attack for every sample of facts, (n_draws, n_attacks); facts that an attack could
    not ask (missing values) are left out of it; not a number where guessing scores as high as the
    unedited model."""
    found = []
    for attack in hits:
        hit, prior = (table[attack].to_numpy(float)[draws] for table in (hits, lucky))
        with numpy.errstate(invalid="ignore"):
            share, base = numpy.nanmean(hit, axis=1), numpy.nanmean(prior, axis=1)
            found.append(numpy.where(base < known, (share - base) / (known - base), numpy.nan))
    return numpy.stack(found, axis=1)


def budget_table(evidence: AttackRecords, settings: Settings) -> pandas.DataFrame:
    """Every read-out with what it had cost and what it had brought back: the ledger with columns
    value (share of the held-out half answered correctly), low, high and n."""
    rows = evidence.rows[evidence.rows.split == "forget_heldout"]
    keys = [*KEY, "seed", *STOP]
    right = (rows.answer == rows.true).groupby([rows[k] for k in keys], sort=False)
    level, resamples = settings.statistics.level, settings.statistics.resamples
    shares = [
        dict(zip(keys, key)) | vars(estimate(group, level, resamples)) for key, group in right
    ]
    return evidence.ledger.merge(pandas.DataFrame(shares), on=keys)


def half_budgets(evidence: AttackRecords, settings: Settings) -> pandas.DataFrame:
    """Smallest budget of every attack at which R reaches 1/2 on the held-out half: localization x
    attack, missing where it never does. Attacks with one read-out are left out."""
    found = {}
    for (name, attack, variant), rows in evidence.rows.groupby([*KEY, "variant"], sort=False):
        budgets = sorted(rows.budget.unique())
        for budget in budgets if len(budgets) > 1 else []:
            part = rows[rows.budget == budget]
            heldout, nobody = (part[part.split == s] for s in ("forget_heldout", "never_known"))
            r = _recovery(heldout, guessing_rate(heldout, nobody), evidence.known, settings).value
            key = name, f"{attack} {variant}".strip()
            found[key] = min(found.get(key, numpy.inf), budget if r >= 0.5 else numpy.inf)
    table = pandas.Series(found).replace(numpy.inf, numpy.nan).unstack()
    return table.rename_axis(index="localization", columns="attack")
