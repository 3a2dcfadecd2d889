"""Selection baselines: which images of a site's pool experts should annotate first.

A strategy works at one site, over its own pool, without any label. Pointwise ones score each
image by itself, so that one threshold over all sites gives exactly the choice over pooled data;
the others choose a set, so each site gets a quota. `registry` knows them by name.
"""
