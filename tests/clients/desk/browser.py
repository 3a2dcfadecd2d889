"""A desk that listens on the loopback, and a headless Chromium that opens it."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from clients.desk.app import make_app
from clients.desk.desk import Desk
from clients.desk.door import Door
from clients.desk.run import bound
from common.keeper import die_with_parent

WAIT_S = 60.0
"""The machine may be busy with other things."""
SIZE = (1440, 900)


@contextmanager
def served(desk: Desk) -> Iterator[Door]:
    """The desk behind its door, on a free port."""
    with bound(0) as listening:
        door = Door(make_app(desk), listening.getsockname()[1])
        config = uvicorn.Config(door, log_level="warning", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield door
        finally:
            server.should_exit = True
            thread.join(WAIT_S)


@contextmanager
def chromium(size: tuple[int, int] = SIZE) -> Iterator[Any]:
    """A browser, its driver and all of its processes gone afterwards.

    Skips the test where Chromium or its driver is not installed.
    """
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium with its chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", "--disable-background-networking", "--no-first-run",
        "--force-device-scale-factor=1",
        "--remote-debugging-pipe",  # it ends with its driver, and that one with the tests
        f"--window-size={size[0]},{size[1]}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(driver, popen_kw={"preexec_fn": die_with_parent()})
    browser = webdriver.Chrome(options, service)
    try:
        browser.set_window_size(*size)
        browser.set_script_timeout(WAIT_S)
        browser.set_page_load_timeout(WAIT_S)
        yield browser
    finally:
        browser.quit()
