"""Formulas as MathML, made when the site is built: browsers draw it by themselves, without a script or a network."""

from __future__ import annotations

import re
from html import escape

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(node: nodes.Element, display: str) -> str:
    """Return a formula as MathML; a command that the converter does not know is a warning, hence an error of `make docs`."""
    tex = node.astext().strip()
    if display == "block" and r"\begin" not in tex:
        # Lines of a formula, each of which browsers would write behind the last one.
        return "\n".join(one(line, display, node) for line in re.split(r"\\\\", tex.replace("&", "")) if line.strip())
    return one(tex, display, node)


def one(tex: str, display: str, node: nodes.Element) -> str:
    """Return one line of a formula."""
    tex = tex.replace(r"\arg", r"\operatorname{arg}\,")
    if display == "block":
        tex = re.sub(r"\\(max|min|sup|inf)_", r"\\\1\\limits_", tex)
    try:
        made = convert(tex, display=display)
    except Exception as error:
        logger.warning("formula %r: %s", tex, error or type(error).__name__, location=node)
        return f"<code>{escape(tex)}</code>"
    # Behind a size, as of \big, the converter leaves the sign of a norm as it is written.
    made = made.replace(r">\|<", ">‖<")
    if unknown := re.findall(r">[^<]*(\\[^<]*)<", made):
        logger.warning("formula %r: unknown command %s", tex, unknown[0], location=node)
    return made


def inline(translator, node):
    """Write a formula in a line."""
    translator.body.append(f'<span class="formula">{mathml(node, "inline")}</span>')
    raise nodes.SkipNode


def block(translator, node):
    """Write a formula in a line of its own, which scrolls where the page is narrower."""
    translator.body.append(f'<div class="formula">{mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer that `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
