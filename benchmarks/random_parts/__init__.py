"""Parts of random networks: each takes some channels and yields some, in one of many odd ways."""

from __future__ import annotations

from .images import IMAGE_PARTS
from .part import Part, Recipe
from .tokens import TOKEN_PARTS

__all__ = ["IMAGE_PARTS", "TOKEN_PARTS", "Part", "Recipe"]
