"""Which faults the fast suite tries: one for each check; all others are tried with ``-m slow``."""

import pytest


def one_for_each_check(faults, looks_for):
    """Return parameters, marked slow where an earlier fault is looked for by the same check."""
    seen, parameters = set(), []
    for fault in faults:
        check = looks_for(fault)
        parameters.append(pytest.param(*fault, marks=[pytest.mark.slow] if check in seen else []))
        seen.add(check)
    return parameters
