"""The journal of a build or a rewriting under way: what it set out to do, and the shards it has finished.

It lies in a folder of the shard directory (`.build/`, `.caption/`) and is removed when the work is sealed.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import satmip_schemas
from satmip_schemas import OWN, ContractError

from satmip_data.errors import BuildError
from satmip_data.shards.record import ShardRecord
from satmip_data.storage.store import Store


class OtherSettingsError(ValueError):
    """The work under way was begun with other settings."""


class DamagedJournalError(BuildError, OtherSettingsError):
    """Nobody can tell with which settings the work under way was begun."""


@dataclass(frozen=True, slots=True)
class Journal:
    """Progress of one piece of work on a shard directory."""

    store: Store
    folder: str

    def begin(self, intent: dict[str, Any]) -> None:
        """Write down what is to be done, or check that it is what was begun before.

        Raises:
            OtherSettingsError: something else was begun; the message shows the difference.
        """
        self.store.remove_leftovers()
        begun = self.intent()
        if begun is None:
            self._write_intent(intent)
        elif changes := differences(begun, intent):
            raise OtherSettingsError("\n".join(changes))

    def intent(self) -> dict[str, Any] | None:
        """Return what was begun; None where nothing was.

        Raises:
            DamagedJournalError: what is written down is damaged.
        """
        name = f"{self.folder}/intent.json"
        if not self.store.exists(name):
            return None
        try:
            begun: dict[str, Any] = satmip_schemas.read_sealed(self.store.read(name), f"{self.store.url}/{name}")
        except ContractError as error:
            raise DamagedJournalError(f"{error}. Delete {self.store.url} and build again, or build into another folder.") from error
        return begun

    def finished(self) -> dict[str, ShardRecord]:
        """Return the records of the shards that are whole, by name; a shard whose record is damaged is not among them."""
        names = [name for name in self.store.names(f"{self.folder}/records") if name.endswith(".json")]
        records = []
        for name, data in zip(names, self.store.read_many(names), strict=True):
            with suppress(ContractError, KeyError, TypeError):
                records.append(ShardRecord.from_json(satmip_schemas.read_sealed(data, name)))
        sizes = self.store.sizes()
        return {record.name: record for record in records if sizes.get(record.name) == record.bytes}

    def add(self, record: ShardRecord) -> None:
        """Note that a shard is whole."""
        self.store.write(f"{self.folder}/records/{record.name}.json", satmip_schemas.seal(record.to_json(), OWN))

    def restart(self, intent: dict[str, Any]) -> None:
        """Set out to do something else in place of what was begun; at no moment is there a journal of neither."""
        self._forget()
        self._write_intent(intent)

    def close(self) -> None:
        """Remove the journal: the work is sealed."""
        self._forget()
        self.store.remove(self.folder)

    def _write_intent(self, intent: dict[str, Any]) -> None:
        self.store.write(f"{self.folder}/intent.json", satmip_schemas.seal(intent, OWN))

    def _forget(self) -> None:
        # Before the intent is: records that outlived it would pass for those of the next one.
        self.store.remove(f"{self.folder}/records")


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one line for each leaf in which two JSON objects differ."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"  {prefix}{key}: {old!r} before, {new!r} now")
    return lines
