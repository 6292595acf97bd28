"""From runs to tables: medians with their spread, ratios within the same round, and where.

Everything here works from the documents that `bench.run` writes: a table can be made anew at any time.
"""

import os
import platform
import statistics
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.workloads import WORKLOADS, Metric, columns, due

if TYPE_CHECKING:
    from bench.servers import Server

Runs = dict[str, list[dict[str, Any]]]
Document = dict[str, Any]

# A run that takes longer than this times what its events are due in: see `behind`.
LATE = 1.25


def machine() -> dict[str, Any]:
    """The machine, the kernel, the interpreter, and how busy it was."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of these distributions."""
    found: dict[str, str] = {}
    for package in dict.fromkeys(packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def versions(servers: "list[Server]") -> dict[str, str]:
    """The installed versions of everything compared."""
    found = installed(package for server in servers for package in server.packages)
    for server in servers:
        found |= server.versions()
    return found


def without_servers(workload: str, rounds: int, packages: Iterable[str], results: Any) -> Document:
    """The document of a measurement that needs no servers."""
    return {
        "workload": workload,
        "options": {"rounds": rounds},
        "machine": machine(),
        "versions": installed(packages),
        "results": results,
    }


def where(of: dict[str, Any]) -> str:
    """The machine in a line."""
    return (
        f"{of['cpu']}, {of['cores']} cores, {of['memory_gb']:.0f} GB, Linux {of['kernel']}, "
        f"Python {of['python']}"
    )


def provenance(of: dict[str, Any], found: dict[str, str]) -> str:
    """The line under a table: the machine and what was compared."""
    compared = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"{where(of)}, load average before {of['load_average']:.1f}; {compared}"


def values(runs: list[dict[str, Any]], metric: Metric) -> list[float]:
    """The metric of every valid run that has it."""
    return [value for run in runs if run.get("valid") and (value := metric.value(run)) is not None]


def baseline_of(document: Document, row: str) -> str:
    """The row that this one's ratios refer to; itself where it has none."""
    own: dict[str, str] = document.get("baselines", {})
    of_all: str = document["options"]["baseline"]
    return own.get(row, of_all)


def _ratio(one: dict[str, Any], other: dict[str, Any], metric: Metric) -> float | None:
    """Of two runs of the same round; None unless both are valid and have the metric."""
    if not (one.get("valid") and other.get("valid")):
        return None
    own, base = metric.value(one), metric.value(other)
    return own / base if own is not None and base else None


def ratios(name: str, runs: Runs, metric: Metric, baseline: str) -> list[float | None]:
    """Each round's ratio to the baseline; nothing for the baseline itself."""
    if not metric.ratio or name == baseline:
        return []
    pairs = zip(runs.get(name, []), runs.get(baseline, []), strict=False)
    return [_ratio(one, other, metric) for one, other in pairs]


def entry(name: str, runs: Runs, metric: Metric, baseline: str) -> dict[str, float] | None:
    """Median, lowest, highest, and the ratio to the baseline; None without a valid run."""
    of_server = values(runs.get(name, []), metric)
    if not of_server:
        return None
    found = {"median": statistics.median(of_server), "min": min(of_server), "max": max(of_server)}
    of_rounds = [ratio for ratio in ratios(name, runs, metric, baseline) if ratio is not None]
    if of_rounds:
        found["ratio"] = statistics.median(of_rounds)
    return found


def behind(document: Document, result: dict[str, Any]) -> dict[str, float]:
    """The servers that cannot keep the pace at this size, and what the run took, the median in seconds.

    Who keeps it has delivered the last event about when a next one would be due. Who needs a
    quarter more publishes late, or delivers later with each event; less can be one delay in a short run.
    """
    limit = due(document["options"], result["clients"])
    took = {
        name: statistics.median(walls)
        for name, runs in result["runs"].items()
        # Also of invalid runs: being overloaded is what may have made them so.
        if (walls := [run["wall_s"] for run in runs if "wall_s" in run])
    }
    return {name: wall for name, wall in took.items() if limit is not None and wall > LATE * limit}


def _marked(text: str, late: bool) -> str:
    return f"{text} (cannot keep up)" if late else text


def _cell(of: dict[str, float] | None, metric: Metric) -> str:
    if of is None:
        return "-"
    median, low, high = (f"{of[key]:,.{metric.digits}f}" for key in ("median", "min", "max"))
    spread = "" if low == high else f" ({low} to {high})"
    ratio = f" **{of['ratio']:.2f}x**" if "ratio" in of else ""
    return f"{median}{spread}{ratio}"


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(document: Document, result: dict[str, Any], metrics: tuple[Metric, ...]) -> str:
    """One size's table: a row for each server, a column for each metric that any of them has."""
    runs, late = result["runs"], behind(document, result)
    cells = {
        name: [entry(name, runs, metric, baseline_of(document, name)) for metric in metrics] for name in runs
    }
    shown = [index for index in range(len(metrics)) if any(of[index] for of in cells.values())]
    rows = [
        [_marked(name, name in late), *(_cell(of[index], metrics[index]) for index in shown)]
        for name, of in cells.items()
    ]
    return _rows(["server", *(metrics[index].title for index in shown)], rows)


def across(document: Document, metric: Metric) -> str:
    """One metric's table: a row for each server, a column for each number of clients."""
    results, baseline = document["results"], document["options"]["baseline"]
    names = dict.fromkeys(name for result in results for name in result["runs"])
    late = [behind(document, result) for result in results]

    def cell(name: str, index: int) -> str:
        of = entry(name, results[index]["runs"], metric, baseline)
        return _marked(_cell(of, metric), name in late[index])

    rows = [[name, *(cell(name, index) for index in range(len(results)))] for name in names]
    return _rows([metric.title, *(f"{result['clients']:,} clients" for result in results)], rows)


def _each(found: list[float | None]) -> str:
    known = [ratio for ratio in found if ratio is not None]
    if not known:
        return "-"
    shown = " ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in found)
    return f"{shown} **{statistics.median(known):.2f}x**"


def by_round(document: Document) -> str:
    """The ratio of each round, and their median: a table for each size; empty without a baseline."""
    every = WORKLOADS[document["workload"]].across or columns(document["options"])
    tables = []
    for result in document["results"]:
        runs: Runs = result["runs"]
        late = behind(document, result)
        pairs = [(name, baseline_of(document, name)) for name in runs]
        pairs = [(name, baseline) for name, baseline in pairs if name != baseline and baseline in runs]
        metrics = [
            metric for metric in every if any(any(ratios(name, runs, metric, base)) for name, base in pairs)
        ]
        if metrics:
            rows = [
                [
                    f"{_marked(name, name in late)} / {base}",
                    *(_each(ratios(name, runs, metric, base)) for metric in metrics),
                ]
                for name, base in pairs
            ]
            title = f"Each round's ratio, and their median, {result['clients']:,} clients:"
            tables.append(f"{title}\n\n{_rows(['', *(metric.title for metric in metrics)], rows)}")
    return "\n\n".join(tables)


def _invalid(document: Document) -> list[str]:
    """A line for each server and size with invalid runs."""
    lines = []
    for result in document["results"]:
        for name, runs in result["runs"].items():
            bad = [run for run in runs if not run.get("valid")]
            if bad:
                why = "; ".join(dict.fromkeys(reason for run in bad for reason in run["invalid_because"]))
                count = f"{len(bad)} of {len(runs)} runs left out"
                lines.append(f"invalid: {name} at {result['clients']:,} clients, {count}: {why[:300]}")
    return lines


def _late(document: Document) -> list[str]:
    """A line for each server and size at which it cannot keep up."""
    return [
        f"cannot keep up: {name} at {result['clients']:,} clients: {wall:.1f} s for the events of "
        f"{due(document['options'], result['clients']):.1f} s; its latencies are not those of that pace"
        for result in document["results"]
        for name, wall in behind(document, result).items()
    ]


def notes(document: Document) -> list[str]:
    """What stands under the tables: what was left out and why, the machine, the versions."""
    lines = _invalid(document) + _late(document)
    limits = document["limits"].items()
    lines += [f"{name}: measured up to {limit:,} clients" for name, limit in limits]
    lines += [f"skipped: {reason}" for reason in document["skipped"]]
    lines.append(provenance(document["machine"], document["versions"]))
    return lines


def section(document: Document) -> str:
    """The tables and notes of one workload against servers."""
    options, baseline = document["options"], document["options"]["baseline"]
    workload = WORKLOADS[document["workload"]]
    rounds = f"{options['rounds']} round{'s' if options['rounds'] > 1 else ''}"
    title = f"{options['bytes']} bytes, {rounds}, {document['pinning']}"
    if document.get("baselines") and workload.twin is not None:
        reference = f"ratios (**bold**) to the same server's next row, {workload.twin.row}, in the same round"
    elif any(name == baseline for result in document["results"] for name in result["runs"]):
        reference = f"ratios (**bold**) to {baseline} in the same round"
    else:
        reference = "no ratios: the baseline was not measured"
    parts = [f"{title}; {reference}."]
    if workload.across:
        parts += [across(document, metric) for metric in workload.across]
    else:
        for result in document["results"]:
            table = markdown(document, result, columns(options))
            parts.append(f"{document['workload']}, {result['clients']:,} clients:\n\n{table}")
    parts.append("\n".join(f"- {line}" for line in notes(document)))
    return "\n\n".join(parts)
