"""Every tensor is made where the model is: all that runs a model does so under a second device."""

from __future__ import annotations

import pytest
import torch
from conftest import RELATION, edit_settings
from devices import CPU, CUDA, SecondDevice
from test_attacks import SMALL, settings_of

from lib.attacks import battery, cell
from lib.attacks.target import Target
from lib.config.blocks import EditGrid, Rome, WeightMasks
from lib.edit import delta, rome, tune, weight_mask
from lib.edit.sequential import edit_in_batches
from lib.edit.train import EditData, train
from lib.facts.build import ask_table, label_tokens
from lib.facts.text import sample
from lib.localize import attribution, circuit, probes, tracing
from lib.localize.cases import Cases
from lib.localize.corruption import plain_tokens
from lib.measure import answers, choices, side_effects
from lib.measure.formats import Formats, OnTheWay
from lib.model.anatomy import OUTPUT_MATRICES
from lib.model.components import Component, Localization, single_matrices
from lib.model.nodes import Node
from lib.model.runner import Runner
from lib.model.weights import fingerprint, kept, trainable

NODES = [Node("head", 1, 2), Node("mlp", 2), Node("attention", 4), Node("residual", 5)]
EARLY = Localization("early", (Component("mlp", 0), Component("mlp", 1)), 1, 1)


# --- the mode itself -------------------------------------------------------------------------


@pytest.fixture
def layer():
    return torch.nn.Linear(3, 4)


MISTAKES = {
    "an input left on the CPU": lambda w: w @ torch.ones(3),
    "a matrix made without its device": lambda w: w.T @ w + torch.eye(3),
    "numbers on the CPU of a device tensor's shape": lambda w: w * torch.rand(w.shape),
    "a mask on the CPU": lambda w: w.masked_fill(torch.ones(4, 3) > 0, 0.0),
    "values on the CPU put at an index": lambda w: w.clone().index_put_(
        (torch.tensor([0]),), torch.ones(1, 3)
    ),
    "values on the CPU assigned at an index": lambda w: w.clone().__setitem__(
        (0, torch.tensor([0])), torch.ones(1)
    ),
    "values on the CPU assigned at a list": lambda w: w.clone().__setitem__([0], torch.ones(3)),
    "an index on the device into the CPU": lambda w: torch.ones(4)[w.argmax(0)],
    "gathering by the CPU": lambda w: w.gather(0, torch.tensor([[0, 1, 2]])),
    "joining both places": lambda w: torch.cat([w, torch.zeros(1, 3)]),
    "a vector of the CPU times a number of the device": lambda w: torch.ones(3) * w.sum(),
    "a module left on the CPU": lambda w: torch.nn.Linear(3, 2)(w),
    "what was copied to the CPU": lambda w: w + w.cpu(),
    "a generator of the CPU": lambda w: torch.rand(3, generator=torch.Generator(), device=w.device),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused(layer, mistake):
    MISTAKES[mistake](layer.weight.detach())  # nothing is wrong on the CPU
    with SecondDevice(layer), pytest.raises(RuntimeError, match="on the same device|generator"):
        MISTAKES[mistake](layer.weight.detach())


def test_arrays_are_made_on_the_cpu_only(layer):
    with SecondDevice(layer):
        assert layer.weight.detach().cpu().numpy().shape == (4, 3)
        with pytest.raises(TypeError, match="to numpy"):
            layer.weight.detach().numpy()


RIGHT = {
    "moved": lambda w: w * torch.rand(4, 3).to(w.device),
    "moved like another": lambda w: w + torch.ones(4, 3, dtype=torch.float64).to(w),
    "moved by name": lambda w: w + torch.ones(4, 3).to("cuda"),
    "made there": lambda w: w.T @ w + torch.eye(3, device=w.device),
    "made alike": lambda w: w + torch.zeros_like(w) + w.new_ones(3) + w.new_tensor([1.0]),
    "a number": lambda w: w * torch.tensor(2.0) + w.sum(),
    "read by an index on the CPU": lambda w: w[torch.tensor([0, 2])],
    "read by a list and a mask": lambda w: w[[0, 1]][:, torch.ones(3) > 0],
    "copied into": lambda w: w.clone().copy_(torch.ones(4, 3)),
    "rows": lambda w: torch.stack(list(w)),
    "several results": lambda w: w.topk(2)[0] + w.sort()[0][:, :2],
    "a module moved": lambda w: torch.nn.Linear(3, 2).to(w.device)(w),
    "a slope": lambda w: torch.autograd.grad((v := w.clone().requires_grad_()).sum(), v)[0] + w,
}


@pytest.mark.parametrize("way", RIGHT)
def test_what_is_right_stays_on_the_device(layer, way):
    with SecondDevice(layer):
        assert RIGHT[way](layer.weight.detach()).device == CUDA


def test_what_is_moved_leaves_its_original_where_it_was(layer):
    with SecondDevice(layer):
        x = torch.ones(3)
        there = x.to(CUDA)
        back = there.cpu()
        assert [t.device for t in (x, there, back)] == [CPU, CUDA, CPU]
        there += 1
        assert x.tolist() == back.tolist() == [1, 1, 1] and there.to(CUDA) is there


def test_slices_take_values_from_anywhere(layer):
    with SecondDevice(layer):
        w = layer.weight.detach().clone()
        w[1:3] = torch.ones(2, 3)
        assert w[1:3].sum() == 6


def test_training_stays_on_the_device(layer):
    with SecondDevice(layer):
        optimizer = torch.optim.AdamW(layer.parameters())
        layer(torch.ones(2, 3, device="cuda")).sum().backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        assert layer.weight.grad.device == layer.weight.device == CUDA


# --- all that runs a model -------------------------------------------------------------------


@pytest.fixture
def lesson(pupil, known, known_split):
    """(facts to change and to keep as training data, positions of their subjects)."""
    changed = [known[i] for i in known_split.forget[:4]]
    others = [known[i] for i in known_split.retain_train]
    data = EditData.of(pupil.tokenizer, changed, others, [(2, 40, 41, 42), (2, 50, 51)])
    return data, [f.subject_positions[-1] for f in changed + others]


@pytest.fixture
def cases(pupil, short_formats, known):
    return Cases.of(pupil.tokenizer, {RELATION: short_formats.training}, list(known.values())[::5])


def test_passes_of_every_family(fresh, family, records, formats, table, passages):
    loaded = fresh(family)
    with SecondDevice(loaded.model):
        tokens = label_tokens(loaded.tokenizer, table, formats)
        asked = ask_table(Runner(loaded.model, 2), loaded.tokenizer, formats, table, tokens)
        assert len(asked)
        longer = tuple(range(3, 143))  # than the sliding window of the families that have one
        answers.text_losses(Runner(loaded.model), [*passages, longer])
        data = EditData.of(loaded.tokenizer, records[:2], records[5:15], passages)
        train(loaded.model, EARLY, data, edit_settings(max_steps=1), seed=0)


def test_the_trainer(pupil, middle, lesson, tmp_path):
    model, (data, _) = pupil.model, lesson
    with SecondDevice(model), kept(trainable(model, middle)) as old:
        result = train(model, middle, data, edit_settings(), seed=0)
        assert len(result.log) and all(v.device == CUDA for v in old.values())
        delta.save(model, middle, {"base_checksum": pupil.checksum}, tmp_path)
    with SecondDevice(model), delta.applied(pupil, tmp_path):
        fingerprint(model)


def test_forgetting(pupil, middle, known, known_split):
    changed = [known[i] for i in known_split.forget]
    data = EditData.of(pupil.tokenizer, changed, [], [], forget=True)
    with SecondDevice(pupil.model):
        train(pupil.model, middle, data, edit_settings(), seed=0)


def test_the_closed_form(fresh, family, records, passages):
    loaded, facts = fresh(family), records[:12]
    data = EditData.of(loaded.tokenizer, facts[:2], facts[2:], passages)
    found = [c for c in single_matrices(loaded.model) if (c.kind, c.layer) == ("mlp", 2)]
    where = tuple(c for c in found if c.matrix in OUTPUT_MATRICES)
    settings = Rome(lr=0.3, steps=2, value_strength=0.9, decay=0.1, ridge=0.01, strength=0.8)
    with SecondDevice(loaded.model):
        subjects = [f.subject_positions[-1] for f in facts]
        rome.edit(loaded.model, Localization("rome", where, 1, 0), data, subjects, settings)


def test_masks_and_removal(pupil, middle, lesson, short_catalogue, known):
    settings = WeightMasks(
        tasks=[],
        compare=[],
        weight_edit=1.0,
        steps=2,
        step_length=3.0,
        momentum=0.9,
        batch_facts=4,
        batch_retain=4,
        batch_passages=1,
        counts=[0],
    )
    forms = {"training": short_catalogue.forms(short_catalogue.training)}
    with SecondDevice(pupil.model):
        scores = weight_mask.learn(pupil.model, middle, lesson[0], settings, seed=0)
        orders = {"middle": (middle, scores)}
        weight_mask.read_removals(pupil, orders, [0, 5], forms, list(known.values())[:4])


def test_tuning(llama, fresh, records, split, passages, middle):
    shared = edit_settings().model_dump(exclude={"lr", "weight_edit"})
    more = dict(validation_facts=2, validation_passages=2, try_on=["middle"])
    more |= dict(keep_retained=0.9, keep_text=0.1, keep_vocabulary=0.8)
    grid = EditGrid(**shared | more, lr=[0.001], weight_edit=[1.0, 3.0])
    facts, model = {f.id: f for f in records}, fresh("llama").model
    with SecondDevice(model):
        trial = tune.Validation.of(llama.tokenizer, facts, split, passages, grid)
        assert len(tune.try_pairs(model, [middle, EARLY], trial, grid, seed=0)) == 4


def test_edits_that_follow_one_another(pupil, middle, known, known_split):
    parts = [[known[i] for i in known_split.forget[k::2]] for k in range(2)]
    others = [known[i] for i in known_split.retain_train]

    def read():
        return answers.pandas.DataFrame({"id": ["nobody"]})

    wanted = edit_settings(max_steps=1)
    with SecondDevice(pupil.model):
        edit_in_batches(pupil, parts, others, [], lambda _: middle, read, wanted, seed=0)


def test_causal_tracing(pupil, cases):
    with SecondDevice(pupil.model):
        for place in ("all", "subject-last"):
            tracing.trace(pupil.model, cases, NODES, 3.0, 2, 0, [place] * len(cases.ids))


def test_attribution_and_exact_patching(pupil, cases):
    words = plain_tokens(pupil.tokenizer)
    with SecondDevice(pupil.model):
        for method in (attribution.attribute, attribution.patch):
            assert len(method(pupil.model, cases, NODES, words, 2, seed=0))


def test_path_patching(pupil, cases):
    how = circuit.Corruptions(plain_tokens(pupil.tokenizer), 1, 0)
    with SecondDevice(pupil.model):
        circuit.head_effects(pupil.model, cases, how)
        circuit.mlp_effects(pupil.model, cases, how, [3])
        circuit.direct_effects(pupil.model, cases, how)


def test_what_probes_read(pupil, known):
    with SecondDevice(pupil.model):
        x = probes.features(Runner(pupil.model), pupil.tokenizer, list(known.values()))
        labels = [f.true for f in known.values()]
        probes.probe_accuracy(x[:1], labels, 1, 0.3, 0.1, seed=0)


def test_measuring(pupil, short_catalogue, catalogue, known, known_split):
    facts = list(known.values())[:4]
    with SecondDevice(pupil.model):
        runner = Runner(pupil.model)
        for name in short_catalogue.kinds:
            answers.score_facts(runner, pupil.tokenizer, short_catalogue.forms(name), facts)
        forms = catalogue.sets[RELATION].formats
        for form in (f for f in forms if f.kind == "choice"):
            choices.probabilities(runner, pupil.tokenizer, form, facts)
        training = short_catalogue.forms(short_catalogue.training)
        side_effects.retained(runner, pupil.tokenizer, training, known, known_split)
        _, reference = answers.text_losses(runner, [(2, 40, 41, 42), (2, 50, 51)])
        answers.text_losses(runner, [(2, 40, 41, 42), (2, 50, 51)], reference)


def test_formats_on_the_way_to_an_edit(pupil, short_catalogue, known, known_split, lesson, middle):
    counts = Formats(short_catalogue, dict.fromkeys(short_catalogue.kinds, True), 1 / 3)
    watch = OnTheWay(counts, pupil.tokenizer, known, known_split, [1e-6], 9)
    with SecondDevice(pupil.model):
        train(pupil.model, middle, lesson[0], edit_settings(max_steps=1), 0, watch)
    assert len(watch.table())


def test_one_cell_of_a_sweep(pupil, short_catalogue, known, known_split, invented, settings):
    passages = [(2, 40, 41, 42, 43), (2, 50, 51, 52)]
    parts = dict(loaded=pupil, formats=short_catalogue, facts=known, split=known_split)
    parts |= dict(store=None, task="sports-athletes", invented=invented, seed=0, control=6)
    target = Target(**parts, **dict.fromkeys(("passages", "heldout", "other_text"), passages))
    block = settings.attack_relearn.but(steps=1, read_at=[0, 1], rank=2)
    short = settings.model_copy(update={"attack_relearn": block})
    with SecondDevice(pupil.model):
        wanted, wordings = edit_settings(max_steps=1), ("untaught",)
        made = cell.measure(target, EARLY, wanted, short, short_catalogue, wordings)
    assert all(len(table) for table in made.values())


def test_writing(pupil, known):
    prompts = [f.prompt for f in list(known.values())[:2]]
    with SecondDevice(pupil.model):
        side_effects.written(pupil, [prompts[0], f"{prompts[1]} {prompts[0]}"], 3)
        sample(pupil.model, pupil.tokenizer, 3, 5, seed=0)


@pytest.mark.parametrize("method", SMALL)
def test_attacks(pupil, short_catalogue, known, known_split, invented, method):
    passages = [(2, 40, 41, 42, 43), (2, 50, 51, 52)]
    name = "model.layers.2.mlp.down_proj.weight"
    parts = dict(loaded=pupil, formats=short_catalogue, facts=known, split=known_split)
    parts |= dict(store=None, task="", invented=invented)
    parts |= dict.fromkeys(("passages", "heldout", "other_text"), passages)
    with SecondDevice(pupil.model):
        old = {name: dict(pupil.model.named_parameters())[name] + 0.1}
        target = Target(**parts, unedited=old, seed=0, control=6)
        rows, _ = battery.run(target, {method: (method, settings_of(method))})
        assert len(rows)
