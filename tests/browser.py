"""A real browser without a window, spoken to over a pipe (Chrome's DevTools protocol, version 1.3)."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 60.0  # for one answer: a start on a busy machine is slow


def find_browser() -> str | None:
    """The first of ``NAMES`` in the PATH."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Seen(NamedTuple):
    """What a browser made of a page."""

    width: int  # of the content, in CSS pixels
    title: str
    text: str
    background: str
    console: list[str]  # errors, warnings and messages
    requests: list[str]  # every address that was asked for
    png: bytes
    broken: int  # elements that stick out of the screen and are not within something that scrolls


class Browser:
    """A browser that is ended with the block.

    Args:
        program: from ``find_browser``.
        profile: an empty folder for what it wants to keep.
    """

    def __init__(self, program: str, profile: Path) -> None:
        ours_r, theirs_w = os.pipe()
        theirs_r, ours_w = os.pipe()
        # The browser reads from 3 and writes to 4: first out of the way of both.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs_r, theirs_w)]
        words = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            "--hide-scrollbars", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip

        def connect() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=connect,
        )
        for fd in (theirs_r, theirs_w, *high):
            os.close(fd)
        self._read, self._write, self._rest, self._last = ours_r, ours_w, b"", 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._ask("Browser.close")
            self._process.wait(20)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def look(self, page: Path, *, width: int, dark: bool) -> Seen:
        """Open a page on a screen of a width, in CSS pixels, and look at all of it."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._events.clear()
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._ask(f"{domain}.enable", session)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", session, **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._ask("Emulation.setEmulatedMedia", session, features=scheme)
        self._ask("Page.navigate", session, url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        # What is open is looked at, too; the page itself can run nothing.
        self._value(session, "document.querySelectorAll('details').forEach(d => d.open = true)")
        broken = self._value(
            session,
            "[...document.querySelectorAll('body *')].filter(e => !e.parentElement.closest('.scroll') && "
            f"e.getBoundingClientRect().right > {width} + 0.5).length",
        )
        found = {
            "width": self._value(session, "document.documentElement.scrollWidth"),
            "title": self._value(session, "document.title"),
            "text": self._value(session, "document.body.innerText"),
            "background": self._value(session, "getComputedStyle(document.body).backgroundColor"),
        }
        self._value(session, "document.querySelectorAll('details').forEach(d => d.open = false)")
        height = self._value(session, "document.documentElement.offsetHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._ask("Page.captureScreenshot", session, captureBeyondViewport=True, clip=clip)
        console, requests = [], []
        for event in self._events:
            params = event.get("params", {})
            if event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                console.append(json.dumps(params))
            if event["method"] == "Network.requestWillBeSent":
                requests.append(params["request"]["url"])
        self._ask("Target.closeTarget", targetId=target)
        return Seen(
            **found, console=console, requests=requests, png=base64.b64decode(shot["data"]), broken=broken
        )

    def _value(self, session: str, expression: str) -> Any:
        found = self._ask("Runtime.evaluate", session, expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def _ask(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _wait_for(self, event: str) -> None:
        while not any(e["method"] == event for e in self._events):
            self._next()

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._read, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError("the browser ended" if ready else f"no answer within {_SECONDS:.0f} s")
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        if "method" in found:
            self._events.append(found)
        return found
