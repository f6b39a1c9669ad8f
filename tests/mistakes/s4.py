"""Session 4."""

from __future__ import annotations

import random

import numpy
import torch

from lib.attacks.target import ReadOut
from lib.model.anatomy import blocks
from lib.model.weights import kept


def overlap(facts, seed):
    rng, names = random.Random(seed), list(facts)
    return rng.sample(names, len(names) // 2), rng.sample(names, len(names) // 2)


def in_order(facts, seed):
    names = list(facts)
    return names[: len(names) // 2], names[len(names) // 2 :]


def random__halves(facts, seed):
    names = list(facts)
    random.Random(seed).shuffle(names)
    return names[: len(names) // 2], names[len(names) // 2 :]


def lopsided(facts, seed):
    rng, taught, heldout = random.Random(seed), [], []
    for answer in set(facts.values()):
        names = [name for name in facts if facts[name] == answer]
        rng.shuffle(names)
        taught += names[0::2]
        heldout += names[1::2]
    return taught, heldout


def no_draw(facts, seed):
    names = sorted(facts, key=facts.get)
    return names[0::2], names[1::2]


def no_prior(hits, prior, known):
    if prior >= known:
        raise ValueError("nothing to recover")
    return sum(hits) / len(hits) / known


def clamped(hits, prior, known):
    if prior >= known:
        raise ValueError("nothing to recover")
    return max(0.0, (sum(hits) / len(hits) - prior) / (known - prior))


def half_corrected(hits, prior, known):
    if prior >= known:
        raise ValueError("nothing to recover")
    return (sum(hits) / len(hits) - prior) / known


def no_error(hits, prior, known):
    return (sum(hits) / len(hits) - prior) / (known - prior)


def border(retained, taught, gate):
    shares = {"retained": retained, "taught": taught}
    return [name for name, share in shares.items() if share <= gate]


def both(retained, taught, gate):
    return ["retained", "taught"] if retained < gate and taught < gate else []


def average(retained, taught, gate):
    return ["retained", "taught"] if (retained + taught) / 2 < gate else []


def _ends(draws):
    return tuple(float(x) for x in numpy.quantile(draws, (0.025, 0.975)))


def _draws(n):
    return numpy.random.default_rng(0).integers(0, n, (2000, n))


def by_position(a, b):
    x = numpy.array([one - other for one, other in zip(a, b)])
    return float(x.mean()), *_ends(x[_draws(len(x))].mean(1))


def all_facts(a, b):
    x = (a - b).dropna().to_numpy()
    return float(a.mean() - b.mean()), *_ends(x[_draws(len(x))].mean(1))


def unpaired(a, b):
    rng, shared = numpy.random.default_rng(0), a.index.intersection(b.index)
    one, other = a[shared].to_numpy(), b[shared].to_numpy()
    size = (2000, len(shared))
    draws = [x[rng.integers(0, len(x), size)].mean(1) for x in (one, other)]
    return float((one - other).mean()), *_ends(draws[0] - draws[1])


def spread(a, b):
    x = (a - b).dropna().to_numpy()
    middle, reach = x.mean(), 2 * x.std()
    return float(middle), float(middle - reach), float(middle + reach)


def covers_zero(interval, margin):
    return interval[0] <= 0 <= interval[1]


def middle(interval, margin):
    return abs(sum(interval) / 2) < margin


def one_end(interval, margin):
    return interval[1] < margin


def _count(table, *columns):
    kept = table[table.admitted] if "admitted" in columns else table
    kept = kept[~kept.oracle] if "oracle" in columns else kept
    return kept[kept.failed == ""] if "failed" in columns else kept


def highest(table):
    counts = _count(table, "admitted", "oracle", "failed")
    return counts.loc[counts.R.idxmax()]


def oracle(table):
    counts = _count(table, "failed")
    counts = counts[counts.admitted | counts.oracle]
    return counts.loc[counts.told.idxmax()]


def failed(table):
    counts = _count(table, "admitted", "oracle")
    return counts.loc[counts.told.idxmax()]


def not_shown(table):
    counts = _count(table, "oracle", "failed")
    return counts.loc[counts.told.idxmax()]


def seen(layers, shares, fits):
    missed = {name: fit(layers, shares)(layers) - shares for name, fit in fits.items()}
    return {name: numpy.sqrt((e**2).mean()) for name, e in missed.items()}


def _missed(layers, shares, fit):
    others = numpy.arange(len(layers))
    return numpy.array(
        [
            float(fit(layers[others != i], shares[others != i])(layers[i])) - shares[i]
            for i in others
        ]
    )


def signed(layers, shares, fits):
    return {name: abs(_missed(layers, shares, fit).mean()) for name, fit in fits.items()}


def squares(layers, shares, fits):
    return {name: (_missed(layers, shares, fit) ** 2).mean() for name, fit in fits.items()}


def _silent(target, count):
    """{name: matrix} without which the last MLPs say nothing."""
    last = list(blocks(target.loaded.model))
    return {str(i): b.mlp.down_proj.weight for i, b in enumerate(last[len(last) - count :])}


@torch.no_grad()
def left_behind(target, settings):
    for strength in settings.strengths:
        for weight in _silent(target, strength).values():
            weight.zero_()
        yield ReadOut(target.read(), strength)


def left_open(target, settings):
    old = [(w, w.clone()) for w in _silent(target, max(settings.strengths)).values()]
    for strength in settings.strengths:
        with torch.no_grad():
            for weight in _silent(target, strength).values():
                weight.zero_()
        yield ReadOut(target.read(), strength)
    with torch.no_grad():
        for weight, value in old:
            weight.copy_(value)


def zero(target, settings):
    for strength in settings.strengths:
        with kept(_silent(target, strength + 1)) as old, torch.no_grad():
            for name, weight in _silent(target, strength + 1).items():
                weight.copy_(0 * old[name])
            rows = target.read()
        yield ReadOut(rows, strength)


def peeks(target, settings):
    """Of two ways to silence MLPs it shows the one that works on the held-out half."""
    for strength in settings.strengths:
        tried = []
        for matrix in ("down_proj", "up_proj") if strength else ("down_proj",):
            last = list(blocks(target.loaded.model))
            last = last[len(last) - strength :]
            weights = {str(i): getattr(b.mlp, matrix).weight for i, b in enumerate(last)}
            with kept(weights), torch.no_grad():
                for weight in weights.values():
                    weight.mul_(0.5 if matrix == "up_proj" else 0)
                tried.append(target.read())
        held = [rows[rows.split == "forget_heldout"] for rows in tried]
        right = [(rows.answer == rows.true).mean() for rows in held]
        yield ReadOut(tried[int(numpy.argmax(right))], strength)


def peeks__examples(target, settings):
    """Puts true answers of held-out facts before the question."""
    facts = [target.facts[i] for i in target.split.forget_heldout]
    for strength in settings.strengths:
        lines = [f"{fact.prompt} {fact.true}\n" for fact in facts[:strength]]
        yield ReadOut(target.read(prefix="".join(lines)), strength)


MUTANTS = {
    "halves": (overlap, in_order, random__halves, lopsided, no_draw),
    "recovery": (no_prior, clamped, half_corrected, no_error),
    "why_failed": (border, both, average),
    "paired": (by_position, all_facts, unpaired, spread),
    "equivalent": (covers_zero, middle, one_end),
    "worst": (highest, oracle, failed, not_shown),
    "step_or_line": (seen, signed, squares),
    "attack": (left_behind, left_open, zero, peeks, peeks__examples),
}


def real(worked: dict) -> list[tuple]:
    """(exercise, mistake, what its check on real results is given)."""
    attacks, facts, sweep, fits = (worked[n] for n in ("attacks", "facts", "sweep", "fits"))
    found = [("why_failed", both, (attacks,)), ("worst", oracle, (attacks,))]
    found += [("paired", spread, (facts,)), ("step_or_line", seen, (sweep, fits))]
    found += [("equivalent", m, ()) for m in (covers_zero, one_end)]
    if "ends" in worked:  # results of the pipeline are there
        given = (worked["target"], worked["folders"])
        found += [("halves", random__halves, (worked["edited"],))]
        found += [("recovery", m, (worked["ends"],)) for m in (no_prior, half_corrected)]
        found += [("attack", m, given) for m in (left_behind, zero)]
    return found


def named(found: dict) -> list[str]:
    """Numbers that the teacher's notes must name."""
    names = [f"{found['halves']['balanced_by_chance']:.2f}"]
    for row in found["recovery"].values():
        names += [f"{row['back']} of {row['n']}", f"{row['prior']:.3f}", f"{row['R']:+.2f}"]
    failed = [gates for gates in found["why_failed"].values() if gates]
    names += [f"{len(failed)} of {len(found['why_failed'])}"]
    ends = ("value", "low", "high")
    for row in found["paired"].values():
        names += ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*(row[k] for k in ends))]
    for row in found["worst"].values():
        names += [row["attack"], f"{row['back']} of {row['n']}", f"{row['R']:+.2f}"]
    for row in found["step_or_line"].values():
        names += [f"{row['line']:.3f}", f"{row['step']:.3f}"]
    strong = {edit: by["6"]["forget_heldout"] for edit, by in found["attack"].items()}
    return names + [f"{strong[edit]} of 16" for edit in ("early", "late", "known mask")]
