"""A page in headless Chromium, driven as a user does: by keys. Speaks the DevTools protocol, so it needs no driver."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")
SHIFT = 8
_START_TIMEOUT_S = 30.0
_KEYS: dict[str, dict[str, Any]] = {
    "Tab": {"windowsVirtualKeyCode": 9},
    "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"},
    "Escape": {"windowsVirtualKeyCode": 27},
    "ArrowDown": {"windowsVirtualKeyCode": 40},
}
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Browser:
    """One page.

    Attributes:
        requested: Address of every request that the page has made.
        challenged: How often the page was asked for a password.
        complaints: What the browser has logged as errors.
    """

    def __init__(self, socket: ClientConnection, password: str) -> None:
        self._socket = socket
        self._password = password
        self._last_id = 0
        self.requested: list[str] = []
        self.challenged = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        # So that this program is asked for the password, where a user would be.
        self.call("Fetch.enable", handleAuthRequests=True)

    @property
    def hosts(self) -> set[str]:
        """Hosts that the page has asked for anything."""
        return {urlsplit(url).netloc for url in self.requested}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Do something, and meanwhile see what the browser tells of its own."""
        sent = self._send(method, params)
        while True:
            told = json.loads(self._socket.recv(timeout=30.0))
            if told.get("id") == sent:
                assert "error" not in told, (method, told["error"])
                return dict(told["result"])
            self._saw(told.get("method", ""), told.get("params", {}))

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._last_id += 1
        self._socket.send(json.dumps({"id": self._last_id, "method": method, "params": params}))
        return self._last_id

    def _saw(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event == "Fetch.requestPaused":
            self._send("Fetch.continueRequest", {"requestId": params["requestId"]})
        elif event == "Fetch.authRequired":
            self.challenged += 1
            given = {"response": "ProvideCredentials", "username": "anyone", "password": self._password}
            self._send("Fetch.continueWithAuth", {"requestId": params["requestId"], "authChallengeResponse": given})
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))

    def look(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, within_s: float = 30.0) -> Any:
        """The expression's value as soon as it is true."""
        deadline = time.monotonic() + within_s
        while not (value := self.look(expression)):
            assert time.monotonic() < deadline, (expression, self.look("document.body.innerText"))
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        """Go to a page, and wait until it stands."""
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release one key."""
        described = {"key": key, "code": key, "modifiers": modifiers, **_KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **described)
        self.call("Input.dispatchKeyEvent", type="keyUp", **described)

    def type(self, text: str) -> None:
        """Type text, letter by letter."""
        for letter in text:
            self.call("Input.dispatchKeyEvent", type="keyDown", key=letter, text=letter)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)

    def tab_to(self, selector: str, modifiers: int = 0) -> None:
        """Tab until an element has the focus, and see at every step that one sees where it is."""
        for _ in range(40):
            self.press("Tab", modifiers)
            assert self.look("getComputedStyle(document.activeElement).outlineStyle") != "none"
            if self.look(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"{selector} can't be reached by Tab")

    def show_as(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and the colours that the user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """What one sees, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(directory: Path, password: str) -> Iterator[Browser]:
    """A fresh Chromium, which knows no key yet.

    Args:
        directory: Where it keeps its profile.
        password: What it answers where a page asks for one.
    """
    assert CHROMIUM is not None
    command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={directory}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(_page_address(directory / "DevToolsActivePort"), max_size=None) as socket:
                yield Browser(socket, password)
        finally:
            process.terminate()


def _page_address(told: Path) -> str:
    """Where the DevTools of the one page listen, as soon as Chromium tells."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        lines = told.read_text().splitlines() if told.exists() else []
        if lines:
            targets = httpx.get(f"http://127.0.0.1:{lines[0]}/json/list").json()
            pages = [str(one["webSocketDebuggerUrl"]) for one in targets if one["type"] == "page"]
            if pages:
                return pages[0]
        time.sleep(0.05)
    raise AssertionError(f"Chromium did not start within {_START_TIMEOUT_S:.0f} s")
