"""A headless Chromium, driven by its own protocol, to see pages as people do."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_SECONDS = 60


class Browser:
    """One window. Leaving the context ends the browser."""

    def __init__(self) -> None:
        if CHROMIUM is None:
            pytest.skip("nothing was looked at: Chromium is not installed (Debian's `chromium`)")
        self.foreign: set[str] = set()
        """Addresses off this machine that pages asked for."""
        self._calls = 0

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1200"]
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                *options,
                "--remote-debugging-port=0",
                f"--user-data-dir={self._profile.name}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        told = next(filter(None, (re.search(r"ws://([\d.:]+)/", x) for x in self._process.stderr)))
        tabs = httpx.get(f"http://{told[1]}/json").json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket: ClientConnection = connect(address, max_size=None)
        self._call("Network.enable")
        self._call("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.communicate()
        self._profile.cleanup()

    def open(self, address: str) -> None:
        """Go to a page."""
        self._call("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of an expression in the page, once it is something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"{expression} never came; the page: {self.text()}"
            time.sleep(0.1)
        return found

    def wait_for_text(self, *texts: str) -> None:
        """Wait until the page shows each of the texts."""
        for text in texts:
            self.wait_for(f"document.body?.innerText.includes({json.dumps(text)})")

    def click(self, text: str) -> None:
        """Click what is called exactly so."""
        found = (
            "[...document.querySelectorAll('*')]"
            f".find(one => !one.children.length && one.innerText?.trim() === {json.dumps(text)})"
        )
        self.wait_for(f"!!{found}")
        self.evaluate(f"{found}.click()")

    def text(self) -> str:
        """What the page says."""
        return str(self.evaluate("document.body?.innerText"))

    def photograph(self, file: Path) -> None:
        """Save what the window shows, as PNG."""
        taken = self._call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(taken["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            word = json.loads(self._socket.recv(timeout=PATIENCE_SECONDS))
            if word.get("method") == "Network.requestWillBeSent":
                self._note(word["params"]["request"]["url"])
            if word.get("id") == self._calls:
                assert "error" not in word, word
                return dict(word["result"])

    def _note(self, address: str) -> None:
        if address.startswith("http") and not re.match(r"https?://127\.0\.0\.1[:/]", address):
            self.foreign.add(address)
