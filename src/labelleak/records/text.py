"""What records of texts say of common and rare words."""

from __future__ import annotations

# Shares of the attacker's own text from which a token is common, and below which it is rare.
COMMON, RARE = 1e-3, 1e-4
# Bands of the keys `band_labels` and `band_named`, in their order.
BANDS = ("common", "middle", "rare", "special")

__all__ = ["BANDS", "COMMON", "RARE"]
