"""Headless Chromium for tests: its DevTools protocol over a pipe, so that no driver has to fit its version."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find():
    """The path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """A page of a browser: what it says on its console is kept in ``complaints`` as far as it is no mere message."""

    def __init__(self, read, write):
        self.read, self.write = read, write
        self.numbers, self.session, self.rest = itertools.count(1), None, b""
        self.complaints, self.loaded = [], 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Send a command and wait for its answer."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.write.write(json.dumps(message).encode() + b"\0")
        self.write.flush()
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self):
        while b"\0" not in self.rest:
            got = os.read(self.read.fileno(), 1 << 20)
            assert got, "the browser ended"
            self.rest += got
        one, _, self.rest = self.rest.partition(b"\0")
        return json.loads(one)

    def _note(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded += 1
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(params["args"])

    def open(self, url):
        """Load a page, to its end."""
        before = self.loaded
        self.call("Page.navigate", url=url)
        while self.loaded == before:
            self._note(self._next())

    def run(self, code):
        """The value of some JavaScript, awaited."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


@contextlib.contextmanager
def page(folder):
    """A page in a browser of its own, whose profile lies in a folder."""
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    words = [find(), *flags, f"--user-data-dir={folder}", "--remote-debugging-pipe"]

    def pipes():  # the browser reads commands at 3 and answers at 4
        read, write = os.dup(to_browser), os.dup(from_browser)
        os.dup2(read, 3)
        os.dup2(write, 4)

    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, preexec_fn=pipes, close_fds=False, stdin=quiet, stdout=quiet, stderr=quiet)
    os.close(to_browser)
    os.close(from_browser)
    try:
        with open(to_us, "rb", buffering=0) as read, open(from_us, "wb") as write:
            opened = Page(read, write)
            yield opened
            opened.session = None
            opened.call("Browser.close")
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
