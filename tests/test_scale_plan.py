"""The plan of a profile: counts equal DVC's, meters count what is there, what does not fit is
refused; slowly: its memory beside the measured peak of real steps."""

import json
import subprocess
import sys

import pandas
import pytest
import torch
import yaml

from lib import config, paths
from lib.config.blocks import ModelSettings
from lib.model.components import Component, sizes
from lib.stages.code import SCRIPTS
from scale import cost, plan
from scale.cells import count, merged, settings_of
from scale.meter import Meter
from scale.shapes import config_of, lookup_of, meta_model, typed
from scale.stages import Plan

SMOKE = paths.ROOT / "profiles" / "smoke.yaml"
PAPER = {  # weights of an MLP layer, an attention layer, all MLPs, all of both, in the paper's runs
    "google/gemma-7b": (226.5e6, 50.3e6, 6.34e9, 7.75e9),
    "google/gemma-2-9b": (154.1e6, 44.0e6, 6.47e9, 8.32e9),
    "meta-llama/Meta-Llama-3-8B": (176.2e6, 41.9e6, 5.64e9, 6.98e9),
}


def tiny(family="llama", dtype="float32"):
    from lib.model.tiny import CONFIGS

    settings = ModelSettings(name=f"tiny-{family}", dtype=dtype)
    return meta_model(settings, CONFIGS[family](300))


@pytest.mark.parametrize("name", typed())
def test_typed_shapes_have_the_published_numbers_of_weights(name):
    model = meta_model(ModelSettings(name=name, dtype="bfloat16"))
    found = sizes(model)
    mlps = sum(n for c, n in found.items() if c.kind == "mlp")
    mine = found[Component("mlp", 0)], found[Component("attention", 0)], mlps, sum(found.values())
    assert mine == pytest.approx(PAPER[name], rel=2e-3)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_an_unknown_shape_names_the_cure(refuses):
    with refuses(OSError, "shape of model 'tiny-neox'", "run `dvc repro model`"):
        config_of("tiny-neox")


def test_lookup_layers_of_a_plan():
    assert lookup_of("google/gemma-7b", 28, None) == [2, 3, 4, 5, 6, 7]
    assert lookup_of("gemma-3-270m", 18, 4) == [2, 3, 4, 5]
    assert lookup_of("google/gemma-7b", 28, 3) == [2, 3, 4]


def test_a_meter_counts_bytes_while_they_are_held_and_operations():
    a = torch.empty(100, 50, device="meta")
    with Meter([a]) as meter:
        b = a @ a.T
        assert meter.live == meter.peak == 4 * 100 * 100
        assert meter.operations == 2 * 100 * 50 * 100
        view = b.view(-1)
        assert meter.live == 4 * 100 * 100, "a view holds nothing of its own"
        del b
        assert meter.live == 4 * 100 * 100
        del view
        assert meter.live == 0 and meter.peak == 4 * 100 * 100
        a + a
        assert meter.live == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_holds_what_training_a_matrix_costs(dtype):
    model = tiny(dtype=dtype)
    weights, first = cost.localized(model, [2, 3])
    assert first == 2
    batch = cost.Batch.of([f"who is {i:04d} ?" for i in range(8)], 4, 4, 1, 9)
    step = cost.training(model, weights, first, batch)
    n = sum(w.numel() for w in weights)
    half = dtype == "bfloat16"
    assert step.memory["masters"] == 4 * n * half
    assert step.memory["moments"] == 8 * n
    assert step.memory["gradients"] == (6 if half else 4) * n
    assert step.memory["activations"] > 0 and step.memory["vocabulary"] > 0
    stored = sum(p.numel() for p in model.parameters()) * (2 if half else 4)
    assert stored <= step.memory["weights"] < stored + 1000, "and a few buffers"
    more = cost.training(model, *cost.localized(model, [0, 2, 3]), batch)
    assert more.operations > step.operations and more.bytes > step.bytes
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_counted_operations_are_those_of_a_real_step(llama, data, middle):
    """The same step with numbers, counted as the attacks' ledgers are."""
    import copy

    from lib.attacks.target import Operations
    from lib.edit.losses import losses, make_step
    from lib.model.runner import Runner
    from lib.model.weights import trainable

    real = copy.deepcopy(llama.model)
    rows = [*range(4)], [*range(data.n_changed, data.n_changed + 4)]
    step = make_step(data.prompts, *rows, data.targets, data.passages[:1])
    work, spared = Operations(), Runner(real, middle.first_layer)
    spared._hidden_below(step.pack)  # layers below run once, in a first step
    for weight in trainable(real, middle).values():
        weight.requires_grad_(True)
    with work:
        sum(losses(spared, step).values()).backward()
    meta = meta_model(ModelSettings(name="tiny-llama"), llama.model.config)
    batch = cost.Batch(data.prompts.take(rows[0] + rows[1]), 4, (data.passages[0],))
    planned = cost.training(meta, *cost.localized(meta, [2, 3]), batch)
    assert planned.operations == work.total


def test_cells_are_counted_over_the_matrix_of_every_stage():
    raw = merged(SMOKE)
    cells, settings = count(raw), settings_of(SMOKE)
    tasks, seeds = len(settings.tasks), len(settings.seeds)
    assert cells["edit"] == tasks * seeds * len(settings.compare)
    assert cells["facts"] == cells["sweep"] == tasks * seeds
    assert cells["weight_masks"] == len(settings.weight_masks.tasks) * seeds
    locked = yaml.safe_load((paths.ROOT / "dvc.lock").read_text())["stages"]
    made = pandas.Series([name.split("@")[0] for name in locked]).value_counts()
    default = count(merged(None))
    assert {n: k for n, k in default.items() if k} == {n: made[n] for n, k in default.items() if k}


@pytest.fixture(scope="module")
def planned():
    """The plan of the smoke profile, on a tiny model."""
    settings = settings_of(SMOKE)
    return plan.plan_table(Plan(settings, tiny("gemma3")), count(merged(SMOKE)))


def test_every_stage_that_loads_the_model_is_in_the_plan(planned):
    loads = planned[planned.weights > 0].stage.tolist()
    computing = [n for n in planned.stage if not n.startswith("draw_")]
    reading = {*SCRIPTS, "results", "comparison", "score_card", "start", "code"} - {"model", "text"}
    assert set(loads) == set(computing) - reading
    assert (planned[planned.stage.isin(loads)].memory > plan.PROGRAM).all()
    assert (planned.disk >= 0).all() and planned.disk[planned.stage == "edit"].item() > 0


def test_what_does_not_fit_is_one_sentence_with_the_cure(planned):
    assert plan.refusal(planned, 1e12, 1e12) == ""
    said = plan.refusal(planned, 1e8, 1e12)
    assert "needs" in said and "GiB of memory" in said and "larger device" in said
    assert "make room" in plan.refusal(planned, 1e12, 1)


def test_the_command_refuses_with_one_line():
    command = [sys.executable, "-m", "scale.plan", "profiles/none.yaml"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: no profile at")
    assert done.stderr.count("\n") == 1


def test_paper_profiles_differ_in_the_model_and_its_published_layers_only():
    found = {}
    for path in sorted((paths.ROOT / "profiles").glob("paper-*.yaml")):
        raw = yaml.safe_load(path.read_text())
        assert raw["model"].pop("name") in typed()
        assert raw["edit"].pop("published_model") == path.stem.removeprefix("paper-")
        sets = [
            raw["localizations"].pop(f"published-{n}")["mlps"] for n in ("sports", "counterfact")
        ]
        assert sets[0] == typed()[settings_of(path).model.name]["lookup"]
        found[path.stem] = raw
    assert len(found) == 3 and len({json.dumps(raw) for raw in found.values()}) == 1


def test_paper_profiles_follow_the_published_rules():
    settings = settings_of(paths.ROOT / "profiles" / "paper-gemma-2-9b.yaml")
    ranked = [
        b for b in settings.localizations.values() if b.method.endswith(("tracing", "patching"))
    ]
    assert len(ranked) == 4 and {b.rule for b in ranked} == {"published"}
    assert settings.fact_lookup.rule == "absolute" and settings.edit.choose == "published"
    assert not any(task.lookup_layers for task in settings.tasks.values())
    assert len(settings.compare) == 9 and settings.attack_relearn.rank == 512
    assert {t.edit_to for t in settings.tasks.values()} == {None, "golf"}


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("kind", ["edit", "relearn"])
def test_planned_memory_is_the_measured_peak_of_the_default_model(kind, default_model):
    store = paths.DATA / "facts" / next(iter(config.load().tasks))
    if not store.exists():
        pytest.skip("needs the results of `make repro`")
    command = [sys.executable, "-m", "scale.measure", kind]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["planned"] == pytest.approx(found["measured"], rel=0.2)


@pytest.mark.slow
@pytest.mark.model
def test_planned_operations_are_those_of_the_ledger(default_model):
    """What the default run's attack by relearning counted for one step."""
    task = next(iter(config.load().tasks))
    file = paths.DATA / "attack_relearn" / task / "0" / "ledger.csv"
    if not file.exists():
        pytest.skip("needs the results of `make repro`")
    rows = pandas.read_csv(file).query("steps > 0")
    settings = config.load()
    one = settings.model_copy(update={"tasks": {task: settings.tasks[task]}})
    made = Plan(one).relearned(task, settings.attack_relearn.but(steps=1, read_at=[1]))
    reads = Plan(one).asking(Plan(one).facts[task], Plan(one).facts[task].read)
    per_step = (rows.gflop / rows.steps).median()
    assert (made.operations - reads) / 1e9 == pytest.approx(per_step, rel=0.2)
