"""The conformance kit for plugin authors: ``TestFoo = conformance("acme-foo/foo")``, or ``acutance conform``.

It needs neither pytest nor a GPU; both are used where they are present.
"""

from __future__ import annotations

from acutance.testing.core import ConformanceNote, Examination, conformance, examine, locate

__all__ = ["ConformanceNote", "Examination", "conformance", "examine", "locate"]
