"""What a stage depends on: everything it computes with, and nothing that is only said or drawn."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib import paths
from lib.stages import closure
from lib.stages.closure import Library, canonical, cells, code_of, runnable
from lib.stages.code import generated

FILES = sorted((paths.ROOT / "lib").rglob("*.py"))
NAMES = [str(f.relative_to(paths.ROOT)) for f in FILES]


@pytest.fixture(scope="module")
def before():
    return generated(paths.ROOT)


@pytest.fixture
def project(tmp_path):
    """A copy of the sources to change."""
    for part in ("lib", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(paths.ROOT / part, tmp_path / part, ignore=ignored)
    return tmp_path


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Names of the manifests that differ."""
    assert before.keys() == after.keys()
    return {n.removesuffix(".txt") for n in before if n.endswith(".txt") and before[n] != after[n]}


def test_comments_docstrings_and_layout_change_nothing(project, before):
    for file in (project / "lib").rglob("*.py"):
        source = file.read_text()
        said = re.sub(r'"""(?=[A-Z])', '"""Now: ', source)
        file.write_text("# a comment\n" + said + "\n\n# another\n")
    ruff = Path(sys.executable).parent / "ruff"
    subprocess.run([ruff, "format", "-q", "--line-length", "60", "lib"], cwd=project, check=True)
    assert (project / NAMES[-1]).read_text() != FILES[-1].read_text()
    assert changed(before, generated(project)) == set()


@pytest.mark.parametrize(
    "one, other",
    [
        ('"""Says this."""\nx = 1', '"""Says that."""\nx = 1'),
        ("def f():\n    'why'\n    return 1", "def f():\n    return 1"),
        ("x = 'a' 'b'", "x = 'ab'"),
        ('x = f"a{y}" "b"', 'x = f"a{y}b"'),
        ("f(a, b)", "f(\n    a,\n    b,\n)  # why"),
        ("x = (1)", "x = 1"),
    ],
)
def test_the_same_code_is_written_the_same(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    "one, other",
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("f(a, b)", "f(b, a)"),
        ("f(a=1)", "f(b=1)"),
        ("x = f'{y:.2f}'", "x = f'{y:.3f}'"),
        ("x = 'a'", "x = b'a'"),
        ("def f(x=1): pass", "def f(x=2): pass"),
        ("def f(x, *, y): pass", "def f(x, y): pass"),
        ("a < b", "a <= b"),
        ("[a, b]", "(a, b)"),
        ("x = 'doc'", "'doc'"),
    ],
)
def test_other_code_is_written_differently(one, other):
    assert canonical(one) != canonical(other)


def works(python: str | None) -> bool:
    """Is it there, and no empty shell of a version manager?"""
    return bool(python) and not subprocess.run([python, "-V"], capture_output=True).returncode


VERSIONS = [p for v in range(11, 15) if works(p := shutil.which(f"python3.{v}"))]


@pytest.mark.skipif(len(VERSIONS) < 2, reason="needs two versions of Python to compare")
def test_all_versions_of_python_write_the_same(tmp_path):
    functions = ("canonical", "_written", "_is_text", "_merged", "digest")
    source = Path(closure.__file__).read_text()
    tree = ast.parse(source)
    parts = [n for n in tree.body if getattr(n, "name", "") in functions]
    text = "\n\n".join(ast.get_source_segment(source, n) for n in parts)
    script = tmp_path / "digest.py"
    script.write_text(
        "from __future__ import annotations\nimport ast, hashlib, sys\nfrom pathlib import Path\n"
        f"SKIPPED = {closure.SKIPPED!r}\n{text}\n"
        "print([digest(canonical(Path(f).read_text())) for f in sys.argv[1:]])"
    )
    said = {
        subprocess.run([v, script, *FILES], capture_output=True, text=True, check=True).stdout
        for v in VERSIONS
    }
    assert len(said) == 1


@pytest.mark.parametrize("tag", ["play", "parameters"])
def test_cells_that_are_not_hashed_change_nothing_and_do_not_run(project, before, tag):
    for file in (project / "notebooks").glob("*.ipynb"):
        book = json.loads(file.read_text())
        for cell in book["cells"]:
            if tag in cell["metadata"].get("tags", []):
                cell["source"] = ["1 / 0"]
        book["cells"].append({"cell_type": "markdown", "id": "new", "metadata": {}, "source": "!"})
        file.write_text(json.dumps(book))
    after = generated(project)
    assert changed(before, after) == set()
    run = "".join(t for n, t in after.items() if n.endswith(".ipynb"))
    assert ("1 / 0" in run) == (tag == "parameters")


def test_a_colour_changes_drawing_stages_only(project, before):
    style = project / "lib/figures/style.py"
    before_it, old = style.read_text(), 'OLD, GREY = "#0072b2"'
    style.write_text(before_it.replace(old, 'OLD, GREY = "#0072b3"'))
    assert style.read_text() != before_it
    touched = changed(before, generated(project))
    assert touched and all(name.startswith("draw_") for name in touched)


def test_drawing_needs_no_torch_and_computing_no_matplotlib(before):
    for name, text in before.items():
        if name.endswith(".txt"):
            modules = set(re.findall(r"^(lib\S*) ", text, re.M))
            torch = {
                m for m in modules if m.startswith(("lib.attacks.", "lib.edit.", "lib.localize."))
            }
            assert not (torch if name.startswith("draw_") else modules & {"lib.figures.style"}), (
                name
            )


def test_a_function_changes_what_reaches_it(project, before):
    rome = project / "lib/edit/rome.py"
    rome.write_text(rome.read_text().replace("1e-6 *", "2e-6 *"))
    assert changed(before, generated(project)) == {"20_edit", "24_sweep", "62_edit_planted"}


def test_defaults_count_where_their_block_is_read(before):
    lines = {n.removesuffix(".txt"): t for n, t in before.items() if n.endswith(".txt")}
    users = {n for n, text in lines.items() if "default attack_relearn.rank = null" in text}
    assert {"24_sweep", "31_attack_relearn"} <= users
    assert not users & {"10_causal_tracing", "20_edit", "30_attack_formats", "text"}
    assert all(
        "default" not in line or " = " in line for t in lines.values() for line in t.split("\n")
    )


def test_the_checks_of_settings_are_no_dependency(project, before):
    rules = project / "lib/config/rules.py"
    rules.write_text(rules.read_text() + "\nMORE = 1\n")
    assert changed(before, generated(project)) == set()


def test_every_reached_module_is_listed(before):
    library = Library(paths.ROOT)
    for path in sorted((paths.ROOT / "notebooks").glob("*.ipynb")):
        tree = ast.parse(code_of(json.loads(path.read_text())))
        direct = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        listed = set(re.findall(r"^(lib\S*) ", before[f"{path.stem}.txt"], re.M))
        wanted = direct & set(library.trees)
        assert wanted - set(closure.CHECKS_ONLY) - {closure.COLUMNS} <= listed


def test_a_notebook_is_executed_as_it_is_hashed():
    for path in (paths.ROOT / "notebooks").glob("*.ipynb"):
        book = json.loads(path.read_text())
        for figures in (False, True):
            executed = runnable(book, figures)["cells"]
            tagged = [c for c in executed if "parameters" in c["metadata"].get("tags", [])]
            code = [c for c in executed if c["cell_type"] == "code" and c not in tagged]
            assert code == cells(book, figures) and len(tagged) == 1
