"""Synthetic ultrasound: a speckle simulator with three probes, two anatomies and exact masks."""

from scripts.phantom.probes import PROBES, Probe
from scripts.phantom.write import generate

__all__ = ["PROBES", "Probe", "generate"]
