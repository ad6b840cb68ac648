"""Split a list into parts for several machines; each part is a range.

    part = parse("2/4")
    part.of(10)             # range(2, 5)

`store` splits the shards of a job in this way, and `merge` merges the parts.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Part:
    """One of several parts of a list. The parts are disjoint and in order.

    Attributes:
      number: number of the part, from 1 to `count`.
      count: number of parts.
    """

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder_name(self) -> str:
        """Return the name of the folder that has the maps of the part."""
        return f"part_{self.number}_of_{self.count}"

    def of(self, length: int) -> range:
        """Return the part of a list of `length` items.

        The lengths of parts differ by one at most. If there are more parts than items,
        some parts are empty.
        """
        start, stop = (
            length * number // self.count for number in (self.number - 1, self.number)
        )
        return range(start, stop)


WHOLE = Part()


def parse(text: str) -> Part:
    """Parse a part as a user types it, such as "2/4".

    Raises:
      ValueError: if the text is not such a part.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(
            f"{text!r} is not a part of the work; expected two whole numbers such as "
            "2/4, which is the second of four parts"
        )
    return Part(int(match[1]), int(match[2]))
