"""Session 4, is it gone? For each exercise one check on tiny input, one on real results."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy
import pandas
import torch

from course import answers
from course.checks import RANDOM, Hint, expect, fresh, hints, passed, recognize, uniform
from lib import stats
from lib.attacks.target import ReadOut, Target
from lib.model.weights import block_matrices, fingerprint, kept

HINTS = hints("s4")
MARGIN = 0.10  # of equivalence, as in params.yaml
EARLY_LATE = {"fact-lookup": "early", "mlp-window-12": "late"}


def halves(student) -> None:
    """On tables of three answers, each an odd number of times, sorted as tables are."""
    _cut(student, {f"fact {i}": "abc"[i // 3] for i in range(9)})
    for _ in range(4):
        counts = {answer: 2 * secrets.randbelow(4) + 3 for answer in "abc"}
        facts = {f"{a}{i}": a for a, n in counts.items() for i in range(n)}
        _cut(student, facts)
    passed("two halves with the same mix, and another draw for another seed")


def _cut(student, facts: dict[str, str]) -> None:
    draws, learned = [], HINTS["halves"]
    for seed in range(12):
        taught, heldout = _two_lists(student(dict(facts), seed))
        expect(not set(taught) & set(heldout), learned["overlap"])
        whole = sorted(taught + heldout) == sorted(facts)
        expect(whole, "Every fact must stand in one of the halves, once.")
        one, other = (Counter(facts[i] for i in half) for half in (taught, heldout))
        ordered = set(taught) in (set(list(facts)[: len(taught)]), set(list(facts)[-len(taught) :]))
        uneven = any(abs(one[a] - other[a]) > 1 for a in facts.values())
        expect(not (uneven and ordered), learned["in order"])
        expect(not uneven, learned["random"])
        expect(abs(len(taught) - len(heldout)) <= 1, learned["lopsided"])
        again, _ = _two_lists(student(dict(facts), seed))
        expect(set(again) == set(taught), "The same seed must give the same halves.")
        draws.append(frozenset(taught))
    expect(len(set(draws)) > 1, learned["no draw"])


def _two_lists(got) -> tuple[list[str], list[str]]:
    two = isinstance(got, tuple) and len(got) == 2 and all(isinstance(x, list) for x in got)
    expect(two, "Return two lists of names: the taught half, the held-out half.")
    return got


def halves_real(student, facts: dict[str, str]) -> None:
    """On the athletes that are edited."""
    known = answers("s4")["halves"]["labels"]
    expect(dict(Counter(facts.values())) == known, f"Give it the edited facts: {known}.")
    _cut(student, facts)
    taught, heldout = (Counter(facts[i] for i in half) for half in student(facts, 0))
    passed(f"taught {dict(sorted(taught.items()))}, held out {dict(sorted(heldout.items()))}")


def recovery(student) -> None:
    """At the values that are known, then on random ones."""
    learned = HINTS["recovery"]
    half = [True, False, True, False, True, False]
    _recovers(
        student, half, 0.25, 0.75, 0.5, "With 3 of 6 right, prior 0.25, known 0.75: {}, not {}."
    )
    _recovers(student, [False] * 4, 1 / 3, 1.0, -0.5, "None right, prior 1/3, known 1: {}, not {}.")
    for prior, unedited in ((0.5, 0.5), (0.6, 0.4)):
        try:
            student([True, False], prior, unedited)
        except ValueError:
            continue
        except ZeroDivisionError:
            pass
        raise Hint(learned["no error"])
    for _ in range(20):
        n, (prior, r) = 5 + secrets.randbelow(20), uniform(fresh(), 2, low=0.1, high=0.5).tolist()
        hits = (uniform(fresh(), n) < 0.5).tolist()
        share = sum(hits) / n
        r = r if share > prior else -r
        _recovers(student, hits, prior, prior + (share - prior) / r, r, RANDOM)
    passed("1 if all is back, 0 for guessing, below 0 where the new answer holds")


def _recovers(student, hits, prior: float, unedited: float, r: float, otherwise: str) -> None:
    """r: what must come out; on random input it was chosen first, and `unedited` made from it."""
    got, share = float(student(list(hits), prior, unedited)), sum(hits) / len(hits)
    _recognize_recovery(got, share, prior, unedited, r)
    expect(abs(got - r) < 1e-6, otherwise.format(r, round(got, 4)))


def _recognize_recovery(got, share: float, prior: float, unedited: float, right: float) -> None:
    mistakes = {"clamped": max(right, 0.0), "no prior": share / unedited}
    mistakes |= {"half corrected": (share - prior) / unedited}
    for name, wrong in mistakes.items():
        alike = abs(got - wrong) < 1e-6 and abs(wrong - right) > 1e-6
        expect(not alike, HINTS["recovery"][name])


def recovery_real(student, ends) -> None:
    """On what relearning brought back after an early and a late edit; ends: its last rows."""
    said = []
    for name, edit in EARLY_LATE.items():
        mine = ends[ends.localization == name]
        heldout, nobody = (mine[mine.split == s] for s in ("forget_heldout", "never_known"))
        hits, found = (
            (heldout.answer == heldout.true).tolist(),
            stats.recovery(heldout, nobody, 1.0),
        )
        got = float(student(list(hits), found.prior, 1.0))
        _recognize_recovery(got, sum(hits) / len(hits), found.prior, 1.0, found.value)
        expect(abs(got - found.value) < 1e-6, f"{edit}: expected {found.value:.3f}, not {got:.3f}.")
        said.append(f"{edit} edit: {sum(hits)} of {len(hits)} back, R {got:+.3f}")
    passed("; ".join(said))


def why_failed(student) -> None:
    """On the four cases and the border, then on random shares."""
    cases = [(1.0, 1.0), (0.85, 1.0), (1.0, 0.5), (0.5, 0.5), (0.9, 0.9)]
    got = [_missed(student(*case, 0.9)) for case in cases]
    one, other, two = ["retained"], ["taught"], ["retained", "taught"]
    mistakes = {
        "border": [[], one, other, two, two],
        "both": [[], [], [], two, []],
        "average": [[], [], two, two, []],
    }
    recognize(got, mistakes, HINTS["why_failed"])
    expect(got == [[], one, other, two, []], f"For {cases} you have {got}.")
    for _ in range(30):
        missed = (uniform(fresh(), 2) < 0.5).tolist()
        low = uniform(fresh(), 2, low=0.2, high=0.59).tolist()
        shares = [x if miss else x + 0.4 for x, miss in zip(low, missed)]
        wanted = [gate for gate, miss in zip(two, missed) if miss]
        expect(_missed(student(*shares, 0.6)) == wanted, RANDOM)
    passed("each gate by itself, and the border counts")


def _missed(got) -> list[str]:
    expect(isinstance(got, list), "Return a list: [] or the names of the gates that were missed.")
    return sorted(got)


def why_failed_real(student, table) -> None:
    """On every attack that teaches, at every budget; table: course/tables/attacks.csv."""
    wanted, rows = answers("s4")["why_failed"], table[table.teaches]
    got = {
        f"{r.edit}/{r.attack}/{r.budget:g}": _missed(student(r.retained, r.taught, 0.9))
        for r in rows.itertuples()
    }
    both = {k: names if len(names) == 2 else [] for k, names in wanted.items()}
    recognize(got, {"both": both}, HINTS["why_failed"])
    wrong = [f"{k}: expected {wanted[k]}, not {got[k]}" for k in wanted if got.get(k) != wanted[k]]
    expect(not wrong, f"{len(wrong)} of {len(wanted)} differ. {wrong[0] if wrong else ''}")
    failed = [k for k, names in wanted.items() if names]
    taught = [k for k in failed if "taught" in wanted[k]]
    passed(f"of {len(wanted)} runs {len(failed)} fail, {len(taught)} on the taught half")


def paired(student) -> None:
    """On sides that are equal, that differ by the same everywhere, and on random ones."""
    learned, n = HINTS["paired"], 60
    ids = [f"fact {i}" for i in range(n)]
    a = pandas.Series(uniform(fresh(), n).tolist(), ids)
    value, low, high = _three(student(a, a.copy()))
    expect(abs(low) < 1e-9 and abs(high) < 1e-9, learned["unpaired"])
    expect(abs(value) < 1e-9, "A side minus itself is 0.")
    b = pandas.Series((0.5 * a + 0.2).tolist(), ids).sample(
        frac=1, random_state=secrets.randbits(31)
    )
    more = pandas.concat([pandas.Series([5.0, 6.0], ["only a", "only a too"]), a])
    got = student(more, b)
    joint = more.index.intersection(b.index)
    first = len(b)
    mistakes = {
        "all facts": more.mean() - b.mean(),
        "by position": float(numpy.mean(more.to_numpy()[:first] - b.to_numpy())),
    }
    _interval(got, (more[joint] - b[joint]).to_numpy(), mistakes)
    expect(_three(student(more, b)) == _three(got), "The same facts must give the same interval.")
    for _ in range(3):
        c = pandas.Series((uniform(fresh(), 90) < 0.6).float().tolist(), range(90))
        d = pandas.Series((uniform(fresh(), 90) < 0.4).float().tolist(), range(90))
        _interval(student(c, d), (c - d).to_numpy(), {})
    passed("difference and interval over the same facts")


def _three(got) -> tuple[float, float, float]:
    three = isinstance(got, tuple) and len(got) == 3
    expect(three, "Return three numbers: the difference, the lower and the upper end.")
    return tuple(float(x) for x in got)


def _interval(got, differences, mistakes: dict[str, float]) -> None:
    """The ends must be near those of the normal distribution, which needs no draws."""
    value, low, high = _three(got)
    right = float(differences.mean())
    for name, wrong in mistakes.items():
        alike = abs(value - wrong) < 1e-9 and abs(wrong - right) > 1e-9
        expect(not alike, HINTS["paired"][name])
    expect(abs(value - right) < 1e-6, f"The difference is {right:.3f}, not {value:.3f}.")
    wide = 2 * 1.96 * differences.std() / len(differences) ** 0.5
    expect(high - low < 2.5 * wide, HINTS["paired"]["spread"])
    ends = f"The interval should be about {wide:.3f} wide and hold {value:.3f}, yours is"
    near = 0.6 * wide < high - low < 1.5 * wide and low <= value <= high
    expect(near, f"{ends} [{low:.3f}, {high:.3f}].")


def paired_real(student, table) -> None:
    """On every comparison of course/tables/facts.csv."""
    for name, wanted in answers("s4")["paired"].items():
        facts, measure, pair = name.split("/")
        mine = table[(table.facts == facts) & (table.measure == measure)].set_index("id")
        a, b = (mine[side] for side in pair.split("-"))
        got = student(a, b)
        _interval(got, (a - b).to_numpy(), {})
        ends = [wanted[k] for k in ("value", "low", "high")]
        near = numpy.allclose(got, ends, atol=0.07)  # one fact in 16
        said = f"{name}: expected {_shown(wanted)}, you have {_text(*got)}."
        expect(near, said)
    early, depth = (answers("s4")["paired"][f"athletes/new, reworded/{p}"] for p in _PAIRS)
    passed(f"new answers, reworded, athletes: {_shown(early)} early-late, {_shown(depth)} by depth")


_PAIRS = ("early-late", "lookup-depth")


def _shown(row: dict) -> str:
    return _text(row["value"], row["low"], row["high"])


def _text(value: float, low: float, high: float) -> str:
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


WRONG = {  # what typical mistakes call equal: (lower end, upper end, margin) -> bool
    "covers zero": lambda low, high, margin: low <= 0 <= high,
    "middle": lambda low, high, margin: abs(low + high) / 2 < margin,
    "one end": lambda low, high, margin: high < margin,
}


def equivalent(student) -> None:
    """On six intervals, then on random ones that were made inside or outside of the margin."""
    cases = [(-0.05, 0.06), (-0.16, 0.06), (0.01, 0.09), (-0.3, 0.3), (0.2, 0.4), (-0.4, -0.3)]
    got, wanted = [bool(student(case, 0.1)) for case in cases], [True, False, True, *[False] * 3]
    _recognize_equal(got, wanted, cases, 0.1)
    expect(got == wanted, f"For {cases} and a margin of 0.1 you have {got}.")
    for _ in range(30):
        margin = float(uniform(fresh(), 1, low=0.05, high=0.3))
        inside = (uniform(fresh(), 2) < 0.5).tolist()
        ends = [float(x) * margin for x in uniform(fresh(), 2, low=0.1, high=0.9)]
        low, high = (-x if ok else -x - margin for x, ok in zip(ends, inside))
        wanted = all(inside)
        expect(bool(student((low, -high), margin)) == wanted, RANDOM)
    passed("equal only where the whole interval is small")


def _recognize_equal(got: list[bool], wanted: list[bool], cases, margin: float) -> None:
    mistakes = {name: [rule(*case, margin) for case in cases] for name, rule in WRONG.items()}
    different = {name: result for name, result in mistakes.items() if result != wanted}
    recognize(got, different, HINTS["equivalent"])


def equivalent_real(student) -> None:
    """On the intervals of notebook 50, with the margin of the study."""
    known = answers("s4")["paired"]
    cases = [(row["low"], row["high"]) for row in known.values()]
    got = [bool(student(case, MARGIN)) for case in cases]
    _recognize_equal(got, [row["alike"] for row in known.values()], cases, MARGIN)
    for (name, row), mine in zip(known.items(), got):
        expect(mine == row["alike"], f"{name}: {_shown(row)} is {row['alike']}, you say {mine}.")
    alike = [name for name, row in known.items() if row["alike"]]
    passed(f"{len(alike)} of {len(known)} are alike: {', '.join(alike)}")


def worst(student) -> None:
    """On five attacks of which one may be chosen, then on random tables."""
    columns = ["attack", "budget", "told", "R", "failed", "oracle", "admitted"]
    rows = [
        ("right", 1, 0.5, 0.2, "", False, True),
        ("highest", 2, 0.3, 0.6, "", False, True),
        ("oracle", 3, 1.0, 1.0, "", True, True),
        ("failed", 4, 0.8, 0.7, "retained 0.50", False, True),
        ("not shown", 5, 0.7, 0.8, "", False, False),
    ]
    _chooses(student, pandas.DataFrame(rows, columns=columns), "Expected the attack {}, not {}.")
    for _ in range(10):
        _chooses(student, _random_table(columns), RANDOM)
    passed("only attacks that count, chosen by what the attacker sees")


def _random_table(columns: list[str]) -> pandas.DataFrame:
    """Twelve attacks; of those that count, the right one is best where the attacker looks."""
    rng = random.Random(secrets.randbits(31))
    told = rng.sample(range(100), 12)
    order = sorted(range(12), key=lambda i: -told[i])
    best = rng.randrange(1, 6)
    rows = [
        [f"attack {i}", i, told[i] / 100, rng.uniform(-0.5, 0.9), "", False, True] for i in order
    ]
    for row in rows[:best]:
        row[4:] = rng.choice([["taught 0.50", False, True], ["", True, True], ["", False, False]])
    rows[best][0] = "right"
    rng.shuffle(rows)
    return pandas.DataFrame(rows, columns=columns)


def _chooses(student, table: pandas.DataFrame, otherwise: str) -> None:
    got = _row(student(table.copy()))
    learned = HINTS["worst"]
    expect(got["attack"] not in learned, learned.get(got["attack"], ""))
    row = table[table.attack == got["attack"]].iloc[0]
    kinds = {"oracle": row.oracle, "failed": row.failed != "", "not shown": not row.admitted}
    for kind, wrong in kinds.items():
        expect(not wrong, learned[kind])
    expect(got["attack"] == "right", otherwise.format("right", got["attack"]))


def _row(got):
    expect(hasattr(got, "keys") and "attack" in got, "Return one row of the table, of one attack.")
    return got


def worst_real(student, table) -> None:
    """On every attack on the early and on the late edit, as notebook 52 found."""
    said = []
    for edit, wanted in answers("s4")["worst"].items():
        got = _row(student(table[table.edit == edit].copy()))
        mine = {"attack": got["attack"], "budget": float(got["budget"])}
        for name, other in wanted["mistakes"].items():
            same = all(mine[k] == other[k] for k in mine)
            expect(not same, HINTS["worst"][name])
        right = {k: wanted[k] for k in mine}
        expect(mine == right, f"{edit}: expected {right}, you have {mine}.")
        said.append(f"{edit} edit: {got['attack']}, {got['back']} of 16 back, R {got['R']:+.2f}")
    passed("; ".join(said))


def _mean(x, y):
    return lambda at: numpy.full(numpy.shape(at), numpy.mean(y))


def _straight(x, y):
    slope, start = numpy.polyfit(x, y, 1)
    return lambda at: slope * numpy.asarray(at) + start


def step_or_line(student) -> None:
    """On four layers by hand; on random ones, where the error is known without leaving one out."""
    x, y = numpy.arange(4.0), numpy.array([0.0, 0.0, 1.0, 1.0])
    known = {"mean": numpy.array([-2, -2, 2, 2]) / 3}
    _leaves_out(student, x, y, {"mean": _mean}, known, "Expected {}, you have {}.")
    for _ in range(5):
        n = 5 + secrets.randbelow(5)
        x = numpy.cumsum(uniform(fresh(), n, low=0.5, high=2).double().numpy())
        y = uniform(fresh(), n).double().numpy()
        design = numpy.stack([numpy.ones(n), x], 1)
        leverage = numpy.diag(design @ numpy.linalg.pinv(design))
        known = {"mean": (y - y.mean()) / (1 - 1 / n)}
        known |= {"line": (y - _straight(x, y)(x)) / (1 - leverage)}
        _leaves_out(student, x, y, {"mean": _mean, "line": _straight}, known, RANDOM)
    passed("every layer predicted from the others, root of the mean square")


def _leaves_out(student, x, y, fits: dict, known: dict, otherwise: str) -> None:
    """known: for each fit by how much every layer is missed, or the error itself."""
    got, learned = student(x.copy(), y.copy(), dict(fits)), HINTS["step_or_line"]
    same = hasattr(got, "keys") and set(got.keys()) == set(fits)
    expect(same, f"Return a dict with one error for each of {', '.join(fits)}.")
    got = {name: float(error) for name, error in got.items()}
    wanted = {name: float(numpy.sqrt(numpy.mean(numpy.square(e)))) for name, e in known.items()}
    for name, fit in fits.items():
        seen = fit(x, y)(x) - y
        mistakes = {"seen": numpy.sqrt((seen**2).mean()), "squares": wanted[name] ** 2}
        mistakes |= {"signed": abs(numpy.mean(known[name]))}
        for mistake, wrong in mistakes.items():
            alike = abs(abs(got[name]) - wrong) < 1e-6
            expect(not alike or abs(wrong - wanted[name]) < 1e-6, learned[mistake])
    near = all(abs(got[name] - wanted[name]) < 1e-4 for name in fits)
    shown = [{name: round(e, 4) for name, e in errors.items()} for errors in (wanted, got)]
    expect(near, otherwise.format(*shown))


def step_or_line_real(student, table, fits: dict) -> None:
    """On the single MLPs of course/tables/sweep.csv, for both kinds of facts."""
    known, said = answers("s4")["step_or_line"], []
    for name, wanted in known.items():
        facts, measure = name.split("/")
        if ", " in facts:  # a further comparison, for the discussion
            continue
        column = measure.split(",")[0]
        column = {"old": "back"}.get(column, column)
        mine = table[(table.facts == facts) & (table.kind == "single") & table[f"{column}_counts"]]
        share = mine.new if column == "new" else mine.back / mine.n
        errors = {kind: wanted[kind] for kind in fits}
        x, y = mine.layer.to_numpy(float), share.to_numpy(float)
        _leaves_out(student, x, y, fits, errors, name + ": expected {}, you have {}.")
        said.append(f"{name}: " + ", ".join(f"{k} {e:.2f}" for k, e in errors.items()))
    passed("; ".join(said))


def attack(student) -> None:
    """On a tiny model with random weights, whose held-out answers are then changed."""
    learned, target = HINTS["attack"], _tiny()
    model, settings = target.loaded.model, SimpleNamespace(strengths=[0, 1, 3])
    before, plain = _bytes(model), target.read()
    outs = _read_outs(student(target, settings), settings)
    expect(_same_bytes(model, before), learned["left behind"])
    for out in outs:
        expect(out.budget != 0 or _same_rows(out.rows, plain), learned["zero"])
    moved = any(not _same_rows(out.rows, plain) for out in outs)
    expect(moved, "No answer changes at any strength: this is no attack yet.")
    for reads in (1, 2):
        begun = iter(student(target, settings))
        for _ in range(reads):
            next(begun)
        begun.close()
        expect(_same_bytes(model, before), learned["left open"])
    first, again, other = (_in_a_world(student, target, settings, i) for i in (0, 0, 1))
    expect(first == again, "Two runs give different answers: draw from a generator with a seed.")
    expect(first == other, learned["peeks"])
    passed("weights as before, strength 0 untouched, held-out answers not used")


def _tiny() -> Target:
    """A random model of six layers with twelve facts; nothing is known, so any change shows."""
    from lib.facts.formats import Catalogue, Format, FormatSet, answer_tokens, subject_positions
    from lib.facts.records import FactRecord, FactSplit
    from lib.model.tiny import random_model

    form = Format("training", "training", "{subject} plays", {w: w for w in ("golf", "go", "polo")})
    names, labels = [f"Player {c}" for c in "ABCDEFGHIJKL"], list(form.answers)
    texts = [f"{form.prompt(name)} {label}" for name in names for label in labels]
    model, tokenizer = random_model("gemma3", texts, seed=secrets.randbits(31))
    tokens = answer_tokens(tokenizer, form)

    def record(i: int) -> FactRecord:
        who, (true, edit) = SimpleNamespace(subject=names[i]), (labels[i % 3], labels[(i + 1) % 3])
        place = subject_positions(tokenizer, form, who)
        prompt, ids = form.ask(who), (tokens[true], tokens[edit])
        return FactRecord(
            names[i], "sport", names[i], true, edit, tuple(labels), prompt, place, *ids, 1
        )

    loaded = SimpleNamespace(name="tiny", model=model, tokenizer=tokenizer, checksum="")
    facts = {f.id: f for f in map(record, range(10))}
    roles = [names[:4], names[4:8], (), (), names[8:10], ()]
    invented, nothing = [record(10), record(11)], [[(2, 3, 4)]] * 3
    catalogue, split = Catalogue({"sport": FormatSet("sport", (form,))}), FactSplit(*roles)
    return Target(None, "tiny", loaded, catalogue, facts, split, invented, *nothing, 0, 2)


def _bytes(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _same_bytes(model, before: dict[str, torch.Tensor]) -> bool:
    now = dict(model.named_parameters())
    return now.keys() == before.keys() and all(
        torch.equal(now[n], old) for n, old in before.items()
    )


def _read_outs(given, settings) -> list[ReadOut]:
    outs = list(given) if hasattr(given, "__next__") else []
    expect(len(outs) > 0, "Yield one ReadOut(target.read(), strength) for each strength.")
    expect(all(isinstance(out, ReadOut) for out in outs), "Yield ReadOut(rows, strength).")
    budgets = {out.budget for out in outs}
    expect(budgets == set(settings.strengths), f"Budgets {budgets}, not {settings.strengths}.")
    return outs


def _same_rows(rows, plain) -> bool:
    ordered = rows.set_index("id").loc[plain.id]
    return bool(numpy.abs(ordered.p_true.to_numpy() - plain.p_true.to_numpy()).max() < 1e-6)


class _World(Target):
    """A target whose held-out answers are not the true ones: which read-out finds them depends on
    the world, and on nothing that an attacker may know."""

    def read(self, *args, **more) -> pandas.DataFrame:
        rows = super().read(*args, **more)
        self.seen["reads"] = self.seen.get("reads", 0) + 1
        heldout = rows.split == "forget_heldout"
        found = rows.answer if self.seen["reads"] % 2 == self.seen["world"] else ""
        rows["true"] = rows.true.where(~heldout, found)
        return rows


def _in_a_world(student, target: Target, settings, world: int) -> list:
    """What the read-outs say, in numbers that do not depend on which answers are called true."""
    facts = dict(target.facts)
    for name in target.split.forget_heldout if world else ():
        fact = facts[name]
        swap = {"true": fact.edit, "edit": fact.true}
        swap |= {"true_token": fact.edit_token, "edit_token": fact.true_token}
        facts[name] = replace(fact, **swap)
    parts = {f.name: getattr(target, f.name) for f in fields(target)}
    told = _World(**parts | {"facts": facts, "seen": {"world": world}})
    said = []
    for out in student(told, settings):
        rows = out.rows.sort_values("id")
        pair = rows[["p_true", "p_edit"]].round(6)
        numbers = list(zip(pair.min(axis=1), pair.max(axis=1)))
        said.append((out.budget, out.variant, rows.answer.tolist(), numbers))
    return said


def attack_real(student, target: Target, folders: dict[str, object], strength: int = 4) -> None:
    """On the stored edits, {edit: its folder}: the late one with every test, the early one beside
    it."""
    said, learned, model = [], HINTS["attack"], target.loaded.model
    with kept(block_matrices(model)):  # even a careless attack leaves the model as it was
        for edit, folder in folders.items():
            careful = edit == "late"
            settings = SimpleNamespace(strengths=[0, strength] if careful else [strength])
            with target.edited(folder) as edited:
                before = fingerprint(model)
                plain = edited.read() if careful else None
                outs = _read_outs(student(edited, settings), settings)
                expect(fingerprint(model) == before, learned["left behind"])
            for out in outs if careful else []:
                expect(out.budget != 0 or _same_rows(out.rows, plain), learned["zero"])
            strong = [out for out in outs if out.budget == strength]
            right = [(o.rows.answer == o.rows.true).groupby(o.rows.split).mean() for o in strong]
            best = max(right, key=lambda share: share["forget_train"])
            heldout, stay = best["forget_heldout"], best["retain_test"]
            said.append(
                f"{edit} edit: {heldout:.2f} of the held-out half back, retained {stay:.2f}"
            )
    passed(f"at strength {strength}, " + "; ".join(said))
