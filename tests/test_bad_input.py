"""Bad input reaches nothing long: whatever is wrong with a value, a file or a name is one sentence
that names it and the cure, before any model is loaded."""

from __future__ import annotations

import json
import re
import shutil
from math import inf, nan

import pytest
import yaml

from lib import config, paths
from lib.attacks import target
from lib.config.errors import read_yaml
from lib.model import loading
from lib.stages import checks, text

TASK = "sports-athletes"
CURES = "add|call|choose|correct|delete|fill|get|give|list|lower|make|quote|raise|rename|restore"
CURES += "|save|set|use|name another|written"
SPORTS, FORMATS = "data/raw/sports.csv", "data/raw/sports_formats.yaml"
WORDINGS, PARAMS = "data/raw/jailbreak_wordings.yaml", "params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of params.yaml and the raw data to be spoilt; loading a model fails the test."""

    def loaded(*args):
        pytest.fail("a model was loaded")

    for module in (loading, target, text):
        monkeypatch.setattr(module, "load_model", loaded)
    shutil.copytree(paths.DATA / "raw", tmp_path / "data" / "raw")
    shutil.copy(paths.PARAMS, tmp_path / PARAMS)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / PARAMS)
    return tmp_path


def put(*values):
    """Set parameters: put("edit.lr", [1], "seeds", [0])."""

    def spoil(root):
        raw = yaml.safe_load((root / PARAMS).read_text())
        for place, value in zip(values[::2], values[1::2]):
            *blocks, last = place.split(".")
            block = raw
            for step in blocks:
                block = block[step]
            block[last] = value
        (root / PARAMS).write_text(yaml.safe_dump(raw, sort_keys=False))

    return spoil


def file(name, content):
    """Write a file, or delete it if `content` is None."""

    def spoil(root):
        path = root / name
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))

    return spoil


def change(name, old, new):
    """Exchange text in a file."""

    def spoil(root):
        before = (root / name).read_text()
        assert old in before
        (root / name).write_text(before.replace(old, new, 1))

    return spoil


def both(*spoils):
    return lambda root: [spoil(root) for spoil in spoils]


def counterfact(name, content):
    """The world facts from a CounterFact file."""
    source = put("tasks.world-facts.source", "counterfact", "tasks.world-facts.table", name)
    return both(source, file(name, content) if content is not None else lambda root: None)


def attack(method, **settings):
    """One more attack on the weights."""
    return put("attack_weights.mine", {"method": method} | settings)


def swept(*names, task=TASK):
    """A sweep of these localizations alone."""
    return put("sweep.localizations", {task: [*names]})


def taught(**changes):
    fields = {"method": "relearn", "rank": 4, "lr": 0.1, "steps": 4, "read_at": [4]}
    fields |= {"batch_facts": 1, "batch_retain": 1, "batch_passages": 1}
    return put("attack_weights.mine", fields | changes)


T, A = f"tasks.{TASK}", "attack_weights"
REWRITE = "{'prompt': '{} is', 'subject': 'A'}"
VALUES = [
    ("bits", put(f"{A}.quantize.bits", [0]), "attack_weights.quantize.bits"),
    ("bits twice", put(f"{A}.quantize.bits", [4, 4]), "lists 4 twice"),
    ("bits as text", put(f"{A}.quantize.bits", ["8"]), "valid integer without quotes"),
    ("group", put(f"{A}.quantize.group", 0), "attack_weights.quantize.group"),
    ("prune all", attack("prune", shares=[1.0]), "attack_weights.mine.shares.0"),
    ("prune nothing", attack("prune", shares=[]), "attack_weights.mine.shares"),
    ("noise", attack("noise", sizes=[-0.1]), "attack_weights.mine.sizes.0"),
    ("endless noise", attack("noise", sizes=[inf]), "attack_weights.mine.sizes.0 finite"),
    ("interpolate", attack("interpolate", shares=[1.5]), "attack_weights.mine.shares.0"),
    ("shots", put("attack_prompts.in-context.shots", [0]), "attack_prompts.in-context.shots"),
    ("every", put("attack_inside.transplant.every", True), "attack_inside.transplant.every"),
    ("regularization", put("attack_inside.probes.regularization", nan), "probes.regularization"),
    (
        "attack",
        put(f"{A}.mine", {"method": "relern"}),
        "unknown attack 'relern' attack_weights.mine",
    ),
    ("setting", put(f"{A}.quantize.bit", [3]), "quantize.bit did you mean 'bits'"),
    ("reads", taught(read_at=[2]), "attack_weights.mine.read_at must rise to"),
    ("no reads", put("attack_relearn.read_at", []), "attack_relearn.read_at"),
    ("nothing taught", taught(batch_facts=0), "mine.batch_facts is 0"),
    ("attack of a number", put("attack_prompts.in-context", 3), "attack_prompts.in-context"),
    ("seed twice", put("seeds", [0, 1, 0]), "'seeds' lists 0 twice"),
    ("seed below 0", put("seeds", [-1]), "'seeds.0'"),
    ("seed above what numpy takes", put("seeds", [5_000_000]), "'seeds.0'"),
    ("seed as truth", put("seeds", [True]), "'seeds.0' valid integer"),
    ("lr", put("edit.lr", [nan]), "'edit.lr.0' finite"),
    ("lr as yaml 1.1 reads it", put("edit.lr", ["1e-5"]), "'1e-5' 1.0e-5"),
    ("counts", put("weight_masks.counts", [0, -5]), "'weight_masks.counts.1'"),
    ("sizes", put("scaling.sizes", [8, 9]), "'scaling.sizes.1' multiple of 2"),
    ("batches", put("sequential.batches", 0), "'sequential.batches'"),
    ("compare twice", put("compare", ["fact-lookup"] * 2), "'compare' twice"),
    ("validation facts", put("edit.validation_facts", 1), "'edit.validation_facts'"),
    ("validation passages", put("edit.validation_passages", 40), "edit.validation_passages (40)"),
    ("text held out", put("text.train", 0.999), "text.train leaves 60 passages"),
    ("published", put("edit.published_model", "gemma-7b"), "edit.published_model is set"),
    ("odd forget", put(f"{T}.forget", 7), f"'{T}.forget' multiple of 2"),
    ("forget too many", put(f"{T}.forget", 100_000), "too few facts lower `forget`"),
    ("no such label", put(f"{T}.forget_label", "footbal"), "'footbal' did you mean 'football'"),
    ("edit to itself", put(f"{T}.forget_label", "football", f"{T}.edit_to", "football"), "edit_to"),
    ("edit to nothing", put(f"{T}.edit_to", "chess"), "`edit_to` 'chess'"),
    ("probed", put(f"{T}.probed_relation", "plays"), "`probed_relation` 'plays' sports.csv"),
    ("no relations", put(f"{T}.relations", []), f"'{T}.relations'"),
    ("column twice", put(f"{T}.label_column", "athlete"), "reads one column twice"),
    ("layers", put("localizations.mine", {"method": "literal", "mlps": [-1]}), "mine.mlps.0"),
    ("device", put("model.device", "gpu"), "'model.device'"),
    ("device that is not there", put("model.device", "xpu"), "model.device is 'xpu'"),
    ("sweep of no task", swept("mlp-0", task="sport"), "unknown task 'sport'"),
    ("several of no task", put("sweep.several", {"sport": []}), "unknown task 'sport'"),
    (
        "sweep of nothing",
        swept("mlp-00"),
        "unknown localization 'mlp-00' did you mean `localizations`",
    ),
    (
        "several of nothing",
        put("sweep.several", {TASK: ["fact-lokup"]}),
        "unknown localization 'fact-lokup' did you mean 'fact-lookup'",
    ),
    ("edited twice", swept("fact-lookup"), "`sweep` edits 'fact-lookup' `compare` already"),
    ("sweep twice", swept("mlp-0", "mlp-0"), f"'sweep.localizations.{TASK}' lists 'mlp-0' twice"),
    ("sweep as list", put("sweep.localizations", ["mlp-0"]), "'sweep.localizations'"),
    ("one wording", put("sweep.wordings", 1), "'sweep.wordings' greater than or equal to 2"),
    ("no sweep", put("sweep", None), "'sweep'"),
    (
        "several alone",
        put("sweep.several", {TASK: ["fact-lookup-swapped"]}),
        "one wording nowhere: add",
    ),
    ("several closed", put("sweep.several", {TASK: ["rome-late"]}), "`sweep.several` closed form"),
    ("tried closed", put("edit.try_on", ["rome-late"]), "`edit.try_on` 'rome-late' closed form"),
    ("read too late", put("edit.read_at", [0.5, 0.97]), "edit.read_at has 0.97, edits stop at"),
    ("tried on nothing", put("edit.try_on", []), "edit.try_on is empty"),
    ("tried on no set", put("edit.try_on", ["mlp-00"]), "unknown localization 'mlp-00'"),
    ("tried on twice", put("edit.try_on", ["mlp-0"] * 2), "'edit.try_on' lists 'mlp-0' twice"),
    ("vocabulary kept", put("edit.keep_vocabulary", 1.2), "'edit.keep_vocabulary' less than 1"),
    ("read at", put("edit.read_at", [0.5, 1.0]), "'edit.read_at.1' less than 1"),
    ("read at nothing", put("edit.read_at", [0]), "'edit.read_at.0' greater than 0"),
    ("read at twice", put("edit.read_at", [0.5, 0.5]), "'edit.read_at' lists 0.5 twice"),
    ("no margin", put("statistics.margin", 0), "'statistics.margin' greater than 0"),
    ("wide margin", put("statistics.margin", 1), "'statistics.margin' less than 1"),
    ("margin in percent", put("statistics.margin", 10), "'statistics.margin' less than 1"),
    ("enough", put("attack_relearn.enough", 1.1), "'attack_relearn.enough' less than or equal to"),
    ("enough of nothing", taught(enough=0), "'attack_weights.mine.enough' greater than 0"),
    ("format keeps all", put("attack_formats.keep", 1), "'attack_formats.keep' less than 1"),
    ("no lookup layers", put(f"{T}.lookup_layers", 0), f"'{T}.lookup_layers' greater than or"),
    ("half a layer", put(f"{T}.lookup_layers", 1.5), f"'{T}.lookup_layers' valid integer"),
    ("null block", put("edit", None), "'edit'"),
    ("no tasks", put("tasks", {}), "'tasks'"),
]
NAMES = [
    *(
        (f"task {name!r}", put(f"tasks.{name}", {"table": "x"}), "letters, digits, `_` and `-`")
        for name in ("a b", "a/b", "ä", "-a", "a:b", "a\nb", "Null", "a" * 65, "16")
    ),
    ("task as number", put("tasks", {3: {}}), "'tasks.3"),
    ("localization", put("localizations.a@b", {"method": "random"}), "localizations.a@b letters"),
    (
        "attack name",
        put(f"{A}.a b", {"method": "noise", "sizes": [1]}),
        "attack_weights.a b letters",
    ),
    ("model", put("model.name", "gema-3-270m"), "unknown model 'gema-3-270m' gemma-3-270m"),
    ("model as number", put("model.name", 7), "'model.name'"),
    *(
        (f"model {name}", put("model.name", name), f"'{name}' config.json model.name")
        for name in (
            "data/mine",
            "./mine",
            "../mine",
            "/mine",
            "~/mine",
            "a/b/c",
            "data",
            "a/",
            "a/.b",
        )
    ),
]
FILES = [
    ("no params", file(PARAMS, None), "params.yaml"),
    ("empty params", file(PARAMS, ""), "params.yaml"),
    ("params as list", file(PARAMS, "- 1\n- 2\n"), "params.yaml"),
    ("binary params", file(PARAMS, b"\x80\x00\xff"), "params.yaml"),
    ("broken params", change(PARAMS, "edit:", "edit: ["), "params.yaml line"),
    ("no table", file(SPORTS, None), "sports.csv `table`"),
    (
        "table not utf-8",
        file(SPORTS, "athlete,sport\nJosé,x\n".encode("latin-1")),
        "sports.csv utf-8",
    ),
    ("empty table", file(SPORTS, ""), "sports.csv holds no facts"),
    ("open quote", file(SPORTS, 'athlete,sport\n"A,baseball\n'), "sports.csv open quote"),
    ("column twice", change(SPORTS, "athlete,", "athlete,athlete,"), "sports.csv"),
    ("line break in a name", change(SPORTS, "\n", '\n"A\nB",golf\n'), "sports.csv 'A B' label"),
    ("table is a folder", put(f"{T}.table", "data/raw"), "data/raw `table`"),
    ("no formats", file(FORMATS, None), "sports_formats.yaml `formats`"),
    ("broken formats", change(FORMATS, "training:", "training: ["), "sports_formats.yaml line"),
    ("formats not utf-8", file(FORMATS, b"plays: \xff\n"), "sports_formats.yaml utf-8"),
    ("format twice", change(FORMATS, "  one-shot:", "  training:"), "'training' stands twice"),
    ("formats as list", file(FORMATS, "- a\n"), "sports_formats.yaml relations"),
    ("no formats inside", file(FORMATS, "plays-sport: {}\n"), "'plays-sport' kind training"),
    ("yes as a key", change(FORMATS, "  one-shot:", "  yes:"), "sports_formats.yaml quote"),
    ("a format of text", change(FORMATS, "  one-shot:", "  odd: x\n  one-shot:"), "'odd' kind"),
    (
        "answers of truths",
        change(FORMATS, "{baseball: baseball", "{baseball: yes"),
        "'training' texts",
    ),
    ("date that is none", change(FORMATS, "  one-shot:", "  2024-13-45:"), "sports_formats.yaml"),
    ("no wordings", file(WORDINGS, None), "jailbreak_wordings.yaml `wordings`"),
    ("broken wordings", file(WORDINGS, "- 'a\n- b"), "jailbreak_wordings.yaml line"),
    ("empty wordings", file(WORDINGS, "[]"), "jailbreak_wordings.yaml list of texts"),
    ("wordings twice", file(WORDINGS, "[a, a]"), "jailbreak_wordings.yaml twice"),
    ("no text", put("text.source", "none.txt"), "none.txt text.source"),
    ("text is a folder", put("text.source", "data"), "data text.source"),
    ("text not utf-8", both(put("text.source", "t"), file("t", b"\xe9" * 9999)), "t is utf-8"),
    (
        "short text",
        both(put("text.source", "t"), file("t", "word")),
        "t is too short text.passages",
    ),
    ("no CounterFact", counterfact("none.json", None), "none.json `table`"),
    ("no hub id", counterfact("data/none", None), "data/none `table`"),
    ("broken json", counterfact("c.json", "[{"), "c.json no valid json"),
    ("broken parquet", counterfact("c.parquet", "[{"), "c.parquet no valid parquet"),
    ("json of numbers", counterfact("c.json", [1, 2]), "c.json list of CounterFact records"),
    ("json not utf-8", counterfact("c.json", b"[\xff]"), "c.json utf-8"),
    ("other rows", counterfact("c.json", [{"a\n": 1}]), "c.json neither CounterFact schema"),
    (
        "literals in a csv",
        counterfact("c.csv", f'requested_rewrite,case_id\n"{REWRITE}",1\n'),
        "c.csv relation_id",
    ),
]


def test_the_copy_is_sound_before_it_is_spoilt(project):
    assert checks.check_all() == config.load()


@pytest.mark.parametrize(
    ("spoil", "words"), [pytest.param(*case[1:], id=case[0]) for case in VALUES + NAMES + FILES]
)
def test_bad_input_is_one_sentence(project, spoil, words):
    spoil(project)
    with pytest.raises((ValueError, OSError)) as refusal:
        checks.check_all()
    message = str(refusal.value)
    assert "\n" not in message and len(message) < 400
    assert [word for word in words.split() if word not in message] == []
    assert re.search(rf"\b({CURES})\b", message)


@pytest.mark.parametrize(
    "name", ["gemma-3-270m", "tiny-gpt2", "google/gemma-2-9b", "mine", "a/b/c"]
)
def test_good_model_names_pass(project, name):
    for folder in ("mine", "a/b/c"):
        (project / folder).mkdir(parents=True)
        (project / folder / "config.json").write_text("{}")
    put("model.name", name)(project)
    assert checks.check_all().model.name == name


def test_a_text_file_that_is_long_enough_passes(project):
    both(put("text.source", "t"), file("t", "words " * 1000))(project)
    assert checks.check_all().text.source == "t"


def test_a_key_may_stand_again_where_it_replaces_a_merged_one(tmp_path, refuses):
    (tmp_path / "x.yaml").write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n")
    found = read_yaml(tmp_path / "x.yaml", "file", "correct it")
    assert found["d"] == {"b": 3, "c": 2}
    (tmp_path / "x.yaml").write_text("a: 1\na: 2\n")
    with refuses(ValueError, "x.yaml", "line 2", "'a' stands twice", "correct it"):
        read_yaml(tmp_path / "x.yaml", "file", "correct it")
