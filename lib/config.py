"""params.yaml as typed settings: a misspelt name or a bad value is one clear sentence, before
anything runs.

Every stage calls `load()` first, so no long computation starts on settings that a later stage
would refuse. `python -m lib.config apply profiles/X.yaml` merges a profile into params.yaml (JSON
merge patch: null deletes a key).
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib import paths

Share = Field(gt=0, lt=1)
METHODS = (
    "fact-lookup",
    "causal-tracing",
    "attribution-patching",
    "fact-lookup-swapped",
    "random-mlps",
    "random",
    "depth-matched-mlps",
    "mlp-window",
    "literal",
    "rome",
    "all-mlps",
    "nonlocalized",
)


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(Block):
    """Which language model, where it runs and in which precision."""

    name: str
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Task(Block):
    """Where the facts of a task come from and how they are split."""

    source: Literal["table", "counterfact"] = "table"
    table: str
    formats: str | None = None
    never_known: str | None = None
    relation_column: str | None = None
    subject_column: str | None = None
    label_column: str | None = None
    relations: list[str] | None = None
    answers: Literal["single-token", "first-token"] = "single-token"
    lookup: Literal["probes", "path-patching"]
    probed_relation: str | None = None
    swap_with: str | None = None
    per_label: int | None = Field(default=None, ge=1)
    edit_column: str | None = None
    change: Literal["new-answer", "forget"] = "new-answer"
    forget_label: str | None = None
    edit_to: str | None = None
    edit_half: bool = False
    published: Literal["athletes", "whole-sport", "counterfact-16", "counterfact-64"] | None = None
    min_probability: float = Field(ge=0, lt=1)
    forget: int | None = Field(ge=2)
    fewshot: int = Field(ge=0)
    retain_train: float = Share
    retain_val: float = Share


class Text(Block):
    """Passages sampled from the unedited model: how many, how long, which share trains."""

    source: str | None = None
    passages: int = Field(ge=4)
    tokens: int = Field(ge=4)
    train: float = Share
    seed: int = 0


class FactLookup(Block):
    """The rise rule on probe accuracy by layer, and two-step path patching."""

    start_fraction: float = Share
    end_fraction: float = Share
    splits: int = Field(ge=2)
    repeats: int = Field(ge=2)
    test_share: float = Share
    regularization: float = Field(gt=0)
    heads: int = Field(ge=1)
    threshold: float = Share
    rule: Literal["signed", "absolute"] = "signed"
    corruptions: int = Field(ge=1)


class CausalTracing(Block):
    """Noise on the subject, one node restored at a time."""

    facts: int = Field(ge=2)
    noise: float = Field(gt=0)
    draws: int = Field(ge=1)
    repeats: int = Field(ge=2)
    min_gap: float = Field(ge=0, lt=1)


class AttributionPatching(Block):
    """Random tokens in place of the subject, effects to first order."""

    facts: int = Field(ge=2)
    corruptions: int = Field(ge=1)
    repeats: int = Field(ge=2)


class LocalizationSettings(Block):
    """How one localization chooses its components; further keys belong to the method."""

    method: Literal[METHODS]
    mlps_only: bool = False
    rule: Literal["raw-sum", "per-weight", "published"] = "raw-sum"
    draw: int = 0
    start: int | None = Field(default=None, ge=0)
    mlps: list[int] = []
    attention: list[int] = []


class _Trainer(Block):
    weight_retain: float = Field(ge=0)
    weight_text: float = Field(ge=0)
    batch_facts: int = Field(ge=1)
    batch_retain: int = Field(ge=1)
    batch_passages: int = Field(ge=1)
    max_steps: int = Field(ge=0)
    check_every: int = Field(ge=1)
    strength: float = Share


class Edit(_Trainer):
    """The one trainer's settings for one run."""

    lr: float = Field(gt=0)
    weight_edit: float = Field(ge=0)


class EditGrid(_Trainer):
    """The trainer's settings with the grid that learning rate and edit weight are chosen from."""

    choose: Literal["grid", "published"] = "grid"
    published_model: Literal["gemma-7b", "gemma-2-9b", "llama-3-8b"] | None = None
    lr: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    weight_edit: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    validation_facts: int = Field(ge=2)
    validation_kept: int = Field(ge=2)
    validation_passages: int = Field(ge=1)
    keep_retained: float = Share
    keep_text: float = Field(gt=0)
    tolerance: float = Field(ge=0, lt=1)

    def run(self, lr: float, weight_edit: float) -> Edit:
        """Settings of one run."""
        shared = {name: getattr(self, name) for name in _Trainer.model_fields}
        return Edit(**shared, lr=lr, weight_edit=weight_edit)

    def pairs(self) -> list[Edit]:
        """Settings of every pair of the grid."""
        return [self.run(lr, weight) for lr in self.lr for weight in self.weight_edit]


class Rome(Block):
    """The closed-form edit: how the vector to write is found, and how stiff the matrix is."""

    lr: float = Field(gt=0)
    steps: int = Field(ge=1)
    value_strength: float = Share
    decay: float = Field(ge=0)
    ridge: float = Field(gt=0)
    strength: float = Share


class Engines(Block):
    """Whose facts the two libraries look at."""

    tasks: list[str]


class WeightMasks(Block):
    """Masks on the weights of a localization, learned to forget; how many are then set to zero."""

    tasks: list[str]
    compare: list[str]
    weight_edit: float = Field(ge=0)
    steps: int = Field(ge=1)
    step_length: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    batch_facts: int = Field(ge=1)
    batch_retain: int = Field(ge=1)
    batch_passages: int = Field(ge=1)
    counts: list[int] = Field(min_length=1)


class Sequential(Block):
    """Batches of facts edited one after another."""

    tasks: list[str]
    compare: list[str]
    batches: int = Field(ge=1)


class Scaling(Block):
    """How many facts can be edited at once."""

    tasks: list[str]
    compare: list[str]
    sizes: list[int] = Field(min_length=1)


class AttackFormats(Block):
    """A format counts only where the unedited model reaches `gate` on retained facts."""

    gate: float = Share


class Attacks(Block):
    """What all attacks share: who faces the whole battery, how many retained and invented facts
    each read-out asks, and when an attack counts."""

    tasks: list[str]
    compare: list[str]
    control: int = Field(ge=2)
    gate_retain: float = Share
    gate_train: float = Share


class Teaching(Block):
    """What every attacker that teaches sets: learning rate, steps, after which of them the model is
    asked, and facts taught and kept per step."""

    lr: float = Field(gt=0)
    steps: int = Field(ge=1)
    read_at: list[int]
    batch_facts: int = Field(ge=0)
    batch_retain: int = Field(ge=0)


class Relearn(Teaching):
    """The attacker's fine-tuning; rank: of the adapters, null trains all weights."""

    teach: Literal["half", "related", "text"] = "half"
    rank: int | None = Field(default=None, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    batch_passages: int = Field(ge=0)


class SideEffects(Block):
    """Samples of what edits write, and benchmarks of lm_eval with at most so many questions."""

    samples: int = Field(ge=0)
    sample_tokens: int = Field(ge=1)
    benchmarks: list[str]
    benchmark_limit: int = Field(ge=1)


class Statistics(Block):
    """Intervals: bootstrap over facts."""

    resamples: int = Field(ge=100)
    level: float = Share


class Settings(Block):
    """The whole of params.yaml."""

    model: ModelSettings
    tasks: dict[str, Task]
    seeds: list[int] = Field(min_length=1)
    text: Text
    causal_tracing: CausalTracing
    attribution_patching: AttributionPatching
    fact_lookup: FactLookup
    engines: Engines
    localizations: dict[str, LocalizationSettings]
    compare: list[str] = Field(min_length=1)
    edit: EditGrid
    rome: Rome
    weight_masks: WeightMasks
    sequential: Sequential
    scaling: Scaling
    attacks: Attacks
    attack_formats: AttackFormats
    attack_relearn: Relearn
    attack_prompts: dict[str, dict]
    attack_weights: dict[str, dict]
    attack_inside: dict[str, dict]
    side_effects: SideEffects
    statistics: Statistics

    def task(self, name: str) -> Task:
        """Settings of one task; ValueError names the tasks there are."""
        return _pick("task", name, self.tasks)

    def localization(self, name: str) -> LocalizationSettings:
        """Settings of one localization; ValueError names those there are."""
        return _pick("localization", name, self.localizations)

    def battery(self, group: str) -> dict[str, tuple[str, Block]]:
        """{attack: (method, its settings)} of one group: prompts, weights or inside."""
        return {n: _attack(group, n, raw) for n, raw in getattr(self, f"attack_{group}").items()}


GROUPS = ("prompts", "weights", "inside")  # of attacks; each has a notebook


def _attack(group: str, name: str, raw: dict) -> tuple[str, Block]:
    from lib.attacks import battery  # attacks know their own settings

    method = raw.get("method", name.replace("-", "_"))
    rest = {k: v for k, v in raw.items() if k != "method"}
    where = f"attack_{group}.{name}"
    try:
        found = battery.module(method).Settings
        settings = found.model_validate(rest)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(_sentence(first | {"loc": (where, *first["loc"])}, found)) from None
    except ValueError as error:
        raise ValueError(f"{error}, at '{where}' in params.yaml") from None
    _check_reads(where, settings)
    return method, settings


def _check_reads(where: str, settings: Block) -> None:
    if not isinstance(settings, Teaching):
        return
    reads = settings.read_at
    if not reads or reads[0] < 0 or sorted(set(reads)) != reads or reads[-1] != settings.steps:
        raise ValueError(f"{where}.read_at must rise to {where}.steps: correct the list")


def _pick(kind: str, name: str, table: dict):
    if name not in table:
        hint = _closest(name, table)
        raise ValueError(f"unknown {kind} '{name}'{hint}: use a key of `{kind}s` in params.yaml")
    return table[name]


def _closest(name: str, names) -> str:
    close = get_close_matches(str(name), [str(n) for n in names], 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def parse(raw: dict) -> Settings:
    """Check a plain mapping; ValueError in one sentence names the parameter and the cure."""
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0])) from None
    for name, block in settings.localizations.items():
        if block.method == "mlp-window" and block.start is None:
            raise ValueError(
                f"localization '{name}' needs `start`, the first layer of the window: add it"
            )
        if block.method == "literal" and not block.mlps + block.attention:
            raise ValueError(
                f"localization '{name}' is empty: list layers under `mlps` or `attention`"
            )
    if "fact-lookup" not in settings.localizations:
        raise ValueError(
            "localization 'fact-lookup' is missing: it sets the budget of the others, add it"
        )
    looped = ("engines", "weight_masks", "sequential", "scaling", "attacks")
    for block in (getattr(settings, name) for name in looped):
        for name in block.tasks:
            settings.task(name)
    _check_names(settings)
    for name, task in settings.tasks.items():
        _check_task(name, task, settings)
        if task.retain_train + task.retain_val >= 1:
            raise ValueError(
                f"retain_train and retain_val of task '{name}' leave no facts for the test: "
                "lower them so that their sum is below 1"
            )
    if settings.edit.choose == "published" and not settings.edit.published_model:
        raise ValueError(
            "edit.choose is published but edit.published_model is not set: name one of the paper's "
            "models"
        )
    _check_reads("attack_relearn", settings.attack_relearn)
    names = [name for group in GROUPS for name in settings.battery(group)]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise ValueError(f"two attacks are called '{twice[0]}': rename one of them in params.yaml")
    return settings


def _check_names(settings: Settings) -> None:
    lists = {"compare": settings.compare}
    lists |= {f"{b}.compare": getattr(settings, b).compare for b in ("weight_masks", "scaling")}
    lists |= {f"{b}.compare": getattr(settings, b).compare for b in ("sequential", "attacks")}
    for where, names in lists.items():
        for name in names:
            settings.localization(name)
        twice = [n for n in names if names.count(n) > 1]
        if twice:
            raise ValueError(f"`{where}` lists '{twice[0]}' twice: delete one of the two lines")
    needing = ["attacks.compare"] + ["sequential.compare"] * bool(settings.sequential.tasks)
    for where in needing:
        absent = [n for n in lists[where] if n not in settings.compare]
        if absent:
            raise ValueError(
                f"`{where}` lists '{absent[0]}', which `compare` does not: it needs that edit, add "
                "it there"
            )


def _check_task(name: str, task: Task, settings: Settings) -> None:
    needed = ("formats", "never_known", "subject_column", "label_column")
    lacking = [n for n in needed if task.source == "table" and getattr(task, n) is None]
    if lacking:
        raise ValueError(f"task '{name}' lacks the parameter '{lacking[0]}': add it")
    if task.forget is None and task.forget_label is None:
        raise ValueError(
            f"task '{name}' forgets neither a number of facts nor a label: set `forget` to a "
            "number, or `forget_label` to a label"
        )
    if settings.edit.choose == "published" and not task.published:
        raise ValueError(
            f"task '{name}' does not say which published settings to take: set `published`, or "
            "`edit.choose` to grid"
        )
    swapped = [n for n, b in settings.localizations.items() if b.method == "fact-lookup-swapped"]
    if swapped and task.swap_with not in {*settings.tasks} - {name}:
        raise ValueError(
            f"localization '{swapped[0]}' needs the fact-lookup layers of another task: set "
            f"`swap_with` of task '{name}' to one of the tasks, or delete the localization"
        )


def load(path: Path = paths.PARAMS) -> Settings:
    """Read and check params.yaml."""
    raw = yaml.safe_load(path.read_text())
    if not isinstance(raw, dict):
        raise ValueError(
            f"{path.name} holds no settings: restore it with `git checkout {path.name}`"
        )
    return parse(raw)


def _sentence(error: dict, block: type[Block] | None = None) -> str:
    """One sentence about the first error; block: where it was found, if not in `Settings`."""
    where = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        known = list(block.model_fields) if block else _names_at(error["loc"][:-1])
        hint = _closest(error["loc"][-1], known) or f" (known: {', '.join(known)})"
        return f"params.yaml has an unknown parameter '{where}'{hint}: correct or delete it"
    if error["type"] == "missing":
        return f"params.yaml lacks the parameter '{where}': add it"
    if error["loc"][0] == "localizations" and error["loc"][-1] == "method":
        hint = _closest(error["input"], METHODS)
        return (
            f"unknown localization method '{error['input']}'{hint} at '{where}': "
            f"use one of {', '.join(METHODS)}"
        )
    return f"params.yaml has a bad value {error['input']!r} for '{where}': {error['msg'].lower()}"


def _names_at(location: tuple) -> list[str]:
    """Names of the parameters allowed at a place of params.yaml."""
    block = Settings
    for step in location:
        field = block.model_fields.get(step) if isinstance(block, type) else None
        kind = field.annotation if field else block
        arguments = getattr(kind, "__args__", ())
        block = arguments[-1] if arguments else kind
        if field and arguments:  # a dict of blocks: the next step is its key
            return list(block.model_fields)
    return list(block.model_fields)


def merge(base: dict, patch: dict) -> dict:
    """JSON merge patch (RFC 7386) in place: mappings merge, null deletes, anything else
    replaces."""
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        elif isinstance(value, dict):
            base[key] = merge(base[key] if isinstance(base.get(key), dict) else {}, value)
        else:
            base[key] = value
    return base


def apply_profile(profile: Path, params: Path = paths.PARAMS) -> None:
    """Merge a profile into params.yaml, keeping the comments; nothing is written if the result is
    bad."""
    from ruamel.yaml import YAML

    if not profile.exists():
        names = ", ".join(sorted(p.stem for p in (paths.ROOT / "profiles").glob("*.yaml")))
        raise FileNotFoundError(f"no profile at {profile}: there are {names} in profiles/")
    writer = YAML()
    writer.width = 110
    writer.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    # YAML 1.1 readers, pipelines among them, take 1e-05 for a word and 1.0e-05 for a number
    writer.representer.add_representer(
        float,
        lambda dumper, x: dumper.represent_scalar(
            "tag:yaml.org,2002:float", yaml.safe_dump(x).split("\n")[0]
        ),
    )
    merged = merge(writer.load(params.read_text()), yaml.safe_load(profile.read_text()) or {})
    parse(yaml.safe_load(yaml.safe_dump(_plain(merged))))
    with params.open("w") as file:
        writer.dump(merged, file)


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value if value is None or type(value) in (bool, int, str) else _number(value)


def _number(value):
    return (
        float(value)
        if isinstance(value, float)
        else int(value)
        if isinstance(value, int)
        else str(value)
    )


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "apply":
        sys.exit("usage: python -m lib.config apply profiles/NAME.yaml")
    try:
        apply_profile(Path(sys.argv[2]))
    except (ValueError, FileNotFoundError) as problem:
        sys.exit(f"error: {problem}")
