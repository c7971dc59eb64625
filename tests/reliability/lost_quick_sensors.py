"""Nightshelf's own definitions, but each sensor ticks as often as the daemon looks: every five seconds."""

from orchestration.definitions import defs
from orchestration.sensors import sensors

__all__ = ["defs"]

for sensor in sensors:
    sensor._min_interval = 5
