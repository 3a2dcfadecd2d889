"""Before any test module is imported."""

import common.environment  # noqa: F401 - Flower reads its switches when it is imported
