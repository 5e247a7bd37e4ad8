"""Names in figures are shown as they stand; our own symbols are mathematics."""

import warnings

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acutance.report.lettering import as_text, mathematics, show_legend, show_names

NAMES = ["$x^{$", "cost [$]", "$x$ and $y$", "a_b^c", "back\\slash\\$", "_hidden", "a\x1bb"]


def drawn(text):
    """What is really set: (text, whether it is mathematics)."""
    return text._preprocess_math(text.get_text())


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_as_they_stand(name):
    shown = name.replace("\x1b", r"\x1b")
    figure = Figure()
    axis = figure.subplots()
    axis.set_title(name)
    axis.set_yscale("log")
    axis.set_xticks([0, 1], [as_text(name), "b"])
    mathematics(axis.set_xlabel(r"$\rho$ = 1"))
    figure.suptitle(name)
    show_legend(figure, [Line2D([], [])], [name])
    show_names(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    for text in (axis.title, figure._suptitle, axis.get_xticklabels()[0], figure.legends[0].get_texts()[0]):
        assert drawn(text) == (shown, False)
    assert drawn(axis.xaxis.label)[1] is True
    powers = [label for label in axis.get_yticklabels() if "10^" in label.get_text()]
    assert powers and all(drawn(label)[1] is True for label in powers)
