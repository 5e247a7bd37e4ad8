"""What is committed of searches and studies says what its rows say."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]


def test_held_out_searches_are_as_their_page_says_and_never_far_below_the_published_one(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import search_held_out as searches

    rows = pd.read_csv(searches.FOLDER / "held_out.csv")
    assert searches.page(rows) == (searches.FOLDER / "held_out.md").read_text()
    rises = searches.wide(rows)
    l2 = rises[rises["norm"] == "l2"]
    assert l2["network"].nunique() >= 20 and (l2[searches.SCREENED] >= 0.98 * l2[searches.EQUAL]).all()
