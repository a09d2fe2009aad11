"""What training saw, record by record."""

from collections.abc import Iterator

Record = dict[str, float]


class DivergenceError(RuntimeError):
    """Training left the finite numbers."""


class History:
    """A list of records, each a dictionary of numbers taken at one moment of training.

    Args:
        records: the records so far.

    Example:
        >>> history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
        >>> history["loss"], history.last["epoch"]
        ([0.5, 0.25], 2)
    """

    def __init__(self, records: list[Record] | None = None) -> None:
        self.records: list[Record] = [] if records is None else records

    def __getitem__(self, name: str) -> list[float]:
        """The values of one quantity, from the records that have it; a KeyError names those that exist."""
        values = [record[name] for record in self.records if name in record]
        if not values:
            known = sorted({key for record in self.records for key in record})
            raise KeyError(f"no record has {name!r}: known are {', '.join(known) or 'none yet'}")
        return values

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"History({len(self)} records, last {self.records[-1] if self.records else None})"

    def append(self, record: Record) -> None:
        """Add a record."""
        self.records.append(record)

    @property
    def last(self) -> Record:
        """The newest record."""
        return self.records[-1]
