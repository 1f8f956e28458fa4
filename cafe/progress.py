"""How a long task says how far it is; knows neither the task nor the terminal."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and the steps in all.

Each task has its own step: a fit of a study, an epoch of one run of a grid, an image of an
extraction. A callable that raises stops the task; what the task promises to keep is kept.
"""
