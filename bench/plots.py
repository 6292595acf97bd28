"""The plots, with matplotlib: bars of CPU per event at the fan-out, curves over the number of clients."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench import report
from bench.workloads import CPU, CURVES, Metric

OURS, PORTABLE, PEER, FLOOR = "#0b6e4f", "#4caf82", "#9aa5b1", "#d5dae0"
COLOURS = {
    "sse-hub handed off": OURS,
    "sse-hub": PORTABLE,
    "go": "#0077b6",
    "axum": "#c1440e",
    "sse-starlette": "#6c4ab6",
}
MARKERS = {"sse-hub handed off": "o", "sse-hub": "s", "go": "^", "axum": "D", "sse-starlette": "v"}
STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    # The same data gives the same file.
    "svg.hashsalt": "sse-hub",
}
NAMES = {
    "cpu_per_event_us": "server CPU per delivered event, µs",
    "rss_per_client": "server memory per client (RSS), KB",
    "received.last_client_latency.p50_us": "until the last client has an event, ms",
}


def _entries(document: report.Document, result: dict[str, Any], metric: Metric) -> dict[str, Any]:
    """Median, lowest and highest of each server that has them."""
    found = {
        name: report.entry(name, result["runs"], metric, document["options"]["baseline"])
        for name in result["runs"]
    }
    return {name: of for name, of in found.items() if of is not None}


def _footer(document: report.Document, figure: Figure) -> None:
    rounds = document["options"]["rounds"]
    spread = f"median of {rounds} rounds, whiskers: lowest and highest" if rounds > 1 else "one round"
    text = (
        f"{document['options']['bytes']}-byte events; {document['pinning']}; {spread}\n"
        f"{document['began'][:10]}, {report.where(document['machine'])}"
    )
    figure.text(0.01, 0.01, text, fontsize=8, color="#555555", va="bottom")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")


def _colour(name: str) -> str:
    if name == "bare":
        return FLOOR
    if name.startswith("sse-hub"):
        return OURS if name == "sse-hub handed off" else PORTABLE
    return PEER


def _label(name: str) -> str:
    return "a bare loop of send(2): the floor" if name == "bare" else name


def _bar_panel(axes: Axes, names: list[str], of: dict[str, Any], clients: int) -> None:
    """A row for each of `names`, empty where it was not measured."""
    rows = [row for row, name in enumerate(names) if name in of]
    measured = [names[row] for row in rows]
    medians = [of[name]["median"] for name in measured]
    low = [of[name]["median"] - of[name]["min"] for name in measured]
    high = [of[name]["max"] - of[name]["median"] for name in measured]
    axes.barh(rows, medians, color=[_colour(name) for name in measured], height=0.7)
    axes.set_yticks(range(len(names)), [_label(name) for name in names])
    if any(low + high):  # more than one round
        axes.errorbar(
            medians,
            rows,
            xerr=[low, high],
            fmt="none",
            ecolor="#333333",
            elinewidth=1,
            capsize=2,
        )
    room = max(of[name]["max"] for name in measured)
    for row, name in zip(rows, measured, strict=True):
        axes.text(of[name]["max"] + room * 0.015, row, f"{of[name]['median']:.1f}", va="center", fontsize=9)
    axes.set_xlim(0, room * 1.1)
    axes.set_title(f"{clients:,} clients", loc="left", fontsize=10)
    axes.set_xlabel("server CPU per delivered event, µs (less is better)")
    axes.tick_params(axis="y", length=0)


def bars(document: report.Document, path: Path) -> bool:
    """CPU per delivered event: a panel for each size, a row for each server; False where nothing is known."""
    panels = [
        (result["clients"], of) for result in document["results"] if (of := _entries(document, result, CPU))
    ]
    if not panels:
        return False
    with mpl.rc_context(STYLE):
        # In every panel the same row is the same server, in the order of the last that has it.
        last = {name: of[name]["median"] for _, of in panels for name in of}
        names = sorted(last, key=lambda name: float(last[name]), reverse=True)
        figure = Figure(figsize=(3.0 + 5.0 * len(panels), 1.5 + 0.33 * len(names)))
        figure.set_layout_engine("constrained", rect=(0, 0.11, 1, 0.89))
        for index, (clients, of) in enumerate(panels, 1):
            axes = figure.add_subplot(1, len(panels), index)
            _bar_panel(axes, names, of, clients)
            if index > 1:
                axes.set_yticklabels([])
        figure.suptitle("One event to every client: what a delivered event costs the server", fontsize=12)
        _footer(document, figure)
        _save(figure, path)
    return True


def _curve(axes: Axes, document: report.Document, metric: Metric) -> None:
    points: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for result in document["results"]:
        for name, of in _entries(document, result, metric).items():
            points.setdefault(name, []).append((result["clients"], of))
    for name, of_server in points.items():
        sizes = [clients for clients, _ in of_server]
        medians = [of["median"] for _, of in of_server]
        low = [of["median"] - of["min"] for _, of in of_server]
        high = [of["max"] - of["median"] for _, of in of_server]
        colour, marker = COLOURS.get(name, PEER), MARKERS.get(name, ".")
        axes.errorbar(
            sizes, medians, yerr=[low, high], label=name, color=colour, marker=marker,
            markersize=5, linewidth=1.6, elinewidth=0.8, capsize=2,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([result["clients"] for result in document["results"]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("clients")
    axes.set_title(NAMES[metric.path], loc="left", fontsize=10)
    axes.grid(axis="y", color="#e6e9ed", linewidth=0.8)
    axes.set_axisbelow(True)
    if metric.path.startswith("received"):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    else:
        axes.set_ylim(bottom=0)


def curves(document: report.Document, path: Path) -> bool:
    """CPU, memory and latency over the number of clients; False where nothing was measured."""
    if not any(_entries(document, result, CPU) for result in document["results"]):
        return False
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14.0, 4.9))
        figure.set_layout_engine("constrained", rect=(0, 0.09, 1, 0.91))
        for index, metric in enumerate(CURVES, 1):
            _curve(figure.add_subplot(1, len(CURVES), index), document, metric)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        _footer(document, figure)
        _save(figure, path)
    return True
