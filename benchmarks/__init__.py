"""Measurements. Each is a module: python -m benchmarks.NAME."""

import recipes as recipes  # before torch: what commands set in the environment holds for what is measured too
