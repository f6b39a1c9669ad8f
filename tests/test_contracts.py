"""Contracts between params.yaml, dvc.yaml, notebooks, library and environment files.

Each guards against a mistake that would otherwise pass silently: papermill only warns about a
misspelt parameter, and DVC does not know which settings a stage reads.
"""

import ast
import json
import re
import subprocess
import tomllib
from importlib.metadata import distributions

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from lib import config, paths
from lib.analysis import readme as report
from lib.config import profiles
from lib.config.blocks import METHODS
from lib.figures.style import LABELS, label
from lib.localize import select
from lib.stages.closure import Library, code_of
from lib.stages.code import SCRIPTS, generated

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
STAGES = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load(paths.PARAMS.read_text())
RUNS = {name: stage for name, stage in STAGES.items() if "${run}" in str(stage.get("cmd"))}


def cells(path, kind="code"):
    book = json.loads(path.read_text())
    return [c for c in book["cells"] if c["cell_type"] == kind]


def code(path) -> str:
    return "\n".join("".join(c["source"]) for c in cells(path))


def runs(stage) -> list[str]:
    """Names in data/code of what a stage executes."""
    (name,) = set(re.findall(r"data/code/(\S+)\.ipynb", stage["cmd"]))
    books = stage.get("matrix", {}).get("notebook", [""])
    return [name.replace("${item.notebook}", book) for book in books]


def source_of(name: str):
    """The notebook that something in data/code comes from."""
    drawn = name.removeprefix("draw_")
    return next(p for p in NOTEBOOKS if p.stem == name or name != drawn and p.stem[3:] == drawn)


def declared(path) -> dict[str, object]:
    """Names and defaults of a notebook's parameters cell."""
    (tagged,) = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    tree = ast.parse("".join(tagged["source"]))
    return {n.target.id: ast.literal_eval(n.value) for n in tree.body}


def passed(stage) -> dict[str, str]:
    """Names and values of the -p options of a stage."""
    return dict(re.findall(r"-p (\S+) (\S+)", stage["cmd"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_clean(path):
    book = json.loads(path.read_text())
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert {c["cell_type"] for c in book["cells"]} <= {"code", "markdown"}
    for cell in cells(path):
        assert not cell["outputs"] and cell["execution_count"] is None
    for forbidden in ("sys.path", "os.chdir", "!pip", "import *"):
        assert forbidden not in code(path), f"{path.stem} has {forbidden}"
    assert not re.search(r"/(home|root|tmp|Users)/", code(path)), "no path of one machine"
    assert len(declared(path)) <= 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_lessons(path):
    prose = "\n".join("".join(c["source"]) for c in cells(path, "markdown"))
    assert prose.startswith("# ") and "**Claim.**" in prose and "**Recall.**" in prose
    assert len(prose.split()) > 150


def test_every_notebook_is_a_stage_and_every_stage_a_notebook():
    made = {name.split(".")[0] for name in generated(paths.ROOT)} - set(SCRIPTS)
    assert made == {name for stage in RUNS.values() for name in runs(stage)}
    assert {p.stem for p in NOTEBOOKS} <= made


@pytest.mark.parametrize("name", RUNS)
def test_stages_pass_parameters_that_exist(name):
    for made in runs(RUNS[name]):
        names, given = declared(source_of(made)), passed(RUNS[name]) | {"home": "data"}
        assert set(given) <= set(names), "papermill runs on with defaults instead of a wrong name"
        assert made.startswith("draw_") or set(given) == set(names), "defaults are not hashed"
        for parameter, value in given.items():
            if (match := re.fullmatch(r"\$\{(\w+)\.(\w+)\}", value)) and match[1] != "item":
                assert names[parameter] == PARAMS[match[1]][match[2]], f"{parameter} in {name}"
        assert names["home"] == "data/play", "stepping by hand must not touch results"
        assert names.get("task", "sports-athletes") in PARAMS["tasks"]
        assert names.get("seed", 0) in PARAMS["seeds"]
        assert names.get("localization", "fact-lookup") in PARAMS["localizations"]


@pytest.mark.parametrize("name", [n for n in STAGES if n != "code"])
def test_a_stage_depends_on_the_file_that_lists_its_code(name):
    stage = STAGES[name]
    (listed,) = [d for d in stage["deps"] if d.startswith("data/code/")]
    executed = runs(stage) if name in RUNS else [name]
    books = (
        stage.get("matrix", {}).get("notebook", [""])
        if isinstance(stage.get("matrix"), dict)
        else [""]
    )
    assert [listed.replace("${item.notebook}", b) for b in books] == [
        f"data/code/{e}.txt" for e in executed
    ]
    assert not [d for d in stage["deps"] if d.startswith(("lib", "notebooks"))]


@pytest.fixture(scope="module")
def library():
    return Library(paths.ROOT)


@pytest.mark.parametrize("name", RUNS)
def test_stages_read_no_settings_they_do_not_list(name, library):
    listed = {p.split(".")[0] for p in RUNS[name].get("params", ())}
    for made in runs(RUNS[name]):
        book = json.loads(source_of(made).read_text())
        read = set(library.blocks(ast.parse(code_of(book, made.startswith("draw_")))))
        # Which names exist is checked and the first page prints them; neither changes a number.
        assert name == "start" or read - {"localizations", "seeds", "tasks"} <= listed


def test_every_stage_says_what_it_is_for_and_may_be_skipped():
    for name, stage in STAGES.items():
        assert stage.get("desc"), name
        assert "always_changed" not in stage and "frozen" not in stage


def test_one_vocabulary_of_localizations():
    assert set(METHODS) == {*select._METHODS, *select.RANKED, "fact-lookup-swapped"}
    for name in PARAMS["localizations"]:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", name), "letters, digits and hyphens only"
        assert label(name) != name.replace("-", " ") or name in LABELS, "words for figures"


def test_windows_slide_by_half_a_window():
    starts = [b["start"] for b in PARAMS["localizations"].values() if b["method"] == "mlp-window"]
    strides = {b - a for a, b in zip(starts, starts[1:])}
    assert starts[0] == 0 and len(strides) == 1


@pytest.mark.parametrize("profile", sorted((paths.ROOT / "profiles").glob("*.yaml")), ids=str)
def test_profiles_are_valid(profile):
    merged = profiles.merge(
        yaml.safe_load(paths.PARAMS.read_text()), yaml.safe_load(profile.read_text())
    )
    assert config.parse(merged)


def pins(lines) -> dict[str, str]:
    found = (line.strip() for line in lines)
    pairs = (line.split("==") for line in found if "==" in line and not line.startswith("#"))
    return {name.lower().replace("_", "-").replace(".", "-"): version for name, version in pairs}


def test_the_three_environment_files_agree():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    lock = (paths.ROOT / "requirements.txt").read_text()
    locked, direct = pins(lock.splitlines()), pins(project["dependencies"])
    assert len(direct) == len(project["dependencies"]), "every direct dependency is pinned exactly"
    assert {n: locked.get(n) for n in direct} == direct
    assert direct["torch"] == "2.13.0"
    conda = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    assert conda[-1] == {"pip": ["-r requirements.txt", "-e ."]}
    python = next(str(d) for d in conda if str(d).startswith("python="))
    assert project["requires-python"] == f">={python.removeprefix('python=')}"
    for local in ("+cpu", "nvidia", "index-url", "file:", "@ "):
        assert local not in lock, "the lock must work on other machines"


def test_the_oldest_supported_python_can_install_the_lock():
    """A lock made with a newer patch release may pin versions that 3.11.0 refuses."""
    locked = pins((paths.ROOT / "requirements.txt").read_text().splitlines())
    refused = [
        f"{d.name}=={d.version}"
        for d in distributions()
        if d.metadata["Name"].lower().replace("_", "-").replace(".", "-") in locked
        and not SpecifierSet(d.metadata.get("Requires-Python") or "").contains("3.11.0")
    ]
    assert not refused, "pin older versions of these, or make the lock with Python 3.11.0"


def test_the_library_is_not_ignored_by_git():
    if not (paths.ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    ignored = subprocess.run(["git", "check-ignore", "lib/paths.py"], cwd=paths.ROOT, check=False)
    assert ignored.returncode == 1


PAGES = [paths.ROOT / "README.md", *sorted((paths.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_pages_link_to_what_exists_and_name_commands_that_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links and all((page.parent / link).exists() for link in links)
    makefile = (paths.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_the_first_page_names_both_commands_and_is_short():
    text = (paths.ROOT / "README.md").read_text()
    assert {"repro", "test"} <= set(re.findall(r"`make ([a-z-]+)", text))
    assert len(text.splitlines()) <= 130


def test_every_figure_is_listed_and_the_start_page_lists_every_notebook():
    listed = (paths.ROOT / "docs" / "FIGURES.md").read_text()
    drawn = {str(p.relative_to(paths.ROOT)) for p in paths.FIGURES.rglob("*.png")}
    assert drawn and all(f"../{figure}" in listed for figure in drawn)
    start = "".join("".join(c["source"]) for c in cells(NOTEBOOKS[0], "markdown"))
    assert all(f"({p.name})" in start for p in NOTEBOOKS[1:])


def test_sections_and_modules_that_are_named_exist():
    method = (paths.ROOT / "METHOD.md").read_text()
    sections = set(re.findall(r"^(?:#+ |\*\*)(\d+(?:\.\d+)?)", method, re.M))
    for path in [*NOTEBOOKS, *(paths.ROOT / "lib").rglob("*.py")]:
        named = re.findall(r"sections? (\d+(?:\.\d+)?)", path.read_text())
        assert set(named) <= sections, f"{path.name} names a section of METHOD.md that is not there"
    for file in re.findall(r"`(lib/[\w/]+\.py)`", method + "".join(p.read_text() for p in PAGES)):
        assert (paths.ROOT / file).exists() or file == "lib/attacks/shrink.py", file


@pytest.mark.parametrize(
    ("page", "begin", "end", "made"),
    [
        ("docs/RESULTS.md", report.BEGIN, report.END, lambda: report.markdown(PARAMS["tasks"])),
        ("docs/SPEED.md", report.SPEED, report.SPEED_END, report.speed),
        ("README.md", report.BEGIN, report.END, lambda: report.bullets(PARAMS["tasks"])),
        ("README.md", report.TABLE, report.TABLE_END, lambda: report.table(PARAMS["tasks"])),
    ],
    ids=["results", "speed", "first findings", "first table"],
)
def test_the_numbers_on_the_pages_are_those_of_the_tables(page, begin, end, made):
    text = (paths.ROOT / page).read_text()
    assert text.split(begin)[1].split(end)[0].strip() == made()
