"""Peak memory of real steps, in this process, beside what a plan says of them.

    python -m scale.measure edit | relearn | billion

edit, relearn: the default model, its first task and its results in data/ (after `make repro`);
billion: a Llama of 1.2 G random weights in bfloat16, three of its MLPs. Two steps of the library's
own trainer each. Prints one line of json: GiB measured and planned, seconds a step.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import lib  # noqa: F401  (sets the number of threads)
from lib import config
from lib.attacks import relearn
from lib.attacks.target import Target
from lib.config.blocks import Edit, ModelSettings
from lib.edit.train import EditData, fit
from lib.model.components import Component, Localization, load_set, sizes
from lib.store import Store
from scale import cost
from scale.plan import GIB, PROGRAM, WORD
from scale.shapes import meta_model
from scale.stages import Plan

BILLION = dict(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=True,
)
WORDS = 262_144  # of the default model
FACTS, LENGTH = 8, 16  # of each kind in a step of the large model, tokens of a prompt


def short(edit: Edit) -> Edit:
    """Two steps, whatever the strength."""
    return edit.but(max_steps=2, strength=0.9999)


def edit() -> cost.Cost:
    """Two steps of the edit of fact lookup; returns what a plan says of one."""
    settings, store = config.load(), Store("data")
    task, seed = next(iter(settings.tasks)), settings.seeds[0]
    target = Target.of(store, task, seed, settings)
    chosen = load_set(store, task, "fact-lookup", seed)
    changed, others = (
        [target.facts[i] for i in ids] for ids in (target.split.forget, target.split.retain_train)
    )
    data = EditData.of(target.loaded.tokenizer, changed, others, target.passages)
    run = settings.edit.run(settings.edit.lr[-1], settings.edit.weight_edit[0])
    fit(target.loaded.model, chosen, data, short(run), seed)
    plan = Plan(settings.model_copy(update={"tasks": {task: settings.tasks[task]}}))
    return plan.training(chosen.layers("mlp"))


def relearned() -> cost.Cost:
    """Two steps of the attack by relearning on the unedited model."""
    settings, store = config.load(), Store("data")
    task, seed = next(iter(settings.tasks)), settings.seeds[0]
    target = Target.of(store, task, seed, settings)
    wanted = settings.attack_relearn.but(steps=2, read_at=[2])
    list(relearn.attack(target, wanted))
    plan = Plan(settings.model_copy(update={"tasks": {task: settings.tasks[task]}}))
    return plan.relearned(task, wanted)


def billion() -> cost.Cost:
    """Two steps of an edit of three MLPs of a random Llama in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.llama import LlamaConfig

    shape = LlamaConfig(**BILLION)
    model = AutoModelForCausalLM.from_config(
        shape, attn_implementation="eager", dtype=torch.bfloat16
    )
    model.eval().requires_grad_(False)
    texts = [f"{i:04d}" + "word" * (LENGTH - 2) for i in range(2 * FACTS)]
    batch = cost.Batch.of(texts, FACTS, FACTS, 1, LENGTH)
    mlps = tuple(Component("mlp", i) for i in (3, 4, 5))
    weights = sum(sizes(model)[c] for c in mlps)
    step = batch.step()
    data = EditData(batch.prompts, step.wanted, FACTS, list(batch.passages))
    run = config.load().edit.run(1e-4, 1.0).but(batch_facts=FACTS, batch_retain=FACTS)
    fit(model, Localization("three", mlps, weights, 0), data, short(run), 0)
    on_meta = meta_model(ModelSettings(name="random", dtype="bfloat16"), shape)
    return cost.training(on_meta, *cost.localized(on_meta, [3, 4, 5]), batch)


KINDS = {"edit": edit, "relearn": relearned, "billion": billion}


def main(kind: str) -> dict:
    """Run one kind; {kind, measured, planned (GiB), seconds}."""
    started = time.perf_counter()
    planned = KINDS[kind]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # the plan itself holds none
    program = PROGRAM + (WORD * WORDS if kind != "billion" else 0)  # that one has no tokenizer
    return {
        "kind": kind,
        "measured": round(peak / GIB, 2),
        "planned": round((planned.bytes + program) / GIB, 2),
        "gflop": round(planned.operations / 1e9),
        "seconds": round(time.perf_counter() - started),
    }


if __name__ == "__main__":
    if sys.argv[1:] not in [[kind] for kind in KINDS]:
        sys.exit(f"usage: python -m scale.measure {' | '.join(KINDS)}")
    print(json.dumps(main(sys.argv[1])))
