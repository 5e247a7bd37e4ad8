"""Every block of code of README and docs is executed by a test, or says before it why none does.

What is not run stands behind a comment, which readers of the page do not see: ``<!-- not run: needs a cluster -->``.
Blocks of Python that need a model or points find them in ``given``; studies and parts of studies are held against the
schema; of commands that are not run the verbs and options are held against the command line.
"""

import copy
import re
import shlex
from pathlib import Path

import click
import jsonschema
import pytest
import torch
import yaml

import acutance
from acutance.cli import cli
from acutance.plugins import catalog
from acutance.study.schema import study_schema

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *TUTORIALS]
CODE = ("python", "console", "sh", "bash", "yaml")  # other languages show no program: text, toml, bibtex
BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<why>[^\n]+?) -->\n+)?^(?P<indent> *)```(?P<language>[a-z]+)\n(?P<text>.*?)^ *```$",
    re.M | re.S,
)
# Which tests run the blocks of a page that have no mark, where it is not one of this file.
ELSEWHERE = {
    ("README.md", "python"): ("test_readme.py", "test_a_number_and_a_study_take_five_lines_each"),
    ("notebook.md", "python"): ("test_docs.py", "test_the_python_of_a_page_runs_from_top_to_bottom"),
    ("monitor.md", "python"): ("test_docs.py", "test_the_python_of_the_page_on_training_measures_what_it_says"),
    ("start_checkpoint.md", "python"): ("test_site.py", "test_the_first_page_on_a_checkpoint_works"),
    ("start_folder.md", "python"): ("test_site.py", "test_the_first_page_on_a_folder_works"),
    ("start_table.md", "python"): ("test_site.py", "test_the_first_page_on_a_table_works"),
    ("start_table.md", "console"): ("test_site.py", "test_the_first_page_on_a_table_works"),
}
STUDY = {
    "format": 1, "pools": [{"name": "mnist_resnet"}], "dataset": {"name": "mnist5k"}, "surface": {"points": 8, "m": 8},
    "targets": ["test_error"], "within": [], "measures": [{"name": "parameter_norm"}],
}  # fmt: skip


class Block:
    """A block of code, with its page, and why it is not run where that is said."""

    def __init__(self, page, found):
        self.page, self.language, self.why = page.name, found["language"], found["why"]
        self.text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.M)
        self.line = page.read_text()[: found.start("text")].count("\n") + 1

    def __repr__(self):
        return f"{self.page}:{self.line}"


def blocks(*languages):
    found = [Block(page, match) for page in PAGES for match in BLOCK.finditer(page.read_text())]
    return [block for block in found if block.language in languages]


def test_blocks_are_run_or_marked():
    """Commands run in their own tests; Python and YAML without a mark run below."""
    for block in blocks("console", "sh", "bash"):
        assert block.why or (block.page, block.language) in ELSEWHERE, f"{block}: <!-- not run: why --> before it"
    for file, test in ELSEWHERE.values():
        assert f"def {test}(" in (ROOT / "tests" / file).read_text()
    marked = [block for page in PAGES for block in re.findall(r"^ *<!-- not run: ", page.read_text(), re.M)]
    assert len(marked) == len([block for block in blocks(*CODE) if block.why]), "a mark stands right before a block"


class Net(torch.nn.Module):
    """A small classifier with blocks that go by numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(6, 4), torch.nn.Linear(4, 3)
        self.blocks = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(4)))

    def forward(self, x):
        return self.last(torch.relu(self.blocks(torch.relu(self.first(x)))))


def given():
    """Return what blocks take for granted: a model and its points, other ones, and where it began."""
    torch.manual_seed(0)
    net = Net()
    x, x2, photos = torch.randn(3, 128, 6).unbind()
    y, y2 = torch.randint(0, 3, (2, 128)).unbind()
    return {
        "acutance": acutance, "torch": torch, "model": net, "start": copy.deepcopy(net), "x": x, "y": y, "x2": x2, "y2": y2,
        "photos": photos, "a": Net(), "b": Net(), "c": torch.nn.Linear(6, 3), "u": torch.rand(6), "v": torch.rand(6),
    }  # fmt: skip


RUN = [block for block in blocks("python") if not block.why and (block.page, "python") not in ELSEWHERE]
LONG = ("landscape.md", "rank.md")  # a quarter and half of a minute


@pytest.mark.parametrize(
    "block", [pytest.param(b, marks=[pytest.mark.slow] if b.page in LONG else [], id=repr(b)) for b in RUN]
)
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = given()
    if block.page == "dln.md":
        names["y"] = names["x"].sum(1)
    exec(compile(block.text, repr(block), "exec"), names)


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if not b.why], ids=repr)
def test_studies_and_their_parts_are_valid(block):
    part = yaml.safe_load(block.text)
    study = STUDY | ({"measures": part} if isinstance(part, list) else part)
    study["surface"] = STUDY["surface"] | study["surface"]
    faults = jsonschema.Draft7Validator(study_schema(catalog())).iter_errors(study)
    assert [(list(fault.absolute_path), fault.message) for fault in faults] == []


def commands(text):
    """Return the commands of a block as lists of words, without variables before them."""
    lines = re.sub(r"\\\n", " ", text)
    for line in re.sub(r"^\$ ", "", lines, flags=re.M).splitlines():
        for command in re.split(r"&&|\|\|?|;", re.sub(r"(^|\s)#.*", "", line)):
            try:
                words = shlex.split(command)
            except ValueError:
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


@pytest.mark.parametrize("block", blocks("console", "sh", "bash"), ids=repr)
def test_commands_have_these_verbs_and_options(block):
    context = click.Context(cli)
    for words in commands(block.text):
        if words[0] == "acutance" and words[1:]:
            verb = cli.get_command(context, words[1])
            assert verb, words
            verb.make_parser(click.Context(verb)).parse_args(words[2:])
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:|^{words[1]} .*:", (ROOT / "Makefile").read_text(), re.M), words
