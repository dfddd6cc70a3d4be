"""Headless Chromium, driven by its DevTools protocol: what a person sees and does."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

from .patience import PATIENCE, eventually

MISSING = "Debian's chromium is not installed (ci/bootstrap installs it as root)"


def chromium_path() -> str | None:
    """Where the browser is."""
    return (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )


@contextlib.contextmanager
def chromium(profile: Path, *arguments: str) -> Iterator[Chromium]:
    """A browser of its own; skips the test where there is none."""
    path = chromium_path()
    if path is None:
        pytest.skip(MISSING)
    browser = Chromium(path, profile, *arguments)
    try:
        yield browser
    finally:
        browser.close()


class Chromium:
    """One process with one profile."""

    def __init__(self, path: str, profile: Path, *arguments: str) -> None:
        # In a group of its own, because it is several processes.
        self._process = subprocess.Popen(
            [
                path,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                *arguments,
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        port_file = profile / "DevToolsActivePort"
        eventually(lambda: port_file.exists() and "\n" in port_file.read_text(), "DevTools listen")
        self._port = int(port_file.read_text().splitlines()[0])
        self._tabs: list[Tab] = []

    def tab(self) -> Tab:
        """A new one."""
        with urlopen(f"http://127.0.0.1:{self._port}/json/version", timeout=PATIENCE) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        tab = Tab(address)
        self._tabs.append(tab)
        return tab

    def close(self) -> None:
        """End all of it."""
        for tab in self._tabs:
            tab.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


class Tab:
    """A page and what it does, with cookies of its own. `problems` has what the browser complains
    of."""

    def __init__(self, browser: str) -> None:
        self._closing = contextlib.ExitStack()
        self._socket: ClientConnection = self._closing.enter_context(
            connect(browser, max_size=None, ping_interval=None, proxy=None)
        )
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.dialogs: list[str] = []
        self._session: str | None = None
        jar = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=jar)[
            "targetId"
        ]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.look()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, answered."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            heard = self._hear(PATIENCE)
            if heard.get("id") == number:
                assert "error" not in heard, f"{method}: {heard['error']}"
                result: dict[str, Any] = heard["result"]
                return result

    def _hear(self, seconds: float) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self._socket.recv(timeout=seconds))
        method, said = heard.get("method"), heard.get("params", {})
        if method is not None:
            self._events.append(heard)
        if method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(said["exceptionDetails"]))
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(said["message"])
            self._socket.send(
                json.dumps(
                    {
                        "id": next(self._numbers),
                        "sessionId": self._session,
                        "method": "Page.handleJavaScriptDialog",
                        "params": {"accept": True},
                    }
                )
            )
        return heard

    def look(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Of this size, with this preference."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = "dark" if dark else "light"
        self.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def without_scripts(self) -> None:
        """Like a browser in which JavaScript is turned off."""
        self.ask("Emulation.setScriptExecutionDisabled", value=True)

    def go(self, address: str) -> None:
        """To an address, until its page is there."""
        self._loaded(lambda: self.ask("Page.navigate", url=address))

    def click(self, selector: str, *, loads: bool = True) -> None:
        """With the mouse, in the middle of the first element that is found."""
        box = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " if (!e) return null; e.scrollIntoView({block: 'center'});"
            " const r = e.getBoundingClientRect();"
            " return [r.left + r.width / 2, r.top + r.height / 2]; })()"
        )
        assert box, f"there is no {selector} in {self.address}: {self.text[:2000]}"

        def press() -> None:
            for kind in ("mousePressed", "mouseReleased"):
                self.ask(
                    "Input.dispatchMouseEvent",
                    type=kind,
                    x=box[0],
                    y=box[1],
                    button="left",
                    clickCount=1,
                )

        if loads:
            self._loaded(press)
        else:
            press()

    def fill(self, selector: str, text: str) -> None:
        """Type into a field."""
        assert self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " if (!e) return false; e.focus(); e.select && e.select(); return true; })()"
        ), f"there is no {selector}"
        self.ask("Input.insertText", text=text)

    def press_key(self, key: str, code: int, *, loads: bool = False) -> None:
        """A key of the keyboard, such as Tab."""

        def press() -> None:
            for kind in ("keyDown", "keyUp"):
                self.ask(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=code,
                    text="\r" if key == "Enter" and kind == "keyDown" else "",
                )

        if loads:
            self._loaded(press)
        else:
            press()

    def js(self, expression: str) -> Any:
        """The value of an expression in the page, by DevTools and not by the page's own scripts."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    @property
    def text(self) -> str:
        """What can be read."""
        return str(self.js("document.body.innerText"))

    @property
    def address(self) -> str:
        return str(self.js("location.href"))

    def screenshot(self, path: Path) -> None:
        """The whole page, as PNG."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _loaded(self, act: Callable[[], object]) -> None:
        """Do what makes the browser load another page, and wait for it."""
        self._events.clear()
        act()
        end = time.monotonic() + PATIENCE
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._hear(max(0.1, end - time.monotonic()))

    def close(self) -> None:
        """Twice is harmless."""
        self._closing.close()
