"""The pages in a real headless Chromium: they load, sort and wipe, on a screen and on a phone.

    python -m pytest tests/test_page.py

Needs Chromium and its driver: apt-get install chromium chromium-driver.
"""

import io
from functools import partial

import numpy as np
import pytest
from helpers.chromium import SIZES, chromium, resize
from PIL import Image
from test_report import EVIL_NAME, HOSTILE, ROW, make_run, rows_of

import report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
RED, BLUE = (255, 0, 0), (0, 0, 255)  # originals and reconstructions of test_report's runs


@pytest.fixture(scope="module")
def browser():
    with chromium() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of four images, and beside it a comparison of it with itself.

    One image lacks a value, one has a hostile name.
    """
    rows = [*rows_of(12.0, None, 9.5), {"name": EVIL_NAME, **ROW, "prompt": HOSTILE, "psnr": 30.25}]
    missing = {"lpips": "no weights of LPIPS"}
    run = make_run(tmp_path_factory.mktemp("page") / "run", rows, not_available=missing)
    assert report.main([str(run)]) == 0
    assert report.main([str(run), str(run), "--output", str(run.parent / "both")]) == 0
    return run


def show(browser, folder, size="screen", scheme="light"):
    resize(browser, size)
    colors = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", colors)
    browser.get((folder / "index.html").as_uri())


def ask(browser, expression):
    return browser.execute_script(f"return {expression}")


def load_all(browser):
    """Scroll through the page, so that every picture is wanted, and wait for them."""
    browser.set_script_timeout(20)
    browser.execute_async_script("""
        const done = arguments[0], images = [...document.images];
        for (const image of images) image.loading = "eager";
        Promise.allSettled(images.map((image) => image.decode())).then(done)""")


def names(browser):
    return ask(browser, "[...document.querySelectorAll('article h2')].map(h => h.textContent)")


def sort_by(browser, key):
    script = "const key = document.getElementById('key'); key.value = arguments[0];"
    script += "key.dispatchEvent(new Event('change'))"
    browser.execute_script(script, key)


def pixels(browser, element):
    """Colors of an element, away from its line and knob: {share of its width: (r, g, b)}."""
    picture = np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))
    row, colors = picture[picture.shape[0] // 4], {}
    for share in (0.05, 0.3, 0.7, 0.95):
        colors[share] = tuple(row[int(share * (len(row) - 1))].tolist())
    return colors


def at(browser, stage):
    return float(browser.execute_script("return arguments[0].querySelector('input').value", stage))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["run", "both"])
def test_loads_without_an_error(browser, folder, page, size, scheme):
    show(browser, folder.parent / page, size, scheme)
    load_all(browser)
    assert ask(browser, "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
    assert browser.get_log("browser") == []
    assert ask(browser, "document.documentElement.scrollWidth <= innerWidth")
    wide = "e => !e.closest('.scroll, .wipe') && e.getBoundingClientRect().right > innerWidth"
    elements = f"[...document.querySelectorAll('main *')].filter({wide})"
    assert ask(browser, f"{elements}.map(e => e.outerHTML)") == []
    remote = "r => !/^(file|data):/.test(r.name)"
    assert ask(browser, f"performance.getEntriesByType('resource').filter({remote})") == []
    assert names(browser) == ["p0", "p1", "p2", EVIL_NAME]
    assert not ask(browser, "window.x")  # what the hostile texts would have set


@pytest.mark.parametrize("page", ["run", "both"])
def test_what_somebody_put_into_a_page_does_nothing(browser, folder, page, tmp_path):
    """A script, a handler, a picture and a style from elsewhere, a form, a frame."""
    there = (folder.parent / page / "index.html").read_text()
    evil = '<script>window.x = 1</script><img src="data:," onerror="window.x = 1">'
    evil += '<img src="http://evil.invalid/x.png"><iframe src="data:text/html,x"></iframe>'
    evil += (
        '<link rel="stylesheet" href="http://evil.invalid/x.css"><base href="http://evil.invalid/">'
    )
    evil += "<style>main { display: none }</style>"
    (tmp_path / "index.html").write_text(there.replace("<main>", f"{evil}<main>"))
    show(browser, tmp_path)
    assert not ask(browser, "window.x")
    assert ask(browser, "document.querySelector('main').getBoundingClientRect().height > 0")
    assert ask(browser, "document.baseURI").startswith("file:")
    violations = [line["message"] for line in browser.get_log("browser")]
    for directive in ("script-src", "img-src", "default-src", "style-src-elem", "base-uri"):
        assert any(f"{directive} " in line for line in violations), directive


def test_it_is_dark_in_the_dark(browser, folder):
    shades = {}
    for scheme in ("light", "dark"):
        show(browser, folder, "screen", scheme)
        style = "getComputedStyle(document.body)"
        colors = [ask(browser, f"{style}.{name}") for name in ("backgroundColor", "color")]
        paper, ink = (sum(map(int, color[4:-1].split(","))) / 3 for color in colors)
        shades[scheme] = paper
        assert abs(paper - ink) > 150
    assert shades["light"] > 200 > 60 > shades["dark"]


def test_sorts_by_any_column(browser, folder):
    show(browser, folder)
    keys = ask(browser, "[...document.getElementById('key').options].map(o => o.value)")
    layers = ["bytes_text", "bytes_sketch", "bytes_overhead"]
    assert keys == ["", "name", "bytes", "bpp", *layers, "psnr"]
    sort_by(browser, "psnr")
    assert names(browser) == [EVIL_NAME, "p0", "p2", "p1"]  # the best first, without a value last
    assert ask(browser, "document.querySelectorAll('.sorted').length") == 4
    order = browser.find_element("id", "order")
    assert order.text == "descending"
    order.click()
    assert order.text == "ascending" and names(browser) == ["p2", "p0", EVIL_NAME, "p1"]
    sort_by(browser, "bytes")
    assert names(browser) == ["p0", EVIL_NAME, "p1", "p2"]  # equal ones in the data set's order
    sort_by(browser, "name")
    order.click()
    assert names(browser) == ["p2", "p1", "p0", EVIL_NAME]
    sort_by(browser, "")
    assert names(browser) == ["p0", "p1", "p2", EVIL_NAME] and browser.get_log("browser") == []


def test_filter_by_name(browser, folder):
    show(browser, folder)
    shown = "[...document.querySelectorAll('article')].filter(a => a.checkVisibility()).length"
    field = browser.find_element("id", "filter")
    field.send_keys("P1")
    assert ask(browser, shown) == 1
    field.send_keys(webdriver.Keys.ENTER)
    assert ask(browser, shown) == 1  # the page is not loaded again
    field.clear()
    field.send_keys(" ")
    assert ask(browser, shown) == 4 and browser.get_log("browser") == []


def test_arrow_keys_go_from_image_to_image(browser, folder):
    show(browser, folder)
    page = browser.find_element("tag name", "body")
    top = "Math.round(document.querySelectorAll('article')[{}].getBoundingClientRect().top)"
    browser.execute_script("document.querySelector('article').scrollIntoView()")
    page.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert ask(browser, top.format(1)) == 64
    page.send_keys(webdriver.Keys.ARROW_LEFT)
    assert ask(browser, top.format(0)) == 64
    browser.find_element("id", "filter").send_keys(webdriver.Keys.ARROW_RIGHT)
    assert ask(browser, top.format(0)) == 64


def test_names_sort_by_their_numbers(browser, tmp_path):
    rows = [{"name": name, **ROW, "psnr": 1.0} for name in ("photo10", "photo9", "Photo1")]
    run = make_run(tmp_path / "run", rows)
    report.main([str(run)])
    show(browser, run)
    sort_by(browser, "name")
    assert names(browser) == ["Photo1", "photo9", "photo10"]


@pytest.mark.parametrize("size", SIZES)
def test_wipe_shows_the_original_on_the_left(browser, folder, size):
    show(browser, folder, size)
    load_all(browser)
    stage = browser.find_element("class name", "wipe")
    assert pixels(browser, stage) == {0.05: RED, 0.3: RED, 0.7: BLUE, 0.95: BLUE}
    spans = "[...document.querySelectorAll('.wipe span')].slice(0, 2)"
    labels = ask(browser, f"{spans}.map(s => s.textContent)")
    assert labels == ["original", "reconstruction"]


def test_wipe_by_mouse(browser, folder):
    show(browser, folder)
    load_all(browser)
    stage = browser.find_element("class name", "wipe")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    half = stage.size["width"] // 2
    mouse = partial(webdriver.ActionChains, browser, duration=50)
    held = mouse().move_to_element(stage).click_and_hold()
    held.move_by_offset(int(0.8 * half), 0).release().perform()
    assert 85 < at(browser, stage) < 95 and pixels(browser, stage)[0.7] == RED
    # A click jumps there.
    mouse().move_to_element_with_offset(stage, int(-0.8 * half), 30).click().perform()
    assert 5 < at(browser, stage) < 15
    assert pixels(browser, stage) == {0.05: RED, 0.3: BLUE, 0.7: BLUE, 0.95: BLUE}
    # To the very edge.
    mouse().click_and_hold().move_by_offset(int(-0.3 * half), 0).release().perform()
    assert at(browser, stage) == 0
    assert set(pixels(browser, stage).values()) == {BLUE}


def test_wipe_against_a_baseline(browser, tmp_path):
    run = make_run(tmp_path / "run", rows_of(12.0, 9.5))
    Image.new("RGB", (96, 64), "lime").save(run / "p1_webp.png")
    assert report.main([str(run)]) == 0
    show(browser, run)
    load_all(browser)
    assert ask(browser, "document.querySelector('.lead').textContent").endswith(
        "The buttons below it compare with webp of at most as many bytes."
    )
    assert browser.find_elements("css selector", "article:first-child .against") == []
    stage = browser.find_element("css selector", "article:last-child .wipe")
    for name, color in (("webp", (0, 255, 0)), ("original", RED)):
        (button,) = browser.find_elements("css selector", f".against button[value$='_{name}.png']")
        button.click()
        load_all(browser)
        assert pixels(browser, stage)[0.3] == color and pixels(browser, stage)[0.7] == BLUE
        slider = stage.find_element("tag name", "input")
        label = slider.get_attribute("aria-label")
        assert label == f"p1: wipe between {name} and reconstruction"
        pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.textContent)"
        assert ask(browser, pressed) == [name] == [stage.find_element("class name", "left").text]
    assert browser.get_log("browser") == []


def test_wipe_by_keyboard(browser, folder):
    show(browser, folder)
    load_all(browser)
    stage = browser.find_element("class name", "wipe")
    slider = stage.find_element("tag name", "input")
    slider.send_keys(webdriver.Keys.ARROW_RIGHT * 3)
    assert at(browser, stage) == 53
    slider.send_keys(webdriver.Keys.END)
    assert at(browser, stage) == 100 and set(pixels(browser, stage).values()) == {RED}
    slider.send_keys(webdriver.Keys.HOME)
    assert at(browser, stage) == 0 and pixels(browser, stage)[0.3] == BLUE
    assert slider.get_attribute("aria-label") == "p0: wipe between original and reconstruction"


def test_wipe_by_touch(browser, folder):
    show(browser, folder, "phone")
    load_all(browser)
    stage = browser.find_element("class name", "wipe")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", stage)
    y = box["top"] + box["height"] / 2
    moves = [("touchStart", 0.5), ("touchMove", 0.6), ("touchMove", 0.9), ("touchEnd", None)]
    for kind, share in moves:
        points = [] if share is None else [{"x": box["left"] + share * box["width"], "y": y}]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert 85 < at(browser, stage) < 95 and pixels(browser, stage)[0.7] == RED


def test_a_thousand_images_load_as_they_are_seen(browser, tmp_path):
    run = make_run(tmp_path / "run", rows_of(*map(float, range(1000))), sketch=False)
    report.main([str(run)])
    show(browser, run)
    assert len(names(browser)) == 1000
    loaded = ask(browser, "[...document.images].filter(i => i.naturalWidth).length")
    assert 0 < loaded < 200
    sort_by(browser, "psnr")
    assert names(browser)[0] == "p999" and browser.get_log("browser") == []
