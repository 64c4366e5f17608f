"""Whether the servers, models and destinations that rules name are there. They may come later, so what is not is a warning."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from delineate.client.address import parse_address
from delineate.client.secret_files import read_token
from delineate.client.sync import Client
from delineate.errors import DelineateError
from delineate.gateway.destination_settings import DestinationSettings, FolderSettings, StowSettings
from delineate.gateway.destinations import make
from delineate.gateway.rules import Rules, Server
from delineate.protocols.messages import Backoff

_LOG: Final = logging.getLogger("delineate.gateway")
_SECONDS: Final = 10.0  # for one of them
_OURS: Final = "of the node"


def missing(rules: Rules, server: Server | None) -> list[str]:
    """A sentence, with advice, for each server and destination of the rules that does not answer, or is sent a secret that others
    can read on the way, and each model that is not there.

    Parameters
    ----------
    server : where rules go that name none
    """
    used = [rule for rule in rules.rules if not rule.leaves]
    models: dict[str, list[str]] = {}
    for rule in used:
        models.setdefault(rule.server, []).append(rule.model)
    servers = {name: rules.servers[name] if name else server for name in models}
    named = dict.fromkeys(name for rule in used for name in rule.destinations)
    questions = [partial(_models, item, models[name]) for name, item in servers.items() if item is not None]
    found = _asked([*questions, *(partial(_destination, rules.destinations[name]) for name in named)])
    secrets = [(f"server {item.name or _OURS}", item.url) for item in servers.values() if item is not None and item.token_file]
    places = [rules.destinations[name] for name in named]
    secrets += [(f"destination {item.name}", item.url) for item in places if isinstance(item, StowSettings) and _has_secret(item)]
    return found + [f"{name} is sent a token or password without TLS. Give an https address." for name, url in secrets if _is_open(url)]


def _asked(questions: Sequence[Callable[[], list[str]]]) -> list[str]:
    """All at once: who does not answer takes its time. Threads that would keep no process from its end."""
    answers: list[list[str]] = [[] for _ in questions]

    def ask(number: int) -> None:
        answers[number] = questions[number]()

    threads = [threading.Thread(target=ask, args=(number,), name="gateway-ask", daemon=True) for number in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [sentence for answer in answers for sentence in answer]


def _has_secret(settings: StowSettings) -> bool:
    return settings.token_file is not None or settings.password_file is not None


def _is_open(url: str) -> bool:
    address = parse_address(url)
    return address.scheme == "http" and not address.is_loopback


def warn(rules: Rules, server: Server | None) -> None:
    """Log what is missing."""
    for sentence in missing(rules, server):
        _LOG.warning("%s", sentence)


def _models(server: Server, wanted: list[str]) -> list[str]:
    name = server.name or _OURS
    try:
        token = None if server.token_file is None else read_token(server.token_file)
        with Client(server.url, token=token, ca_file=server.ca_file, timeout=_SECONDS, backoff=Backoff(tries=2)) as client:
            there = {str(model.get("human_readable_id", "")) for model in client.models()}
    except DelineateError as error:
        return [f"server {name}: {error.sentence()}"]
    except Exception as error:  # of a library, whatever a peer says: that is no answer
        return [f"server {name}: an unexpected {type(error).__name__}. Try a task, and look at its reason."]
    unknown = [model for model in dict.fromkeys(wanted) if model.partition("@")[0] not in there]
    return [f"server {name} has no model {model}. Correct the rule, or register it there." for model in unknown]


def _destination(settings: DestinationSettings) -> list[str]:
    if not isinstance(settings, FolderSettings):
        settings = replace(settings, timeout=min(settings.timeout, _SECONDS))
    try:
        make(settings).ask()
    except DelineateError as error:
        return [f"destination {error.sentence()}"]
    except Exception as error:  # of a library, whatever a peer says; the node goes on
        return [f"destination {settings.name}: an unexpected {type(error).__name__}. Try a delivery, and look at its reason."]
    return []
