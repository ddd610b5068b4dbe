"""Beyond accuracy: how much of the catalogue lists show, and how popular it is."""

from __future__ import annotations

import numpy as np
import scipy.stats

EXPOSURE_DEPTH = 20
EXPOSURE_METRICS = ("coverage@20", "popularity@20")


class Exposure:
    """Adds up what the first 20 of ranked lists show.

    Args:
      popularity: [n_items] training interactions of each item of the catalogue.
    """

    def __init__(self, popularity: np.ndarray):
        n_others = max(len(popularity) - 1, 1)
        self._percentile = (scipy.stats.rankdata(popularity) - 1) / n_others
        self._times_shown = np.zeros(len(popularity), np.int64)

    def add(self, ranked: np.ndarray) -> None:
        """Counts lists, [n_lists, n_ranked] item positions, best first; -1 is no item."""
        shown = ranked[:, :EXPOSURE_DEPTH]
        shown = shown[shown >= 0]
        self._times_shown += np.bincount(shown, minlength=len(self._times_shown))

    def summary(self) -> dict[str, float | None]:
        """`coverage@20` and `popularity@20`; None where no list was added.

        Coverage is the share of the catalogue that is in at least one list; popularity bias the
        mean percentile of the items shown, by their training interactions (ties share the mean
        of their ranks): 0 the least popular item, 1 the most, 0.5 where items are shown alike.
        """
        n_shown = self._times_shown.sum()
        if not n_shown:
            return dict.fromkeys(EXPOSURE_METRICS)
        return {
            "coverage@20": float((self._times_shown > 0).mean()),
            "popularity@20": float(self._times_shown @ self._percentile / n_shown),
        }
