"""The course: what is generated fits its master, and the checks tell right answers from typical
wrong ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import import_module
from importlib.util import find_spec

import mistakes
import pytest
import torch
from matplotlib import image

import course
from course.checks import hints
from lib import paths

MASTERS = sorted((course.FOLDER / "master").glob("*.ipynb"))
SESSIONS = [path.stem.split("_")[0] for path in MASTERS]
CHECKS = {s: import_module(f"course.checks.{s}") for s in SESSIONS}
MISTAKES = {s: import_module(f"{mistakes.__name__}.{s}") for s in SESSIONS}
EXERCISES = [(session, name) for session in SESSIONS for name in hints(session)]
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def cells(path, kind="code", tag=None) -> list[str]:
    """Sources of the cells of one kind, or of those with a tag."""
    found = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]
    tagged = [c for c in found if tag in (None, *c["metadata"].get("tags", []))]
    return ["".join(c["source"]) for c in tagged]


def functions(folder: str, session: str) -> dict:
    """What the exercise cells of a session define."""
    (path,) = (course.FOLDER / folder).glob(f"{session}_*.ipynb")
    names = {}
    for source in cells(path, tag="imports") + cells(path, tag="exercise"):
        exec(compile(source, path.name, "exec"), names)
    return names


def hint_for(session: str, name: str, mutant) -> str:
    mistake = mutant.__name__.split("__")[0].replace("_", " ")
    return hints(session)[name][mistake]


@pytest.fixture(scope="module", params=SESSIONS)
def worked(request, default_model):
    """(session, everything that its notebook defines), run from top to bottom with its solutions;
    without the cells tagged `results` where there are no results to read."""
    import matplotlib

    matplotlib.use("Agg")
    (path,) = (course.FOLDER / "solutions").glob(f"{request.param}_*.ipynb")
    have = (paths.DATA / "unedited" / "sports-athletes" / "0" / "unedited.csv").exists()
    skipped = set() if have else set(cells(path, tag="results"))
    names = {}
    for source in cells(path):
        if source not in skipped:
            exec(compile(source, path.name, "exec"), names)
    return request.param, names


@pytest.mark.parametrize(("session", "name"), EXERCISES)
def test_a_check_passes_on_the_solution_whatever_is_drawn(session, name):
    solution = functions("master", session)[name]
    for _ in range(5):
        getattr(CHECKS[session], name)(solution)


@pytest.mark.parametrize(("session", "name"), EXERCISES)
def test_a_check_fails_on_what_the_student_is_given(session, name):
    with pytest.raises(NotImplementedError):
        getattr(CHECKS[session], name)(functions("student", session)[name])


@pytest.mark.parametrize(
    ("session", "name", "mutant"),
    [
        (session, name, mutant)
        for session, module in MISTAKES.items()
        for name, three in module.MUTANTS.items()
        for mutant in three
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_typical_mistake_gets_the_hint_meant_for_it(session, name, mutant):
    with pytest.raises(AssertionError) as caught:
        getattr(CHECKS[session], name)(mutant)
    assert hint_for(session, name, mutant) in str(caught.value)
    shown = " ".join(caught.value._render_traceback_())
    assert str(caught.value)[-40:] in shown, "in a notebook, the hint and no code of the check"


@pytest.mark.parametrize("session", SESSIONS)
def test_every_hint_has_its_mutant(session):
    mutants = MISTAKES[session].MUTANTS
    assert mutants.keys() == hints(session).keys()
    for name, three in mutants.items():
        assert len(three) >= 3
        assert {hint_for(session, name, m) for m in three} == set(hints(session)[name].values())


def test_a_function_that_fits_the_example_only_fails_on_random_input():
    examples = iter([torch.tensor([0.3, 0.1])])  # right for the first input of the check
    with pytest.raises(AssertionError, match="random"):
        CHECKS["s1"].p_answer(
            lambda model, ids, tokens: next(examples, torch.tensor([0.3, 0.1, 0.2]))
        )


@pytest.mark.parametrize("path", MASTERS, ids=lambda p: p.stem)
def test_the_student_gets_no_solution_and_no_output(path):
    text = (course.FOLDER / "student" / path.name).read_text()
    slides = (course.FOLDER / "slides" / f"{path.stem.split('_')[0]}.html").read_text()
    written = "\n".join(cells(course.FOLDER / "student" / path.name))
    assert "SOLUTION" not in text and "SOLUTION" not in slides
    for source in cells(path, tag="exercise"):
        (solution,) = re.findall(f"{BEGIN}\n(.*?){END}", source, re.S)
        for line in map(str.strip, solution.splitlines()):
            assert not line or line not in written and line not in slides, line
    assert len(cells(course.FOLDER / "student" / path.name, tag="exercise")) == written.count(
        "raise NotImplementedError"
    )


@pytest.mark.parametrize("path", sorted(course.FOLDER.glob("*/*.ipynb")), ids=str)
def test_notebooks_of_the_course_are_clean(path):
    if path.parent.name == "mine":
        pytest.skip("what somebody works on")
    book = json.loads(path.read_text())
    assert path.read_text() == json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert not any(c.get("outputs") or c.get("execution_count") for c in book["cells"])
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text())
    assert len({c["id"] for c in book["cells"]}) == len(book["cells"])


def test_everything_generated_is_as_the_masters_make_it():
    if not find_spec("nbgrader"):
        pytest.skip("nbgrader, which only teachers need, is not installed: `make course` does it")
    from course import generate

    first = generate.generated()
    assert first == generate.generated()
    assert {p: p.read_text() for p in first} == first


@pytest.mark.parametrize("page", sorted((course.FOLDER / "slides").glob("*.html")), ids=str)
def test_slides_load_nothing_that_is_not_beside_them(page):
    text = page.read_text()
    loaded = re.findall(r"""(?:src|href)=["']([^"'#]+)|url\(["']?([^)"']+)|from '([^']+)'""", text)
    wanted = {next(filter(None, found)) for found in loaded}
    assert wanted and not [w for w in wanted if "://" in w]
    assert all((page.parent / w).exists() for w in wanted)
    assert "$" not in text, "a formula would need a library: write it as code"
    for style in (page.parent / "reveal.js").rglob("*.css"):
        assert not re.search(r"@import|url\((?!data:)", style.read_text())


@pytest.mark.parametrize("page", sorted((course.FOLDER / "slides").glob("*.html")), ids=str)
def test_slides_show_something_in_a_browser_without_network(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("no Chromium on this machine to open the slides in")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    options += [f"--user-data-dir={tmp_path}/profile", f"--screenshot={tmp_path}/seen.png"]
    options += ["--window-size=1100,767", "--host-resolver-rules=MAP * ~NOTFOUND"]
    last = f"{page.as_uri()}#/{page.read_text().count('<section><section>') - 1}"
    subprocess.run([browser, *options, last], check=True, capture_output=True, timeout=120)
    seen = image.imread(tmp_path / "seen.png")[:, :, 0]
    assert 0.005 < (seen < 0.5).mean() < 0.2, "dark letters on a light page"


PAGES = sorted(p for p in course.FOLDER.rglob("*.md") if "mine" not in p.parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(course.FOLDER)))
def test_pages_of_the_course_link_to_what_exists_and_name_commands_that_exist(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all((page.parent / link).exists() for link in links)
    targets = set(re.findall(r"^([a-z-]+):.*##", (paths.ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_the_course_is_written_plainly_and_its_words_are_in_the_glossary():
    glossary = (course.FOLDER / "glossary.md").read_text().lower()
    prose = [p.read_text() for p in PAGES]
    prose += ["\n".join(cells(path, "markdown")) for path in MASTERS]
    for text in prose:
        assert "\u2014" not in text and not re.search(r"\w!(\s|$)", text)
    for path in MASTERS:
        for slide in cells(path, "markdown"):
            terms = re.findall(r"\*\*([\w ]+)\*\*", slide)
            for term in (t.lower().removesuffix("s") for t in terms):
                listed = f"**{term}" in glossary
                assert listed or term in ("prediction", "function", "check", "hint", "difficulty")


@pytest.mark.parametrize("session", SESSIONS)
def test_the_notes_name_the_numbers_that_the_checks_expect(session):
    found, notes = course.answers(session), (course.FOLDER / "notes" / f"{session}.md").read_text()
    assert not [n for n in MISTAKES[session].named(found) if n not in notes]


def test_no_typical_mistake_counts_as_many_known_facts_as_the_right_rule():
    counts = course.answers("s1")["known_right"]
    assert counts["known"] not in (wrong := counts["mistakes"].values()) and len(set(wrong)) == 3


@pytest.mark.model
@pytest.mark.slow
def test_mistakes_are_recognized_on_the_real_model(worked):
    """The notebook itself has run from top to bottom before, its checks included."""
    session, names = worked
    for name, mutant, given in MISTAKES[session].real(names):
        check = getattr(CHECKS[session], f"{name}_real")
        with pytest.raises(AssertionError) as caught:
            check(mutant, *given)
        assert hint_for(session, name, mutant) in str(caught.value)
        with pytest.raises(NotImplementedError):
            check(functions("student", session)[name], *given)
