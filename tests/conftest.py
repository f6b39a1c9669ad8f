"""Tiny models of every family and a small table of facts, shared by all tests."""

from __future__ import annotations

import copy
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from filelock import FileLock

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, before torch starts its own
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from lib import config, paths
from lib.attacks.target import Target
from lib.config.blocks import Edit, ModelSettings
from lib.edit.train import EditData
from lib.facts.build import ask_table, label_tokens, make_records
from lib.facts.formats import Catalogue, Format, FormatSet, load_formats
from lib.facts.records import make_split
from lib.facts.tables import load_table
from lib.model import tiny
from lib.model.components import Component, Localization, sizes
from lib.model.loading import load_model
from lib.model.names import FAMILIES
from lib.model.prepare import prepare
from lib.model.runner import Runner
from lib.store import Store

RELATION = "plays-sport"
PER_LABEL = 14  # enough names for the tiny tokenizer to learn every answer as one token


def pytest_collection_modifyitems(items):
    """Small pipelines first, since they take longest; what uses the model they taught at last."""
    last = "test_stepping"
    items.sort(key=lambda i: (i.path.stem == last, not i.get_closest_marker("pipeline")))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all processes of one test run see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def default_model(settings, tmp_path_factory):
    """The model of params.yaml, prepared if need be, by one of the processes that run tests; tests
    must leave it as it is."""
    name = settings.model.name
    with FileLock(tmp_path_factory.getbasetemp().parent / "model.lock"):
        if not paths.model(name).exists():
            prepare(name, [])
    return load_model(ModelSettings(name=name, device="cpu"))


@pytest.fixture
def refuses():
    """`with refuses(ValueError, "name", "cure"):` asserts one sentence with all these words."""

    @contextmanager
    def check(error, *words):
        with pytest.raises(error) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message

    return check


@pytest.fixture
def raw():
    """params.yaml as a plain mapping, free to be spoilt."""
    import yaml

    return yaml.safe_load(paths.PARAMS.read_text())


@pytest.fixture(scope="session")
def settings():
    return config.load()


@pytest.fixture(scope="session")
def catalogue():
    """The formats of the sports task: one relation."""
    return load_formats(paths.DATA / "raw" / "sports_formats.yaml")


@pytest.fixture(scope="session")
def formats(catalogue):
    """The formats of the one relation of the sports task."""
    return catalogue.sets[RELATION]


@pytest.fixture(scope="session")
def table():
    """A few famous athletes of every sport."""
    path = paths.DATA / "raw" / "sports.csv"
    return load_table(path, "athlete", "sport", labels={RELATION: []}, per_label=PER_LABEL)


@pytest.fixture(scope="session")
def texts(formats, table):
    return [
        f"{form.prompt(row.subject)} {form.answers[row.label]}"
        for form in formats.formats
        for row in table.itertuples()
    ]


@pytest.fixture(scope="session")
def fresh(texts):
    """Makes a tiny model that a test may change: fresh(family) -> LoadedModel-like namespace."""

    def make(family: str):
        model, tokenizer = tiny.random_model(family, texts)
        # At their initial scale the layers do so little that a wrong mask would go unnoticed.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
        return SimpleNamespace(name=family, model=model, tokenizer=tokenizer, checksum="a" * 64)

    return make


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="session")
def loaded(family, fresh):
    """A tiny model of every family in turn; tests must leave it as it is."""
    return fresh(family)


@pytest.fixture(scope="session")
def llama(fresh):
    """One tiny model where the family does not matter; tests must leave it as it is."""
    return fresh("llama")


@pytest.fixture(scope="session")
def passages(llama, texts):
    """Plain text of different lengths as token ids."""
    ids = llama.tokenizer("\n".join(texts[:5]), add_special_tokens=False).input_ids
    bos = llama.tokenizer.bos_token_id
    return [(bos, *ids[i * 20 : i * 20 + n]) for i, n in enumerate((9, 14, 5, 11))]


def records_of(loaded, formats, table, min_probability=0.0, seed=0):
    """Records of a table of one relation that the model knows well enough."""
    tokens = label_tokens(loaded.tokenizer, table, formats)
    asked = ask_table(Runner(loaded.model), loaded.tokenizer, formats, table, tokens)
    catalogue, tokens = Catalogue({formats.relation: formats}), {formats.relation: tokens}
    return make_records(asked, catalogue, loaded.tokenizer, tokens, min_probability, seed)


@pytest.fixture(scope="session")
def records(llama, formats, table):
    """Every fact of the small table as a record, whether or not the tiny model knows it."""
    return records_of(llama, formats, table)


@pytest.fixture(scope="session")
def split(records):
    return make_split(records, forget=12, fewshot=3, shares=(0.4, 0.2), seed=0)


@pytest.fixture(scope="session")
def data(llama, records, split, passages):
    """The tiny split as training data; all families share its tokens."""
    facts = {f.id: f for f in records}
    changed, kept = ([facts[i] for i in ids] for ids in (split.forget, split.retain_train))
    return EditData.of(llama.tokenizer, changed, kept, passages)


def edit_settings(**changes) -> Edit:
    """A few steps of training; changes: fields that differ."""
    defaults = dict(
        lr=0.003,
        weight_edit=3.0,
        weight_retain=1.0,
        weight_text=1.0,
        batch_facts=4,
        batch_retain=4,
        batch_passages=1,
        max_steps=4,
        check_every=2,
        strength=0.9,
    )
    return Edit(**defaults | changes)


@pytest.fixture(scope="session")
def middle(llama):
    """A localization: the MLPs of the middle two layers."""
    chosen = (Component("mlp", 2), Component("mlp", 3))
    weights = sum(sizes(llama.model)[c] for c in chosen)
    return Localization("middle", chosen, weights, weights)


@pytest.fixture(scope="session")
def short_formats():
    """Formats short enough to be taught in seconds; the last one is never taught."""
    sports = {label: label for label in ("baseball", "basketball", "football")}
    leagues = {"baseball": "MLB", "basketball": "NBA", "football": "NFL"}
    forms = (
        Format("short", "training", "{subject} plays", sports),
        Format("short-league", "vocabulary", "{subject} joined the", leagues),
        Format("untaught", "rewording", "who is {subject} ? plays", sports),
    )
    return FormatSet(RELATION, forms)


@pytest.fixture(scope="session")
def short_catalogue(short_formats):
    return Catalogue({RELATION: short_formats})


@pytest.fixture(scope="session")
def known_table(table):
    return table.groupby("label").head(10).reset_index(drop=True)


@pytest.fixture(scope="session")
def taught(short_formats, known_table):
    """A tiny model that knows its facts in two formats; tests must leave it as it is."""
    lessons = [
        f"{form.prompt(row.subject)} {form.answers[row.label]}"
        for form in short_formats.formats[:2]
        for row in known_table.itertuples()
    ]
    model, tokenizer = tiny.taught("llama", lessons, steps=150, batch=32, lr=5e-3)
    return SimpleNamespace(name="taught", model=model, tokenizer=tokenizer, checksum="c" * 64)


@pytest.fixture
def pupil(taught):
    """A copy of the taught model that a test may change."""
    return copy.deepcopy(taught)


@pytest.fixture(scope="session")
def known(taught, short_formats, known_table):
    """{id: record} of the facts the taught model knows."""
    found = records_of(taught, short_formats, known_table, 0.5)
    assert len(found) >= 27
    return {f.id: f for f in found}


@pytest.fixture(scope="session")
def invented(taught, short_formats):
    """Records of a few invented athletes with arbitrary sports."""
    path = paths.DATA / "raw" / "invented_athletes.csv"
    table = load_table(path, "athlete", "sport", labels={RELATION: []})
    return records_of(taught, short_formats, table.head(6))


@pytest.fixture(scope="session")
def known_split(known):
    return make_split(list(known.values()), forget=12, fewshot=0, shares=(0.4, 0.1), seed=0)


@pytest.fixture(scope="session")
def aim(short_catalogue, known, known_split, invented):
    """Makes a target of attacks: aim(loaded, fields that differ) -> Target."""

    def at(loaded, **changes) -> Target:
        parts = dict(
            store=Store("data"),
            task="sports-athletes",
            loaded=loaded,
            formats=short_catalogue,
            facts=known,
            split=known_split,
            invented=invented,
            passages=[(2, 40, 41, 42, 43), (2, 50, 51, 52)],
            heldout=[(2, 80, 81, 82), (2, 90, 91, 92, 93, 94)],
            other_text=[(2, 60, 61, 62), (2, 70, 71)],
            seed=0,
            control=6,
        )
        return Target(**parts | changes)

    return at


@pytest.fixture
def target(aim, pupil):
    """A tiny taught model under attack, free to be changed."""
    return aim(pupil)
