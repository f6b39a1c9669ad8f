"""The pages of the book, assembled from the repository: `python -m book.pages`.

Written to `book/build/source`: README, docs, method, course and study as they are; notebooks with
the outputs of their executed copies; explorers with their rows; the claims with links to the cells
of tables and notebooks. In `book/build/extra`: files that pages link to as they are. Reads only
what is committed, and imports nothing of `lib`.
"""

from __future__ import annotations

import ast
import csv
import html
import json
import re
import shutil
from pathlib import Path

import nbformat

from book import DATA, FOLDER, ROOT, TASK, behind

BUILD = FOLDER / "build"
SOURCE, EXTRA = BUILD / "source", BUILD / "extra"
RESULTS = "50_results"  # the notebook whose cells make the claims' tables
LINE = re.compile(
    r"^\| (?P<claim>.*?) ?\| (?P<number>[-+.\d]+) "
    r"\| `(?P<table>results/[^`]+\.csv)`: `(?P<column>\w+)` where (?P<where>.+) \|$"
)
COURSE = ("student", "solutions", "notes", "quiz")
NAMES = {"README": "index"}


def write(path: str, text: str) -> None:
    """A page of the source folder."""
    (SOURCE / path).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / path).write_text(text)


def anchor(href: str, text: str, more: str = "") -> str:
    """A link in HTML; text is plain."""
    return f'<a href="{html.escape(href)}"{more}>{html.escape(text)}</a>'


def linked(path: Path) -> str:
    """Markdown of a page with links that hold in the book."""
    return relinked(path.read_text(), path)


def relinked(text: str, path: Path) -> str:
    """Markdown that stands in `path` with links that hold in the book: the README is its first
    page; pictures and slides are files beside the pages."""

    def to(match) -> str:
        home = (path.parent / match[1]).resolve() == ROOT / "README.md"
        return f"]({match[1].replace('README', 'index')})" if home else match[0]

    def with_tables(match) -> str:
        picture = (path.parent / match[1]).resolve()
        found = behind.tables(picture.relative_to(ROOT).as_posix())
        depth = len(path.relative_to(ROOT).parts) - 1
        return f"{match[0]}\n\n{downloads(found, '../' * depth)}" if found else match[0]

    text = re.sub(r"^!\[[^]]*\]\(([^)]+)\)$", with_tables, text, flags=re.M)
    text = re.sub(r"(?<!!)\[([^]]+)\]\(([^)]+\.(?:png|svg|html))\)", _as_file, text)
    return re.sub(r"\]\(([./]*README\.md)\)", to, text)


def _as_file(match) -> str:
    label, href = match.groups()
    return match[0] if "://" in href else anchor(href, label)


# Notebooks


def same_code(a: str, b: str) -> bool:
    """Do two cells hold the same code, comments and layout aside?"""
    try:
        return ast.dump(ast.parse(a)) == ast.dump(ast.parse(b))
    except SyntaxError:
        return a == b


def merged(path: Path, kept: dict | None):
    """A notebook with outputs: prose and code from git, outputs by cell from its executed copy."""
    book = nbformat.read(path, 4)
    outputs = {c["id"]: c for c in kept["cells"]} if kept else {}
    cells = []
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, path)
            cells.append(cell)
            if len(cells) == 1:
                cells.append(markdown(note(kept), "about"))
            continue
        cells.append(markdown(f'<span id="cell-{cell.id}"></span>', f"at-{cell.id}"))
        cell.metadata = nbformat.from_dict({})
        cells.append(cell)
        found = outputs.get(cell.id)
        if found and not same_code(found["source"], cell.source):
            cells.append(markdown("*The code is newer than the run shown here.*", f"new-{cell.id}"))
        elif found:
            cell.outputs = [nbformat.from_dict(o) for o in found["outputs"]]
            if found.get("alt"):
                cell.metadata = nbformat.from_dict({"mystnb": {"image": {"alt": found["alt"]}}})
                tables = found["tables"] or behind.shown(cell.source)
                cells.append(markdown(downloads(tables), f"csv-{cell.id}"))
    book.cells = cells
    return book


def markdown(text: str, name: str):
    return nbformat.v4.new_markdown_cell(text, id=name)


def note(kept: dict | None) -> str:
    """What run the outputs of a lesson come from."""
    if kept is None:
        return ":::{note}\nNot part of the default run, so there are no outputs here.\n:::"
    return (
        f":::{{note}}\nOutputs of the default run (`{'`, `'.join(kept['shown'])}`). Open the "
        "notebook with `make lab` to change something.\n:::"
    )


def downloads(tables: list[str], up: str = "../") -> str:
    """Links to the tables behind a figure; up: from the page to the site's first folder."""
    paths = [t if t.startswith("tables/") else f"tables/{t}" for t in tables]
    there = [p for p in paths if (EXTRA / p).exists()]
    links = ", ".join(anchor(up + p, p.split("/", 1)[1], " download") for p in there)
    return f'<p class="tables">Tables behind this figure: {links}.</p>' if links else ""


def notebooks() -> list[str]:
    """Write all lessons; returns their pages."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        kept = DATA / "executed" / f"{path.stem}.json"
        book = merged(path, json.loads(kept.read_text()) if kept.exists() else None)
        write(f"notebooks/{path.name}", nbformat.writes(book))
    return pages_in("notebooks")


def pages_in(folder: str) -> list[str]:
    """Pages of a folder of the source, in order."""
    found = (p for p in (SOURCE / folder).rglob("*") if p.suffix in (".md", ".ipynb"))
    return sorted(p.relative_to(SOURCE).with_suffix("").as_posix() for p in found)


# Tables and claims


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table_page(table: str) -> None:
    """A published table as a page whose cells can be linked to; table: its path in data/tables."""
    rows = rows_of(ROOT / "data" / "tables" / table)
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in rows[0])
    lines = [
        "<tr>"
        + "".join(f'<td id="r{i}-{c}">{html.escape(v)}</td>' for c, v in row.items())
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    get = anchor(Path(table).name, "Download as csv", " download")
    write(
        f"tables/{table.removesuffix('.csv')}.md",
        f"# {table}\n\n<p>{get}, {len(rows)} rows.</p>\n\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{table}">'
        f'<table class="data"><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>\n",
    )


def makers(notebook: str) -> dict[str, str]:
    """{table: the cell that computes it} of a notebook that saves tables from a dict of names."""
    named, assigned = {}, {}
    for cell in nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells:
        if cell.cell_type != "code" or "figure" in cell.metadata.get("tags", []):
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        assigned[target.id] = cell.id
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values)
                named |= {
                    k.value: v.id
                    for k, v in pairs
                    if isinstance(k, ast.Constant) and isinstance(v, ast.Name)
                }
    return {table: assigned[name] for table, name in named.items() if name in assigned}


def claims() -> dict[str, list[dict]]:
    """Claims by task as `docs/CLAIMS.md` lists them, each {claim, numbers}; a number is {number,
    table, column, where, row}, row being its place in the table. ValueError if a cell is not
    there."""
    found, tables = {}, {}
    for line in (ROOT / "docs" / "CLAIMS.md").read_text().splitlines():
        if not (m := LINE.match(line)):
            continue
        rows = tables.setdefault(m["table"], rows_of(ROOT / "data" / "tables" / m["table"]))
        where = dict(pair.split(" = ") for pair in m["where"].split(", "))
        fits = [i for i, r in enumerate(rows) if all(r[k] == v for k, v in where.items())]
        if len(fits) != 1:
            raise ValueError(f"{m['table']} has {len(fits)} rows where {m['where']}: `make readme`")
        mine = found.setdefault(m["table"].split("/")[1], [])
        if m["claim"]:
            mine.append({"claim": m["claim"], "numbers": []})
        mine[-1]["numbers"].append(m.groupdict() | {"row": fits[0]})
    return found


def claims_page() -> list[str]:
    """Write the page of claims; returns the tables it cites."""
    made, cited = makers(RESULTS), {}
    parts = [
        "# Claims and their numbers\n\nEvery sentence of the results, each number in it, the cell "
        "of the table it comes from, and the notebook cell that computes that table. A test fills "
        "every sentence again from the tables and compares.\n"
    ]
    for task, several in claims().items():
        parts.append(f"\n## {task}\n")
        for i, claim in enumerate(several):
            lines = []
            for n in claim["numbers"]:
                table = n["table"].removesuffix(".csv")
                cited[n["table"]] = None
                cell = anchor(
                    f"../tables/{table}.html#r{n['row']}-{n['column']}",
                    f"{n['table']}: {n['column']} where {n['where']}",
                )
                maker = made[Path(table).name]
                book = anchor(f"../notebooks/{RESULTS}.html#cell-{maker}", f"{RESULTS}, {maker}")
                lines.append(f"<tr><td>{n['number']}</td><td>{cell}</td><td>{book}</td></tr>")
            text = html.escape(claim["claim"])
            parts.append(
                f'\n<details class="claim" id="{task}-{i}"><summary>{text}</summary>'
                '<div class="scroll"><table><thead><tr><th scope="col">number</th><th scope="col">'
                'cell of a table</th><th scope="col">made by</th></tr></thead><tbody>'
                + "".join(lines)
                + "</tbody></table></div></details>\n"
            )
    write("docs/CLAIMS.md", "".join(parts))
    return list(cited)


def tables() -> None:
    """Copy every table to where pages link to it, and write a page that lists them."""
    shutil.copytree(ROOT / "data" / "tables", EXTRA / "tables")
    shutil.copytree(DATA / "tables", EXTRA / "tables", dirs_exist_ok=True)
    more = {"explorers": DATA, "study": ROOT / "study" / "tables", "bench": ROOT / "bench"}
    for name, folder in more.items():
        (EXTRA / "tables" / name).mkdir()
        for path in folder.glob("*.csv"):
            shutil.copyfile(path, EXTRA / "tables" / name / path.name)


def tables_page() -> None:
    lines = [
        "# Tables\n\nEvery table behind a figure, a sentence or an explorer, as csv; in brackets "
        "its number of rows.\n"
    ]
    for folder in sorted({p.parent for p in (EXTRA / "tables").rglob("*.csv")}):
        name = folder.relative_to(EXTRA / "tables").as_posix()
        links = []
        for path in sorted(folder.glob("*.csv")):
            rows = len(rows_of(path))
            links.append(f"{anchor(f'{name}/{path.name}', path.name, ' download')} ({rows})")
        lines.append(f"\n## {name}\n\n<p>{', '.join(links)}</p>\n")
    write("tables/index.md", "".join(lines))


# Explorers


def compact(name: str, numbers: tuple[str, ...] = (), columns: tuple[str, ...] = ()) -> dict:
    """A table of the explorers as {head, rows}; numbers: columns that hold numbers."""
    rows = rows_of(DATA / f"{name}.csv")
    head = list(columns or rows[0])
    as_number = {c for c in head if c in numbers or c.isdigit()}
    table = [[float(r[c]) if c in as_number else r[c] for c in head] for r in rows]
    table = [[int(v) if isinstance(v, float) and v == int(v) else v for v in r] for r in table]
    return {"head": head, "rows": table}


def first_layers() -> list[dict]:
    """The edits of the task, single MLPs first, then windows, by layer: name, MLPs, whether they
    reached the strength."""
    rows = rows_of(ROOT / "data" / "tables" / "results" / TASK / "edits.csv")
    alone = {r["localization"]: bool(re.fullmatch(r"mlp-\d+", r["localization"])) for r in rows}
    place = {name: (not single, "window" not in name) for name, single in alone.items()}
    rows.sort(key=lambda r: (place[r["localization"]], int(r["first_layer"]), r["localization"]))
    keys = ("localization", "mlp", "reached")
    return [{k: r[k] for k in keys} for r in rows]


def explorer_data(name: str) -> dict:
    """What one explorer embeds."""
    if name == "card":
        rows = rows_of(DATA / "card.csv")
        counts = ("budget", "n", "right", *(c for c in rows[0] if c.startswith(("true ", "said "))))
        return {"rules": json.loads((DATA / "card.json").read_text()), **compact(name, counts)}
    edits = first_layers()
    if name == "relearn":
        rules = json.loads((DATA / "card.json").read_text())
        return {"edits": edits, "rules": rules, **compact(name, ("step",))}
    if name == "ask":
        formats = json.loads((DATA / "formats.json").read_text())
        table = compact(name, ("p_true", "p_edit"))
        return {"edits": edits, "formats": formats, **table}
    return compact(name, ("p_clean", "p_corrupt"))


def alt_of(notebook: str, picture: int) -> str:
    """The title of a figure of a notebook, which was drawn from its tables."""
    kept = json.loads((DATA / "executed" / f"{notebook}.json").read_text())
    return [c["alt"] for c in kept["cells"] if c.get("alt")][picture]


def explorers() -> None:
    """Write the pages of `book/pages`; a line `{{explorer NAME}}` becomes the explorer, and in
    `{{alt NOTEBOOK N}}` stands the title of a figure."""

    def embedded(match) -> str:
        name = match[1]
        data = json.dumps(explorer_data(name), ensure_ascii=False, separators=(",", ":"))
        data = data.replace("</", "<\\/")
        return (
            f'<div class="explorer" id="{name}"><p>This explorer needs JavaScript; the picture and '
            "the table below show the same results.</p></div>\n"
            f'<script type="application/json" id="{name}-data">{data}</script>\n'
            '<script src="../_static/explorers/common.js"></script>\n'
            f'<script src="../_static/explorers/{name}.js"></script>\n'
        )

    for path in sorted((FOLDER / "pages").glob("*.md")):
        text = re.sub(
            r"\{\{alt (\w+) (\d)\}\}", lambda m: alt_of(m[1], int(m[2])), path.read_text()
        )
        text = re.sub(r"\{\{times\}\}", lambda m: times(), text)
        text = re.sub(r"\{\{machine\}\}", lambda m: machine(), text)
        text = re.sub(r"\{\{explorer (\w+)\}\}", embedded, text)
        write(f"explore/{path.name}" if "{{explorer" in path.read_text() else path.name, text)


def times() -> str:
    """Seconds of every notebook of the run, as markdown, with their sum in minutes."""
    rows = rows_of(DATA / "times.csv")
    total = sum(float(r["seconds"]) for r in rows) / 60
    lines = [f"In all {total:.0f} minutes in notebooks, {len(rows)} runs:\n"]
    lines += ["| notebook and what it ran on | seconds |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {r['notebook']} | {r['seconds']} |" for r in rows)])


def machine() -> str:
    """The sentence of docs/RESULTS.md on the machine that made the tables."""
    text = (ROOT / "docs" / "RESULTS.md").read_text()
    return re.search(r"<!-- machine: .*? -->\n(.*?)\n<!--", text, re.S)[1]


# The whole


def toctree(caption: str, pages: list[str]) -> str:
    """A part of the contents in the margin."""
    return "\n".join(
        [f"\n:::{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n", *pages, ":::\n"]
    )


def texts() -> None:
    """Docs, method, study and course, as they are but for their links."""
    pages = [ROOT / "METHOD.md", *(ROOT / "docs").glob("*.md"), ROOT / "study" / "PLAN.md"]
    pages += [ROOT / "course" / "README.md", ROOT / "course" / "glossary.md"]
    for folder in COURSE:
        pages += sorted((ROOT / "course" / folder).glob("*.*"))
    for path in pages:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".md":
            write(name, linked(path))
        elif path.suffix == ".png":
            shutil.copyfile(path, SOURCE / name)
        elif path.suffix == ".ipynb":
            book = nbformat.read(path, 4)
            for cell in book.cells:
                cell.metadata = nbformat.from_dict({})
                if cell.cell_type == "markdown":
                    cell.source = relinked(cell.source, path)
            write(name, nbformat.writes(book))


def main() -> None:
    """Assemble everything anew."""
    shutil.rmtree(BUILD, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    EXTRA.mkdir()
    tables()
    for picture in (ROOT / "figures").rglob("*.*g"):
        target = EXTRA / picture.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    shutil.copytree(ROOT / "figures", SOURCE / "figures", ignore=shutil.ignore_patterns("*.pdf"))
    (SOURCE / "bench").mkdir()
    shutil.copyfile(ROOT / "bench" / "speed.png", SOURCE / "bench" / "speed.png")
    shutil.copytree(
        ROOT / "course" / "slides",
        EXTRA / "course" / "slides",
        ignore=shutil.ignore_patterns("template"),
    )
    texts()
    lessons = notebooks()
    for table in [*claims_page(), f"score_card/{TASK}/worst_case.csv"]:
        table_page(table)
    tables_page()
    explorers()
    explore = ["explore/score_card", "explore/relearning", "explore/ask", "explore/trace"]
    results = [
        "docs/CLAIMS",
        "docs/RESULTS",
        "docs/STUDY",
        "study/PLAN",
        "METHOD",
        "docs/FIGURES",
        "docs/SPEED",
        "docs/SCALE",
        "tables/index",
    ]
    inside = [p for p in pages_in("tables") if p != "tables/index"]
    with (SOURCE / "tables" / "index.md").open("a") as file:
        file.write("\n## As pages\n\n:::{toctree}\n:maxdepth: 1\n\n")
        file.write("\n".join("/" + p for p in inside) + "\n:::\n")
    course = ["course/README", "course/glossary"]
    for folder in COURSE:
        for page in pages_in(f"course/{folder}"):
            session = re.match(r"s(\d+)", Path(page).name)[1]
            course.append(f"Session {session}: {folder} <{page}>")
    front = linked(ROOT / "README.md")
    begin = (
        "**In this book**: four explorers to click ([the score card](explore/score_card.md), "
        "[relearning](explore/relearning.md), [edit and ask](explore/ask.md), "
        "[trace a fact](explore/trace.md)), every notebook [with its outputs]"
        "(notebooks/00_start_here.ipynb), and [every claim with its number](docs/CLAIMS.md).\n\n"
    )
    title, rest = front.split("\n\n", 1)
    write(
        "index.md",
        f"{title}\n\n{begin}{rest}"
        + toctree("Explore", explore)
        + toctree("Lessons", lessons)
        + toctree("Results and method", results)
        + toctree("Use it", ["reproduce", "docs/EXTEND", "docs/TROUBLE", "cite"])
        + toctree("Course", course),
    )


if __name__ == "__main__":
    main()
