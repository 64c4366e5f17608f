"""Outlines as the documents that viewers read, written as they are made: a slide may have a hundred thousand.

DSA: an annotation of the Digital Slide Archive (girder/large_image's schema of annotations), in lines as one client expects them: the
description stands alone in the last line but one. ASAP: annotations of the viewer of that name, which QuPath's extension reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from delineate.slides.outlines import Colour, Outlines

USUAL_COLOUR: Final[Colour] = (255, 0, 0)
SUFFIXES: Final = {"dsa": ".json", "asap": ".xml", "json": ".json"}
_NAME: Final = "MONAILabel Annotations - {}"  # as the clients of that API know it


@dataclass(frozen=True, kw_only=True)
class About:
    """Of which model, and how many seconds were spent on what."""

    model: str
    description: str = ""
    latencies: Mapping[str, float] = field(default_factory=dict)


def document(form: str, outlines: Outlines, about: About) -> Iterator[str]:
    """A document in pieces. form : ``dsa``, ``asap`` or ``json``."""
    return {"dsa": _dsa, "asap": _asap, "json": _json}[form](outlines, about)


def _dsa(outlines: Outlines, about: About) -> Iterator[str]:
    yield f'{{\n "name": {json.dumps(_NAME.format(about.model))},\n "elements": [\n'
    before = "  "
    for label, group in outlines.groups.items():
        style = {"group": label, "type": "polyline", "lineColor": _rgb(_colour(outlines, label)), "lineWidth": 2.0, "closed": True}
        start = json.dumps(style)[:-1]
        end = json.dumps({"label": {"value": label}})[1:]
        for polygon in group.lists():
            for point in polygon:
                point.append(0)
            yield f'{before}{start}, "points": {_compact(polygon)}, {end}'
            before = ",\n  "
    description = {
        "model": about.model, "desc": about.description, "location": list(outlines.within[:2]), "size": list(outlines.within[2:]),
        "count": outlines.count, "latencies": dict(about.latencies),
    }  # fmt: skip
    yield f'\n ],\n "description": {json.dumps(json.dumps(description))}\n}}'


def _asap(outlines: Outlines, about: About) -> Iterator[str]:
    x, y, width, height = outlines.within
    yield '<?xml version="1.0"?>\n<ASAP_Annotations>\n'
    yield (
        f"  <Annotations Name={_quoted(_NAME.format(about.model))} Description={_quoted(about.description)} Model={_quoted(about.model)}"
        f' X="{x}" Y="{y}" W="{width}" H="{height}">\n'
    )
    for label, group in outlines.groups.items():
        name, colour = _quoted(label), _hex(_colour(outlines, label))
        start = f'    <Annotation Name={name} Type="Polygon" PartOfGroup={name} Color="{colour}">\n      <Coordinates>\n'
        for polygon in group.lists():
            points = "".join(f'        <Coordinate Order="{order}" X="{x}" Y="{y}" />\n' for order, (x, y) in enumerate(polygon))
            yield f"{start}{points}      </Coordinates>\n    </Annotation>\n"
    yield "  </Annotations>\n  <AnnotationGroups>\n"
    for label in outlines.groups:
        yield f'    <Group Name={_quoted(label)} PartOfGroup="None" Color="{_hex(_colour(outlines, label))}">\n'
        yield "      <Attributes />\n    </Group>\n"
    yield "  </AnnotationGroups>\n</ASAP_Annotations>\n"


def _json(outlines: Outlines, about: About) -> Iterator[str]:
    location, size, latencies = json.dumps(outlines.within[:2]), json.dumps(outlines.within[2:]), json.dumps(dict(about.latencies))
    about_it = json.dumps({"name": _NAME.format(about.model), "description": about.description, "model": about.model})
    yield f'{about_it[:-1]}, "location": {location}, "size": {size}, '
    yield f'"annotations": [{{"annotation": {{"location": {location}, "size": {size}, "elements": ['
    before = ""
    for label, group in outlines.groups.items():
        if not len(group):
            continue
        yield f'{before}{{"label": {json.dumps(label)}, "contours": ['
        for index, polygon in enumerate(group.lists()):
            yield f"{', ' if index else ''}{_compact(polygon)}"
        yield "]}"
        before = ", "
    colours = json.dumps({label: _colour(outlines, label) for label in outlines.groups})
    yield f'], "labels": {colours}}}, "latencies": {latencies}}}], "latencies": {latencies}}}'


def _colour(outlines: Outlines, label: str) -> Colour:
    return outlines.colours.get(label, USUAL_COLOUR)


def _rgb(colour: Colour) -> str:
    return "rgb({},{},{})".format(*colour)


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _quoted(text: str) -> str:
    """An attribute's value in its quotes, without what XML cannot hold."""
    return quoteattr("".join(letter for letter in text if letter.isprintable()), {'"': "&quot;"})


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
