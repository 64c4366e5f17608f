"""``delineate gateway explain``: which rules a series goes by, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from delineate.cli.printable import printable
from delineate.dicom.reader import looked_at
from delineate.dicom.series import Found
from delineate.errors import ImageError, InputError
from delineate.gateway.rule import Explanation
from delineate.gateway.rules import Rules
from delineate.gateway.rules_attributes import attributes_of


@click.command("explain", short_help="Say by which rules images would go.")
@click.argument("series", type=click.Path(path_type=Path))
@click.option(
    "--rules", "rules_path", default=Path("rules.toml"), show_default=True, type=click.Path(path_type=Path), help="The rules file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(series: Path, rules_path: Path, as_json: bool) -> None:
    """Say for each image in SERIES, a folder, a zip or a file, which rules it goes by, and why not by others.

    Nothing is sent. The exit code is 2 where no rule matches an image, or two are at odds.
    """
    rules = Rules.read(rules_path)
    with looked_at(series) as found:
        images = [_image(rules, found, index) for index in range(len(found.groups))]
    if not images:
        raise ImageError(f"{found.name} holds no DICOM image", "`delineate dicom ls` shows what is there, and why it is none.")
    if as_json:
        click.echo(printable(json.dumps({"images": images}, ensure_ascii=False)))
    else:
        for image in images:
            _print(image)
    if any(image["error"] for image in images):
        raise SystemExit(2)


def _image(rules: Rules, found: Found, index: int) -> dict[str, Any]:
    group = found.groups[index]
    attributes = attributes_of(group, rules.keywords)
    error, chosen = "", []
    try:
        chosen = [
            {
                "rule": rule.name,
                "model": rule.model,
                "server": rule.server,
                "outputs": () if rule.leaves else rule.outputs,
                "destinations": rule.destinations,
                "leaves": rule.leaves,
            }
            for rule in rules.choose(attributes)
        ]
    except InputError as failure:
        error = failure.sentence()
    return {
        "number": group.number,
        "image": str(group),
        "series_uid": group.uid,
        "chosen": chosen,
        "error": error,
        "rules": [_rule(item) for item in rules.explain(attributes)],
    }


def _rule(item: Explanation) -> dict[str, Any]:
    conditions = [{"attribute": one.keyword, "has": one.value, "wanted": one.wanted, "holds": one.holds} for one in item.conditions]
    return {"rule": item.rule.name, "matches": item.matches, "chosen": item.is_chosen, "conditions": conditions}


def _print(image: dict[str, Any]) -> None:
    click.echo(printable(f"image {image['number']}: {image['image']}"))
    for item in image["rules"]:
        state = "chosen" if item["chosen"] else "matches, but an earlier rule ended the search" if item["matches"] else "does not match"
        click.echo(printable(f"  rule {item['rule']!r}: {state}"))
        for one in item["conditions"]:
            has = f"= {one['has']}" if one["has"] else "is absent"
            click.echo(printable(f"    {'yes' if one['holds'] else 'NO '}  {one['attribute']} {has}, wanted: {one['wanted']}"))
    for one in image["chosen"]:
        if one["leaves"]:
            click.echo(printable(f"  → left alone by the rule {one['rule']!r}"))
            continue
        where = f" on {one['server']}" if one["server"] else ""
        click.echo(printable(f"  → {one['model']}{where} → {', '.join(one['outputs'])} → {', '.join(one['destinations'])}"))
    if image["error"]:
        click.echo(printable(f"  → {image['error']}"))
