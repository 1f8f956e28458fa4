"""How a long task says how far it is and what is good to know; knows neither task nor terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and the steps in all.

Each task has its own step: a fit of a study, an epoch of one run of a grid, an image of an
extraction. A callable that raises stops the task; what the task promises to keep is kept.
"""

Note = Callable[[str], None]
"""Called with a line that is good to know, before the work begins."""

log = logging.getLogger("cafe")
"""Where notes go that nobody asked for with `note=`: as INFO, which Python does not show unless it
is told to. An image that is left out is a WARNING, which Python shows."""
