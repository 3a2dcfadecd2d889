"""Synthetic ultrasound: a speckle simulator with three probes, two anatomies and exact masks."""

from clients.phantom.probes import PROBES, Probe
from clients.phantom.write import generate

__all__ = ["PROBES", "Probe", "generate"]
