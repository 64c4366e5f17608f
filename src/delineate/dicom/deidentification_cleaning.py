"""A data set, attribute by attribute, nested ones too, as the table says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, MutableSequence
from typing import Any, Final, NamedTuple

from delineate.dicom.deidentification_table import Action, Kept, action_of
from delineate.dicom.deidentification_values import dummy, shifted
from delineate.dicom.header import DEEPEST
from delineate.dicom.parts import pydicom

UTF_8: Final = "ISO_IR 192"
_CHARACTERS: Final = 0x00080005
_UID: Final = re.compile(r"[0-9.]{0,64}")


class TooDeepError(Exception):
    """Sequences are nested more deeply than anybody means."""


class Cleaner(NamedTuple):
    """kept : options of the profile; days : by which days are shifted; uid : what a UID is sent as."""

    kept: Kept
    days: int
    uid: Callable[[str], str]

    def cleaned(self, data: Any, depth: int = 0) -> Any:
        """The data set as a new one; `TooDeepError`."""
        if depth > DEEPEST:
            raise TooDeepError
        library = pydicom()
        clean = library.Dataset()
        for tag in sorted(data.keys()):
            element = _element(data, tag)
            if element is None or (tag == _CHARACTERS and depth):
                continue  # what cannot be read is not sent; nested items are in the characters of the whole
            if tag == _CHARACTERS:  # texts are written anew, whatever they were in
                clean.SpecificCharacterSet = UTF_8
                continue
            vr, action = str(element.VR), action_of(int(tag), str(element.VR), self.kept)
            if action == "keep" and vr != "SQ":
                if vr != "UI" or all(_UID.fullmatch(str(uid)) for uid in values_of(element.value)):
                    clean[tag] = element  # as it is, its way of writing too
                continue
            value = self._value(element, action, depth)
            if value is not None:
                clean[tag] = library.DataElement(tag, _type(element), value, validation_mode=library.config.IGNORE)
        return clean

    def _value(self, element: Any, action: Action, depth: int) -> Any:
        """What an attribute is sent as; None where it is not."""
        vr = str(element.VR)
        if action in ("keep", "within"):
            return self._items(element.value, depth) if vr == "SQ" else None
        if action == "map":
            return self.mapped(element.value) if vr == "UI" else None
        if action == "shift":
            return self._moved(element, depth)
        if action == "dummy":
            return self._dummy(element, depth)
        return _empty(_type(element)) if action == "empty" else None

    def mapped(self, value: Any) -> Any:
        """UIDs as they are sent; those that the standard registers stay."""
        uids = [str(uid).strip(" \0") for uid in values_of(value)]
        return one_or_all([uid if not uid or is_registered(uid) else self.uid(uid) for uid in uids])

    def _moved(self, element: Any, depth: int) -> Any:
        """Days shifted; as without the option where they are none."""
        vr = str(element.VR)
        if vr in ("DA", "DT", "TM"):
            moved = [shifted(str(text), vr, self.days) for text in values_of(element.value)]
            if all(moved):
                return one_or_all(moved)
        return self._value(element, action_of(int(element.tag), vr, self.kept._replace(dates=False)), depth)

    def _items(self, items: Any, depth: int) -> Any:
        return pydicom().Sequence([self.cleaned(item, depth + 1) for item in items])

    def _dummy(self, element: Any, depth: int) -> Any:
        """Of a sequence the same items with dummies in all that stays of them."""
        vr = _type(element)
        if vr == "UI":
            return self.mapped(element.value)
        if vr != "SQ":
            return dummy(vr)
        if str(element.VR) != "SQ":
            return None
        items = []
        for item in element.value:
            clean = self.cleaned(item, depth + 1)
            for inner in list(clean):
                if inner.VR == "SQ":
                    clean[inner.tag].value = self._dummy(inner, depth + 1)
                elif inner.VR != "UI":
                    clean[inner.tag].value = dummy(str(inner.VR))
            items.append(clean)
        return pydicom().Sequence(items)


def is_registered(uid: str) -> bool:
    """Whether a UID is one of the standard's own: a kind of thing, not a thing."""
    return uid in pydicom().uid.UID_dictionary


def one_or_all(values: list[str]) -> Any:
    """As pydicom has them: one alone, several as a list, none as empty text."""
    return values[0] if len(values) == 1 else values or ""


def values_of(value: Any) -> Iterable[Any]:
    """The values of an attribute, whether one or several."""
    if value is None or value == "":
        return ()
    return value if isinstance(value, (MutableSequence, tuple)) else (value,)


def _element(data: Any, tag: Any) -> Any:
    """An attribute decoded; None where its bytes are none of its type."""
    try:
        element = data[tag]
        if element.VR in ("DS", "IS"):
            [float(number) for number in values_of(element.value)]
    except Exception:  # what a library makes of damaged elements is anything
        return None
    return element


def _type(element: Any) -> str:
    """The type in the dictionary where the file's is unknown, else the file's."""
    vr = str(element.VR)
    if vr == "UN":
        library = pydicom()
        return str(library.datadict.dictionary_VR(element.tag)).split(" ")[0]
    return vr


def _empty(vr: str) -> Any:
    return pydicom().Sequence([]) if vr == "SQ" else b"" if vr in ("OB", "OW", "UN") else ""
