"""Before any test module is imported."""

import common.environment  # noqa: F401 - Flower reads its switches when it is imported
from tests.bundles import carried, own_bundle, sorting  # noqa: F401 - fixtures
