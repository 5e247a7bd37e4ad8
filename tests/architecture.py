"""The folders of the sources and who imports whom, read from the code.

``python tests/architecture.py`` draws them anew in docs/architecture.md, which tests/test_architecture.py holds to the code.
"""

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

    return {name: f"acutance.{module}" for name, module in acutance.HOMES.items()} | {
        "study": "acutance.workflows.notebook"
    }


def folder(module):
    """Return the floor of a module: its folder in acutance, ``vocabulary`` and ``front`` at its top, or a plugin's."""
    top, *rest = module.split(".")
    if top != "acutance":
        return ".".join([top, *rest[:-1]])
    if not rest or (len(rest) == 1 and rest[0] in FRONT):
        return "front"
    if rest == ["__main__"]:
        return "cli"
    is_folder = (ROOT / "registry" / "acutance").joinpath(*rest).is_dir()
    folders = rest if is_folder else rest[:-1]
    return ".".join(folders) or "vocabulary"


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


def stories(names):
    """Return lists of folders, highest first: each above all that it imports, and no higher than that needs."""
    level = {}
    for floor in floors():
        for name in floor:
            below = [level[other] for other in graph()[name] if other in level and other in names]
            level[name] = 1 + max(below, default=-1)
    return [[n for n in sorted(names) if level[n] == i] for i in range(max(level[n] for n in names), -1, -1)]


def plugin_level(name, level):
    """Return the number of the highest story that a plugin imports from."""
    mine = [folders for module, folders in graph().items() if module.split(".")[0] == name]
    return max(level[other] for folders in mine for other in folders if other in level)


def drawing():
    """Return the house as text: the core's stories, and each plugin beside the highest one that it stands on."""
    core = [name for name in graph() if not name.startswith("acutance_")]
    plugins = sorted({name.split(".")[0] for name in graph() if name.startswith("acutance_")})
    house = stories(core)
    level = {name: len(house) - i for i, names in enumerate(house) for name in names}
    beside = {}
    for name in plugins:
        beside.setdefault(plugin_level(name, level), []).append(name)
    width = max(len("   ".join(names)) for names in house)
    rule = "+" + "-" * (width + 2) + "+"
    lines = [rule]
    for i, names in enumerate(house):
        right = "   ".join(beside.get(len(house) - i, []))
        lines += [f"| {'   '.join(names):<{width}} |  {right}".rstrip(), rule]
    return "\n".join(lines)


WORDS = {
    "front": "what users import: `acutance.measure`, `acutance.run`, `acutance.study`, and what Python looks up",
    "vocabulary": "all an author imports, at the top of `acutance/`: spec, measure, pool, dataset, plugins, scaling, errors",
}


def table():
    """Return the folders of the core, highest first: what each holds, and what it imports."""
    core = [name for name in graph() if not name.startswith("acutance_")]
    rows = ["| folder | what is in it | imports |", "|---|---|---|"]
    for names in stories(core):
        for name in names:
            docstring = (
                ast.get_docstring(ast.parse(modules().get(f"acutance.{name}", Path(__file__)).read_text())) or ""
            )
            what = WORDS.get(name) or docstring.splitlines()[0].rstrip(".").replace("``", "`")
            rows.append(f"| `{name}` | {what} | {', '.join(sorted(graph()[name])) or 'nothing'} |")
    return "\n".join(rows)


PAGE = ROOT / "docs" / "architecture.md"


def drawn(text):
    """Return the page with the drawing and the table as the code has them now."""
    for name, content in (("drawing", f"```text\n{drawing()}\n```"), ("table", table())):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}{content}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    try:
        PAGE.write_text(drawn(PAGE.read_text()))
        print(drawing(), table(), sep="\n")
    except CycleError as error:
        print("folders import each other:", *error.args[1], sep=" ")
