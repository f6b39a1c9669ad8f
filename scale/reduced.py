"""A model of a paper profile's family and depth at a small width, and that profile cut down to it.

    python -m scale.reduced profiles/paper-gemma-7b.yaml FOLDER COUNTERFACT

Makes a copy of the project in FOLDER with the profile applied: its localizations, rules, published
settings and attacks, for one task of each kind and few facts. The model has the profile's layers,
its ratio of MLP to width and of heads to key-value heads, and random weights that are taught the
facts, as tiny models are. COUNTERFACT is a file in either public form. So the profile's wiring is
tried to the end; its numbers say nothing about language models.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import yaml

import lib  # noqa: F401  (sets the number of threads)
from lib.facts.counterfact import load_counterfact
from lib.facts.teaching import teaching_texts
from lib.model import tiny
from lib.stages.copy import make_copy
from scale.cells import settings_of
from scale.shapes import OURS, typed

HEADS, HEAD, PER_LABEL, FORGET = 4, 12, 24, 8
MODEL = "reduced"  # folder of the model inside the copy
FILE = "data/raw/counterfact.csv"  # of the copy
TASKS = ("sports-athletes-16", "sports-basketball", "counterfact-64")  # one of each kind


def shape(name: str) -> dict:
    """The typed shape of a model at width HEADS * HEAD, without its type."""
    real = {k: v for k, v in typed()[name].items() if k not in (*OURS, "vocab_size")}
    width, ratio = HEADS * HEAD, real["intermediate_size"] / real["hidden_size"]
    groups = real["num_attention_heads"] // real["num_key_value_heads"]
    small = {"hidden_size": width, "intermediate_size": round(width * ratio), "head_dim": HEAD}
    small |= {"num_attention_heads": HEADS, "num_key_value_heads": max(1, HEADS // groups)}
    return real | small | {"max_position_embeddings": 512}


def patch(profile: Path) -> dict:
    """What the copy's settings change beside the profile: fewer facts, shorter training."""
    settings = settings_of(profile)
    tasks = dict.fromkeys(settings.tasks)
    for name in TASKS:
        counterfact = settings.tasks[name].source == "counterfact"
        tasks[name] = {"forget": FORGET, "fewshot": 3, "min_probability": 0.2}
        tasks[name] |= {"table": FILE} if counterfact else {"per_label": PER_LABEL}
    dropped = {name: None for name in settings.tasks if name not in TASKS}
    some = {"tasks": [TASKS[-1]]}
    return {
        "sweep": {"localizations": dropped},
        "engines": some,
        "model": {"name": MODEL, "dtype": "float32", "device": "cpu"},
        "tasks": tasks,
        "text": {"passages": 12, "tokens": 16},
        "causal_tracing": {"facts": 2, "repeats": 2, "min_gap": 0},
        "attribution_patching": {"facts": 4, "corruptions": 1, "repeats": 2},
        "fact_lookup": {"splits": 2, "corruptions": 1, "heads": 4},
        "edit": {"validation_facts": 2, "validation_passages": 2, "max_steps": 4},
        "weight_masks": some | {"steps": 2, "counts": [0, 100]},
        "sequential": some | {"batches": 2},
        "scaling": some | {"sizes": [4, 8]},
        "attacks": some | {"control": 6},
        "attack_relearn": {"steps": 2, "read_at": [0, 2]},
        "attack_prompts": {
            "in-context": {"shots": [1]},
            "prompt-adapter": {"steps": 2, "read_at": [0, 2]},
        },
        "attack_weights": {
            "relearn-rank-4": {"steps": 2, "read_at": [2]},
            "related-facts": {"steps": 2, "read_at": [2]},
        },
        "attack_inside": {"probes": {"least": 2}},
        "side_effects": {"benchmarks": []},
        "statistics": {"resamples": 200},
    }


def teach(folder: Path, name: str, texts: list[str], steps: int) -> None:
    """Write a taught model of a typed shape at small width to `folder`."""
    from transformers import AutoConfig

    family = typed()[name]["type"]
    small = shape(name)
    tiny.CONFIGS[MODEL] = lambda words: AutoConfig.for_model(family, vocab_size=words, **small)
    model, tokenizer = tiny.taught(MODEL, texts, steps=steps, batch=16, lr=2e-3)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make(profile: Path, folder: Path, counterfact: Path, steps: int = 250) -> None:
    """The copy, with its model; counterfact: a file of facts. Errors as of `load_counterfact`."""
    raw = yaml.safe_load(profile.read_text())
    name = raw["model"]["name"]
    facts, _ = load_counterfact(str(counterfact))
    folder.mkdir(parents=True, exist_ok=True)
    small = folder.with_suffix(".yaml")
    small.write_text(yaml.safe_dump(_filled(raw, patch(profile)), sort_keys=False))
    make_copy(folder, small)
    shutil.copy(counterfact, folder / FILE)
    tasks = settings_of(profile).tasks
    plain = {n: tasks[n].but(per_label=PER_LABEL) for n in TASKS if tasks[n].source == "table"}
    texts = teaching_texts(settings_of(profile).model_copy(update={"tasks": plain}))
    texts += [f"{row.prompt} {row.true}" for row in facts.itertuples()]
    teach(folder / MODEL, name, list(dict.fromkeys(texts)), steps)


def _filled(base: dict, change: dict) -> dict:
    """A patch over a patch: as a merge, but nulls stay, for the settings they delete."""
    found = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        found[key] = _filled(base[key], value) if both else value
    return found


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m scale.reduced profiles/paper-NAME.yaml FOLDER COUNTERFACT")
    try:
        make(*map(Path, sys.argv[1:]))
    except (ValueError, OSError) as problem:
        sys.exit(f"error: {problem}")
