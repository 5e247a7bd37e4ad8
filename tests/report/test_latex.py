"""Tables and the methods paragraph go through LaTeX; where there is none this is skipped."""

import shutil
import subprocess

import numpy as np
import pytest

from acutance.analysis.published import published
from acutance.report.page.markup import to_latex
from acutance.report.page.methods import latex
from acutance.report.tables import tau_tables

LATEX = shutil.which("pdflatex")
HOSTILE = "a & b_%$#{}~^\\ < > | \u2113\u221e \u03c1 \u03c4 \u03bb \u03b2"


def has_booktabs():
    found = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True) if shutil.which("kpsewhich") else None
    return found is not None and found.returncode == 0


@pytest.mark.skipif(LATEX is None or not has_booktabs(), reason="needs pdflatex and the package booktabs")
def test_the_papers_table_hostile_names_and_the_paragraph_compile(tmp_path):
    own = published("cifar10_vit").assign(within="all", group="all", n=200, low=np.nan, high=np.nan, p_adjusted=0.01)
    own = own.assign(ceiling=0.91)
    hostile = own.head(3).assign(measure=HOSTILE, within=f"level={HOSTILE}")
    body = "\n".join(
        [to_latex(tau_tables(own)), to_latex(tau_tables(hostile)), latex(f"Kendall's \u03c4_a, {HOSTILE}.")]
    )
    document = (
        r"\documentclass{article}\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{booktabs}"
        rf"\begin{{document}}{body}\end{{document}}"
    )
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "tables.pdf").read_bytes().startswith(b"%PDF")
