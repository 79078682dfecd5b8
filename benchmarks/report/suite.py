"""What was measured in pyperf's form, for its file format and its tools (`python -m pyperf stats FILE`)."""

from __future__ import annotations

from typing import Dict, Mapping

import pyperf

from ..measure.timing import Samples

# pyperf takes no value that is not above 0: a difference of two memories may be none, and a clock may not have moved.
_LEAST = {"second": 1e-12, "byte": 1}


def make_suite(measured: Dict[str, Dict[str, Samples]], units: Mapping[str, Mapping[str, str]] = {}) -> pyperf.BenchmarkSuite:
    """A pyperf suite from samples by group and way: a benchmark for each way, a pyperf run for each set-up; `units` other than seconds."""
    return pyperf.BenchmarkSuite(
        [
            _benchmark(f"{group}: {way}", samples, units.get(group, {}).get(way, "second"))
            for group, ways in measured.items()
            for way, samples in ways.items()
        ]
    )


def _benchmark(name: str, samples: Samples, unit: str) -> pyperf.Benchmark:
    runs = []
    for values, loops in zip(samples.runs, samples.loops):
        metadata = {"name": name, "unit": unit, "loops": loops}
        runs.append(pyperf.Run([max(_LEAST[unit], value) for value in values], metadata=metadata, collect_metadata=False))
    benchmark = pyperf.Benchmark(runs)
    # What pyperf knows of the machine, collected once, after the measuring.
    benchmark.update_metadata(_machine())
    return benchmark


_collected: Dict[str, object] = {}


def _machine() -> Dict[str, object]:
    if not _collected:
        metadata = pyperf.Run([1.0], collect_metadata=True).get_metadata()
        kept = ("cpu_model_name", "cpu_count", "hostname", "platform", "python_version", "python_implementation", "date")
        _collected.update({name: metadata[name] for name in kept if name in metadata})
    return _collected
