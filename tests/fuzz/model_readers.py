"""Readers of models and runs."""

from .harness import Reader

READERS: list[Reader] = []
