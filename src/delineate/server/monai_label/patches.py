"""The next part to label of a slide that somebody has open already: QuPath asks so."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from delineate.errors import InputError
from delineate.protocols import monai_label as wire
from delineate.slides.slide import LONGEST_SIDE

USUAL: Final = (1024, 1024)


def next_patch(body: Mapping[str, Any]) -> wire.Sample | None:
    """A part anywhere on the slide `image`: its `bbox` is x, y, width and height in pixels of level 0; None where no slide is named.

    body : with `image`, `image_size` and `patch_size`, the latter two width and height; zeros stand for the patch's size

    Raises
    ------
    InputError
        Sizes that are none.
    """
    image = body.get("image") or ""
    if not isinstance(image, str):
        raise InputError("image is no text", "Send the id of the image that is open.")
    if not image:
        return None
    patch = _size(body.get("patch_size"), "patch_size", USUAL, least=1)
    whole = [side or usual for side, usual in zip(_size(body.get("image_size"), "image_size", (0, 0), least=0), patch, strict=True)]
    width, height = (min(side, most) for side, most in zip(patch, whole, strict=True))
    x, y = secrets.randbelow(whole[0] - width + 1), secrets.randbelow(whole[1] - height + 1)
    return wire.Sample(id=image, bbox=[x, y, width, height])


def _size(value: Any, name: str, usual: tuple[int, int], *, least: int) -> tuple[int, int]:
    if value is None:
        return usual
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int and least <= side <= LONGEST_SIDE for side in value):
        raise InputError(f"{name} is not a width and a height in pixels", f"Send it like {list(USUAL)}.")
    return value[0], value[1]
