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

from bench.workloads import WORKLOADS, Metric, columns

if TYPE_CHECKING:
    from bench.servers import Server

Runs = dict[str, list[dict[str, Any]]]
Document = dict[str, Any]


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


def _ratio(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], metric: Metric) -> float | None:
    """The median ratio of runs of the same round."""
    ratios = [
        own / base
        for one, other in zip(mine, theirs, strict=False)
        if one.get("valid") and other.get("valid")
        and (own := metric.value(one)) is not None
        and (base := metric.value(other))
    ]  # fmt: skip
    return statistics.median(ratios) if ratios else None


def entry(name: str, runs: Runs, metric: Metric, baseline: str) -> dict[str, float] | None:
    """Median, lowest, highest, and the ratio to the baseline; None without a valid run."""
    of_server = values(runs.get(name, []), metric)
    if not of_server:
        return None
    found = {"median": statistics.median(of_server), "min": min(of_server), "max": max(of_server)}
    if metric.ratio and name != baseline:
        ratio = _ratio(runs[name], runs.get(baseline, []), metric)
        if ratio is not None:
            found["ratio"] = ratio
    return found


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


def markdown(runs: Runs, metrics: tuple[Metric, ...], baseline: str) -> str:
    """One size's table: a row for each server, a column for each metric that any of them has."""
    cells = {name: [entry(name, runs, metric, baseline) for metric in metrics] for name in runs}
    shown = [index for index in range(len(metrics)) if any(of[index] for of in cells.values())]
    rows = [[name, *(_cell(of[index], metrics[index]) for index in shown)] for name, of in cells.items()]
    return _rows(["server", *(metrics[index].title for index in shown)], rows)


def across(results: list[dict[str, Any]], metric: Metric, baseline: str) -> str:
    """One metric's table: a row for each server, a column for each number of clients."""
    names = dict.fromkeys(name for result in results for name in result["runs"])
    rows = [
        [name, *(_cell(entry(name, result["runs"], metric, baseline), metric) for result in results)]
        for name in names
    ]
    return _rows([metric.title, *(f"{result['clients']:,} clients" for result in results)], rows)


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


def notes(document: Document) -> list[str]:
    """What stands under the tables: what was left out and why, the machine, the versions."""
    lines = _invalid(document)
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
    if not any(name == baseline for result in document["results"] for name in result["runs"]):
        ratios = "no ratios: the baseline was not measured"
    else:
        ratios = f"ratios (**bold**) to {baseline} in the same round"
    parts = [f"{title}; {ratios}."]
    if workload.across:
        parts += [across(document["results"], metric, baseline) for metric in workload.across]
    else:
        for result in document["results"]:
            table = markdown(result["runs"], columns(options), baseline)
            parts.append(f"{document['workload']}, {result['clients']:,} clients:\n\n{table}")
    parts.append("\n".join(f"- {line}" for line in notes(document)))
    return "\n\n".join(parts)
