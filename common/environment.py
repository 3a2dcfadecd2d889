"""The off-switches: no telemetry, no update check, no run-time install, no hub.

Imported before anything else by whatever starts a process.
"""

import os

SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # cuBLAS needs it for deterministic matrix products.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def close_doors() -> None:
    """Set every switch in this process's environment, which its children inherit."""
    os.environ.update(SWITCHES)


close_doors()
