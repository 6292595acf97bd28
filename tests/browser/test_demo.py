"""The demo, as a visitor sees it in a browser."""

import re
import signal
from collections.abc import Callable, Iterator

import pytest
from browser_support import STOP_SECONDS, Proxy, Server, running
from demo_page import (
    DEMO,
    QUICK,
    answer_ended,
    ask_again,
    keep_costs,
    keep_states,
    keep_toasts,
    log_line,
    notify,
    number,
    say,
    state,
    ticks_go_on,
    toasted,
    write,
)
from playwright.sync_api import Page, expect
from waiting import PATIENCE

NewPage = Callable[..., Page]
Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    with running(*DEMO, **QUICK) as server:
        yield server


def test_prices_move_and_nothing_is_loaded_from_elsewhere(demo: Server, new_page: NewPage) -> None:
    page = new_page()
    requests: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(demo.url)
    state(page, "open")
    tiles = page.locator(".tile")
    expect(tiles).to_have_count(4)
    shown = page.locator("#chart .stroke").first.get_attribute("d")
    expect(page.locator("#chart .stroke").first).not_to_have_attribute("d", shown or "")
    # The hub says hello behind the replay.
    expect(page.locator("#fact-stream")).to_have_text(re.compile(r"\w"))
    ticks_go_on(page)
    # The exchange opened before the page did.
    assert number(page, "ticks-received") > 100
    assert all(url.startswith(demo.url) for url in requests), requests
    assert problems == []


def test_the_chart_follows_the_keyboard(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    expect(page.locator("#chart")).to_have_attribute("aria-label", re.compile("^Fern"))
    page.locator(".tile input").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#chart")).to_have_attribute("aria-label", re.compile("^Helio"))


def test_a_cut_by_the_server_is_mended_without_a_gap(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    stream = page.locator("#fact-stream").inner_text()
    page.click("#cut")
    expect(page.locator("#fact-stream")).not_to_have_text(stream)
    state(page, "open")
    ticks_go_on(page)
    assert number(page, "ticks-caught") > 0
    assert number(page, "fact-reconnects") == 1
    expect(page.locator("#people .tag", has_text="resumed")).to_have_count(1)
    expect(log_line(page, "hello").first).to_contain_text("nothing was lost")
    expect(log_line(page, "stream-reset")).to_have_count(0)


def test_a_broken_line_is_mended_without_a_gap(
    demo: Server, proxy_for: Callable[[Server], Proxy], visit: Callable[..., Page]
) -> None:
    proxy = proxy_for(demo)
    page, other = visit(proxy.url, "Ada"), visit(demo.url, "Bob")
    proxy.cut()
    state(page, "waiting")
    say(other, "said while Ada was away")
    ticks_go_on(other)
    proxy.mend()
    state(page, "open")
    expect(page.locator("#messages")).to_contain_text("said while Ada was away")
    ticks_go_on(page)
    assert number(page, "ticks-caught") > 0
    # The broken stream is gone from the list: one Ada, one Bob.
    expect(other.locator("#people-count")).to_have_text("2")


def test_a_visitor_who_hangs_up_and_comes_back_has_missed_nothing(
    demo: Server, visit: Callable[..., Page]
) -> None:
    page, other = visit(demo.url, "Ada"), visit(demo.url, "Bob")
    page.click("#toggle")
    state(page, "closed")
    expect(other.locator("#people-count")).to_have_text("1")
    say(other, "still here?")
    ticks_go_on(other)
    page.click("#toggle")
    state(page, "open")
    expect(page.locator("#messages")).to_contain_text("still here?")
    ticks_go_on(page)
    assert number(page, "ticks-caught") > 0


def test_an_expired_id_shows_the_reset_and_starts_afresh(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    say(page, "said before the reset")
    page.click("#expire")
    expect(log_line(page, "stream-reset")).to_have_count(1)
    expect(log_line(page, "stream-reset")).to_contain_text("expired-1")
    state(page, "open")
    expect(page.locator("#messages .text", has_text="said before the reset")).to_have_count(1)
    ticks_go_on(page)


def test_a_restart_of_the_server_shows_the_reset_and_goes_on(
    serve: Serve, visit: Callable[..., Page]
) -> None:
    demo = serve(*DEMO, **QUICK)
    page = visit(demo.url, "Ada")
    say(page, "before the restart")
    demo.restart()
    expect(log_line(page, "stream-reset")).to_have_count(1)
    state(page, "open")
    expect(page.locator("#messages li")).to_have_count(0)
    say(page, "after the restart")
    expect(page.locator("#messages li")).to_have_count(1)
    ticks_go_on(page)


def test_two_pages_chat_and_a_newcomer_sees_the_history(demo: Server, visit: Callable[..., Page]) -> None:
    ada, bob = visit(demo.url, "Ada"), visit(demo.url, "Bob")
    spoken = ["Hello, Bob", "<img src=x onerror=alert(1)> & hello, Ada"]
    say(ada, spoken[0])
    expect(bob.locator("#messages .text").last).to_have_text(spoken[0])
    say(bob, spoken[1])
    newcomer = visit(demo.url, "Eve")
    for page in (ada, bob, newcomer):
        expect(page.locator("#messages .text").last).to_have_text(spoken[1])
        assert page.locator("#messages .text").all_inner_texts()[-2:] == spoken
        assert page.locator("#messages img").count() == 0
        expect(page.locator("#people b")).to_have_count(3)


def test_a_notice_reaches_everybody_and_a_message_only_its_addressee(
    demo: Server, visit: Callable[..., Page]
) -> None:
    ada, bob, eve = (visit(demo.url, name) for name in ("Ada", "Bob", "Eve"))
    expect(ada.locator("#people b")).to_have_count(3)
    for page in (ada, bob, eve):
        keep_toasts(page)
    write(ada, "Bob", "for your eyes only")
    expect(bob.locator("#feed li[data-level=whisper] .text")).to_have_text(["for your eyes only"])
    # Order is kept: a page that has the notice would have the message by now.
    notify(ada, "to all of you")
    for page in (ada, bob, eve):
        expect(page.locator("#feed li[data-level=info] .text")).to_have_text(["to all of you"])
        toasted(page, "to all of you")
    for page in (ada, eve):
        assert page.locator("#feed li[data-level=whisper]").count() == 0


def test_an_answer_arrives_token_by_token(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    keep_states(page, "#words")
    page.click("#chips button >> nth=2")
    expect(page.locator("#words")).to_contain_text("Choose Server-Sent Events")
    expect(page.locator("#words")).to_have_attribute("data-state", "done")
    assert page.evaluate("states") == ["writing", "done"]
    text = page.locator("#words").text_content() or ""
    assert text.startswith("Choose Server-Sent Events when the server does the talking")
    assert text.endswith("many small messages, as in a game.")
    assert int(page.locator("#fact-answer-tokens").inner_text()) > 50


@pytest.fixture
def slow(serve: Callable[..., Server]) -> Server:
    """A server whose answers take a minute."""
    return serve(*DEMO, **QUICK | {"SSE_HUB_TOKEN": "0.6"})


def test_an_answer_survives_the_reload_and_is_stopped_from_either_tab(
    slow: Server, visit: Callable[..., Page]
) -> None:
    page = visit(slow.url, "Ada")
    page.click("#chips button >> nth=0")
    expect(page.locator("#words")).to_contain_text("Server-")
    page.reload()
    expect(page.locator("#words")).to_have_attribute("data-state", "writing")
    tab = page.context.new_page()
    tab.goto(slow.url)
    expect(page.locator("#words")).to_contain_text("Server-Sent")
    shown = page.locator("#words").text_content() or ""
    for one in (page, tab):
        expect(one.locator("#words")).to_have_attribute("data-state", "writing")
        expect(one.locator("#words")).not_to_have_text(shown)  # It goes on.
        expect(one.locator("#words")).to_contain_text(shown)
    tab.click("#ask")
    answer_ended("stopped", page, tab)
    assert page.locator("#words").text_content() == tab.locator("#words").text_content()
    ask_again(tab)
    expect(page.locator("#words")).to_contain_text("Server-")
    page.click("#ask")
    answer_ended("stopped", page, tab)


@pytest.mark.parametrize(("end", "state"), [(Server.stop, "stopped"), (Server.kill, "lost")])
def test_an_answer_of_a_server_that_was_restarted_is_asked_for_again(
    slow: Server, visit: Callable[..., Page], end: Callable[[Server], None], state: str
) -> None:
    page = visit(slow.url, "Ada")
    page.click("#chips button >> nth=0")
    tab = page.context.new_page()
    tab.goto(slow.url)
    for one in (page, tab):
        expect(one.locator("#words")).to_contain_text("Server-")
    end(slow)
    slow.start()
    answer_ended(state, page, tab)
    tab.reload()
    answer_ended("lost", tab)
    ask_again(tab)
    expect(page.locator("#words")).to_have_attribute("data-state", "writing")


def test_an_answer_cut_in_the_middle_is_the_same_answer(
    demo: Server, proxy_for: Callable[[Server], Proxy], visit: Callable[..., Page]
) -> None:
    proxy = proxy_for(demo)
    page, other = visit(proxy.url, "Ada"), visit(demo.url, "Bob")
    proxy.stop_at = b'data: " carries"'
    for one in (page, other):
        one.click("#chips button >> nth=1")
    assert proxy.stopped.wait(PATIENCE)
    # The third token has begun, so it does not count.
    expect(page.locator("#fact-answer-tokens")).to_have_text("2")
    proxy.cut()
    state(page, "waiting")
    proxy.mend()
    for one in (page, other):
        expect(one.locator("#words")).to_have_attribute("data-state", "done")
    assert page.locator("#words").text_content() == other.locator("#words").text_content()


def test_a_name_of_nothing_is_not_taken(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    page.fill("#name", "   ")
    page.press("#name", "Enter")
    expect(page.locator("#name")).to_have_value("Ada")
    page.fill("#name", " Eve ")
    page.press("#name", "Enter")
    expect(page.locator("#name")).to_have_value("Eve")
    expect(page.locator("#people")).to_contain_text("Eve")


def test_the_id_of_a_quiet_stream_moves_on(serve: Serve, visit: Callable[..., Page]) -> None:
    demo = serve(*DEMO, **QUICK, SSE_HUB_HEARTBEAT="0.3")
    page = visit(demo.url, "Ada")
    page.locator("#prices-on").uncheck(force=True)
    expect(log_line(page, "stream-cursor").nth(1)).to_be_attached()
    shown = page.locator("#fact-id").inner_text()
    expect(page.locator("#fact-id")).not_to_have_text(shown)
    received = number(page, "ticks-received")
    page.locator("#prices-on").check(force=True)
    expect(page.locator("#ticks-received")).not_to_have_text(str(received))
    ticks_go_on(page)


def test_what_a_client_costs_is_measured_with_real_streams(serve: Serve, visit: Callable[..., Page]) -> None:
    server = serve(*DEMO, **QUICK, SSE_HUB_CROWD="60", SSE_HUB_MEASURED="1")
    page, other = visit(server.url, "Ada"), visit(server.url, "Bob")
    start = page.locator("#cost-start")
    expect(start).to_have_text("Open 60 streams")
    keep_costs(page)
    start.click()
    for one in (page, other):
        expect(one.locator("#cost-hub-clients")).to_have_text("60")
        expect(one.locator("#cost-starlette-clients")).to_have_text("60")
        expect(one.locator("#cost")).to_have_attribute("data-state", "done")
        expect(one.locator("#cost-start")).to_have_text("Open 60 streams")
    for kind in ("hub", "starlette"):
        for value, unit in (("memory", "KB"), ("cpu", "µs"), ("age", "ms")):
            shown = page.locator(f"#cost-{kind}-{value}").inner_text()
            assert re.fullmatch(rf"[\d.,]+ {unit}", shown), shown
    for kind, shown in page.evaluate("costs").items():
        # While they were open, not only at the end.
        assert len(set(map(tuple, shown))) > 1, (kind, shown)
    expect(page.locator("#cost-times-cpu")).to_have_text(re.compile(r"^[\d.,]+.$"))
    ticks_go_on(page)
    # Nobody of the crowd stays, and nobody of it was taken for a visitor.
    expect(page.locator("#people-count")).to_have_text("2")


def test_a_second_measurement_does_not_show_less_memory(serve: Serve, visit: Callable[..., Page]) -> None:
    server = serve(*DEMO, **QUICK, SSE_HUB_CROWD="100", SSE_HUB_MEASURED="0.5")
    page = visit(server.url, "Ada")
    card, shown = page.locator("#cost"), page.locator("#cost-starlette-memory")
    page.click("#cost-start")
    expect(card).to_have_attribute("data-state", "done")
    first = float(shown.inner_text().removesuffix(" KB"))
    page.click("#cost-start")
    expect(card).not_to_have_attribute("data-state", "done")
    expect(card).to_have_attribute("data-state", "done")
    assert float(shown.inner_text().removesuffix(" KB")) >= first


def test_the_streams_can_be_closed_early_and_are_refused_elsewhere(
    serve: Serve, visit: Callable[..., Page]
) -> None:
    server = serve(*DEMO, **QUICK, SSE_HUB_CROWD="30", SSE_HUB_MEASURED="600")
    page = visit(server.url, "Ada")
    page.click("#cost-start")
    expect(page.locator("#cost-hub-clients")).to_have_text("30")
    for value in ("cpu", "age"):  # they change as long as the streams are open
        cell = page.locator(f"#cost-hub-{value}")
        expect(cell).to_have_text(re.compile(r"^\d"))
        expect(cell).not_to_have_text(cell.inner_text())
    expect(page.locator("#cost-hub-memory")).to_have_text(re.compile("KB$"))
    expect(page.locator("#cost")).to_have_attribute("data-state", "hub")
    assert server.http.get("/cost/starlette").status_code == 409
    page.click("#cost-start")
    expect(page.locator("#cost-start")).to_have_text("Open 30 streams")
    assert server.http.get("/cost/hub").status_code == 409
    closed = serve(*DEMO, **QUICK, SSE_HUB_CROWD="0")
    off = visit(closed.url, "Ada")
    expect(off.locator("#cost-start")).to_be_disabled()
    assert closed.http.post("/api/cost").status_code == 403


def test_a_table_by_key_is_written_to_at_the_chosen_rate(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    page.locator("#table-on").check(force=True)
    expect(page.locator("#table-rows tr")).to_have_count(4)
    price = page.locator("#table-rows [data-symbol=FERN] td").first
    shown = price.inner_text()
    expect(price).not_to_have_text(shown)
    page.locator("input[name=rate][value='1']").check(force=True)
    expect(page.locator("#table")).to_have_attribute("data-state", "open")
    # Four rows a second, or eight where two writes fall into one reading; never eighty.
    expect(page.locator("#table-values")).to_have_text(re.compile("^[48]$"))
    expect(page.locator("#table-age")).to_have_text(re.compile(r"^\d+ ms$"))


def test_the_table_is_compressed_when_asked(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    for each in ("table-on", "table-zip"):
        page.locator(f"#{each}").check(force=True)
    page.locator("input[name=rate][value='1']").check(force=True)
    expect(page.locator("#table")).to_have_attribute("data-state", "open")
    expect(page.locator("#table-values")).to_have_text(re.compile("^[48]$"))
    # Four rows are about 540 bytes.
    expect(page.locator("#table-bytes")).to_have_text(re.compile(r"^[1-4]\d\d$"))
    sizes = demo.http.get("/api/table/bytes").json()
    assert 0 < sizes["after"] < sizes["before"]


def test_each_card_shows_the_lines_behind_it(demo: Server, visit: Callable[..., Page]) -> None:
    page = visit(demo.url, "Ada")
    buttons = page.locator(".card .toggle")
    for index in range(buttons.count()):
        buttons.nth(index).click()
        expect(buttons.nth(index)).to_have_attribute("aria-expanded", "true")
    assert buttons.count() == 8
    for text in page.locator(".source").all_inner_texts():
        assert "def " in text
    expect(page.locator("#code-chat")).to_contain_text("hub.publish(LOBBY")
    buttons.first.click()
    expect(page.locator(".source").first).to_be_hidden()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_a_notice_does_not_cover_the_chart(
    demo: Server, visit: Callable[..., Page], size: tuple[int, int]
) -> None:
    page = visit(demo.url, "Ada", viewport={"width": size[0], "height": size[1]})
    page.evaluate("() => { window.setTimeout = () => 0; }")  # the toast stays until this has looked
    notify(page, "look here")
    page.evaluate("scrollTo(0, 0)")
    toast = page.locator(".toast", has_text="look here")
    expect(toast).to_be_visible()
    box, chart = toast.bounding_box(), page.locator("#chart").bounding_box()
    assert box is not None
    assert chart is not None
    apart = box["x"] >= chart["x"] + chart["width"] or box["y"] >= chart["y"] + chart["height"]
    assert apart or box["y"] + box["height"] <= chart["y"], (box, chart)


def test_what_is_too_long_or_empty_is_refused(demo: Server) -> None:
    for path, body in {
        "chat": {"author": "Ada", "text": "x" * 281},
        "notices": {"author": " ", "text": "hello"},
        "whispers": {"to": "", "author": "Ada", "text": "hello"},
    }.items():
        assert demo.http.post(f"/api/{path}", json=body).status_code == 422
    nobody = {"to": "nobody", "author": "Ada", "text": "hello"}
    assert demo.http.post("/api/whispers", json=nobody).status_code == 404


def test_a_busy_port_is_reported_and_another_is_taken(demo: Server, serve: Serve) -> None:
    second = serve(*DEMO, port=demo.port, **QUICK)
    assert f"Port {demo.port} is in use" in second.output
    assert second.port != demo.port
    assert second.http.get("/").status_code == 200


@pytest.mark.parametrize(("handoff", "path"), [("1", "reactor"), ("0", "loop")])
def test_the_page_says_who_writes_its_stream(
    serve: Serve, visit: Callable[..., Page], handoff: str, path: str
) -> None:
    server = serve(*DEMO, **QUICK, SSE_HUB_HANDOFF=handoff)
    page = visit(server.url, "Ann")
    expect(page.locator("#fact-path")).to_have_attribute("data-path", path)
    ticks_go_on(page)
    reconnects = number(page, "fact-reconnects")
    page.click("#cut")
    expect(page.locator("#fact-reconnects")).to_have_text(str(reconnects + 1))
    state(page, "open")
    expect(page.locator("#fact-path")).to_have_attribute("data-path", path)
    ticks_go_on(page)


def test_ctrl_c_stops_it_and_says_nothing(visit: Callable[..., Page]) -> None:
    with running(*DEMO, **QUICK) as server:
        visit(server.url, "Ada")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(STOP_SECONDS) == 0
        server.reader.join(STOP_SECONDS)
        assert len(server.output.splitlines()) == 1, server.output  # its address
