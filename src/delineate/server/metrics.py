"""Figures for Prometheus, in a registry of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from delineate.server.durations import Durations
from delineate.server.service import Service
from delineate.server.waiting import Watcher

_SECONDS: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts requests and uploads; asks the store and the engine when somebody wants to know the rest."""

    def __init__(self, service: Service, watcher: Watcher) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        labels = ("method", "route", "status")
        self._requests = Histogram(
            "delineate_request_seconds", "Requests by route and status.", labels, buckets=_SECONDS, registry=self._registry
        )
        self._uploaded = Counter("delineate_uploaded_bytes", "Bytes of accepted uploads.", registry=self._registry)
        self._durations = Durations(service.database, self._registry)
        self._registry.register(_State(service, watcher))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note a request; methods of strangers' invention are one."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).observe(seconds)

    def uploaded(self, size: int) -> None:
        """Note an accepted upload."""
        self._uploaded.inc(size)

    def text(self) -> bytes:
        """All figures in Prometheus' text format. Asks the store: call it in a thread."""
        self._durations.look()
        return generate_latest(self._registry)


class _State(Collector):
    """What is so now."""

    def __init__(self, service: Service, watcher: Watcher) -> None:
        self._service = service
        self._watcher = watcher

    def collect(self) -> Iterator[Any]:
        tasks = GaugeMetricFamily("delineate_tasks", "Tasks by state.", labels=("state",))
        for state, count in self._service.tasks.counts().items():
            tasks.add_metric((state.value,), count)
        yield tasks
        oldest = self._service.tasks.oldest_pending()
        yield GaugeMetricFamily(
            "delineate_queue_age_seconds", "Age of the oldest waiting task.", max(0.0, time.time() - oldest) if oldest else 0.0
        )
        yield GaugeMetricFamily("delineate_waiting_clients", "Long polls and event streams.", self._watcher.waiting)
        yield GaugeMetricFamily("delineate_disk_free_bytes", "Space left where the data are.", self._service.disk_free())
        if self._service.engine is not None:
            status = self._service.engine.status()
            workers = GaugeMetricFamily("delineate_workers", "Workers of this server by state.", labels=("state",))
            states = [str(worker["state"]) for worker in status["workers"]]
            for state_name in sorted(set(states)):
                workers.add_metric((state_name,), states.count(state_name))
            yield workers
