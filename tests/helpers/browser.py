"""A headless Chromium, driven by chromedriver's own protocol (W3C WebDriver)."""

import json
import re
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager

MISSING = next((name for name in ("chromium", "chromedriver") if shutil.which(name) is None), "")


class Browser:
    """One window. `errors` returns what is new in the console's log."""

    def __init__(self, address):
        self._address = address
        capabilities = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "binary": shutil.which("chromium"),
                "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"],
            },
        }
        started = self._post("/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{started['sessionId']}"

    def get(self, url):
        self._post(f"{self._session}/url", {"url": url})

    def run(self, script, *arguments):
        body = {"script": script, "args": arguments}
        return self._post(f"{self._session}/execute/sync", body)

    def errors(self):
        entries = self._post(f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def emulate(self, width, scheme):
        """Takes a width in pixels, and the colour scheme 'light' or 'dark'."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        self.devtools("Emulation.setEmulatedMedia", media)

    def devtools(self, command, parameters):
        body = {"cmd": command, "params": parameters}
        return self._post(f"{self._session}/goog/cdp/execute", body)

    def close(self):
        self._send("DELETE", self._session)

    def _post(self, path, body):
        return self._send("POST", path, json.dumps(body).encode())

    def _send(self, method, path, data=None):
        request = urllib.request.Request(self._address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]


@contextmanager
def browsing():
    """Yields a `Browser`; ends it and its driver afterwards."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        lines = (re.search(r"successfully on port (\d+)", line) for line in driver.stdout)
        port = next(filter(None, lines))[1]
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(30)
