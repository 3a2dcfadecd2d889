"""The table of how far masks move has a row a way, and its first row is float32 against itself."""

from scripts.bench.faithfulness import WAYS, measure
from tests.bundles import Carried


def test_a_row_for_each_way(carried: Carried) -> None:
    head, _, _, _, *rows = measure(carried.bundle, carried.data / "linear_pocket", limit=6)
    assert head.startswith("6 images of linear_pocket, carried (ensemble), 32 px")
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        f"{runtime} {precision}" for runtime, precision in WAYS
    ]
    assert "| 0.0000 | 0.0000 % |" in rows[0]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert 0 < float(cells[1][1]) <= 1e-2
    scores = [float(cell[3]) for cell in cells]
    assert max(scores) - min(scores) < 0.02
