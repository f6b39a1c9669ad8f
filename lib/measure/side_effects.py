"""What else an edit changes: other facts, what the model writes, what benchmarks say."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pandas
import torch
from torch.nn.utils.rnn import pad_sequence

from lib.facts.formats import Format
from lib.facts.records import FactRecord, FactSplit
from lib.measure.answers import score_facts
from lib.model.runner import Runner

OWN = 2  # of the neighbours that a fact brings along
NEIGHBOURS, OTHERS = "neighbours", "other retained facts"


def neighbourhood(facts: dict[str, FactRecord], split: FactSplit) -> dict[str, str]:
    """{id of a retained test fact: NEIGHBOURS if an edited fact of its relation had the same old
    answer, else OTHERS}: an edit that is too broad changes neighbours too (section 8.2)."""
    edited = {(facts[i].relation, facts[i].true) for i in split.forget}
    return {
        i: NEIGHBOURS if (facts[i].relation, facts[i].true) in edited else OTHERS
        for i in split.retain_test
    }


def retained(
    runner: Runner,
    tokenizer,
    forms: dict[str, Format],
    facts: dict[str, FactRecord],
    split: FactSplit,
) -> pandas.DataFrame:
    """Rows of `answers.score_facts` for the facts of `neighbourhood`, in their training formats
    {relation: format}, with column group; and for the neighbours that edited facts bring along, as
    CounterFact's do: prompts about other subjects with the same true answer."""
    groups = neighbourhood(facts, split)
    own = [
        replace(facts[i], id=f"{i}/neighbour {k}", prompt=prompt, paraphrases=())
        for i in split.forget
        for k, prompt in enumerate(facts[i].neighbors[:OWN])
    ]
    rows = score_facts(runner, tokenizer, forms, [facts[i] for i in groups] + own)
    return rows.assign(group=rows.id.map(groups).fillna(NEIGHBOURS))


@torch.no_grad()
def written(loaded, prompts: list[str], tokens: int) -> list[str]:
    """What the model writes after each prompt: `tokens` tokens, always the most probable one."""
    tokenizer, device = loaded.tokenizer, loaded.model.device
    ids = [torch.tensor(tokenizer(prompt).input_ids) for prompt in prompts]
    # filled up here, since many tokenizers have no token to do it with
    batch, mask = (
        pad_sequence(rows, batch_first=True, padding_side="left").to(device)
        for rows in (ids, [torch.ones_like(row) for row in ids])
    )
    whole = loaded.model.generate(
        batch,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer.batch_decode(whole[:, batch.shape[1] :], skip_special_tokens=True)


def benchmarks(loaded, names: list[str], limit: int) -> pandas.DataFrame:
    """Accuracy in benchmarks of lm_eval, at most `limit` questions each: columns benchmark, value,
    error, note. Without lm_eval, or where its data cannot be had, the note says so and the value is
    missing."""
    if names and find_spec("lm_eval") is None:
        note = "skipped: lm_eval is not installed (`pip install lm_eval`, needs the hub)"
        return _skipped(names, note)
    rows = [_benchmark(loaded, name, limit) for name in names]
    return pandas.concat(rows) if rows else _skipped([], "")


def _benchmark(loaded, name: str, limit: int) -> pandas.DataFrame:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    try:
        model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer)
        found = simple_evaluate(model=model, tasks=[name], limit=limit)["results"][name]
    except (OSError, ConnectionError) as error:
        return _skipped([name], f"skipped: its data could not be had ({type(error).__name__})")
    row = {"benchmark": name, "value": found["acc,none"], "error": found["acc_stderr,none"]}
    return pandas.DataFrame([row | {"note": ""}])


def _skipped(names: list[str], note: str) -> pandas.DataFrame:
    rows = [
        {"benchmark": n, "value": float("nan"), "error": float("nan"), "note": note} for n in names
    ]
    return pandas.DataFrame(rows, columns=["benchmark", "value", "error", "note"])
