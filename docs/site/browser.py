"""Chromium without a window, driven by its DevTools protocol over a pipe; it is given no network."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab of a browser, as a context.

    Attributes:
        events: events of the protocol that have not been taken yet, in their order.
    """

    def __init__(self) -> None:
        names = ("chromium", "chromium-browser", "google-chrome")
        program = next(filter(None, map(shutil.which, names)), None)
        if program is None:
            raise SystemExit(f"no browser: none of {' '.join(names)} is installed")
        self.profile = tempfile.TemporaryDirectory(prefix="shoal-browser-", ignore_cleanup_errors=True)
        self.events: list[dict[str, Any]] = []
        self._numbers, self._rest = itertools.count(1), b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self.process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: _place(theirs_in, theirs_out),
            close_fds=False,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        pages = [target for target in self._call("Target.getTargets", {})["targetInfos"] if target["type"] == "page"]
        target = (
            pages[0]["targetId"] if pages else self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        )
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.call("Network.emulateNetworkConditions", **offline)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        for pipe in (self._in, self._out):
            os.close(pipe)
        self.profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of a method of the protocol in the tab."""
        return self._call(method, parameters, self._session)

    def open(self, address: str, seconds: float = 60) -> None:
        """Go to an address and wait until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        end = time.monotonic() + seconds
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read(end - time.monotonic())

    def run(self, script: str) -> Any:
        """Value of a script's last expression, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def look(self, width: int, dark: bool) -> None:
        """Set the width of the window, in pixels, and what the reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, height: int = 16000) -> None:
        """Write a picture of the page, from its top, at most so many pixels high."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height), "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, parameters: dict[str, Any], session: str = "") -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 120
        while True:
            answer = self._read(end - time.monotonic(), number)
            if answer is not None:
                break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self, seconds: float, number: int = 0) -> dict[str, Any] | None:
        """Read once; events are kept, and the answer to a call is returned when it is there."""
        if not select.select([self._in], [], [], max(seconds, 0))[0]:
            raise TimeoutError("the browser does not answer")
        chunk = os.read(self._in, 1 << 20)
        if not chunk:
            raise RuntimeError("the browser has ended")
        *messages, self._rest = (self._rest + chunk).split(b"\0")
        answer = None
        for message in map(json.loads, messages):
            if "method" in message:
                self.events.append(message)
            elif message.get("id") == number:
                answer = message
        return answer


def _place(reading: int, writing: int) -> None:
    """Give the pipes the numbers under which the browser looks for them; runs in the new process."""
    reading, writing = os.dup(reading), os.dup(writing)  # above 4, so that neither is closed by the other's place
    os.dup2(reading, 3)
    os.dup2(writing, 4)
