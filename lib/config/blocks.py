"""The schema of params.yaml: every block, its parameters, their kinds, ranges and defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lib.config.errors import (
    Block,
    Count,
    Distinct,
    Name,
    Natural,
    Positive,
    Seed,
    Share,
    Some,
    Weight,
    Word,
    pick,
)

GROUPS = ("prompts", "weights", "inside")  # of attacks; each has a notebook
METHODS = (
    *("fact-lookup", "fact-lookup-swapped", "causal-tracing", "attribution-patching"),
    *("random-mlps", "random", "depth-matched-mlps", "mlp-window", "literal", "rome"),
    *("all-mlps", "nonlocalized"),
)


class ModelSettings(Block):
    """Which language model, where it runs and in which precision."""

    name: Word
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|xpu|cuda(:\d+)?)$")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    matmul: Literal["exact", "fast"] = "exact"


class Task(Block):
    """Where the facts of a task come from and how they are split."""

    source: Literal["table", "counterfact"] = "table"
    table: Word
    formats: Word | None = None
    never_known: Word | None = None
    relation_column: Word | None = None
    subject_column: Word | None = None
    label_column: Word | None = None
    relations: Some[Word] | None = None
    answers: Literal["single-token", "first-token"] = "single-token"
    lookup: Literal["probes", "path-patching"]
    lookup_layers: Count | None = None
    probed_relation: Word | None = None
    swap_with: str | None = None
    per_label: Count | None = None
    edit_column: Word | None = None
    change: Literal["new-answer", "forget"] = "new-answer"
    forget_label: Word | None = None
    edit_to: Word | None = None
    edit_half: bool = False
    published: Literal["athletes", "whole-sport", "counterfact-16", "counterfact-64"] | None = None
    min_probability: float = Field(ge=0, lt=1)
    forget: Annotated[int, Field(ge=2, multiple_of=2)] | None
    fewshot: Natural
    retain_train: Share
    retain_val: Share


class Text(Block):
    """Passages sampled from the unedited model: how many, how long, which share trains."""

    source: Word | None = None
    passages: int = Field(ge=4)
    tokens: int = Field(ge=4)
    train: Share
    seed: Seed = 0


class FactLookup(Block):
    """The rise rule on probe accuracy by layer, and two-step path patching."""

    start_fraction: Share
    end_fraction: Share
    splits: int = Field(ge=2)
    repeats: int = Field(ge=2)
    test_share: Share
    regularization: Positive
    heads: Count
    threshold: Share
    rule: Literal["signed", "absolute"] = "signed"
    corruptions: Count


class CausalTracing(Block):
    """Noise on the subject, one node restored at a time."""

    facts: int = Field(ge=2)
    noise: Positive
    draws: Count
    repeats: int = Field(ge=2)
    min_gap: float = Field(ge=0, lt=1)


class AttributionPatching(Block):
    """Random tokens in place of the subject, effects to first order."""

    facts: int = Field(ge=2)
    corruptions: Count
    repeats: int = Field(ge=2)


class LocalizationSettings(Block):
    """How one localization chooses its components; further keys belong to the method."""

    method: Literal[METHODS]
    mlps_only: bool = False
    rule: Literal["raw-sum", "per-weight", "published"] = "raw-sum"
    draw: Natural = 0
    start: Natural | None = None
    mlps: Distinct[Natural] = []
    attention: Distinct[Natural] = []


class _Trainer(Block):
    weight_retain: Weight
    weight_text: Weight
    batch_facts: Count
    batch_retain: Count
    batch_passages: Count
    max_steps: Natural
    check_every: Count
    strength: Share


class Edit(_Trainer):
    """The one trainer's settings for one run."""

    lr: Positive
    weight_edit: Weight


class EditGrid(_Trainer):
    """The trainer's settings, with the grid that learning rate and edit weight are chosen from, and
    the strengths on the way at which formats are read."""

    choose: Literal["grid", "published"] = "grid"
    published_model: Literal["gemma-7b", "gemma-2-9b", "llama-3-8b"] | None = None
    max_steps: Count
    lr: Some[Positive]
    weight_edit: Some[Positive]
    try_on: Distinct[str]
    validation_facts: int = Field(ge=2)
    validation_passages: Count
    keep_retained: Share
    keep_text: Positive
    keep_vocabulary: Share
    read_at: Distinct[Share] = []

    def run(self, lr: float, weight_edit: float) -> Edit:
        """Settings of one run."""
        shared = {name: getattr(self, name) for name in _Trainer.model_fields}
        return Edit(**shared, lr=lr, weight_edit=weight_edit)

    def pairs(self) -> list[Edit]:
        """Settings of every pair of the grid."""
        return [self.run(lr, weight) for lr in self.lr for weight in self.weight_edit]


class Sweep(Block):
    """Further edits of a task, each made and attacked in one go: localizations trained on the one
    prompt, and localizations trained on `wordings` prompts."""

    localizations: dict[str, Distinct[str]]
    wordings: int = Field(ge=2)
    several: dict[str, Distinct[str]]

    @property
    def tasks(self) -> list[str]:
        """Tasks with any such edit."""
        named = (self.localizations, self.several)
        return list(dict.fromkeys(t for block in named for t, names in block.items() if names))


class Rome(Block):
    """The closed-form edit: how the vector to write is found, and how stiff the matrix is."""

    lr: Positive
    steps: Count
    value_strength: Share
    decay: Weight
    ridge: Positive
    strength: Share


class Engines(Block):
    """Whose facts the two libraries look at."""

    tasks: Distinct[str]


class Experiment(Engines):
    """Whose facts are edited, and where."""

    compare: Distinct[str]


class WeightMasks(Experiment):
    """Masks on the weights of a localization, learned to forget; how many are then set to zero."""

    weight_edit: Weight
    steps: Count
    step_length: Positive
    momentum: float = Field(ge=0, lt=1)
    batch_facts: Count
    batch_retain: Count
    batch_passages: Count
    counts: Some[Natural]


class Sequential(Experiment):
    """Batches of facts edited one after another."""

    batches: Count


class Scaling(Experiment):
    """Numbers of facts that are edited at once."""

    sizes: Some[Annotated[int, Field(ge=2, multiple_of=2)]]


class AttackFormats(Block):
    """A format counts only where the unedited model reaches `gate` on retained facts, and of an
    edit only where the edited model keeps the share `keep` of that."""

    gate: Share
    keep: Share


class Attacks(Experiment):
    """Which edits face all attacks; control facts per read-out; when an attack counts."""

    control: int = Field(ge=2)
    gate_retain: Share
    gate_train: Share


class Teaching(Block):
    """Attacks that teach: how many steps, after which of them answers are read, facts per step;
    enough: the attacker stops at the first read-out at which it finds this share of the taught
    half answered correctly (null: after all steps)."""

    lr: Positive
    steps: Count
    read_at: Some[Natural]
    enough: Annotated[float, Field(gt=0, le=1)] | None = None
    batch_facts: Natural
    batch_retain: Natural


class Relearn(Teaching):
    """The attacker's fine-tuning; rank: of the adapters, null trains all weights."""

    teach: Literal["half", "related", "text"] = "half"
    rank: Count | None = None
    alpha: Count = 32
    dropout: float = Field(default=0.0, ge=0, lt=1)
    batch_passages: Natural


class SideEffects(Block):
    """Samples of what edits write, and benchmarks of lm_eval with at most so many questions."""

    samples: Natural
    sample_tokens: Count
    benchmarks: Distinct[Word]
    benchmark_limit: Count


class Statistics(Block):
    """Intervals: bootstrap over facts; margin: differences in shares smaller than it are none."""

    resamples: int = Field(ge=100)
    level: Share
    margin: Share


class Settings(Block):
    """The whole of params.yaml."""

    model: ModelSettings
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    seeds: Some[Seed]
    text: Text
    causal_tracing: CausalTracing
    attribution_patching: AttributionPatching
    fact_lookup: FactLookup
    engines: Engines
    localizations: dict[Name, LocalizationSettings]
    compare: Some[str]
    edit: EditGrid
    sweep: Sweep
    rome: Rome
    weight_masks: WeightMasks
    sequential: Sequential
    scaling: Scaling
    plants: dict[str, Any]
    attacks: Attacks
    attack_formats: AttackFormats
    attack_relearn: Relearn
    attack_prompts: dict[Name, dict[str, Any]]
    attack_weights: dict[Name, dict[str, Any]]
    attack_inside: dict[Name, dict[str, Any]]
    side_effects: SideEffects
    statistics: Statistics

    def task(self, name: str) -> Task:
        """Settings of one task; ValueError names the tasks there are."""
        return pick("task", name, self.tasks)

    def localization(self, name: str) -> LocalizationSettings:
        """Settings of one localization; ValueError names those there are."""
        return pick("localization", name, self.localizations)
