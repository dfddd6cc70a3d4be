"""The dashboard in a browser: with and without JavaScript, and against people who mean no good."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from peers.chromium import Tab
from peers.curl import Curl
from peers.origin import Origin
from peers.patience import eventually
from peers.place import Place

NOTHING_LISTENS: Final = "http://127.0.0.1:9"

PAYLOAD: Final = "<img src=x onerror=alert(1)><script>alert(2)</script>"

_CONTRAST: Final = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) faint.push(`${element.tagName} ${element.textContent.trim()} ${ratio}`);
  }
  return faint;
})()
"""
"""Text whose colour stands out too little from what is behind it (WCAG 2.2, 1.4.3)."""


_TOO_WIDE: Final = """
document.documentElement.scrollWidth <= WIDTH ? [] :
  [...document.body.querySelectorAll('*')]
    .filter(e => e.getBoundingClientRect().right > WIDTH)
    .map(e => e.outerHTML.slice(0, 200))
"""
"""What makes the page scroll sideways, and what is in boxes that do."""


def sign_in(tab: Tab, place: Place) -> None:
    tab.go(place.sign_in_link())
    tab.click("main button")
    assert tab.address.endswith("/dashboard")


def pages_of(tunnel: str) -> list[str]:
    return [
        *("", "/tunnels", f"/tunnels/{tunnel}", "/hostnames", "/requests", "/requests?failed=1"),
        *("/tokens", "/certificates", "/audit"),
    ]


def keep(tab: Tab, name: str) -> None:
    """A screenshot, for whoever wants to look: UNDERPASS_SCREENSHOTS names a directory."""
    directory = os.environ.get("UNDERPASS_SCREENSHOTS")
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
        tab.screenshot(Path(directory, f"{name}.png"))


@pytest.mark.parametrize("place", [1, 2], ids=["one-process", "workers"], indirect=True)
def test_an_operator_sees_what_failed_and_why(place: Place, tab: Tab, origin: Origin) -> None:
    good, token = place.tunnel("good", "good")
    broken, broken_token = place.tunnel("broken", "broken")
    place.tunnel("absent", "absent")
    place.connector(token, origin.url)
    place.connector(broken_token, NOTHING_LISTENS)
    for name, status in (("good", 200), ("broken", 502), ("absent", 503)):
        assert Curl(place.edge, f"{name}.example.test")("/hello?key=s3cret").status == status
    sign_in(tab, place)
    home = tab.address
    text = tab.text
    assert "1 of 3 tunnels is not connected" in text
    assert "dial at the application" in text
    assert "Is it running, and listening at the address of the rule's service" in text
    assert "no_link between edge and connector" in text
    keep(tab, "overview")
    tab.go(f"{home}/requests")
    assert "/hello" in tab.text
    assert "s3cret" not in tab.js("document.documentElement.outerHTML")
    tab.click('.requests a[href*="/requests/"]')
    assert "Links tried" in tab.text
    tab.go(f"{home}/tunnels/{good}")
    assert "linux" in tab.text.lower()
    assert "good.example.test" in tab.text
    keep(tab, "tunnel")
    tab.go(f"{home}/tunnels/{broken}")
    assert "dial at the application" in tab.text
    assert (tab.problems, tab.dialogs) == ([], [])


def test_what_is_live_changes_by_itself(place: Place, tab: Tab) -> None:
    place.tunnel("absent", "absent")
    sign_in(tab, place)
    assert "no_link" not in tab.text
    tab.js("document.body.dataset.stays = 'yes'")
    assert Curl(place.edge, "absent.example.test")("/").status == 503
    eventually(lambda: "no_link" in tab.text, "htmx has fetched the page again")
    assert tab.js("document.body.dataset.stays") == "yes", "the page was not loaded again"
    assert tab.problems == []


def test_all_of_it_works_without_javascript(place: Place, tab: Tab) -> None:
    tab.without_scripts()
    sign_in(tab, place)
    tab.click('nav a[href="/dashboard/tunnels"]')
    tab.fill("#name", "made by hand")
    tab.click(".row button")
    assert "made by hand" in tab.text
    tab.fill("#hostname", "hand")
    tab.click('form[action="/dashboard/hostnames"] button')
    assert "hand.example.test" in tab.text
    tab.click('form[action$="/token"] button')
    assert "cloudflared tunnel --edge" in tab.text
    tab.click(".crumb a")
    tab.click(".danger button")
    assert "made by hand" not in tab.text
    tab.click('nav a[href="/dashboard/tokens"]')
    tab.fill("#name", "deploy")
    tab.click('button[value="text"]')
    assert "up_" in tab.text
    tab.click('main a[href="/dashboard/tokens"]')
    assert "deploy" in tab.text
    assert "up_" not in tab.text
    tab.click(".who button")
    assert "Sign in" in tab.text
    tab.go(place.address)
    assert "API token" in tab.text


def test_a_token_signs_in_by_keyboard_alone(place: Place, tab: Tab) -> None:
    from peers.owner import certificate_of

    tab.go(place.address)
    assert tab.js("document.activeElement.id") == "token", "one may type at once"
    tab.ask("Input.insertText", text=certificate_of(place.cert)["apiToken"])
    tab.press_key("Enter", 13, loads=True)
    assert "No tunnels yet" in tab.text
    tab.press_key("Tab", 9)
    assert tab.js("document.activeElement.className") == "skip"
    assert tab.js("document.activeElement.getBoundingClientRect().left") >= 0, "it can be seen"


def test_what_strangers_send_stays_text(place: Place, tab: Tab) -> None:
    tunnel, token = place.tunnel(PAYLOAD, "app")
    place.connector(token, NOTHING_LISTENS)
    curl = Curl(place.edge, "app.example.test")
    path = f"/{PAYLOAD.replace(' ', '')}\"'>"
    assert curl(path, "--user-agent", PAYLOAD, "--path-as-is").status == 502
    sign_in(tab, place)
    home = tab.address
    tab.go(f"{home}/tokens")
    tab.fill("#name", PAYLOAD)
    tab.click('button[value="text"]')
    assert PAYLOAD in tab.text
    for page in pages_of(tunnel):
        tab.go(home + page)
        assert tab.js("document.querySelectorAll('main img, main script').length") == 0
    tab.go(f"{home}/requests?failed=1")
    assert "onerror" in tab.text
    tab.click('.failures a[href*="/requests/"]')
    assert "onerror" in tab.text
    assert (tab.problems, tab.dialogs) == ([], [])


def test_a_page_elsewhere_sends_no_form(place: Place, tab: Tab) -> None:
    """Another port of the same host is the same site to a browser: its cookies go along."""
    sign_in(tab, place)
    target = f"http://{place.edge.api}/dashboard/tunnels"
    with evil_site(target) as address:
        tab.go(address)
        tab.click("button")
    assert "from this edge's own pages only" in tab.text
    tab.go(f"http://{place.edge.api}/dashboard/tunnels")
    assert "There are none yet" in tab.text or "API token" in tab.text


def test_no_other_page_shows_it_in_a_frame(place: Place, tab: Tab) -> None:
    with evil_site(f"http://{place.edge.api}/dashboard") as address:
        tab.go(f"{address}frame")
    assert any("frame" in problem.lower() for problem in tab.problems), tab.problems


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200], ids=["phone", "desktop"])
def test_it_can_be_read_on_any_screen(place: Place, tab: Tab, dark: bool, width: int) -> None:
    long = "a-tunnel-with-a-name-that-is-longer-than-anybody-would-want-it-to-be-and-has-no-spaces"
    tunnel, _ = place.tunnel(long, f"{'long' * 15}.example.test", "app")
    curl = Curl(place.edge, "app.example.test")
    assert curl("/a/very/long/path" * 20).status == 503
    tab.look(width=width, height=800, dark=dark)
    tab.go(place.address)
    assert tab.js(_CONTRAST) == []
    sign_in(tab, place)
    home = tab.address
    for page in pages_of(tunnel):
        tab.go(home + page)
        name = page.strip("/").partition("?")[0].partition("/")[0] or "home"
        keep(tab, f"{name}-{width}-{'dark' if dark else 'light'}")
        assert tab.js(_TOO_WIDE.replace("WIDTH", str(width))) == [], page
        assert tab.js(_CONTRAST) == [], page
        assert tab.js("document.querySelectorAll('h1').length") == 1


@contextmanager
def evil_site(target: str) -> Iterator[str]:
    """A page that sends a form to `target`, and one that shows it in a frame."""
    pages = {
        "/": f'<form method="post" action="{target}"><input name="name" value="x">'
        "<button>Win a prize</button></form>",
        "/frame": f'<iframe src="{target}"></iframe>',
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path, "").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
