"""Choosing what is worth annotating, together: exact in any split, though only counts cross.

`dual_score` and `select` are the pooled form. Their halves, for many sites and one server:

1. lattice: embeddings become whole numbers, so that sums and products are exact in any order;
2. assignment (site) and kmeans (server): sums and counts up, centroids down;
3. ranks: histograms of uncertainty and distance up, pooled ones down; each site scores its images;
4. cut: counts up, and one key down, behind which no image is chosen.
"""

from common.selection.cut import select
from common.selection.dual import DualScore, dual_score

__all__ = ["DualScore", "dual_score", "select"]
