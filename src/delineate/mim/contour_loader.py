"""Sets structures as contours on an image of the workstation: all of them, or nothing is changed.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import numpy as np

from delineate.errors import GeometryError, InputError
from delineate.mim.task_input import Say, contour_name, create_contour, free_name, image_grid, twice, words
from delineate.mim.task_output import LabelArrays, TaskOutput


class _Step(NamedTuple):
    """One structure to set, the contour's name, the contour that takes it (None: a new one), and whether that holds anything."""

    structure: str
    name: str
    contour: Optional[Any] = None
    is_full: bool = False


class ContourLoader:
    """Sets the structures of a result on one image.

    A contour of a structure's name is filled where it is empty, as workflows prepare them. One that holds anything is
    left alone, and the structure gets another name, unless `overwrite`. A structure without voxels gets no contour.

    Parameters
    ----------
    session, image : of the workstation
    say : gets a sentence for everything a person may want to know
    overwrite : whether a contour that holds anything may be replaced
    """

    def __init__(self, session: Any, image: Any, say: Say, *, overwrite: bool = False) -> None:
        self._session = session
        self._image = image
        self._say = say
        self._overwrite = overwrite
        self._undo: List[Tuple[str, Callable[[], None]]] = []

    def load(self, output: TaskOutput) -> List[str]:
        """Set every structure that has voxels; the names of the contours, in order.

        Whatever is raised, contours that were added are deleted again and those that were filled hold what they held.

        Raises
        ------
        GeometryError
            The result, or a contour that is to take it, is on another grid.
        InputError
            Two contours of one name hold something, and one of them should be overwritten; or one that was empty is not any more.
        """
        if output.grid is None:
            output.fit(image_grid(self._session, self._image))
        masks = output.get_output_as_label_array_dict()
        for note in output.notes:
            self._say(note)
        steps = self._plan(masks)
        self._undo = []
        try:
            for step in steps:
                self._set(step, masks)
        except BaseException:
            self._roll_back()
            raise
        return [step.name for step in steps]

    def _plan(self, masks: LabelArrays) -> List[_Step]:
        """What goes where. Nothing is changed yet, and everything that can be checked is."""
        there = [(contour_name(contour), contour) for contour in list(self._image.getContours())]
        taken = [name for name, _ in there] + list(masks)
        empty = [structure for structure in masks if masks.is_empty(structure)]
        if empty:
            self._say("Nothing was found of %s: no contour is made." % ", ".join(empty))
        steps = []
        for structure in (structure for structure in masks if structure not in empty):
            step = self._step(structure, [contour for name, contour in there if name == structure], taken)
            if step.contour is not None:
                _require_grid(step, step.contour, masks)
            taken.append(step.name)
            steps.append(step)
        return steps

    def _step(self, structure: str, same: List[Any], taken: List[str]) -> _Step:
        full = []
        for contour in same:
            if contour.isEmpty():
                return _Step(structure, structure, contour)
            full.append(contour)
        if not full:
            return _Step(structure, structure)
        if not self._overwrite:
            name = free_name(structure, taken)
            self._say("The contour %s holds something and is left as it is: the new one is %s." % (structure, name))
            return _Step(structure, name)
        if len(full) > 1:
            raise InputError("%d contours of the image are called %s" % (len(full), structure), "Rename all but the one to overwrite.")
        return _Step(structure, structure, full[0], True)

    def _set(self, step: _Step, masks: LabelArrays) -> None:
        contour = step.contour
        if contour is None:
            contour = create_contour(self._image, step.name)
            self._undo.append((step.name, contour.delete))
            _require_grid(step, contour, masks)
        else:
            if not step.is_full and not contour.isEmpty():  # a person, or another workflow, was quicker
                raise InputError("the contour %s was drawn meanwhile and is left as it is" % step.name, "Run this again.")
            self._undo.append((step.name, _restorer(contour, masks.shape, step.is_full)))
        # A fresh array each time: whether the workstation copies it is not known.
        contour.getData().setFromNPArray(masks[step.structure])
        contour.redrawCompletely()

    def _roll_back(self) -> None:
        """Undo everything, the last first. What cannot be undone is said and does not stop the rest, nor hide the first error."""
        while self._undo:
            name, action = self._undo.pop()
            try:
                twice(action)
            except Exception:
                with contextlib.suppress(Exception):
                    self._say("The contour %s may not be as it was: the workstation refused to undo it. Check it by hand." % name)


def _require_grid(step: _Step, contour: Any, masks: LabelArrays) -> None:
    shape = tuple(reversed([int(n) for n in contour.getDims()]))
    if shape != masks.shape:
        raise GeometryError(
            "the contour %s has %s voxels, but the result has %s" % (step.name, words(shape), words(masks.shape)),
            "Delete the contour, or change the workstation's contour resolution, and try again.",
        )


def _restorer(contour: Any, shape: Tuple[int, int, int], is_full: bool) -> Callable[[], None]:
    """What gives a contour back the voxels that it has now; they are kept as bits."""
    bits = np.packbits(np.asarray(contour.getData().copyToNPArray()) != 0) if is_full else None

    def restore() -> None:
        count = shape[0] * shape[1] * shape[2]
        mask = np.zeros(shape, dtype=bool) if bits is None else np.unpackbits(bits)[:count].reshape(shape).view(bool)
        contour.getData().setFromNPArray(mask)
        contour.redrawCompletely()

    return restore
