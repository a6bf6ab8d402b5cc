"""The report's page in Chromium: what a reader clicks, and what the page must not do."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fcnseg.data.voc import VOC
from fcnseg.report import charts, render, sections
from fcnseg.report.blocks import Chart, Gallery, Section, Table, Text
from fcnseg.report.collect import collect

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium or chromedriver: apt install chromium-driver"),
]
NASTY = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def open_browser(*, scripts=True):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def browser():
    with open_browser() as driver:
        driver.set_script_timeout(120)  # axe on a busy machine
        yield driver


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of every kind of block, with text that tries to be more than text."""
    names, labels = ["a b", "2007_000033", NASTY], torch.zeros(8, 8, dtype=torch.uint8)
    masks = {"fcn": labels + 1, "unet": labels + 2}
    galleries = [Gallery(name, labels.expand(3, 8, 8) + 9, labels, masks, VOC) for name in names]
    rows = [["10", "9 %"], ["-", "10 %"], ["9", "1,000"], ["11", "2.5e1"]]
    table = Table(
        ("image", "n", "share"),
        [[name, *row] for name, row in zip([*names, "=1+1_&"], rows, strict=True)],
        rows_are="image",
    )
    classes = Table(("class", "IoU"), [["potted plant", "0.5\n± 0.1"], ["cat", "0.25"]], rows_are="class")
    curve = charts.Curve([3, 2], [3, 2.5], best=1, stopped=False)
    chart = Chart("x", NASTY, lambda: charts.loss_curves([curve]), numbers=classes)
    folded = replace(table, rows_are="", title="more")
    titles = [f"transfer, learning rate {number} of many and very many words to tell" for number in range(3)]
    long = Chart("y", "Long names", lambda: charts.reliability(dict.fromkeys(titles, np.ones((3, 15)))))
    sections = [Section("Table", [Text(NASTY, warning=True), table, chart, long, folded]), Section("Images", galleries)]
    folder = tmp_path_factory.mktemp("page")
    render.write_html(folder, "A title", NASTY, sections)
    return (folder / "index.html").as_uri()


@pytest.fixture
def page(browser, written):
    browser.get("about:blank")
    browser.get(written)
    return browser


def find(page, css):
    return page.find_elements(By.CSS_SELECTOR, css)


def button(page, words):
    return page.find_element(By.XPATH, f"//button[normalize-space()='{words}']")


def column(page, number):
    return [row.text.split("\n")[0] for row in find(page, f"main .table tbody tr > :nth-child({number})")[:4]]


def copied(page, words):
    page.execute_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    button(page, words).click()
    return page.execute_script("return window.copied")


def test_a_column_sorts_both_ways_and_what_is_empty_comes_last(page):
    heading = page.find_element(By.XPATH, "//th[normalize-space()='n']")
    heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert (column(page, 2), heading.get_attribute("aria-sort")) == (["9", "10", "11", "-"], "ascending")
    heading.find_element(By.TAG_NAME, "button").click()
    assert (column(page, 2), heading.get_attribute("aria-sort")) == (["11", "10", "9", "-"], "descending")
    button(page, "share").click()
    assert column(page, 3) == ["9 %", "10 %", "2.5e1", "1,000"]
    assert heading.get_attribute("aria-sort") is None


def test_rows_are_filtered_and_counted(page):
    filter_, status = find(page, "input[type=search]")[0], find(page, "[role=status]")[0]
    filter_.send_keys("2007")
    assert (column(page, 1)[1], status.text) == ("2007_000033", "1 of 4 rows")
    assert [row.is_displayed() for row in find(page, "main .table tbody tr")[:4]] == [False, True, False, False]
    assert copied(page, "Copy CSV") == "image,n,share\n2007_000033,-,10 %\n"
    filter_.clear()
    filter_.send_keys(Keys.SPACE)
    assert status.text == "4 of 4 rows"


def test_a_table_is_copied_as_csv_and_as_latex(page):
    lines = copied(page, "Copy CSV").split("\n")
    assert lines[:2] == ["image,n,share", "a b,10,9 %"]
    assert lines[3].startswith('"<script>document.title=\'taken\'</script><img src=x onerror=""')
    assert lines[4] == "'=1+1_&,11,2.5e1"
    lines = copied(page, "Copy LaTeX").split("\n")
    assert lines[:2] == ["\\begin{tabular}{lrr}", "image & n & share \\\\"]
    assert "=1+1\\_\\& & 11 & 2.5e1 \\\\" in lines
    assert lines[-2:] == ["\\end{tabular}", ""]
    find(page, "figure details")[0].find_element(By.TAG_NAME, "summary").click()
    find(page, "figure .tools button")[0].click()
    assert page.execute_script("return window.copied") == "class,IoU\npotted plant,0.5 ± 0.1\ncat,0.25\n"


@pytest.mark.parametrize("address", ["image-2007_000033", "image-a-b", "class-potted-plant"])
def test_an_address_shows_what_it_names(browser, written, address):
    """Also what is folded; a row of an image with pictures leads to these."""
    browser.get("about:blank")
    browser.get(f"{written}#{address}")
    (target,) = find(browser, ":target")
    assert target.is_displayed()
    top = browser.execute_script("return arguments[0].getBoundingClientRect().top", target)
    assert 0 <= top < browser.execute_script("return innerHeight")
    if address.startswith("image"):
        assert find(browser, f"th a[href='#{address}']")


def test_a_picture_is_enlarged_and_its_layers_are_switched_by_keyboard(page):
    opener = find(page, ".picture")[2]  # after the image and its truth: fcn's prediction
    opener.send_keys(Keys.ENTER)
    (dialog,) = find(page, "dialog")
    assert dialog.find_element(By.TAG_NAME, "h2").text == "a b: fcn"
    assert [label.text for label in find(page, "dialog label")] == ["image", "truth", "prediction", "overlay"]
    (large,) = find(page, "dialog img")
    assert large.get_attribute("alt") == "a b: fcn, prediction"
    assert large.get_attribute("src") == opener.find_element(By.TAG_NAME, "img").get_attribute("src")
    assert large.size["width"] > 2 * opener.size["width"]
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    assert large.get_attribute("alt") == "a b: image and truth, truth"
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert large.get_attribute("alt") == "a b: fcn, overlay"
    assert page.current_url.endswith("#image-a-b")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert page.switch_to.active_element == opener


def test_the_theme_is_the_system_s_until_it_is_chosen(page):
    def ground():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    grounds = []
    for system in ("light", "dark"):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": system}]})
        grounds.append(ground())
    light, dark = grounds
    assert light != dark
    button(page, "Theme: system").click()
    assert ground() == light
    button(page, "Theme: light").click()
    assert ground() == dark
    button(page, "Theme: dark").click()
    assert ground() == dark  # the system's
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_is_fetched_nothing_is_run_and_the_console_is_silent(page, written):
    page.get_log("performance")
    page.get_log("browser")
    page.get(written)
    sent = [entry["message"] for entry in page.get_log("performance") if "Network.requestWillBeSent" in entry["message"]]
    assert [message for message in sent if '"url":"data:' not in message and written not in message] == []
    assert page.get_log("browser") == []
    assert page.title == "A title"
    assert NASTY in find(page, ".warning")[0].text


def test_pictures_beside_the_page_are_shown_and_nothing_else_is_fetched(browser, tmp_path, monkeypatch):
    labels = torch.zeros(8, 8, dtype=torch.uint8)
    sections = [Section("Images", [Gallery("a", labels.expand(3, 8, 8), labels, {"fcn": labels}, VOC)])]
    (tmp_path / "inside").mkdir()
    inside = render.write_html(tmp_path / "inside", "A title", "", sections)
    assert (inside, [path.name for path in (tmp_path / "inside").iterdir()]) == ("", ["index.html"])
    assert "img-src data:;" in (tmp_path / "inside" / "index.html").read_text()
    monkeypatch.setattr(render, "MOST_INSIDE", 10)
    assert "in the folder pictures beside index.html" in render.write_html(tmp_path, "A title", "", sections)
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get((tmp_path / "index.html").as_uri())
    assert [image.get_property("naturalWidth") for image in find(browser, ".cards img")] == [8] * 4
    assert "in the folder pictures" in find(browser, "header .warning")[0].text
    sent = [each["message"] for each in browser.get_log("performance") if "requestWillBeSent" in each["message"]]
    assert [message for message in sent if tmp_path.as_uri() not in message] == []
    assert browser.get_log("browser") == []
    assert "data:" not in find(browser, "meta[http-equiv]")[0].get_attribute("content")


def test_a_number_of_a_confusion_matrix_opens_the_images_that_make_it_up(browser, of_runs):
    """It is a link: it works without scripts, too."""
    browser.get(of_runs)
    number = find(browser, "table.shaded a")[0]
    truth = number.find_element(By.XPATH, "./ancestor::tr/th").text
    number.send_keys(Keys.ENTER)
    (row,) = find(browser, "tr:target")
    assert row.find_element(By.TAG_NAME, "th").text.startswith(f"{truth} taken for")
    assert row.find_elements(By.CSS_SELECTOR, "td a")[0].get_attribute("href").partition("#")[2].startswith("image-")


def test_what_is_not_the_page_s_own_is_refused(page):
    """Even if a text from a run would come into the page as HTML."""
    page.execute_script(
        """const all = { script: { textContent: "document.title = 'taken'" }, img: { src: "https://example.org/x.png" },
          style: { textContent: "body { display: none }" } };
        for (const [tag, content] of Object.entries(all))
          document.body.append(Object.assign(document.createElement(tag), content));"""
    )
    assert page.title == "A title"
    assert find(page, "body")[0].is_displayed()
    assert len([entry for entry in page.get_log("browser") if "Content Security Policy" in entry["message"]]) == 3


def test_without_scripts_all_of_it_can_be_read(written):
    with open_browser(scripts=False) as page:
        page.get(f"{written}#class-cat")
        assert not find(page, "button, input, dialog")
        assert column(page, 1)[:2] == ["a b", "2007_000033"]
        assert all(image.size["width"] > 50 for image in find(page, ".cards img"))
        assert find(page, ".legend svg rect")


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways(page, width):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    wide = page.execute_script("return document.documentElement.scrollWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width


def test_a_long_table_is_printed_whole(page):
    long = "document.querySelector('main tbody').append(...Array.from({length: 99}, () => row.cloneNode(true)))"
    page.execute_script(f"const row = document.querySelector('main tbody tr'); {long}")
    hidden = "const box = document.querySelector('.scroll'); return box.scrollHeight > box.clientHeight"
    assert page.execute_script(hidden)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not page.execute_script(hidden)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.fixture(scope="module")
def of_runs(tmp_path_factory, train_in):
    """The report on two runs that were trained."""
    folder = tmp_path_factory.mktemp("runs")
    for overrides in (["experiment=baseline", "trainer.max_epochs=2"], ["model=unet"]):
        train_in(folder, *overrides)
    page = tmp_path_factory.mktemp("page of runs")
    render.write_html(page, "Runs", "Two runs.", sections.sections(collect(str(folder)), images=None, root=None))
    return (page / "index.html").as_uri()


@pytest.mark.parametrize("kind", ["written", pytest.param("of_runs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, request, kind, theme):
    axe = pytest.importorskip("axe_selenium_python", reason="axe-selenium-python is not installed")
    browser.get(request.getfixturevalue(kind))
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    browser.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    checker = axe.Axe(browser)
    checker.inject()
    found = [(each["id"], each["impact"], each["nodes"][0]["html"][:300]) for each in checker.run()["violations"]]
    assert [each for each in found if each[1] in ("serious", "critical")] == []


@pytest.mark.parametrize("kind", ["written", "of_runs"])
def test_no_label_of_a_chart_is_cut_off(browser, request, kind):
    browser.get(request.getfixturevalue(kind))
    cut = browser.execute_script(
        """for (const each of document.querySelectorAll("details")) each.open = true;
        return [...document.querySelectorAll(".chart svg")].flatMap((chart) => {
          const frame = chart.getBoundingClientRect();
          return [...chart.querySelectorAll("text")].filter((text) => {
            const at = text.getBoundingClientRect();
            const inside = at.left > frame.left - 1 && at.right < frame.right + 1;
            return !(inside && at.top > frame.top - 1 && at.bottom < frame.bottom + 1);
          }).map((text) => text.textContent);
        });"""
    )
    assert cut == []
    assert len(find(browser, ".chart svg text")) > 20
