"""A real Prometheus scrapes the demo, answers the queries of docs/metrics.md, and accepts the rules there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import serve
from pages import ROOT, find
from servers import free_port
from sse_hub._metrics.families import FAMILIES
from waiting import PATIENCE, until

METRICS = ROOT / "docs" / "metrics"
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: demo
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@contextmanager
def prometheus(scraped: int, directory: Path) -> Iterator[Callable[[str], list[Any]]]:
    """A Prometheus that scrapes this port; gives a function that sends it a query."""
    (directory / "prometheus.yml").write_text(CONFIG.format(port=scraped))
    port = free_port()
    command = ["prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", "--log.level=error"]
    with (
        subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as http,
    ):

        def query(text: str) -> list[Any]:
            try:
                answer = http.get("/api/v1/query", params={"query": text})
            except httpx.TransportError:  # it is not there yet
                assert process.poll() is None
                return []
            if answer.status_code == 503:
                return []
            assert answer.status_code == 200, answer.text
            return list(answer.json()["data"]["result"])

        try:
            yield query
        finally:
            process.terminate()


def test_a_prometheus_scrapes_the_demo_and_answers_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSE_HUB_TICK", "0.05")
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.demo.app import app

    [queries] = [block.text.splitlines() for block in find("metrics.md", "A dashboard, and alerts", "promql")]
    streams, slow, ends = [query.replace("[5m]", "[10s]") for query in queries]
    with serve(app) as server, ExitStack() as pages, prometheus(server.port, tmp_path) as query:
        requests = [{"client": f"client0{number}", "name": "ann"} for number in range(3)]
        streams_here = [pages.enter_context(server.stream("/events", params=it)) for it in requests]
        for stream in streams_here:
            stream.opened()
        with server.stream("/events", params={"client": "client09", "name": "bob"}) as gone:
            gone.opened()
            until(lambda: by_label(query(streams), "path") == {"reactor": "4", "loop": "0"})
        until(lambda: by_label(query(streams), "path").get("reactor") == "3")
        until(lambda: float(by_label(query(ends), "reason").get("client", 0)) > 0)
        until(lambda: 0 < float(by_label(query(slow), "none").get(None, 0)) < PATIENCE)


def by_label(result: list[Any], label: str) -> dict[str | None, str]:
    return {found["metric"].get(label): found["value"][1] for found in result}


def test_prometheus_accepts_the_rules() -> None:
    command = ["promtool", "check", "rules", str(METRICS / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_the_dashboard_and_the_rules_name_what_is_measured() -> None:
    names = set()
    for family in FAMILIES:
        ending = "_total" if family.kind == "counter" else ""
        names.add(f"sse_hub_{family.name}{ending}")
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(sse_hub_\w+)`", page, re.MULTILINE)) == names
    dashboard = json.loads((METRICS / "dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for text in [*shown, (METRICS / "alerts.yml").read_text(), page]:
        for name in re.findall(r"\bsse_hub_[a-z_]+", text):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in names, name
