"""From a kind and a name to the files of an installable distribution."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from acutance import __version__
from acutance.errors import UserError
from acutance.plugins import Catalog, Kind, catalog

NewKind = Literal["measure", "pool", "dataset"]
KINDS: Mapping[NewKind, Kind] = {"measure": "measures", "pool": "pools", "dataset": "datasets"}
SUMMARIES: Mapping[NewKind, str] = {
    "measure": "Rise of the training loss after one normalized ascent step",
    "pool": "Perceptrons made from seeds, each at three scales of its output",
    "dataset": "Gaussian classes with a shifted split, or arrays of one's own",
}
# What a new measure may ask for beside its points: the template of each is the folder measure_WORD.
NEEDS: Mapping[str, str] = {
    "unlabeled": "Confidence on points without targets",
    "validation": "Rise of the loss on validation points",
    "peers": "Disagreement with the other models of a study",
    "trajectory": "Sum of the training losses of a log",
    "update": "Length of the optimizer's next step",
    "input_gradient": "Length of the derivative of the loss by the inputs",
}
# What a new repository's workflow calls, at the tag of this version.
WORKFLOW = "acutance/acutance/.github/workflows/plugin.yml"
LONGEST = 40  # characters of a name, so that no line of the templates grows too long


@dataclass(frozen=True)
class Package:
    """What is to be written.

    Attributes:
        kind: measure, pool or dataset.
        name: short name of the thing, a Python identifier.
        dist: name of the distribution.
        folder: where it is written; does not exist yet.
        needs: what a measure asks for beside labelled points, a word of ``NEEDS``, or nothing.
    """

    kind: NewKind
    name: str
    dist: str
    folder: Path
    needs: str = ""

    @property
    def module(self) -> str:
        """Name of the import package."""
        return re.sub(r"[-_.]+", "_", self.dist).lower()

    @property
    def title(self) -> str:
        """Name of the class."""
        return "".join(part.capitalize() for part in self.name.split("_"))

    @property
    def id(self) -> str:
        """Canonical id, ``dist/name``."""
        return f"{self.dist}/{self.name}"

    @cached_property
    def files(self) -> dict[str, str]:
        """The text of every file, by its path in the folder."""
        import jinja2
        from packaging.version import Version

        environment = jinja2.Environment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
            autoescape=False,
        )  # fmt: skip
        facts: dict[str, Any] = {
            "kind": self.kind, "name": self.name, "dist": self.dist, "module": self.module, "title": self.title,
            "id": self.id, "acutance": minimum_acutance(), "needs": self.needs,
            "workflow": f"{WORKFLOW}@v{Version(__version__).base_version}",
            "summary": NEEDS[self.needs] if self.needs else SUMMARIES[self.kind],
        }  # fmt: skip
        files: dict[str, str] = {}
        for part in ("common", f"{self.kind}_{self.needs}" if self.needs else self.kind):
            folder = resources.files("acutance") / "scaffold" / "templates" / part
            for source in sorted(folder.iterdir(), key=lambda entry: entry.name):
                path = _PATHS[source.name].format(module=self.module, name=self.name)
                text = source.read_text(encoding="utf-8")
                files[path] = environment.from_string(text).render(facts)
        return dict(sorted(files.items()))

    def commands(self) -> list[str]:
        """The three commands that come next."""
        folder = str(self.folder) if self.folder.is_absolute() else f"./{self.folder}"
        return [
            f"python -m pip install -e {quote(folder + '[test]')}",
            f"python -m pytest {quote(folder)}",
            f"acutance show {self.id}",
        ]


# Templates end in .j2, so that no linter and no test collector takes them for sources.
_PATHS = {
    "pyproject.toml.j2": "pyproject.toml",
    "README.md.j2": "README.md",
    "gitignore.j2": ".gitignore",
    "license.j2": "LICENSE",
    "workflow.yml.j2": ".github/workflows/tests.yml",
    "init.py.j2": "src/{module}/__init__.py",
    "plugin.py.j2": "src/{module}/plugin.py",
    "test.py.j2": "tests/test_{name}.py",
    "test_conformance.py.j2": "tests/test_conformance.py",
}


def minimum_acutance() -> str:
    """Return the lower bound of the new package's requirement on acutance: this minor version."""
    from packaging.version import Version

    here = Version(__version__)
    return here.public if here.is_prerelease else f"{here.major}.{here.minor}"


def prepare(
    kind: NewKind,
    name: str,
    directory: Path = Path(),
    dist: str | None = None,
    plugins: Catalog | None = None,
    needs: str = "",
) -> Package:
    """Check names and place; nothing is written yet.

    Args:
        kind: measure, pool or dataset.
        name: short name.
        directory: folder that will hold the new one, which is called as the distribution.
        dist: name of the distribution; ``acutance-NAME`` by default.
        plugins: what is installed; this process's catalog by default.
        needs: what a measure asks for beside labelled points.

    Raises:
        UserError: for a name that cannot be used or is taken, or a folder that exists.
    """
    _check_name(kind, name, plugins or catalog())
    if dist is None:
        dist = f"acutance-{name.strip('_').replace('_', '-')}"
    if needs and (kind != "measure" or needs not in NEEDS):
        raise UserError(f"--needs {needs}: is for measures, and one of {', '.join(NEEDS)}")
    package = Package(kind, name, dist, directory / dist, needs)
    _check_dist(package)
    if package.folder.exists() or package.folder.is_symlink():
        raise UserError(f"{package.folder}: exists already", "give another --dist or --dir, or move it away")
    if package.title in _imported(package.files[f"src/{package.module}/plugin.py"]):
        raise UserError(f"the class of '{name}' would hide {package.title} of acutance", "give another name")
    return package


def write(package: Package) -> list[Path]:
    """Write all files; the folder must not exist.

    Raises:
        UserError: when the folder exists or cannot be written.
    """
    written = []
    try:
        package.folder.parent.mkdir(parents=True, exist_ok=True)
        package.folder.mkdir()
        for name, text in package.files.items():
            path = package.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise UserError(f"{package.folder}: cannot be written: {error.strerror}", "give another --dir") from None
    return written


def _check_name(kind: NewKind, name: str, plugins: Catalog) -> None:
    """Refuse a name that is no identifier in lower case, too long, or taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        better = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
        usable = bool(re.match(r"[a-z]", better)) and not keyword.iskeyword(better)
        raise UserError(
            f"'{name}' cannot be the name of a {kind}: it must be a Python identifier in lower case",
            f"for example {better if usable else f'my_{kind}'}",
        )
    if len(name) > LONGEST:
        raise UserError(f"the name '{name}' has {len(name)} characters", f"take at most {LONGEST}")
    for item in plugins.items(KINDS[kind]):
        if item.name == name:
            raise UserError(
                f"there is a {kind} '{name}' already, of {item.dist} {item.version}",
                "give another name" if item.dist == "acutance" else "give another name: the short one must be unique",
            )


def _check_dist(package: Package) -> None:
    """Refuse the name of a distribution that cannot be one, is installed, or hides a module that is there."""
    dist, module = package.dist, package.module
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", dist):
        raise UserError(
            f"--dist {dist}: is not the name of a distribution (PEP 508)",
            "letters, digits, '-', '_' and '.', a letter or digit at both ends; for example acme-sharpness",
        )
    if not module.isidentifier() or keyword.iskeyword(module) or len(dist) > LONGEST + 20:
        raise UserError(
            f"--dist {dist}: its import package '{module}' cannot be named so",
            f"begin with a letter, take no Python keyword, at most {LONGEST + 20} characters",
        )
    try:
        raise UserError(f"--dist {dist}: is installed already, in version {version(dist)}", "give another --dist")
    except PackageNotFoundError:
        pass
    existing = find_spec(module)
    if existing is not None and existing.origin is not None:
        message = f"--dist {dist}: there is a module '{module}' already ({existing.origin})"
        raise UserError(message, "give another --dist")


def _imported(source: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes for alias in node.names}
