"""Which image an annotator gets next; while one has it, nobody else gets the same."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from delineate.datastore import names
from delineate.datastore.faults import UnknownStrategyError
from delineate.datastore.found_labels import FoundLabels
from delineate.datastore.reading import checked_who
from delineate.datastore.records import Lease, Sample
from delineate.datastore.snapshot import image_record
from delineate.datastore.statements import DELETE_LEASE, INSERT_LEASE, LEASES
from delineate.datastore.strategies import Situation, Strategy


class Sampling(FoundLabels):
    """Leases of images."""

    strategies: Mapping[str, Strategy]
    lease_seconds: float

    def next_sample(self, strategy: str, holder: str, *, tag: str = names.FINAL) -> Sample | None:
        """An image without a label of `tag`, leased to `holder`; None when nothing is left that nobody else has.

        A lease ends with a label of that tag, with the image, or after `lease_seconds`; who gets the same image again
        renews it. That an image was handed out is also kept in its information, under ``strategy``.

        Raises
        ------
        UnknownStrategyError
            There is none of that name.
        """
        tag, holder = names.check_tag(tag), checked_who(holder)
        chooser = self.strategies.get(strategy)
        if chooser is None:
            raise UnknownStrategyError("there is no such strategy", f"Use one of {', '.join(sorted(self.strategies))}.")
        now = self._clock()
        self.state()  # what changed is read before the others have to wait
        with self.database.write(light=True) as connection:
            state = self._snapshot.load(connection)
            leases = connection.execute(LEASES, {"of": self._datastore, "now": now}).all()
            others = {lease.name for lease in leases if lease.holder != holder}
            unlabelled = state.unlabelled(tag)
            candidates = [image for image in unlabelled if image.id not in others] if others else unlabelled
            if not candidates:
                return None

            def labelled() -> AbstractSet[str]:
                return state.entries.keys() - {image.id for image in unlabelled}

            situation = Situation(candidates=candidates, labelled=labelled, leased=others, tag=tag, name=strategy, now=now)
            choice = chooser.choose(situation)
            row = self._image_row(connection, choice.image.id)
            lease = Lease(image=row.name, holder=holder, strategy=strategy, tag=tag, expires=now + self.lease_seconds)
            connection.execute(DELETE_LEASE, {"which": row.id})
            values = {"image": row.id, "holder": holder, "strategy": strategy, "tag": tag, "expires": lease.expires}
            connection.execute(INSERT_LEASE, values)
            before = row.info.get("strategy")
            history = {**(before if isinstance(before, dict) else {}), strategy: {"ts": int(now), "client_id": holder, **choice.note}}
            self._changed(connection, row.id, {"info": {**row.info, "strategy": history}})
            image = image_record(self.layout, self._image_row(connection, row.name))
        return Sample(image=image, lease=lease, weight=choice.weight)

    def leases(self) -> list[Lease]:
        """Who has which image now."""
        with self.database.read() as connection:
            rows = connection.execute(LEASES, {"of": self._datastore, "now": self._clock()}).all()
        return [Lease(image=row.name, holder=row.holder, strategy=row.strategy, tag=row.tag, expires=row.expires) for row in rows]

    def release(self, holder: str) -> int:
        """Give back all images that somebody has, how many; for an annotator who leaves."""
        with self.database.write(light=True) as connection:
            rows = connection.execute(LEASES, {"of": self._datastore, "now": self._clock()}).all()
            mine = [row.image for row in rows if row.holder == checked_who(holder)]
            for image in mine:
                connection.execute(DELETE_LEASE, {"which": image})
        return len(mine)
