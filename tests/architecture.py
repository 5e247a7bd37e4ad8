"""The folders of the sources and who imports whom, read from the code; ``python tests/architecture.py`` draws them anew."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (ROOT / "registry", ROOT / "plugins")
FRONT = ("__init__", "api", "builtin", "moved")  # what users and Python take, not the house


@cache
def modules():
    """Return the file of every module, by its dotted name."""
    found = {}
    for root in SOURCES:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def only_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imported(path):
    """Yield (module, name) of every import of a file, those within functions too; what only types need is no import."""
    waiting = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        waiting += [child for child in ast.iter_child_nodes(node) if not only_for_types(child)]


def homes():
    """Return where the names that ``acutance`` itself offers are defined."""
    import acutance

    return {name: f"acutance.{module}" for name, module in acutance.HOMES.items()} | {"study": "acutance.workflows.notebook"}


def folder(module):
    """Return the floor of a module: its folder in acutance, ``vocabulary`` and ``front`` at its top, or a plugin's."""
    top, *rest = module.split(".")
    if top != "acutance":
        return ".".join([top, *rest[:-1]])
    if not rest or (len(rest) == 1 and rest[0] in FRONT):
        return "front"
    if rest == ["__main__"]:
        return "cli"
    is_folder = (ROOT / "registry" / "acutance" / rest[0]).is_dir()
    return rest[0] if is_folder else "vocabulary"


def resolve(module, name):
    """Return the module that an import takes something from."""
    known = modules()
    if name is not None and f"{module}.{name}" in known:
        return f"{module}.{name}"
    if module == "acutance":
        # The marker of hooks and the version lie in the package itself, below everything.
        return homes().get(name, "acutance.spec")
    return module if module in known else None


@cache
def graph():
    """Return the folders -> the folders that they import."""
    found = {}
    for module, path in modules().items():
        mine = found.setdefault(folder(module), set())
        for target in {resolve(*pair) for pair in imported(path)} - {None}:
            if folder(target) != folder(module):
                mine.add(folder(target))
    return found


def floors():
    """Return the folders, each above all that it imports, lowest floor first.

    Raises:
        CycleError: when folders import each other.
    """
    sorter = TopologicalSorter(graph())
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found.append(ready)
        sorter.done(*ready)
    return found


if __name__ == "__main__":
    try:
        for level, names in enumerate(floors()):
            print(level, *names)
    except CycleError as error:
        print(error)
        for name, others in sorted(graph().items()):
            print(name, "->", *sorted(others))
