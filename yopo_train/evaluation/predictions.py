"""The file of a benchmark's predictions: written as they come, and gone on with after a kill.

    <benchmark>.jsonl         one object a line: id, prediction, prompt, reference, score and what was parsed
    <benchmark>.json          whose they are: model, plan, protocol, prompts, settings
    <benchmark>.jsonl.rank1   what rank 1 of several has answered so far; in the first file when all are done

A line that was only half written is dropped. A file of another model, plan, protocol or prompt set is never gone on
with: it is set aside under the name ``<benchmark>.old-1.jsonl``, its description beside it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from ..run_folder import write_bytes, write_text

Line = dict[str, Any]


class PredictionsFile:
    """One rank's view of it.

    Parameters
    ----------
    path
        ``….jsonl``, seen by all ranks.
    identity
        Whose predictions they are to be; plain data.
    rank
        Who writes.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any], rank: int = 0) -> None:
        self.path, self.identity, self.rank = Path(path), json.loads(json.dumps(identity)), rank
        self.about = self.path.with_suffix(".json")
        self.mine = self.path if rank == 0 else self._part(rank)
        self._file: BinaryIO | None = None

    def begin(self) -> dict[str, Line]:
        """What was answered before, by id; on the first rank, before any other opens its part.

        Parts that the ranks of a killed evaluation left go into the file.

        Raises
        ------
        UserError
            The file is damaged before its last line, or cannot be written.
        """
        self._set_aside_if_other()
        found: dict[str, Line] = {}
        for file in [self.path, *self._parts()]:
            if file.is_file():
                found |= {line["id"]: line for line in read_lines(file)}
        write_text(self.about, json.dumps(self.identity, indent=1) + "\n")
        self.finish(found.values())
        return found

    def append(self, lines: Iterable[Line]) -> None:
        """Write some more, in one piece; they survive the end of this process."""
        try:
            if self._file is None:
                self._file = self.mine.open("ab")
            self._file.write(b"".join(map(_encoded, lines)))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.mine}: cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Close this rank's part."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, lines: Iterable[Line]) -> None:
        """Make these lines, in this order, the whole file, and remove the other ranks' parts; on the first rank."""
        self.close()
        write_bytes(self.path, b"".join(map(_encoded, lines)))
        for part in self._parts():
            part.unlink()

    def _set_aside_if_other(self) -> None:
        if not self.path.is_file() and not self._parts():
            return
        try:
            there = json.loads(self.about.read_text("utf-8"))
        except (OSError, ValueError):
            there = None  # nobody knows whose
        if there == self.identity:
            return
        number = 1
        while (old := self.path.with_name(f"{self.path.stem}.old-{number}.jsonl")).exists():
            number += 1
        if self.path.is_file():
            os.replace(self.path, old)
        if self.about.is_file():
            os.replace(self.about, old.with_suffix(".json"))
        for part in self._parts():
            part.unlink()

    def _part(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}.rank{rank}")

    def _parts(self) -> list[Path]:
        pattern = re.compile(re.escape(self.path.name) + r"\.rank\d+")
        return sorted(file for file in self.path.parent.glob("*") if pattern.fullmatch(file.name))


def read_lines(file: Path) -> list[Line]:
    """The complete lines of a predictions file.

    Raises
    ------
    UserError
        A line in the middle is no prediction; names it.
    """
    complete, _, _ = file.read_bytes().rpartition(b"\n")  # what follows the last line's end was half written
    lines = []
    for number, raw in enumerate(complete.split(b"\n") if complete else [], start=1):
        try:
            line = json.loads(raw)
            lines.append(line | {"id": line["id"], "prediction": line["prediction"]})
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{file}: line {number} is no prediction, expected a JSON object with id and prediction; delete the "
                "line, and it is answered again"
            ) from None
    return lines


def _encoded(line: Line) -> bytes:
    """One line; half of a surrogate pair, which UTF-8 does not have, stays the escape that it was in JSON."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
