"""The page in a real browser: keys, touch and sliders act, and nothing is cut off or overlaps."""

import re
from contextlib import contextmanager
from itertools import combinations

import pytest

expect = pytest.importorskip("playwright.sync_api").expect

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1400, "height": 900}}
SHOWN = ("#dream", "#game", "#kept", "#run", "#tau", "#speed", "#pause", "#begin", "#seed", "#latent", "#about",
         "figcaption b", "[name=actor]")
PIXELS = "id => Array.from(document.getElementById(id).getContext('2d').getImageData(0, 0, 64, 64).data)"


@pytest.fixture(params=["served", "static"])
def address(request):
    """Of the page, by who computes its dreams: the server, or the browser itself."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def opened(browser, address):
    """opened(run, **context): the page, once its dream goes on; a block."""
    @contextmanager
    def opening(run="take_cover/laptop", context=DESKTOP):
        errors, made = [], browser.new_context(**context)
        page = made.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{address}?run={run}")
        status(page, re.compile("."))
        yield page
        made.close()
        assert not errors
    return opening


def status(page, text):
    """Waits until this is said of the dream."""
    expect(page.locator("#dream-status")).to_have_text(text, timeout=20_000)


def hold(page, seconds=0.8):
    page.wait_for_timeout(1000 * seconds)


def pixels(page, canvas="dream"):
    return page.evaluate(PIXELS, canvas)


def action(page):
    """The bars of the action in force, as (left, width)."""
    return page.evaluate("[...document.querySelectorAll('.bar i')].map(bar => [bar.style.left, bar.style.width])")


def begin_again(page, seed=7):
    """At one step a second, so that the first view is seen."""
    page.fill("#speed", "1")
    page.fill("#seed", str(seed))
    page.dispatch_event("#seed", "change")
    status(page, re.compile(r"^(0 points|0\.0 s)$"))


def test_the_controller_plays_until_a_key_is_pressed(opened):
    with opened() as page:
        before = pixels(page)
        hold(page)
        assert pixels(page) != before and page.is_checked("[value=dream]")
        page.keyboard.down("ArrowLeft")
        hold(page, 0.5)
        assert page.is_checked("[value=you]") and action(page) == [["0%", "50%"]]
        assert page.eval_on_selector("[data-key=left]", "button => button.classList.contains('held')")
        page.keyboard.up("ArrowLeft")
        hold(page, 0.5)
        assert action(page)[0][0] == "50%"
        page.keyboard.press("c")
        assert page.is_checked("[value=dream]")


def test_what_the_visitor_does_changes_the_dream(opened):
    """The same episode, once with a key held and once with the other one."""
    with opened("car_racing/laptop") as page:
        page.check("[value=you]")
        page.keyboard.down("w")

        def dreamt(key):
            page.keyboard.down(key)
            begin_again(page)
            page.fill("#speed", "20")
            hold(page, 1.2)
            page.keyboard.up(key)
            return pixels(page)

        assert dreamt("a") != dreamt("d")


def test_temperature_is_sent_with_the_next_step(opened):
    """At the highest tau a dream of the same seed and action is another."""
    with opened() as page:
        page.check("[value=you]")

        def dreamt(tau):
            page.fill("#tau", tau)
            assert page.inner_text("#tau-value") == f"{float(tau):.2f}"
            begin_again(page)
            status(page, "0.1 s")
            return pixels(page)

        cold = dreamt("0.05")
        assert cold == dreamt("0.05") and cold != dreamt("2")


def test_a_latents_number_is_moved_while_the_dream_is_paused(opened):
    with opened() as page:
        page.click("#pause")
        page.click("#latent summary")
        hold(page, 0.5)
        before, said = pixels(page), page.inner_text("#dream-status")
        page.locator("#sliders input").nth(3).fill("3.5")
        hold(page, 0.5)
        assert pixels(page) != before and page.inner_text("#dream-status") == said
        page.click("#pause")
        hold(page)
        assert page.inner_text("#dream-status") != said


def test_another_run_is_chosen(opened):
    """Again and again, in the middle of steps."""
    with opened() as page:
        page.fill("#speed", "30")
        for _ in range(3):
            page.select_option("#run", "car_racing/laptop")
            status(page, re.compile("points"))
            page.select_option("#run", "take_cover/laptop")
            status(page, re.compile("s$"))
        assert page.locator("#pad button").count() == 2
        page.select_option("#run", "car_racing/laptop")
        status(page, re.compile("points"))
        assert page.locator("#pad button").count() == 4 and page.locator(".bar").count() == 3


def test_touch_steers(opened):
    with opened(context=PHONE) as page:
        button = page.locator("[data-key=right]")
        button.dispatch_event("pointerdown", {"pointerId": 1, "pointerType": "touch"})
        hold(page, 0.6)
        assert page.is_checked("[value=you]") and action(page) == [["50%", "50%"]]
        button.dispatch_event("pointerup", {"pointerId": 1, "pointerType": "touch"})
        hold(page, 0.6)
        assert action(page)[0][1] == "1.5%"


def test_a_dream_that_is_over_says_so_and_another_begins(opened):
    """Standing still, a dream of TakeCover ends within its 2,100 frames."""
    with opened() as page:
        page.check("[value=you]")
        page.fill("#speed", "30")
        page.wait_for_selector("#over:not([hidden])", timeout=60_000)
        assert re.match(r"The dream is over: hit after \d+\.\d seconds\.|Time is over", page.inner_text("#over-text"))
        page.click("#again")
        page.wait_for_selector("#over", state="hidden")
        assert page.input_value("#seed") == "1"


@pytest.mark.parametrize("size, run, scheme", [
    pytest.param(PHONE, "car_racing/laptop", "dark", id="phone"),
    pytest.param(DESKTOP, "take_cover/laptop", "light", id="desktop")])
def test_nothing_is_cut_off_and_nothing_overlaps(opened, size, run, scheme):
    with opened(run, size | {"color_scheme": scheme}) as page:
        width = size["viewport"]["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = [(name, box) for name in SHOWN for element in page.locator(name).all()
                 if (box := element.bounding_box())]
        assert len(shown) == (17 if page.is_visible("#game") else 12)
        for name, box in shown:
            assert 0 <= box["x"] and box["x"] + box["width"] <= width, name
        for (one, a), (other, b) in combinations(shown, 2):
            apart = (a["x"] + a["width"] <= b["x"] + 0.5 or b["x"] + b["width"] <= a["x"] + 0.5
                     or a["y"] + a["height"] <= b["y"] + 0.5 or b["y"] + b["height"] <= a["y"] + 0.5)
            assert apart, f"{one} and {other}"
        assert page.locator("#pad button").first.is_visible()


def test_a_server_that_goes_is_said_so(browser, served):
    with browser.new_context() as context:
        page = context.new_page()
        page.route_web_socket(re.compile("/play"), lambda socket: socket.close())
        page.goto(served)
        page.wait_for_selector("#message:not([hidden])")
        assert "gone" in page.inner_text("#message-text")
        page.unroute_all()
        assert page.is_enabled("#retry")
