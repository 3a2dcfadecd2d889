"""The phantom's benchmark: both ways agree, and the record has the promised fields."""

from __future__ import annotations

import json

from scripts.bench.phantom import run


def test_records_name_both_ways_and_their_difference() -> None:
    records = list(run(side=64, repeats=1))
    assert len(records) == 6
    for record in records:
        json.dumps(record)
        assert {"name", "ours", "reference", "unit", "ratio", "peak_rss_mb"} <= set(record)
        if str(record["name"]).startswith("phantom point spread"):
            assert float(record["largest_difference"]) < 1e-3
