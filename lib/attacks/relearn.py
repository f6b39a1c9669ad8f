"""Relearning attack: teach back half of the edited facts and watch the other half.

The attacker may train: low-rank adapters (LoRA) on every linear layer, on half of the forget
facts with their *true* answers, plus retained facts and text. If the other half comes back too,
the edit only masked it. An attack counts only if it succeeded (section 8.4): at its end at least
`gate_retain` of the retained facts and `gate_train` of the taught half are right; a failed attack
is no sign of resistance. Invented subjects beside it show what the attack makes the model say
about anybody.
"""

from __future__ import annotations

import math

import pandas
import torch
from tqdm.auto import tqdm

from lib.config import Relearn
from lib.edit.losses import Sampler, losses, make_step
from lib.facts.formats import Format, encode
from lib.facts.records import FactRecord, FactSplit
from lib.measure import score_facts
from lib.packing import Runner

READ = ("forget_train", "forget_heldout", "retain_test")
NEVER_KNOWN = "never_known"


def relearn(
    loaded,
    forms: dict[str, Format],
    facts: dict[str, FactRecord],
    split: FactSplit,
    invented: list[FactRecord],
    passages: list[tuple[int, ...]],
    settings: Relearn,
    seed: int,
) -> pandas.DataFrame:
    """Per-fact rows at every read-out step: columns step, split and those of `measure.score_facts`.

    forms: {relation: training format}; invented: subjects with arbitrary labels, their rows have
    split "never_known". The adapters are left in the model. AssertionError if an edit target
    entered the training answers.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    taught = [facts[i] for i in split.forget_train]
    kept = [facts[i] for i in split.retain_train]
    targets = torch.tensor([f.true_token for f in taught + kept])
    assert not any(f.edit_token == t for f, t in zip(taught, targets)), (
        "edit target in the attack's data"
    )
    prompts = encode(tokenizer, [f.prompt for f in taught + kept])
    weights = add_adapters(model, settings, seed)
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(settings.steps))
    runner = Runner(model)
    n = len(taught)
    samplers = (
        Sampler(range(n), seed),
        Sampler(range(n, len(prompts)), seed + 1),
        Sampler(passages, seed + 2),
    )
    rows = []
    for step in tqdm(range(settings.steps + 1), desc="relearning"):
        if step in settings.read_at:
            rows.append(_read(runner, tokenizer, forms, facts, split, invented).assign(step=step))
        if step == settings.steps:
            break
        batch = make_step(
            prompts,
            samplers[0](settings.batch_facts),
            samplers[1](settings.batch_retain),
            targets,
            samplers[2](settings.batch_passages),
        )
        _dropout(model, True)
        loss = sum(losses(runner, batch).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        _dropout(model, False)
    return pandas.concat(rows, ignore_index=True)


def add_adapters(model, settings: Relearn, seed: int) -> list[torch.nn.Parameter]:
    """Put trainable LoRA adapters (peft) into every linear layer of the blocks, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model)
    model.eval()
    return [p for n, p in model.named_parameters() if p.requires_grad]


def cosine(steps: int):
    """Learning-rate factor by step: from 1 to 0 along half a cosine, no warm-up (section 8.4)."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))


def _dropout(model, on: bool) -> None:
    """Switch the adapters' dropout only: the model itself stays in evaluation mode."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train(on)


def _read(runner, tokenizer, forms, facts, split, invented) -> pandas.DataFrame:
    asked = [facts[i] for r in READ for i in getattr(split, r)]
    rows = score_facts(runner, tokenizer, forms, asked + invented)
    role = split.role_of() | {f.id: NEVER_KNOWN for f in invented}
    rows.insert(1, "split", rows.id.map(role))
    return rows
