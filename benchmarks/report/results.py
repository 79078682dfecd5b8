"""One run in its folder: `values.json` holds every value in pyperf's format, `run.json` what they mean.

Tables, plots, the page and comparisons are made from these two alone, so that a run of another version, whose groups may be others, reads
as it was measured. `FORMAT` is raised when `run.json` changes so that an older reader would take it wrongly.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from ..measure.timing import Comparison, Group, Line, Plot, Samples
from .rows import Row, row

FORMAT = 1
VALUES = "values.json"
RUN = "run.json"


class ResultsError(Exception):
    """What was given is no run that can be read; the message says why, and what was expected."""


@dataclass
class Part:
    """What came of one group. `missing` says why it was not measured; `text` is the table of one that counts."""

    name: str
    title: str = ""
    about: str = ""
    why: str = ""
    took: float = 0.0
    missing: str = ""
    text: str = ""
    comparisons: Tuple[Comparison, ...] = ()
    plots: Tuple[Plot, ...] = ()
    samples: Dict[str, Samples] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """What stands over its table."""
        return self.title or self.name

    @property
    def rows(self) -> List[Row]:
        """The rows of its table."""
        return [row(comparison, self.samples) for comparison in self.comparisons] if self.samples else []

    def needs(self, way: str) -> str:
        """What a way needs that was not there; "" if nobody says so."""
        return next((one.needs for one in self.comparisons if one.way == way and one.needs), "")

    def units(self) -> Dict[str, str]:
        """The units of those ways that are not measured in seconds."""
        ways = [(way, one.unit) for one in self.comparisons for way in (one.way, one.baseline, one.beyond or one.baseline)]
        ways += [(way, plot.unit) for plot in self.plots for line in plot.lines for _, way in line.points]
        return {way: unit for way, unit in ways if unit != "second"}


@dataclass
class Run:
    """All that one call of the command measured."""

    version: str
    date: str
    command: str
    effort: str
    machine: Dict[str, str]
    packages: Dict[str, str]
    parts: List[Part]

    @property
    def took(self) -> float:
        """Seconds of all groups together."""
        return sum(part.took for part in self.parts)

    def part(self, name: str) -> Optional[Part]:
        """What came of a group; None if it was not asked for."""
        return next((part for part in self.parts if part.name == name), None)


def part_of(group: Group, **what_came: Any) -> Part:
    """What a group says of itself, with what came of it."""
    return Part(group.name, group.title, group.about, group.why, comparisons=group.comparisons, plots=group.plots, **what_came)


# to a folder -----------------------------------------------------------------------------------------------------------------------


def write(run: Run, folder: Path) -> None:
    """Write both files, each in one step, so that none is ever cut off. Raises `OSError`."""
    from .suite import make_suite

    measured = {part.name: part.samples for part in run.parts if part.samples}
    if measured:
        unfinished = folder / f".{VALUES}"
        make_suite(measured, {part.name: part.units() for part in run.parts}).dump(str(unfinished), replace=True)
        os.replace(unfinished, folder / VALUES)
    write_text(folder / RUN, json.dumps(to_json(run), indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: who looks, or ends the run meanwhile, finds all of it or what was there before. Raises `OSError`."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def to_json(run: Run) -> Dict[str, Any]:
    """All but the samples."""
    whole = asdict(run)
    for part in whole["parts"]:
        del part["samples"]
    return {"format": FORMAT, **whole}


# and back --------------------------------------------------------------------------------------------------------------------------


def read(path: Path) -> Run:
    """A run from its folder, or from its `values.json`, alone or beside its `run.json`. Raises `ResultsError`."""
    if not path.exists():
        raise ResultsError(f"{path} does not exist; expected a folder that `python -m benchmarks` has made, or a {VALUES} of one")
    folder, values = (path, path / VALUES) if path.is_dir() else (path.parent, path)
    described = folder / RUN
    if path.is_dir() and not described.exists():
        raise ResultsError(f"{folder} holds no {RUN}; expected a folder that `python -m benchmarks` has made")
    if path.name == RUN:
        return read(folder)
    samples = _read_values(values) if values.exists() else {}
    # Without what they mean, values of other files of pyperf are compared as the times that they are.
    if described.exists() and (path.is_dir() or path.name == VALUES):
        return from_json(_load(described), samples, str(described))
    return Run("", "", "", "", {}, {}, [Part(name, samples=ways) for name, ways in samples.items()])


def from_json(data: Any, samples: Mapping[str, Dict[str, Samples]], where: str = RUN) -> Run:
    """The inverse of `to_json`. Raises `ResultsError`."""
    if not isinstance(data, dict) or "format" not in data:
        raise ResultsError(f"{where} says no format; expected what `python -m benchmarks` writes")
    if data["format"] != FORMAT:
        raise ResultsError(f"{where} is of format {data['format']!r}; this version reads {FORMAT}: read it with the version that wrote it")
    try:
        fields = {name: data[name] for name in ("version", "date", "command", "effort", "machine", "packages")}
        parts = [_part(part, samples.get(part["name"], {})) for part in data["parts"]]
        if not all(isinstance(fields[name], dict) for name in ("machine", "packages")):
            raise TypeError("machine and packages are tables")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultsError(f"{where} lacks what format {FORMAT} has, or has more: {type(error).__name__}: {error}") from error
    return Run(parts=parts, **fields)


def _part(data: Dict[str, Any], samples: Dict[str, Samples]) -> Part:
    plots = [Plot(**{**plot, "lines": tuple(_line(line) for line in plot["lines"])}) for plot in data.pop("plots")]
    comparisons = tuple(Comparison(**one) for one in data.pop("comparisons"))
    return Part(**data, comparisons=comparisons, plots=tuple(plots), samples=samples)


def _line(data: Dict[str, Any]) -> Line:
    return Line(**{**data, "points": tuple((x, way) for x, way in data["points"])})


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not JSON: {error}") from error


def _read_values(path: Path) -> Dict[str, Dict[str, Samples]]:
    """Samples by group and way, from a suite of pyperf's. Read as the plain JSON that it is, so that reading needs no pyperf."""
    data = _load(path)
    try:
        if data["version"] != "1.0":
            raise ResultsError(f"{path} is of version {data['version']!r} of pyperf's format; expected 1.0")
        return _by_group(data["benchmarks"], data.get("metadata", {}), path)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ResultsError(f"{path} is no suite of pyperf's: {type(error).__name__}: {error}") from error


def _by_group(benchmarks: Iterable[Mapping[str, Any]], common: Mapping[str, Any], path: Path) -> Dict[str, Dict[str, Samples]]:
    found: Dict[str, Dict[str, Samples]] = {}
    for benchmark in benchmarks:
        metadata = {**common, **benchmark.get("metadata", {})}
        name = metadata.get("name") or benchmark["runs"][0]["metadata"]["name"]
        group, separator, way = name.partition(": ")
        sample = found.setdefault(group if separator else "", {}).setdefault(way if separator else name, Samples())
        for run in benchmark["runs"]:
            values = [float(value) for value in run.get("values", ())]
            wrong = next((value for value in values if not (math.isfinite(value) and value > 0)), None)
            if wrong is not None:
                raise ResultsError(f"{path}: {name!r} has the value {wrong}; expected finite numbers above 0, as seconds and bytes are")
            # pyperf's own runner makes runs that only calibrate.
            if values:
                sample.runs.append(values)
                sample.loops.append(int(run.get("metadata", {}).get("loops", metadata.get("loops", 1))))
        if not sample.runs:
            raise ResultsError(f"{path}: {name!r} has no values; measure it again")
    return found
