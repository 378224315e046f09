"""Headless Chromium, driven by chromedriver's own HTTP interface (WebDriver)."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.service import free_port, wait_for

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name of a reference


class Page:
    """A browser's only tab."""

    def __init__(self, http: httpx.Client, session: str) -> None:
        self._http, self._session = http, session

    def close(self) -> None:
        """End the browser."""
        self._http.delete(f"/session/{self._session}")

    def _post(self, path: str, **body: Any) -> Any:
        answer = self._http.post(f"/session/{self._session}{path}", json=body).json()
        assert not (isinstance(answer["value"], dict) and "error" in answer["value"]), answer
        return answer["value"]

    def go(self, url: str) -> None:
        """Open an address."""
        self._post("/url", url=url)

    def resize(self, width: int, height: int) -> None:
        """Size of the page in CSS pixels, as on a device of that width."""
        self._post(
            "/goog/cdp/execute",
            cmd="Emulation.setDeviceMetricsOverride",
            params={
                "width": width,
                "height": height,
                "deviceScaleFactor": 1,
                "mobile": width < 600,
            },
        )

    def run(self, script: str) -> Any:
        """Value that a script returns."""
        return self._post("/execute/sync", script=script, args=[])

    def _find(self, name: str) -> str:
        found = self._post("/element", using="css selector", value=f"#{name}")
        return str(found[_ELEMENT])

    def type(self, name: str, text: str) -> None:
        """Type into the field of that id."""
        self.run(
            f"const d = document.getElementById('{name}').closest('details'); if (d) d.open = true;"
        )
        self._post(f"/element/{self._find(name)}/value", text=text)

    def click(self, name: str) -> None:
        """Click what has that id."""
        self._post(f"/element/{self._find(name)}/click")

    def press(self, path: str) -> None:
        """Click what an XPath finds first, as soon as nothing lies over it (a passing message)."""

        def pressed() -> bool:
            answer = self._http.post(
                f"/session/{self._session}/element/{self._at(path)}/click", json={}
            ).json()["value"]
            assert answer is None or answer["error"] == "element click intercepted", answer
            return answer is None

        wait_for(pressed, 20, f"{path} can be clicked")

    def write(self, path: str, text: str) -> None:
        """Type into the field that an XPath finds first."""
        self._post(f"/element/{self._at(path)}/value", text=text)

    def there(self, path: str) -> bool:
        """Whether an XPath finds something."""
        return bool(self._post("/elements", using="xpath", value=path))

    def _at(self, path: str) -> str:
        return str(self._post("/element", using="xpath", value=path)[_ELEMENT])

    def screenshot(self, file: Path) -> None:
        """Write what is seen."""
        found = self._http.get(f"/session/{self._session}/screenshot").json()["value"]
        file.write_bytes(base64.b64decode(found))


@contextmanager
def opened() -> Iterator[Page]:
    """A page; the test is skipped where there is no Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver not found (Debian: chromium, chromium-driver)")
    port = free_port()
    with subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
                page = _session(http, chromium)
                try:
                    yield page
                finally:
                    page.close()  # chromedriver alone would leave the browser running
        finally:
            process.terminate()


def _session(http: httpx.Client, chromium: str) -> Page:
    def answers() -> bool:
        try:
            return bool(http.get("/status").json()["value"]["ready"])
        except httpx.TransportError:
            return False

    wait_for(answers, 20, "chromedriver answers")
    options = {"binary": chromium, "args": ["--headless=new", "--no-sandbox", "--disable-gpu"]}
    asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
    found = http.post("/session", json=asked).json()["value"]
    return Page(http, found["sessionId"])
