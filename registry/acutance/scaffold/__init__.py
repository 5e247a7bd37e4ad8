"""A package in one command: what ``acutance new`` writes, complete and with tests that pass as written."""

from acutance.scaffold.package import KINDS, NEEDS, NewKind, Package, prepare, write

__all__ = ["KINDS", "NEEDS", "NewKind", "Package", "prepare", "write"]
