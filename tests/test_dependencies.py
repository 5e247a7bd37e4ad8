"""What the sources import is what the distribution declares; what it does not declare is named where it is missing."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Imported under another name than that of the distribution.
CALLED = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"}
# Looked for at run time, with a sentence where they are not there.
OPTIONAL = {"ray", "pyarrow", "mlxtend", "scikit-learn", "datasets", "pytest", "wandb", "mlflow", "trackio"}


@cache
def imported():
    """Return {distribution: files} of all absolute imports from outside."""
    own = {"acutance", *(path.name for path in (ROOT / "plugins").iterdir())}
    found = defaultdict(set)
    for root in ("registry", "plugins"):
        for path in (ROOT / root).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                for top in {name.split(".")[0] for name in names} - own - set(sys.stdlib_module_names):
                    found[CALLED.get(top, top)].add(path.relative_to(ROOT))
    return found


def declared(lines):
    return {re.match(r"[\w-]+", line)[0].lower() for line in lines}


def test_every_import_is_declared_and_every_declaration_is_used():
    own = declared(PROJECT["dependencies"])
    missing = {name: files for name, files in imported().items() if name not in own | OPTIONAL}
    assert not missing
    assert not own - set(imported()) - {"torch"}


def test_what_is_optional_is_an_extra_or_told_where_it_is_missing():
    extras = declared(
        line for name, lines in PROJECT["optional-dependencies"].items() if name != "dev" for line in lines
    )
    assert OPTIONAL & set(imported()) <= extras | {"datasets", "pytest"}
    sources = "\n".join(p.read_text() for root in ("registry", "plugins") for p in (ROOT / root).rglob("*.py"))
    # It is on no index: nobody can install an extra of it by name.
    assert "acutance[" not in sources.replace("acutance[{", "")
    for name in ("ray", "pyarrow", "mlxtend", "scikit-learn", "datasets"):
        assert re.search(rf"pip install '?{name}", sources), name


def test_every_package_is_typed():
    packages = [
        ROOT / "registry" / "acutance",
        *(p for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").exists()),
    ]
    assert len(packages) == 11 and all((package / "py.typed").is_file() for package in packages)
