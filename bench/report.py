"""From runs to a table: medians with their spread, ratios within the same round, and where."""

import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.servers import Server
from bench.workloads import Metric

Runs = dict[str, list[dict[str, Any]]]


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


def versions(servers: list[Server]) -> dict[str, str]:
    """The installed versions of everything compared."""
    found: dict[str, str] = {}
    for package in dict.fromkeys(package for server in servers for package in server.packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    for server in servers:
        found |= server.versions()
    return found


def provenance(where: dict[str, Any], found: dict[str, str]) -> str:
    """The line under a table: the machine and what was compared."""
    compared = ", ".join(f"{name} {version}" for name, version in found.items())
    busy = f"load average before {where['load_average']:.1f}"
    return (
        f"{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}, Python {where['python']}, {busy}; "
        f"{compared}"
    )


def _values(runs: list[dict[str, Any]], metric: Metric) -> list[float]:
    return [value for run in runs if run.get("valid") and (value := metric.value(run)) is not None]


def summary(runs: Runs, metrics: tuple[Metric, ...], baseline: str) -> dict[str, dict[str, Any]]:
    """Per server and metric: median, lowest, highest, and the median ratio to the baseline."""
    result: dict[str, dict[str, Any]] = {}
    for name, of_server in runs.items():
        result[name] = {}
        for metric in metrics:
            values = _values(of_server, metric)
            if not values:
                continue
            entry: dict[str, Any] = {
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
            }
            if metric.ratio and name != baseline:
                pairs = zip(of_server, runs.get(baseline, []), strict=False)
                ratios = [
                    own / base
                    for mine, theirs in pairs
                    if mine.get("valid") and theirs.get("valid")
                    and (own := metric.value(mine)) is not None
                    and (base := metric.value(theirs))
                ]  # fmt: skip
                if ratios:
                    entry["ratio"] = statistics.median(ratios)
            result[name][metric.title] = entry
    return result


def _cell(entry: dict[str, Any] | None, metric: Metric) -> str:
    if entry is None:
        return "-"
    median, low, high = (f"{entry[key]:,.{metric.digits}f}" for key in ("median", "min", "max"))
    spread = "" if low == high else f" ({low} to {high})"
    ratio = f" **{entry['ratio']:.2f}x**" if "ratio" in entry else ""
    return f"{median}{spread}{ratio}"


def markdown(summarised: dict[str, dict[str, Any]], metrics: tuple[Metric, ...], runs: Runs) -> str:
    """The table. A server with invalid runs says how many."""
    shown = [metric for metric in metrics if any(metric.title in of for of in summarised.values())]
    lines = [
        "| server | " + " | ".join(metric.title for metric in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for name, of_server in summarised.items():
        bad = sum(not run.get("valid") for run in runs[name])
        label = f"{name} ({bad} of {len(runs[name])} runs invalid)" if bad else name
        lines.append(f"| {label} | " + " | ".join(_cell(of_server.get(m.title), m) for m in shown) + " |")
    return "\n".join(lines)
