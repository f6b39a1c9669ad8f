"""Sphinx settings of the book. Pages are assembled by `book.pages`; nothing is executed, and no
asset is taken from the network: formulas become MathML while the book is built."""

from xml.etree import ElementTree

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = "Edit a fact where it is looked up"
html_title = project
author = "the authors of this repository"
language = "en"

extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]

html_theme = "furo"
html_static_path = ["_static"]
html_extra_path = ["build/extra"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_show_search_summary = False  # it would fetch pages, which browsers refuse for file://
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


MATHML = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", MATHML)


def formula(text: str, display: str) -> str:
    """A formula as MathML; lines above terms are borders, since few fonts can stretch a sign."""
    tree = ElementTree.fromstring(convert(text, display=display))
    for over in tree.iter(f"{{{MATHML}}}mover"):
        if over[1].text == "\u2015":
            over.remove(over[1])
            over.tag = f"{{{MATHML}}}mrow"
            over.set("class", "over")
    return ElementTree.tostring(tree, encoding="unicode")


def inline(self, node):
    self.body.append(formula(node.astext(), "inline"))
    raise SkipNode


def block(self, node):
    drawn = formula(node.astext(), "block")
    self.body.append(f'<div class="formula" tabindex="0" role="group">{drawn}</div>')
    raise SkipNode


def with_levels(app, page, template, context, tree):
    """Captions in the margin are headings; screen readers want to know of which level."""
    margin = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = margin.replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )


def setup(app):
    """Formulas as MathML, which browsers draw without scripts."""
    app.connect("html-page-context", with_levels, priority=900)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
