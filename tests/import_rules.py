"""Which imports within functions have a reason; ``python tests/import_rules.py`` names those that have none."""

import ast
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import architecture

from acutance.plugins import HEAVY

# What start-up pays for anyway; every other package that is not Python's own may be imported where it is used.
CHEAP = {"click", "pluggy", "pydantic", "pydantic_core", "typing_extensions"}
PARTS = ("scipy.stats", "scipy.optimize")  # which take longer than the rest of their library
BRINGS = {lib: {lib, lib.split(".")[0], "numpy"} for lib in (*HEAVY, *PARTS)}  # all of them import numpy
START = ("acutance.cli", "acutance.cli.list_", "acutance.builtin")


@dataclass(frozen=True)
class Import:
    """An import of a module, or of names out of it."""

    node: ast.Import | ast.ImportFrom
    targets: frozenset[str]  # our modules by their dotted names, other packages by their first part
    guarded: bool = False  # whether it may fail


@dataclass
class Tree:
    """The modules of a tree of sources, and who imports whom when it is loaded."""

    files: dict[str, Path]
    start: tuple[str, ...] = ()  # what ``acutance list`` loads

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The syntax of every module."""
        return {name: ast.parse(path.read_text()) for name, path in self.files.items()}

    @cached_property
    def homes(self) -> dict[str, dict[str, str]]:
        """Where the names come from that a package loads on use, as it tells type checkers."""
        found: dict[str, dict[str, str]] = {}
        for package, tree in self.trees.items():
            if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
                lazy = [one for node in tree.body if architecture.only_for_types(node) for one in node.body]
                found[package] = {
                    a.name: one.module for one in lazy if isinstance(one, ast.ImportFrom) for a in one.names
                }
        return found

    @cached_property
    def imports(self) -> dict[str, tuple[list[Import], list[Import]]]:
        """The imports of every module: those when it is loaded, and those within its functions."""
        return {name: self._of(tree) for name, tree in self.trees.items()}

    def _of(self, tree: ast.Module) -> tuple[list[Import], list[Import]]:
        loaded, within = [], []
        waiting: list[tuple[ast.AST, bool, bool]] = [(tree, False, False)]
        while waiting:
            node, inside, guarded = waiting.pop()
            if isinstance(node, ast.Import | ast.ImportFrom):
                (within if inside else loaded).append(Import(node, frozenset(self._targets(node)), guarded))
            inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            guarded = guarded or (
                isinstance(node, ast.Try) and any("ImportError" in ast.dump(h) for h in node.handlers)
            )
            children = [child for child in ast.iter_child_nodes(node) if not architecture.only_for_types(child)]
            waiting += [(child, inside, guarded) for child in children]
        return loaded, sorted(within, key=lambda found: found.node.lineno)

    def _targets(self, node: ast.Import | ast.ImportFrom):
        if isinstance(node, ast.Import):
            pairs = [(alias.name, None) for alias in node.names]
        else:
            pairs = [(node.module or "", alias.name) for alias in node.names]
        for module, name in pairs:
            inner = f"{module}.{name}"
            if inner in self.files:
                yield inner
            elif name in self.homes.get(module, {}):
                yield self.homes[module][name]
            elif module in PARTS:
                yield module
            else:
                yield module if module in self.files else module.split(".")[0]

    @cached_property
    def loads(self) -> dict[str, set[str]]:
        """What every module imports directly when it is loaded; a module loads the packages that it lies in, too."""
        found = {}
        for name, (loaded, _) in self.imports.items():
            found[name] = {target for one in loaded for target in one.targets}
            found[name] |= {name.rpartition(".")[0]} & self.files.keys()
        return found

    def closure(self, name: str) -> set[str]:
        """Return all that is loaded with a module, itself too."""
        seen, waiting = set(), [name]
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                waiting += self.loads.get(one, ())
        return seen

    def heavy(self, name: str) -> set[str]:
        """Return the heavy libraries that are loaded with a module or a package."""
        return {lib for one in self.closure(name) for lib in BRINGS.get(one, ())}

    @cached_property
    def started(self) -> set[str]:
        """All that is loaded at start-up."""
        return {one for name in self.start for one in self.closure(name)}

    def reason(self, module: str, found: Import) -> str:
        """Return why an import within a function stands there; empty where there is no reason."""
        if found.guarded:
            return "may not be there"
        if module.split(".")[:2] == ["acutance", "cli"]:
            return "a verb imports what it needs"
        if module in self.started and not found.targets <= self.started:
            return "start-up"
        for target in found.targets:
            if target in BRINGS or target in self.files:
                if self.heavy(target) - self.heavy(module):
                    return "heavy"
            elif target not in CHEAP and target not in sys.stdlib_module_names:
                return "a library that is there for this alone"
            if target in self.files and module in self.closure(target):
                return "a cycle"
        return ""

    def without_reason(self) -> list[tuple[str, Import]]:
        """Return (module, import) of what should stand at the top of its file."""
        return [
            (name, one) for name, (_, within) in self.imports.items() for one in within if not self.reason(name, one)
        ]


def ours() -> Tree:
    """Return the tree of this repository."""
    return Tree(architecture.modules(), START)


if __name__ == "__main__":
    tree = ours()
    for name, one in tree.without_reason():
        print(f"{tree.files[name].relative_to(architecture.ROOT)}:{one.node.lineno}: {ast.unparse(one.node)}")
