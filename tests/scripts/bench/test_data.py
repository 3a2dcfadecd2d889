import json

from scripts.bench.data import bench


def test_an_epoch_from_the_cache_beats_decoding() -> None:
    records = bench(images=12, side=64)
    assert [record["name"] for record in records] == ["data.epoch", "data.open", "data.reopen"]
    for record in records:
        assert set(record) == {"name", "ours", "reference", "unit", "ratio", "peak_rss_mb"}
    assert float(records[0]["ratio"]) > 5
    json.dumps(records)
