"""The graphical abstract: one edit made early and late, what each says when asked differently, and
what relearning brings back. An SVG whose every number comes from the tables."""

from __future__ import annotations

from html import escape

import pandas

from lib.figures.style import NEW, OLD

GREY, INK = "#d9d9d9", "#222222"
EARLY, LATE = "mlp-window-0", "mlp-window-12"


def values(
    carried: pandas.DataFrame,
    back: pandas.DataFrame,
    edits: pandas.DataFrame,
    facts: pandas.DataFrame,
    n_layers: int,
) -> dict:
    """What the picture says of the early and of the late window; {} where one was not edited.

    The fact shown is the first one, by name, that gets its new answer in another wording after the
    early edit and its old one after the late edit, in most formats.
    """
    found = {"n_layers": n_layers}
    for side, name in (("early", EARLY), ("late", LATE)):
        named = [name in [r.localization, *r.also.split()] for r in edits.itertuples()]
        mine = edits[named]
        if mine.empty:
            return {}
        edit = mine.iloc[0].localization
        rows = carried[(carried.localization == edit) & (carried.kind == "wording")]
        said = rows.set_index("says")
        said = said.value.fillna(said.all_formats)  # of formats that count, if any does
        returned = back[back.localization == edit].iloc[0]
        found[side] = {
            "layers": [int(layer) for layer in mine.iloc[0].mlp.split()],
            "new": float(said["new"]),
            "old": float(said["old"]),
            "back": int(returned.back),
            "n": int(returned.n),
            "edit": edit,
        }
    return found | _example(facts, found["early"]["edit"], found["late"]["edit"])


def _example(facts: pandas.DataFrame, early: str, late: str) -> dict:
    table = facts.pivot_table("value", "id", ["measure", "localization"])
    wanted = [("new-wording", early), ("old-wording", late)]
    if not all(column in table for column in wanted):
        return {}
    order = table[wanted].min(axis=1).sort_values(ascending=False, kind="stable")
    row = facts[facts.id == order.index[0]].iloc[0]
    name = row.id.rsplit("/", 1)[-1]
    return {"subject": name, "true": row.true, "new": row.edit}


def _text(x: float, y: float, words: str, size: int = 14, **look) -> str:
    style = " ".join(f'{k.replace("_", "-")}="{v}"' for k, v in look.items())
    return f'<text x="{x}" y="{y}" font-size="{size}" {style}>{escape(words)}</text>'


def _stack(x: float, layers: list[int], n_layers: int, color: str) -> str:
    """The model as a stack of layers, the first one below, the trained MLPs lit."""
    boxes = []
    step = 198 / n_layers
    for layer in range(n_layers):
        fill, y = color if layer in layers else GREY, 262 - step * layer
        size = f'width="64" height="{step - 2:.1f}"'
        boxes.append(f'<rect x="{x}" y="{y:.1f}" {size} rx="2" fill="{fill}"/>')
    return "".join(boxes)


def _bar(x: float, y: float, found: dict) -> str:
    """New, other and old answers as parts of a bar 190 wide."""
    new, old = 190 * found["new"], 190 * found["old"]
    parts = [f'<rect x="{x}" y="{y}" width="190" height="16" fill="{GREY}"/>']
    parts.append(f'<rect x="{x}" y="{y}" width="{new:.1f}" height="16" fill="{NEW}"/>')
    start = x + 190 - old
    parts.append(f'<rect x="{start:.1f}" y="{y}" width="{old:.1f}" height="16" fill="{OLD}"/>')
    return "".join(parts)


def _dots(x: float, y: float, found: dict) -> str:
    """One dot for each held-out fact, those whose old answer came back filled."""
    dots = []
    for i in range(found["n"]):
        fill = OLD if i < found["back"] else "white"
        at = f'cx="{x + 6 + 12 * (i % 16)}" cy="{y + 14 * (i // 16)}"'
        dots.append(f'<circle {at} r="4.5" fill="{fill}" stroke="{OLD}"/>')
    return "".join(dots)


def _half(x: float, side: str, found: dict, values: dict) -> str:
    color = NEW if side == "early" else "#777777"
    first, last = found["layers"][0], found["layers"][-1]
    text = x + 92
    said = f"new answer {found['new']:.0%}, old answer {found['old']:.0%}"
    return "".join(
        [
            _text(x, 44, f"Train MLPs {first} to {last} ({side})", 16, font_weight="bold"),
            _stack(x, found["layers"], values["n_layers"], color),
            _text(text, 84, f"1  until it says: {values.get('subject', 'the fact')}", 14),
            _text(text + 18, 102, f"{values.get('true', '')} → {values.get('new', '')}", 14),
            _text(text, 138, "2  ask in another wording", 14),
            _bar(text + 18, 147, found),
            _text(text + 18, 180, said, 13),
            _text(text, 216, "3  teach half of the old answers back:", 14),
            _dots(text + 18, 231, found),
            _text(text + 18, 262, f"{found['back']} of {found['n']} others return", 13),
        ]
    )


def draw(values: dict) -> str:
    """The picture, 900 by 290."""
    body = _half(20, "early", values["early"], values) + _half(470, "late", values["late"], values)
    title = "The same edit, to the same strength, in as many weights"
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 290" width="900" height="290"'
    return (
        f'{head} font-family="sans-serif" fill="{INK}" role="img" aria-label="{title}">'
        f'<rect width="900" height="290" fill="white"/>{_text(20, 20, title, 14, fill="#555555")}'
        f'{body}<line x1="450" y1="32" x2="450" y2="276" stroke="#cccccc"/></svg>\n'
    )
