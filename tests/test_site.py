"""The site of the documentation: whole, with links that lead somewhere, and first pages whose lines work."""

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from acutance.measure import Invariance, Level, Need
from acutance.plugins import catalog
from acutance.references import known

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = ("root", "reference", "_build")  # of docs/, written when the site is built
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0] not in MADE)
# What is between fences, and code in a line, shows links and headings of other texts.
FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1\s*$", re.M | re.S)


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))


def listed(page):
    """Return the pages that the tables of contents of one page name."""
    found = []
    for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.S):
        for line in block.splitlines():
            if line.strip() and not line.startswith(":"):
                name = re.sub(r".*<(.*)>", r"\1", line.strip())
                found.append(os.path.normpath(page.parent / name))
    return found


def test_every_page_is_in_the_table_of_contents():
    reached, left = set(), [str(DOCS / "index")]
    while left:
        page = left.pop()
        if page not in reached:
            reached.add(page)
            if Path(f"{page}.md").exists():
                left += listed(Path(f"{page}.md"))
    assert {str(page.with_suffix("")) for page in PAGES} <= reached, "name the new page in docs/index.md"
    written = [page for page in reached if Path(page).relative_to(DOCS).parts[0] not in MADE]
    assert [page for page in written if not Path(f"{page}.md").exists()] == []
    assert {Path(page).name for page in reached} >= {"CHANGELOG", "CONTRIBUTING", "measures", "works"}


def anchors(text):
    slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
             for head in re.findall(r"^#{1,6} (.*)", FENCED.sub("", text), re.M)]  # fmt: skip
    return set(slugs)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))
    for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        to = Path(os.path.normpath(page.parent / path)) if path else page
        if to.is_relative_to(DOCS / "root"):
            to = ROOT / to.relative_to(DOCS / "root")
        if to.is_relative_to(DOCS / "reference"):
            continue  # written when the site is built, which looks at these
        assert to.exists(), f"{page.name}: {path} is not there"
        assert not anchor or anchor in anchors(to.read_text()), f"{page.name}: no heading #{anchor} in {to.name}"


def python(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_first_page_on_a_checkpoint_works(capsys):
    (code,) = python("start_checkpoint.md")
    assert len([line for line in code.splitlines() if line]) <= 5
    exec(code, {})
    assert "sharp" in capsys.readouterr().out


def test_the_first_page_on_a_folder_works(tmp_path, monkeypatch):
    import acutance

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (code,) = python("start_folder.md")
    (study,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "start_folder.md").read_text(), re.S)
    try:
        exec(code, {})
        Path("study.yaml").write_text(study)
        run = acutance.run("study.yaml", report=False)
    finally:
        sys.modules.pop("my_nets", None)
    assert run.failed == 0 and len(run.models) == 12 and len(run.correlations) == 4


def test_the_first_page_on_a_table_works(tmp_path, monkeypatch, capsys):
    from acutance.cli import cli

    monkeypatch.chdir(tmp_path)
    for code in python("start_table.md"):
        exec(code, {})
    assert "tau=0.8" in capsys.readouterr().out
    (command,) = re.findall(r"^\$ acutance (correlate .*)", (DOCS / "start_table.md").read_text(), re.M)
    done = CliRunner().invoke(cli, [*shlex.split(command), "--no-report", "--resamples", "199"])
    assert done.exit_code == 0, done.output
    told = re.findall(r"^(sharpness|noise): ", done.output, re.M)
    assert set(told) == {"sharpness", "noise"} and (tmp_path / "judged" / "correlations.csv").exists()


def test_the_sample_of_a_report_is_a_whole_page_of_sane_size():
    sample = DOCS / "_static" / "sample_report.html"
    assert sample.stat().st_size < 2e6 and "</html>" in sample.read_text()
    assert sample.relative_to(DOCS).as_posix() in (DOCS / "reading_a_report.md").read_text()
    pictures = re.findall(r"```\{image\} (\S+)", (DOCS / "reading_a_report.md").read_text())
    assert len(pictures) == 6 and all((DOCS / name).stat().st_size < 1e5 for name in pictures)


def test_every_measure_has_a_family_and_every_trait_its_words(extension):
    import entry
    import families

    found = {
        item.id: families.family(item.target.__module__)
        for item in catalog().items("measures")
        if item.dist == "acutance"
    }
    assert not [name for name, title in found.items() if title == families.OTHER], (
        "give it a family: docs/_ext/families.py"
    )
    assert set(found.values()) == set(families.FAMILIES)
    assert set(entry.NEEDS) == set(Need.__args__) and set(entry.INVARIANCE) == set(Invariance.__args__)
    assert set(entry.LEVEL) == set(entry.ON) == set(Level.__args__)
    assert families.family("acutance_hessian.gradient_norm") != families.family("acutance_hessian.hessian_trace")
    assert families.family("acme.foo") == families.OTHER


def test_the_pages_made_of_classes_are_whole(extension):
    import catalogue
    import doors
    import printed

    own = catalogue.own("measures")
    pages = catalogue.measures(own) | {name: catalogue.kind(name) for name in catalogue.KINDS}
    pages |= {"presets": catalogue.presets(), "statuses": catalogue.statuses(), "works": catalogue.works(own)}
    pages |= doors.pages((DOCS / "plugins.md").read_text()) | {"published": printed.page()}
    assert {f"measures/{item.name}" for item in own} < set(pages) and "acme" not in "".join(pages)
    for name, text in pages.items():
        assert text.startswith("# "), name
        prose = re.sub(r"^````\{eval-rst\}\n.*?^````$", "", FENCED.sub("", text), flags=re.M | re.S)
        assert ":math:" not in prose and "``" not in prose, name
        tables = re.findall(r"(?:^\|.*\n)+", prose, re.M)
        assert all(len({len(re.findall(r"(?<!\\)\|", row)) for row in t.splitlines()}) == 1 for t in tables), name
    page = pages["measures/worst_case"]
    assert "acutance.measure(" in page and "25 forwards, 21 backwards" in page and "Auto-PGD iterations" in page
    assert page.index("| `rho` |") < page.index("These say how the value is estimated") < page.index("| `steps` |")
    assert "#### " not in page and "../../classic.md#margins" in pages["measures/output_margin"]
    assert len(re.findall(r"^\| (?:adaptive|standard) ", pages["published"], re.M)) > 80


def test_works_are_cited_in_words(extension):
    import works

    assert works.citation(known()["andriushchenko2023modern"]) == (
        "Maksym Andriushchenko, Francesco Croce, Maximilian Müller, Matthias Hein and Nicolas Flammarion. [A Modern Look "
        "at the Relationship between Sharpness and Generalization](https://proceedings.mlr.press/v202/andriushchenko23a.html). "
        "Proceedings of the 40th International Conference on Machine Learning, 2023."
    )
    for bib in known().values():
        text = works.citation(bib)
        assert re.search(r"^\w.*\. [\[*].*\d{4}\.$", text) and not re.search(r"[{}]", re.sub(r"\$[^$]*\$", "", text)), (
            text
        )


def test_docstrings_become_cells_and_paragraphs(extension):
    import entry

    assert entry.cell("Norm of :math:`\\|w\\|`, ``a | b``.") == "Norm of $\\\\|w\\\\|$, `a \\| b`."
    assert "\\|w|, ``|v|``, :math:`|u|`" in entry.docstring("|w|, ``|v|``, :math:`|u|`")


def test_pages_from_outside_keep_their_links(extension):
    import outside

    page, copy = ROOT / "CONTRIBUTING.md", DOCS / "root" / "CONTRIBUTING.md"
    copied = [Path("CONTRIBUTING.md"), Path("benchmarks/README.md")]
    text = "[a](docs/text.md#x) [b](benchmarks/README.md) ![c](docs/images/scatter.png) [d](https://e.org/f.md) [e](LICENSE)"
    assert outside.moved(text, page, copy, copied) == (
        "[a](../text.md#x) [b](benchmarks/README.md) ![c](../images/scatter.png) [d](https://e.org/f.md) [e](../../LICENSE)"
    )


def test_links_to_files_that_a_cell_wrote_become_names(extension):
    pytest.importorskip("myst_nb", reason="the site needs the extra docs: make docs")
    from streams import without_files

    html = '<p><a href="runs/study/report.html">report.html</a>, <a href="https://a.b/c">c</a>, <a href="#d">d</a></p>'
    (shown,) = without_files([{"output_type": "display_data", "data": {"text/html": html}}])
    kept = '<p><code>report.html</code>, <a href="https://a.b/c">c</a>, <a href="#d">d</a></p>'
    assert shown["data"]["text/html"] == kept


def test_formulas_become_mathml_line_by_line(extension, monkeypatch):
    pytest.importorskip("latex2mathml"), pytest.importorskip("sphinx")
    import mathml
    from docutils import nodes

    told = []
    monkeypatch.setattr(mathml.logger, "warning", lambda *args, **_: told.append(args[-1]))

    def made(tex, display="block"):
        return mathml.mathml(nodes.math(tex, tex), display)

    assert made(r"\max_x f \\ \big\| a \big\|").count("<math") == 2 and "‖" in made(r"\big\| a \big\|")
    assert "<munder><mo>max</mo>" in made(r"\arg\max_k f") and "<munder>" not in made(r"\max_k f", "inline")
    assert not told and made(r"\foo x") and told == [r"\foo"]


class Page(HTMLParser):
    """The anchors of a page, where it leads, and what a browser fetches to show it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.fetched = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script", "link", "iframe") and given.get("rel") not in ("index", "search", "next", "prev"):
            self.fetched += [given[name] for name in ("src", "href") if given.get(name)]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_its_links_lead_somewhere():
    pytest.importorskip("myst_nb", reason="the site needs the extra docs: make docs")
    built = DOCS / "_build" / "html"
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-E",
        "-b",
        "html",
        "-d",
        str(DOCS / "_build" / "doctrees"),
        str(DOCS),
        str(built),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path: Page(path) for path in built.rglob("*.html")}
    assert len(pages) > 200
    for path, page in pages.items():
        for link in page.links + page.fetched:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                assert link not in page.fetched or to.scheme == "data", f"{path.name} fetches {link}"
                continue
            file = Path(os.path.normpath(path.parent / unquote(to.path))) if to.path else path
            assert file.exists(), f"{path.relative_to(built)}: {link}"
            if to.fragment and file in pages and file.name not in ("genindex.html", "search.html"):
                assert unquote(to.fragment) in pages[file].anchors, f"{path.relative_to(built)}: {link}"
    shown = (built / "tutorials" / "first_numbers.html").read_text()
    assert "cell_output" in shown and "Traceback" not in shown
    equation = (built / "reference" / "measures" / "worst_case.html").read_text()
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in equation
