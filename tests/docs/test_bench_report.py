"""The benchmark's tables, from documents as its runs write them: what a reader relies on."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report, run
from bench.workloads import WORKLOADS


def ran(cpu: float, **more: Any) -> dict[str, Any]:
    """A run as the load generator reports it."""
    return {"valid": True, "cpu_per_event_us": cpu, **more}


def options(*words: str) -> dict[str, Any]:
    """The command line's: of fanout 20 events in 5 seconds at 500 clients, in 10 seconds at 4,000."""
    given = ["--events", "20", "--rounds", "3", "--baseline", "ours"]
    return vars(run.parse([*words, *given]))


def document(runs: dict[str, list[dict[str, Any]]], **more: Any) -> report.Document:
    machine = {
        "cpu": "A CPU",
        "cores": 2,
        "memory_gb": 8.0,
        "kernel": "6.1",
        "python": "3.11",
        "load_average": 0.1,
    }
    return {
        "workload": "fanout",
        "options": options("fanout"),
        "limits": {},
        "pinning": "server on core 0, load on 1",
        "machine": machine,
        "versions": {"peer": "1.2.3"},
        "skipped": [],
        "results": [{"clients": 2000, "runs": runs}],
    } | more


def row(text: str, name: str) -> list[str]:
    """A server's cells."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_median_spread_and_the_ratio_within_the_same_round() -> None:
    # The ratio of the medians would be 2.40.
    text = report.section(document({"ours": [ran(4), ran(10), ran(5)], "peer": [ran(8), ran(12), ran(20)]}))
    assert row(text, "ours")[1] == "5.00 (4.00 to 10.00)"
    assert row(text, "peer")[1] == "12.00 (8.00 to 20.00) **2.00x**"


def test_invalid_runs_are_left_out_and_named() -> None:
    bad = {"valid": False, "invalid_because": ["the load generator was saturated"], "cpu_per_event_us": 1.0}
    given = document(
        {"ours": [ran(4), ran(4), ran(4)], "peer": [ran(8), bad, ran(12)], "broken": [bad, bad, bad]}
    )
    text = report.section(given)
    # The second round is no pair: its ratio would be 0.25.
    assert row(text, "peer")[1] == "10.00 (8.00 to 12.00) **2.50x**"
    assert row(text, "broken")[1] == "-"
    assert "peer at 2,000 clients, 1 of 3 runs left out: the load generator was saturated" in text
    assert run.failed(given) == ["broken at 2000 clients"]


def test_a_server_that_cannot_keep_the_pace_is_marked() -> None:
    once_late = [ran(4, wall_s=4.8), ran(4, wall_s=9.0), ran(4, wall_s=5.9)]
    too_late = [ran(8, wall_s=4.8), ran(8, wall_s=9.0), ran(8, wall_s=6.5)]
    bad = {"valid": False, "invalid_because": ["not every request was answered"], "wall_s": 30.0}
    runs = {"ours": once_late, "peer": too_late, "broken": [bad, bad, bad]}
    given = document({}, options=options("fanout"), results=[{"clients": 500, "runs": runs}])
    text = report.section(given)
    assert row(text, "ours")[1] == "4.00"
    assert row(text, "peer (cannot keep up)")[1] == "8.00 **2.00x**"
    assert row(text, "broken (cannot keep up)")[1] == "-"
    assert run.failed(given) == []  # being overloaded is a result
    assert "cannot keep up: peer at 500 clients: 6.5 s for the events of 5.0 s" in text
    assert row(report.by_round(given), "peer (cannot keep up) / ours")[1] == "2.00 2.00 2.00 **2.00x**"
    # At the pace of another size, 2 events a second, all of them are in time.
    given["results"][0] = {"clients": 4000, "runs": {"ours": once_late, "peer": too_late}}
    assert "cannot keep up" not in report.section(given)


def test_a_server_that_cannot_keep_the_pace_at_a_size_is_marked_there() -> None:
    results = [
        {"clients": clients, "runs": {"ours": [ran(4, wall_s=2.0)], "peer": [ran(8, wall_s=2.0 + late)]}}
        for clients, late in ((100, 0), (500, 1))
    ]
    text = report.section(document({}, workload="growth", options=options("growth"), results=results))
    assert row(text, "peer") == ["peer", "8.00 **2.00x**", "8.00 **2.00x** (cannot keep up)"]


def test_what_has_no_pace_is_never_too_slow_for_it() -> None:
    runs = {"ours": [ran(4, wall_s=300.0)]}
    for words in (("burst",), ("fanout", "--rate", "0")):
        given = document(runs, workload=words[0], options=options(*words))
        assert "cannot keep up" not in report.section(given)


def test_with_two_rows_for_a_server_the_ratio_is_between_them() -> None:
    runs = {
        "ours": [ran(4), ran(6)],
        "ours, none stalled": [ran(4), ran(4)],
        "peer": [ran(30), ran(30)],
        "peer, none stalled": [ran(10), ran(10)],
    }
    given = document(
        runs,
        workload="stalled",
        options=options("stalled"),
        baselines={name: f"{name.partition(',')[0]}, none stalled" for name in runs},
    )
    text = report.section(given)
    assert row(text, "ours")[1] == "5.00 (4.00 to 6.00) **1.25x**"
    assert row(text, "peer")[1] == "30.00 **3.00x**"
    assert row(text, "peer, none stalled")[1] == "10.00"
    assert "ratios (**bold**) to the same server's next row, none stalled, in the same round" in text


def test_each_rounds_ratio_is_shown() -> None:
    bad = {"valid": False, "invalid_because": ["the load generator was saturated"], "cpu_per_event_us": 1.0}
    given = document({"ours": [ran(4), ran(10), ran(5)], "peer": [ran(8), bad, ran(20)]})
    text = report.by_round(given)
    assert "| CPU per event, µs |" in text
    assert row(text, "peer / ours") == ["peer / ours", "2.00 - 4.00 **3.00x**"]
    assert report.by_round(document({"peer": [ran(8)]})) == ""


def test_stalled_clients_are_measured_with_and_without_in_every_round() -> None:
    args = run.parse(["stalled", "--clients", "10000", "--servers", "sse-starlette,sse-hub"])
    workload = WORKLOADS["stalled"]
    rounds = [
        [
            (row, options.clients, workload.options(options)["stalled"])
            for _, row, options in run.turns(run.chosen(args), run.at(args, 10_000), number)
        ]
        for number in range(2)
    ]
    with_them, without = ("sse-starlette", 10_000, 1000), ("sse-starlette, none stalled", 9000, 0)
    assert rounds[0][:2] == [with_them, without]
    assert rounds[1][:2] == [without, with_them]
    assert [row for row, *_ in rounds[0][2:]] == ["sse-hub", "sse-hub, none stalled"]
    begun = run.begun(args, run.chosen(args), [])
    assert list(begun["results"][0]["runs"]) == [row for row, *_ in rounds[0]]
    assert begun["baselines"]["sse-hub"] == "sse-hub, none stalled"


def test_what_was_not_measured_is_named_with_machine_and_versions() -> None:
    given = document({"ours": [ran(4)]}, skipped=["go: no compiler"], limits={"peer": 1000})
    text = report.section(given)
    assert "skipped: go: no compiler" in text
    assert "peer: measured up to 1,000 clients" in text
    assert "A CPU, 2 cores, 8 GB, Linux 6.1, Python 3.11, load average before 0.1; peer 1.2.3" in text


def test_growth_has_a_column_for_each_size() -> None:
    runs = [{"ours": [ran(4)], "peer": [ran(8)]}, {"ours": [ran(5)]}]
    results = [{"clients": clients, "runs": of} for clients, of in zip((100, 19000), runs, strict=True)]
    text = report.section(document({}, workload="growth", results=results))
    assert "| CPU per event, µs | 100 clients | 19,000 clients |" in text
    assert row(text, "ours") == ["ours", "4.00", "5.00"]
    assert row(text, "peer") == ["peer", "8.00 **2.00x**", "-"]


@pytest.mark.parametrize("changed", ["options", "versions", "machine", "skipped"])
def test_only_what_belongs_together_is_gone_on_with(changed: str) -> None:
    before, now = document({"ours": [ran(4)]}), document({})
    now["machine"] = now["machine"] | {"load_average": 3.0}  # of the moment, not of the machine
    assert run.resumable(before, now)
    now[changed] = ["other"] if changed == "skipped" else now[changed] | {"python": "other"}
    assert not run.resumable(before, now)


def test_the_report_is_made_from_the_json_alone(tmp_path: Path) -> None:
    from bench import render

    whole = {
        "title": "Steady fan-out",
        "began": "2026-01-02T03:04:05+00:00",
        "seconds": 90.0,
        "complete": False,
    }
    (tmp_path / "fanout.json").write_text(json.dumps(document({"ours": [ran(4)], "peer": [ran(8)]}) | whole))
    text = render.render(tmp_path).read_text()
    assert "## Steady fan-out\n\n2026-01-02, 1.5 minutes. **Not all rounds were run.**" in text
    assert row(text, "peer")[1] == "8.00 **2.00x**"
    if "![Steady fan-out](fanout.svg)" in text:  # with matplotlib
        assert "</svg>" in (tmp_path / "fanout.svg").read_text()
