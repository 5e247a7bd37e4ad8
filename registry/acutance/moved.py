"""Import paths that documents of the first version name, and where their modules are now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType

from acutance.deprecations import deprecated_modules

MOVED = deprecated_modules()


class Moved(MetaPathFinder, Loader):
    """Finds the modules of old paths: the very modules, so that classes are the same by either path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module of an old path is loaded; None for all others."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module where it is now in place of the empty one; the import system returns what stands there."""
        MOVED[module.__name__].warn()
        sys.modules[module.__name__] = import_module(MOVED[module.__name__].new)

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the module where it is now, which ``python -m`` runs."""
        spec = find_spec(MOVED[fullname].new)
        assert spec is not None and isinstance(spec.loader, InspectLoader)
        return spec.loader.get_code(MOVED[fullname].new)


def keep_old_paths() -> None:
    """Let old paths be found, after all places where modules are looked for."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())
