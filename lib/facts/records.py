"""One fact and the roles facts play: the records every stage shares, with their invariants checked.

Section 1.5 of METHOD.md: a fact is edited (`forget`), kept as it is (`retain`) or shown as an
example (`fewshot`), and never two of these. The forget set has two halves, because relearning
teaches one (the taught half) and is scored on the other (the held-out half).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lib.facts.formats import Catalogue, save_catalogue

FORGET = ("forget_train", "forget_heldout")
READ = (*FORGET, "retain_test")  # roles that are asked after an edit or an attack


@dataclass(frozen=True)
class FactRecord:
    """A fact: `subject` has the true label; an edit wants `edit` instead; `options` are all labels.

    subject_positions: tokens of the subject in the training prompt; true_token, edit_token: first
    tokens of the two answers there; probability: of the true answer before any edit, over the
    whole vocabulary.
    """

    id: str
    relation: str
    subject: str
    true: str
    edit: str
    options: tuple[str, ...]
    prompt: str
    subject_positions: tuple[int, ...]
    true_token: int
    edit_token: int
    probability: float
    paraphrases: tuple[str, ...] = ()
    neighbors: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("options", "subject_positions", "paraphrases", "neighbors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.edit == self.true or self.edit_token == self.true_token:
            raise ValueError(
                f"the edit target of '{self.subject}' equals the truth ('{self.true}'): give "
                "it another answer"
            )
        if Counter(self.options)[self.true] != 1 or Counter(self.options)[self.edit] != 1:
            raise ValueError(
                f"options of '{self.subject}' must hold truth and edit target exactly once"
            )
        if len(set(self.options)) != len(self.options):
            raise ValueError(
                f"options of '{self.subject}' are not distinct: {', '.join(self.options)}; "
                "delete the repeated one"
            )
        if not self.subject_positions:
            raise ValueError(
                f"subject '{self.subject}' was not found in its prompt {self.prompt!r}: "
                "correct its template"
            )


@dataclass(frozen=True)
class FactSplit:
    """Ids of the facts in each role, a pure function of (facts, sizes, seed).

    majority: share of the most frequent true label in each role (what always giving this answer
    would score).
    """

    forget_train: tuple[str, ...]
    forget_heldout: tuple[str, ...]
    retain_train: tuple[str, ...]
    retain_val: tuple[str, ...]
    retain_test: tuple[str, ...]
    fewshot: tuple[str, ...]
    majority: dict[str, float] = field(default_factory=dict, compare=False)

    ROLES = (
        "forget_train",
        "forget_heldout",
        "retain_train",
        "retain_val",
        "retain_test",
        "fewshot",
    )

    def __post_init__(self):
        for role in self.ROLES:
            object.__setattr__(self, role, tuple(getattr(self, role)))
        seen = Counter(i for role in self.ROLES for i in getattr(self, role))
        twice = [i for i, n in seen.items() if n > 1]
        if twice:
            raise ValueError(
                f"fact '{twice[0]}' stands in two roles of the split: roles must be disjoint"
            )

    @property
    def forget(self) -> tuple[str, ...]:
        """Both halves: every fact that is edited."""
        return self.forget_train + self.forget_heldout

    def role_of(self) -> dict[str, str]:
        """{fact id: role}."""
        return {i: role for role in self.ROLES for i in getattr(self, role)}


def make_split(
    facts: list[FactRecord],
    forget: int | None,
    fewshot: int,
    shares: tuple[float, float],
    seed: int,
    label: str | None = None,
) -> FactSplit:
    """Draw forget halves, few-shot pool and retained facts, each stratified (see `strata`).

    forget: facts to edit (halves of equal size; None: as many as there are); shares: parts of the
    retained facts used for training and validation, the rest is test; label: only facts with this
    answer are edited, and none of them is retained (a whole sport). ValueError if the model knows
    too few facts.
    """
    if forget is not None and (forget < 2 or forget % 2):
        raise ValueError(
            f"forget is {forget}: set it to an even number of at least 2 (it has two halves)"
        )
    stratum, rng = strata(facts), random.Random(seed)
    others = {f.id: stratum[f.id] for f in facts if label and f.true != label}
    queue = _interleaved({i: s for i, s in stratum.items() if i not in others}, rng)
    forget = len(queue) // 2 * 2 if forget is None else forget
    forget_ids, rest = queue[:forget], _interleaved(others, rng) if label else queue[forget:]
    least = fewshot + 3 * len(set((others if label else stratum).values()))
    if not forget_ids or len(queue) < forget or len(rest) < least:
        about = f" ({len(queue)} of them with the answer '{label}')" if label else ""
        raise ValueError(
            f"the model knows {len(facts)} facts of this table{about} but "
            f"{max(forget, 2) + least} are needed (forget {forget}, few-shot {fewshot}, "
            "retained): lower `forget` or `min_probability` in params.yaml, or add facts"
        )
    pool, retain = rest[:fewshot], rest[fewshot:]
    train, validation = (round(len(retain) * s) for s in shares)
    roles = {
        "forget_train": forget_ids[0::2],
        "forget_heldout": forget_ids[1::2],
        "retain_train": retain[:train],
        "retain_val": retain[train : train + validation],
        "retain_test": retain[train + validation :],
        "fewshot": pool,
    }
    answer = {f.id: f.true for f in facts}
    majority = {r: _majority([answer[i] for i in ids]) for r, ids in roles.items()}
    return FactSplit(**roles, majority=majority)


def strata(facts: list[FactRecord]) -> dict[str, str]:
    """{fact id: what roles are balanced over}: the relation, or the true label where there is but
    one relation."""
    many = len({f.relation for f in facts}) > 1
    return {f.id: f.relation if many else f.true for f in facts}


def answer_pairs(facts: list[FactRecord], count: int) -> list[tuple[FactRecord, FactRecord]]:
    """Up to `count` pairs of facts that ask the same of two subjects with different answers; no
    fact stands in two pairs."""
    pairs, used = [], set()
    for i, one in enumerate(facts):
        for other in facts[i + 1 :]:
            if len(pairs) == count or one.id in used:
                break
            same = one.relation == other.relation and one.true != other.true
            if same and other.id not in used:
                pairs.append((one, other))
                used |= {one.id, other.id}
    return pairs


def evenly(facts: list[FactRecord], size: int) -> list[FactRecord]:
    """`size` of the facts, at equal distances in their order (all, if there are fewer)."""
    step = max(len(facts) / size, 1)
    return [facts[int(i * step)] for i in range(min(size, len(facts)))]


def _interleaved(stratum: dict[str, str], rng: random.Random) -> list[str]:
    """Ids in pairs of one stratum, each stratum spread evenly from first to last.

    Any slice then has the shares of the whole, and so have its two halves (every second id).
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(stratum):
        groups.setdefault(stratum[name], []).append(name)
    placed = []
    for group, ids in groups.items():
        rng.shuffle(ids)
        placed += [((i // 2 * 2 + 1) / len(ids), group, i, name) for i, name in enumerate(ids)]
    return [name for *_, name in sorted(placed)]


def _majority(labels: list[str]) -> float:
    return max(Counter(labels).values()) / len(labels) if labels else 0.0


def save_facts(
    facts: list[FactRecord],
    split: FactSplit,
    never_known: list[FactRecord],
    formats: Catalogue,
    folder: Path,
) -> None:
    """Write facts.json, split.json, never_known.json, and the training format, training.json."""
    save_catalogue(formats.only([]), folder / "training.json")
    rows = {"facts": facts, "never_known": never_known}
    for name, records in rows.items():
        text = json.dumps([asdict(f) for f in records], indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n")
    (folder / "split.json").write_text(
        json.dumps(asdict(split), indent=1, ensure_ascii=False) + "\n"
    )


def load_facts(folder: Path) -> tuple[dict[str, FactRecord], FactSplit]:
    """({id: FactRecord}, FactSplit) as notebook 01 wrote them."""
    return {f.id: f for f in _records(folder, "facts")}, FactSplit(**_json(folder, "split"))


def load_never_known(folder: Path) -> list[FactRecord]:
    """The invented subjects that notebook 01 wrote."""
    return _records(folder, "never_known")


def _records(folder: Path, name: str) -> list[FactRecord]:
    return [FactRecord(**row) for row in _json(folder, name)]


def _json(folder: Path, name: str):
    return json.loads((folder / f"{name}.json").read_text())
