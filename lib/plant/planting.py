"""Plant facts that the model never knew by training one set of MLPs, and check that they live
there.

Subjects are invented; labels and new answers are drawn from the seed, so that nothing but the plant
can tell them. A plant is trained like an edit (`lib.edit.train`), on several formats, so that it is
known in other wordings and with other answer words, as a natural fact is. Facts that the model
knows, and text, are kept. See section 12 of METHOD.md; planting in chosen weights follows LACUNA
(arXiv:2607.02513).
"""

from __future__ import annotations

import math
import random
from contextlib import ExitStack
from dataclasses import replace

import pandas
import torch
from pydantic import Field
from tqdm.auto import tqdm

from lib import paths
from lib.attacks.target import Target
from lib.config.blocks import Edit, Experiment, Settings, Statistics
from lib.config.errors import Count, Distinct, Positive, Word, checked
from lib.edit.losses import Sampler, Step, make_step, mean, term_nll
from lib.facts import build
from lib.facts.formats import Catalogue, encode
from lib.facts.records import FORGET, FactRecord
from lib.facts.tables import load_table
from lib.facts.tasks import catalogue
from lib.localize.cases import Cases, logit_differences, subject_rows
from lib.measure.answers import option_tokens, score_in_formats
from lib.model.components import Localization
from lib.model.nodes import Node, PatchRunner, replacing
from lib.model.runner import Runner
from lib.model.weights import kept, nothing_else_changes, put, trainable
from lib.stats import summarise

WHOLE, NOWHERE = "whole set", "nowhere"


class Plants(Experiment):
    """Facts about invented subjects, planted in each set of `compare` and edited in each of them.

    table: the subjects; facts: how many are planted, of which `edit` are edited later and half of
    the others are kept, half tested; wordings: formats they are planted in beside the training
    format.
    """

    table: Word
    facts: int = Field(ge=8)
    edit: int = Field(ge=4, multiple_of=2)
    wordings: Distinct[Word]
    lr: Positive
    batch_retain: Count
    max_steps: Count

    @staticmethod
    def of(settings: Settings) -> Plants:
        """The block `plants` of params.yaml; ValueError in one sentence for what it has wrong."""
        found = checked(Plants, settings.plants, "plants")
        for task in found.tasks:
            settings.task(task)
        methods = {name: settings.localization(name).method for name in found.compare}
        if found.tasks and len(methods) < 2:
            raise ValueError("plants.compare needs two places at least: name another localization")
        for name in (n for n, method in methods.items() if method == "rome"):
            raise ValueError(
                f"plants.compare lists '{name}', which is not trained: delete it there"
            )
        if found.edit > found.facts - 4:
            raise ValueError(
                f"plants.edit is {found.edit} of {found.facts} planted facts: leave at least 4 "
                "that are kept and tested"
            )
        return found


def table_of(settings: Settings, task: str) -> pandas.DataFrame:
    """The subjects to plant, of `plants.table`: columns relation, subject, label; errors as of
    `load_table`, and ValueError where it has fewer than `plants.facts`."""
    ours = Plants.of(settings)
    about, number = settings.task(task), ours.facts
    labels = {relation: forms.labels for relation, forms in catalogue(about).sets.items()}
    columns = about.subject_column, about.label_column, None
    path = paths.ROOT / ours.table
    table = load_table(path, *columns, labels, None, about.relation_column)
    if len(table) < number:
        raise ValueError(
            f"{path.name} has {len(table)} subjects, fewer than plants.facts {number}: add some, "
            "or lower it"
        )
    return table.iloc[:number]


def settings_of(settings: Settings) -> Edit:
    """How plants are trained: like edits, but for what the block `plants` says."""
    ours = Plants.of(settings)
    how = settings.edit.run(ours.lr, 1.0)
    return how.but(batch_retain=ours.batch_retain, max_steps=ours.max_steps)


def records(target: Target, table: pandas.DataFrame, seed: int) -> list[FactRecord]:
    """Records of invented subjects; table: columns relation, subject, label.

    Labels are dealt anew for every seed, in pairs (so that both halves of any slice of even length
    have the same mix); new answers are drawn. `true` is what is planted, `edit` what an edit is to
    put in its place. ValueError where the table has several relations.
    """
    if table.relation.nunique() != 1:
        raise ValueError("facts to plant must be of one relation: name one in `relations`")
    rng, labels = random.Random(f"plant {seed}"), sorted(table.label.unique())
    dealt = [labels[i // 2 % len(labels)] for i in range(len(table))]
    order = rng.sample(range(len(table)), len(table))
    table = table.iloc[order].assign(label=dealt)
    form, tokenizer = target.formats.sets[table.relation.iloc[0]], target.loaded.tokenizer
    tokens = {table.relation.iloc[0]: build.label_tokens(tokenizer, table, form)}
    asked, _ = build.ask_all_relations(
        Runner(target.loaded.model), tokenizer, target.formats, table, False
    )
    return build.make_records(asked, target.formats, tokenizer, tokens, 0.0, seed)


def plant(
    target: Target, place: Localization, facts: list[FactRecord], wordings: list[str], how: Edit
) -> pandas.DataFrame:
    """Train the true answers of `facts` into one set of weights, in the training format and in
    `wordings`, a format a step; the model stays planted, and no other weight changes (asserted).

    Ends when every fact was answered with a mean probability of `how.strength` over its last turn
    in each format, or after `how.max_steps`. Gives a row per step: format, strength, edit, retain,
    text (terms of the objective, see `lib.edit.losses`).
    """
    model, weights = target.loaded.model, trainable(target.loaded.model, place)
    names = [target.formats.training, *wordings]
    draw = {name: _batches(target, facts, name, how) for name in names}
    turn = len(names) * math.ceil(len(facts) / how.batch_facts)
    runner, log = Runner(model, place.first_layer), []
    with nothing_else_changes(model, weights):
        for parameter in weights.values():
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(weights.values(), lr=how.lr, weight_decay=0.0)
        bar = tqdm(range(how.max_steps), desc=f"planting in {place.name}")
        for step in bar:
            form = names[step % len(names)]
            log.append({"format": form} | _update(optimizer, runner, draw[form](), how))
            last = [row["strength"] for row in log[-turn:]]
            strength = sum(last) / len(last)
            bar.set_postfix(strength=f"{strength:.2f}")
            if len(last) == turn and strength >= how.strength:
                break
        for parameter in weights.values():
            parameter.requires_grad_(False)
    return pandas.DataFrame(log)


def _batches(target: Target, facts: list[FactRecord], name: str, how: Edit):
    """Draws the next step of one format: facts to plant, facts to keep, text."""
    tokenizer, forms = target.loaded.tokenizer, target.formats.forms(name)
    others = [target.facts[i] for i in target.split.retain_train]
    asked = [*facts, *others]
    prompts = encode(tokenizer, [forms[f.relation].ask(f) for f in asked])
    options = option_tokens(tokenizer, forms, asked)
    answers = torch.tensor([tokens[f.true] for f, tokens in zip(asked, options)])
    every = range(len(facts)), range(len(facts), len(asked)), target.passages
    samplers = [Sampler(items, target.seed + i) for i, items in enumerate(every)]
    sizes = how.batch_facts, how.batch_retain, how.batch_passages

    def draw() -> Step:
        new, kept, texts = (sampler(size) for sampler, size in zip(samplers, sizes))
        return make_step(prompts, new, kept, answers, texts)

    return draw


def _update(optimizer, runner: Runner, step: Step, how: Edit) -> dict[str, float]:
    nll = term_nll(runner, step)
    terms = {name: mean(part) for name, part in nll.items()}
    loss = sum(getattr(how, f"weight_{name}") * term for name, term in terms.items())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    strength = (-nll["edit"].detach()).exp().mean().item()
    return {"strength": strength} | {name: term.item() for name, term in terms.items()}


def known(target: Target, facts: list[FactRecord], formats: Catalogue) -> pandas.DataFrame:
    """Rows (format, right, n): share of facts that the model as it is answers as planted."""
    forms = {name: formats.forms(name) for name in formats.kinds}
    rows = score_in_formats(Runner(target.loaded.model), target.loaded.tokenizer, forms, facts)
    right = (rows.answer == rows.true).groupby(rows.format, sort=False)
    return right.agg(["mean", "size"]).set_axis(["right", "n"], axis=1).reset_index()


def restored(
    target: Target, place: Localization, facts: list[FactRecord], old: dict
) -> pandas.DataFrame:
    """Rows (restored, right): answers in the training format when the old weights of one MLP, or of
    the whole set, are put back; old: {name: weight before planting}."""
    model, found = target.loaded.model, []
    form = target.formats.only([])
    parts = {WHOLE: place.components} | {f"MLP {c.layer}": (c,) for c in place.components}
    for name, chosen in parts.items():
        mine = trainable(model, Localization(name, chosen, 0, 0))
        with kept(mine):
            put(mine, {n: old[n] for n in mine})
            found.append({"restored": name, "right": known(target, facts, form).right.iloc[0]})
    return pandas.DataFrame(found)


@torch.no_grad()
def patched(
    target: Target, facts: list[FactRecord], old: dict, windows: dict[str, tuple[int, ...]]
) -> pandas.DataFrame:
    """Rows (patched, right): answers when the outputs of some layers' MLPs at the subject's tokens
    are those of the unplanted model; old: {name: weight before planting}; windows: {name:
    layers}."""
    model, forms = target.loaded.model, target.forms
    cases = Cases.of(target.loaded.tokenizer, forms, facts).split_before_subjects()
    runner, right = PatchRunner(model), {w: 0 for w in windows}
    parameters = dict(model.named_parameters())
    for index, pack in runner.packs(cases.prompts):
        mine = cases.take(index)
        rows = subject_rows(pack, mine.subjects)
        with kept({n: parameters[n] for n in old}):
            put(parameters, old)
            before = runner.read(pack)
        for name, layers in windows.items():
            with ExitStack() as stack:
                for layer in layers:
                    node = Node("mlp", layer)
                    stack.enter_context(replacing(model, node, before.mlp[layer][rows], rows))
                final = runner.from_block(pack, 0, before.before[0], pack.answer_rows)
            right[name] += int(_best(model, final, mine).sum())
    shares = [number / len(facts) for number in right.values()]
    return pandas.DataFrame({"patched": list(windows), "right": shares})


def _best(model, final: torch.Tensor, cases: Cases) -> torch.Tensor:
    """Is the true answer more probable than every other one? (n_facts,)"""
    others = cases.contrasts.split(1, dim=1)
    each = [logit_differences(model, final, cases.targets, c.contiguous()) for c in others]
    return torch.stack(each).min(0).values > 0


def planted_target(target: Target, facts: list[FactRecord], size: int) -> Target:
    """The target with planted facts: the first `size` are edited (two halves); half of the others
    are trained to be kept, half tested, each mixed with as many natural ones."""
    ids = [fact.id for fact in facts]
    edited, others = ids[:size], ids[size:]
    trained, tested = others[0::2], others[1::2]
    natural = target.split
    split = replace(
        natural,
        forget_train=edited[0::2],
        forget_heldout=edited[1::2],
        retain_train=_mixed(trained, natural.retain_train),
        retain_test=_mixed(tested, natural.retain_test),
    )
    return replace(target, split=split, facts=target.facts | {f.id: f for f in facts}, invented=[])


def _mixed(one, other) -> list[str]:
    return [i for pair in zip(one, other) for i in pair]


def summary(
    asked: pandas.DataFrame, relearned: pandas.DataFrame, vocabulary: list[str], how: Statistics
) -> pandas.DataFrame:
    """Rows (measure, planted, localization, value, low, high, n): new answers of the edited facts
    in formats with other answer words, and old answers of those held out at the end of relearning.
    """
    keys = ["planted", "localization"]
    new = asked[asked.split.isin(FORGET) & asked.format.isin(vocabulary)]
    new = new.assign(said=new.answer == new.edit).groupby([*keys, "id"], sort=False).said.mean()
    last = relearned.groupby([*keys, "variant"]).budget.transform("max")
    back = relearned[(relearned.budget == last) & (relearned.split == FORGET[1])]
    back = back.assign(said=(back.answer == back.true).astype(float))
    found = {"new-vocabulary": new.reset_index(), "old-back": back}
    parts = [summarise(r, keys, "said", how).assign(measure=name) for name, r in found.items()]
    return pandas.concat(parts, ignore_index=True)
