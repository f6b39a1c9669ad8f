"""params.yaml: every slip is one sentence that names the parameter and the cure."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from lib import config, paths
from lib.config import profiles

TASK = "sports-athletes"
PROFILES = sorted((paths.ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def apply(tmp_path):
    """Applies a profile's text to a copy of params.yaml and returns the copy's path."""

    def run(profile: str):
        params = tmp_path / "params.yaml"
        if not params.exists():
            params.write_text(paths.PARAMS.read_text())
        (tmp_path / "profile.yaml").write_text(profile)
        profiles.apply_profile(tmp_path / "profile.yaml", params)
        return params

    return run


# --- names -----------------------------------------------------------------------------------


def test_the_committed_params_are_sound():
    settings = config.load()
    assert settings.task(TASK).forget >= 2
    assert settings.localization("fact-lookup").method == "fact-lookup"


@pytest.mark.parametrize(
    ("place", "wrong", "right"),
    [
        ((), "sedes", "seeds"),
        (("edit",), "lrr", "lr"),
        (("attack_relearn",), "stepps", "steps"),
        (("causal_tracing",), "repeat", "repeats"),
        (("tasks", TASK), "swap_wiht", "swap_with"),
        (("tasks", TASK), "forgett", "forget"),
        (("localizations", "fact-lookup"), "methods", "method"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_misspelt_parameter_names_itself_and_the_closest(raw, refuses, place, wrong, right):
    block = raw
    for step in place:
        block = block[step]
    block[wrong] = block[right]
    where = ".".join((*place, wrong))
    with refuses(ValueError, f"'{where}'", f"did you mean '{right}'?", "correct or delete it"):
        config.parse(raw)


def test_a_parameter_like_no_other_names_the_known(raw, refuses):
    raw["statistics"]["zzz"] = 1
    with refuses(ValueError, "'statistics.zzz'", "known: resamples, level"):
        config.parse(raw)


def test_an_unknown_method_names_the_closest_and_all(raw, refuses):
    raw["localizations"]["mine"] = {"method": "fact-lokup"}
    with refuses(
        ValueError, "'fact-lokup'", "did you mean 'fact-lookup'?", "localizations.mine", "all-mlps"
    ):
        config.parse(raw)


@pytest.mark.parametrize(
    "place", [("edit", "lr"), ("tasks", TASK, "table"), ("model", "name"), ("seeds",)]
)
def test_a_missing_parameter_is_named(raw, refuses, place):
    block = raw
    for step in place[:-1]:
        block = block[step]
    del block[place[-1]]
    with refuses(ValueError, f"lacks the parameter '{'.'.join(place)}'", "add it"):
        config.parse(raw)


def test_a_localization_without_method_is_named(raw, refuses):
    raw["localizations"]["mine"] = {"draw": 1}
    with refuses(ValueError, "lacks the parameter 'localizations.mine.method'", "add it"):
        config.parse(raw)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("edit", "lr", 0), -1, "greater than 0"),
        (("edit", "lr", 0), "fast", "valid number"),
        (("edit", "weight_edit"), [], "at least 1"),
        (("edit", "choose"), "eyes", "'published'"),
        (("tasks", TASK, "change"), "hide", "'forget'"),
        (("edit", "strength"), 1.5, "less than 1"),
        (("tasks", TASK, "forget"), "many", "valid integer"),
        (("model", "dtype"), "float8", "'float32'"),
        (("localizations", "mlp-window-0", "start"), -1, "greater than or equal to 0"),
        (("statistics",), 3, "dictionary"),
        (("compare",), [], "at least 1"),
        (("compare",), "fact-lookup", "list"),
        (("tasks", TASK, "source"), "web", "'counterfact'"),
        (("tasks", TASK, "answers"), "two-token", "'first-token'"),
        (("tasks", TASK, "lookup"), "eyes", "'path-patching'"),
        (("tasks", TASK, "relations"), "all", "list"),
        (("fact_lookup", "rule"), "loudest", "'absolute'"),
        (("causal_tracing", "repeats"), 1, "greater than or equal to 2"),
        (("edit", "lr", 0), "1e-5", "valid number without quotes (1e-5 is written 1.0e-5)"),
        (("edit", "lr", 0), float("nan"), "finite"),
        (("edit", "lr"), [0.1, 0.1], "lists 0.1 twice"),
        (("seeds",), [0, 0], "lists 0 twice"),
        (("attribution_patching", "repeats"), 1, "greater than or equal to 2"),
        (("fact_lookup", "repeats"), 1, "greater than or equal to 2"),
    ],
    ids=str,
)
def test_a_bad_value_is_named_with_what_is_allowed(raw, refuses, place, value, says):
    block = raw
    for step in place[:-1]:
        block = block[step]
    block[place[-1]] = value
    with refuses(ValueError, f"bad value {value!r}", f"'{'.'.join(map(str, place))}'", says):
        config.parse(raw)


@pytest.mark.parametrize("block", ["weight_masks", "sequential", "scaling"])
def test_experiments_name_tasks_and_localizations_that_exist(raw, refuses, block):
    raw[block]["tasks"] = ["sport-athletes"]
    with refuses(ValueError, "unknown task 'sport-athletes'", "did you mean 'sports-athletes'?"):
        config.parse(raw)
    raw[block]["tasks"] = []
    raw[block]["compare"] = ["fact-lokup"]
    with refuses(ValueError, "unknown localization 'fact-lokup'"):
        config.parse(raw)
    raw[block]["compare"] = ["fact-lookup", "fact-lookup"]
    with refuses(ValueError, f"'{block}.compare'", "lists 'fact-lookup' twice", "delete"):
        config.parse(raw)
    raw[block] |= {"tasks": [TASK], "compare": []}
    with refuses(ValueError, f"`{block}` has tasks but an empty `compare`", "list localizations"):
        config.parse(raw)


@pytest.mark.parametrize("block", ["sequential", "scaling"])
def test_further_edits_take_their_settings_from_single_ones(raw, refuses, block):
    raw[block] |= {"tasks": [TASK], "compare": ["random"]}
    with refuses(ValueError, f"`{block}.compare` lists 'random'", "add it there"):
        config.parse(raw)
    raw[block]["tasks"] = []  # then nobody asks who is compared
    assert config.parse(raw).compare == raw["compare"]


@pytest.mark.parametrize("block", ["sequential", "scaling"])
def test_an_edit_in_closed_form_has_no_settings_to_take(raw, refuses, block):
    raw["compare"].append("rome-lookup")
    raw["sweep"]["localizations"] = {}
    raw[block] |= {"tasks": [TASK], "compare": ["rome-lookup"]}
    with refuses(ValueError, f"`{block}.compare` lists 'rome-lookup'", "delete it there"):
        config.parse(raw)


def test_a_task_forgets_a_number_of_facts_or_a_label(raw, refuses):
    raw["tasks"][TASK]["forget"] = None
    with refuses(ValueError, f"task '{TASK}' forgets neither", "set `forget`", "`forget_label`"):
        config.parse(raw)
    raw["tasks"][TASK]["forget_label"] = "baseball"
    assert config.parse(raw).task(TASK).forget is None


def test_published_settings_need_a_model_and_a_cell(raw, refuses):
    raw["edit"]["choose"] = "published"
    with refuses(ValueError, "edit.published_model is not set"):
        config.parse(raw)
    raw["edit"]["published_model"] = "gemma-7b"
    assert config.parse(raw).edit.choose == "published"
    raw["edit"]["choose"] = "grid"
    with refuses(ValueError, "choose is grid but edit.published_model is set", "set both"):
        config.parse(raw)
    raw["edit"]["choose"] = "published"
    raw["tasks"][TASK]["published"] = None
    with refuses(ValueError, f"task '{TASK}' does not say which", "set `published`"):
        config.parse(raw)


def test_the_grid_has_every_pair_once(raw):
    grid = config.parse(raw).edit
    pairs = [(run.lr, run.weight_edit) for run in grid.pairs()]
    assert pairs == [(lr, w) for lr in grid.lr for w in grid.weight_edit]
    assert grid.pairs()[0].strength == grid.strength


def test_a_window_needs_its_start(raw, refuses):
    raw["localizations"]["mine"] = {"method": "mlp-window"}
    with refuses(ValueError, "'mine'", "needs `start`", "add it"):
        config.parse(raw)


def test_a_literal_set_needs_layers(raw, refuses):
    raw["localizations"]["mine"] = {"method": "literal"}
    with refuses(ValueError, "'mine' is empty", "list layers under `mlps` or `attention`"):
        config.parse(raw)


def test_the_budget_needs_fact_lookup(raw, refuses):
    del raw["localizations"]["fact-lookup"]
    raw["compare"].remove("fact-lookup")
    with refuses(ValueError, "'fact-lookup' is missing", "add it"):
        config.parse(raw)


@pytest.mark.parametrize("reads", [[], [-1, 16], [0, 4, 4, 16], [0, True], ["16"], 16, None])
def test_read_outs_are_distinct_steps(raw, refuses, reads):
    raw["attack_relearn"] |= {"steps": 16, "read_at": reads}
    with refuses(ValueError, "bad value", "'attack_relearn.read_at", "correct it"):
        config.parse(raw)


@pytest.mark.parametrize(
    ("teach", "lacking"),
    [("half", "batch_facts"), ("related", "batch_retain"), ("text", "batch_passages")],
)
def test_an_attacker_who_teaches_has_something_to_teach(raw, refuses, teach, lacking):
    raw["attack_relearn"] |= {"teach": teach, lacking: 0}
    with refuses(ValueError, f"attack_relearn.{lacking} is 0", "set it to at least 1"):
        config.parse(raw)


@pytest.mark.parametrize("reads", [[0, 4], [0, 8, 4, 16], [0, 16, 20]])
def test_read_outs_rise_to_the_last_step(raw, refuses, reads):
    raw["attack_relearn"] |= {"steps": 16, "read_at": reads}
    with refuses(ValueError, "attack_relearn.read_at", "must rise to", "correct the list"):
        config.parse(raw)


def test_shares_that_leave_no_test_facts_are_refused(raw, refuses):
    raw["tasks"][TASK] |= {"retain_train": 0.8, "retain_val": 0.2}
    with refuses(ValueError, "retain_train", "retain_val", TASK):
        config.parse(raw)


def test_an_empty_list_of_seeds_is_refused(raw, refuses):
    raw["seeds"] = []
    with refuses(ValueError, "'seeds'"):
        config.parse(raw)


def test_empty_params_are_refused_in_a_sentence(tmp_path, refuses):
    (tmp_path / "params.yaml").write_text("# nothing yet\n")
    with refuses(ValueError, "params.yaml"):
        config.load(tmp_path / "params.yaml")


def test_an_unknown_task_names_the_closest(settings, refuses):
    with refuses(ValueError, "unknown task 'sport-athletes'", f"did you mean '{TASK}'?", "`tasks`"):
        settings.task("sport-athletes")


def test_an_unknown_localization_names_the_closest(settings, refuses):
    words = "unknown localization 'fact-lokup'", "did you mean 'fact-lookup'?", "`localizations`"
    with refuses(ValueError, *words):
        settings.localization("fact-lokup")


# --- parameters that name others -------------------------------------------------------------


def test_a_misspelt_name_to_compare_names_the_closest(raw, refuses):
    raw["compare"].append("atribution-patching")
    words = "unknown localization 'atribution-patching'", "did you mean 'attribution-patching'?"
    with refuses(ValueError, *words, "use a key of `localizations`"):
        config.parse(raw)


def test_a_localization_that_is_gone_cannot_be_compared(raw, refuses):
    gone = raw["compare"][-1]
    del raw["localizations"][gone]
    with refuses(ValueError, f"unknown localization '{gone}'", "use a key of `localizations`"):
        config.parse(raw)


@pytest.mark.parametrize("partner", [None, "world-fact", TASK])
def test_swapped_layers_need_another_task(raw, refuses, partner):
    raw["tasks"][TASK]["swap_with"] = partner
    with refuses(ValueError, "'fact-lookup-swapped'", f"`swap_with` of task '{TASK}'", "or delete"):
        config.parse(raw)


def test_a_single_task_has_nothing_to_swap_with(raw, refuses):
    del raw["tasks"]["world-facts"]
    raw["sweep"] |= {"localizations": {}, "several": {}}
    raw["sequential"]["tasks"] = raw["engines"]["tasks"] = []
    with refuses(ValueError, "'fact-lookup-swapped'", f"`swap_with` of task '{TASK}'"):
        config.parse(raw)
    del raw["localizations"]["fact-lookup-swapped"]
    assert list(config.parse(raw).tasks) == [TASK]


def test_without_swapped_layers_nobody_asks_for_a_partner(raw):
    del raw["localizations"]["fact-lookup-swapped"]
    raw["tasks"][TASK]["swap_with"] = None
    assert config.parse(raw).task(TASK).swap_with is None


NEEDED = ["formats", "never_known", "subject_column", "label_column"]


@pytest.mark.parametrize("gone", [True, False], ids=["missing", "null"])
@pytest.mark.parametrize("name", NEEDED)
def test_a_table_needs_to_say_how_it_is_read(raw, refuses, name, gone):
    if gone:
        del raw["tasks"][TASK][name]
    else:
        raw["tasks"][TASK][name] = None
    with refuses(ValueError, f"task '{TASK}' lacks the parameter '{name}'", "add it"):
        config.parse(raw)


def test_counterfact_brings_its_own_formats(raw):
    raw["tasks"][TASK] |= dict.fromkeys(NEEDED) | {"source": "counterfact"}
    task = config.parse(raw).task(TASK)
    assert task.source == "counterfact" and task.formats is None


def test_settings_cannot_be_changed(settings):
    with pytest.raises(ValueError, match="frozen"):
        settings.edit.lr = 1.0


# --- what is edited once and what in a sweep -------------------------------------------------


@pytest.mark.parametrize("block", ["localizations", "several"])
def test_a_sweep_names_tasks_and_localizations_that_exist(raw, refuses, block):
    raw["sweep"][block] = {"sport-athletes": ["mlp-0"]}
    with refuses(ValueError, "unknown task 'sport-athletes'", f"did you mean '{TASK}'?"):
        config.parse(raw)
    raw["sweep"][block] = {TASK: ["mlp-0", "mlp-O"]}
    with refuses(ValueError, "unknown localization 'mlp-O'", "use a key of `localizations`"):
        config.parse(raw)


def test_an_edit_stands_under_compare_or_in_the_sweep(raw, refuses):
    raw["sweep"]["localizations"][TASK].append("random-mlps")
    words = "`sweep` edits 'random-mlps'", "`compare` does already", "delete it in one of the two"
    with refuses(ValueError, *words):
        config.parse(raw)
    raw["compare"].remove("random-mlps")
    assert "random-mlps" in config.parse(raw).sweep.localizations[TASK]


def test_an_edit_with_several_wordings_may_also_be_made_with_one(raw):
    raw["sweep"]["several"] = {TASK: ["fact-lookup", "mlp-3"]}
    assert config.parse(raw).sweep.several[TASK] == ["fact-lookup", "mlp-3"]


def test_a_sweep_knows_its_tasks(raw):
    swept = {"localizations": {TASK: [], "world-facts": ["mlp-0"]}, "several": {}}
    raw["sweep"] |= swept
    assert config.parse(raw).sweep.tasks == ["world-facts"]
    raw["sweep"]["several"] = {TASK: ["fact-lookup"]}
    assert config.parse(raw).sweep.tasks == ["world-facts", TASK]
    raw["sweep"] |= {"localizations": {}, "several": {}}
    assert config.parse(raw).sweep.tasks == []


def test_a_grid_needs_localizations_to_try_it_on(raw, refuses):
    raw["edit"]["try_on"] = []
    with refuses(ValueError, "edit.try_on is empty", "list localizations"):
        config.parse(raw)
    raw["edit"] |= {"choose": "published", "published_model": "gemma-7b"}
    assert config.parse(raw).edit.try_on == []


# --- merging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "patch", "expected"),
    [  # the examples of RFC 7386, appendix A, that concern mappings
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": 1}, {"gone": None}, {"a": 1}),
    ],
)
def test_merging_follows_the_rfc(base, patch, expected):
    assert profiles.merge(base, patch) == expected


def test_a_profile_changes_what_it_names_and_nothing_else(apply):
    before = paths.PARAMS.read_text().splitlines()
    after = apply("edit:\n  weight_text: 0.01\n").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after) if old != new]
    assert len(before) == len(after)
    assert [new.split("#")[0].split() for _, new in changed] == [["weight_text:", "0.01"]]


def test_a_profile_keeps_the_comments(apply):
    before = paths.PARAMS.read_text()
    after = apply("seeds: [0, 1]\nmodel: {name: tiny-llama}\n").read_text()
    comments = [line.split("#", 1)[1].strip() for line in before.splitlines() if "#" in line]
    assert len(comments) > 30
    assert all(comment in after for comment in comments)


def test_a_profile_can_delete_and_add(apply):
    text = "localizations:\n  mlp-15: null\n  mine:\n    method: literal\n    mlps: [1, 2]\n"
    text += f"sweep:\n  localizations:\n    {TASK}:\n    - mine\n"
    settings = config.load(apply(text))
    assert "mlp-15" not in settings.localizations and "mine" in settings.sweep.localizations[TASK]
    assert settings.localization("mine").mlps == [1, 2]


def test_a_profile_can_empty_a_block(apply):
    """Where the emptied block has a comment beside its name, what is written is yaml still."""
    tasks = yaml.safe_load(paths.PARAMS.read_text())["sweep"]["localizations"]
    assert tasks
    names = "".join(f"    {task}: null\n" for task in tasks)
    params = apply(f"sweep:\n  localizations:\n{names}")
    assert config.load(params).sweep.localizations == {}


@pytest.mark.parametrize("bad", ["edit:\n  lrr: 1\n", "localizations:\n  fact-lookup: null\n"])
def test_a_bad_result_is_not_written(apply, tmp_path, bad):
    params = apply("edit:\n  weight_text: 0.01\n")
    before = params.read_bytes()
    with pytest.raises(ValueError, match="lrr|fact-lookup"):
        apply(bad)
    assert params.read_bytes() == before


def test_an_empty_profile_changes_nothing(apply):
    before = config.load()
    assert config.load(apply("# nothing yet\n")) == before


def test_a_missing_profile_names_those_there_are(tmp_path, refuses):
    assert PROFILES
    with refuses(FileNotFoundError, "none.yaml", *(p.stem for p in PROFILES)):
        profiles.apply_profile(tmp_path / "none.yaml", tmp_path / "params.yaml")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.stem)
def test_every_shipped_profile_applies(apply, profile):
    """Every value it names is there afterwards, and what it sets to null is gone."""
    wanted = yaml.safe_load(profile.read_text())
    params = apply(profile.read_text())
    assert config.load(params) != config.load()
    pairs = [(wanted, yaml.safe_load(params.read_text()))]
    while pairs:
        patch, result = pairs.pop()
        for name, value in patch.items():
            if isinstance(value, dict):
                pairs.append((value, result[name]))
            else:
                assert result.get(name) == value and (name in result) == (value is not None)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.stem)
def test_every_shipped_profile_names_files_that_are_there(apply, profile):
    for task in config.load(apply(profile.read_text())).tasks.values():
        files = [task.formats, task.never_known, task.source == "table" and task.table]
        assert all((paths.ROOT / f).exists() for f in files if f)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.stem)
def test_every_shipped_profile_applies_twice_to_the_same(apply, profile):
    first = yaml.safe_load(apply(profile.read_text()).read_text())
    assert yaml.safe_load(apply(profile.read_text()).read_text()) == first


def test_the_thorough_profile_edits_every_localization(apply):
    settings = config.load(apply((paths.ROOT / "profiles" / "thorough.yaml").read_text()))
    edited = {*settings.compare, *settings.sweep.localizations[TASK]}
    assert edited == set(settings.localizations)
    stored = {n for n in settings.localizations if not n.removeprefix("mlp-").isdigit()}
    assert stored == set(settings.compare)


def test_a_missing_profile_is_one_line_on_the_command_line():
    command = [sys.executable, "-m", "lib.config", "apply", "profiles/none.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no profile at") and done.stderr.count("\n") == 1


def test_the_command_line_says_how_it_is_used():
    command = [sys.executable, "-m", "lib.config"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 1 and "apply profiles/NAME.yaml" in done.stderr


def test_attacks_have_names_of_their_own(raw, refuses):
    raw["attack_inside"]["quantize"] = {"bits": [4], "group": 32}
    with refuses(ValueError, "two attacks are called 'quantize'", "rename"):
        config.parse(raw)


def test_who_faces_the_battery_must_be_edited(raw, refuses):
    raw["attacks"]["compare"] = ["all-mlps"]
    with refuses(ValueError, "`attacks.compare` lists 'all-mlps'", "add it there"):
        config.parse(raw)
