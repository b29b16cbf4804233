"""A headless Chromium for tests of pages, and the sizes of a screen and a phone.

with chromium() as browser:
    resize(browser, "phone")
"""

import shutil
from contextlib import contextmanager

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
FLAGS += " --disable-background-networking --disable-component-update --disable-sync"
SIZES = {"screen": (1400, 1000, False), "phone": (390, 844, True)}


@contextmanager
def chromium(flags: str = FLAGS, **preferences):
    """Yield a driver of Chromium; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        cure = "apt-get install chromium chromium-driver"
        pytest.skip(f"Chromium or its driver is not installed ({cure})")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in flags.split():
        options.add_argument(flag)
    options.add_experimental_option("prefs", preferences)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        yield chrome


def resize(browser, size: str) -> None:
    """Give a page the width and height of one of SIZES."""
    width, height, mobile = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": mobile})
