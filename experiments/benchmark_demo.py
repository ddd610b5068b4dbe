r"""Time from a key to the changed page of experiments.demo, in headless Chromium (extra `test`).

    python -m experiments.demo ... --nobrowser --port=8501 &
    python -m experiments.benchmark_demo --page=http://localhost:8501

Each round does by keyboard what a visitor does; the time of an action is from the key that ends it
to the frame after the last change of the page. The first round warms up. The last line printed is
one JSON object: median milliseconds by action, the longest time of all, and the load of the
machine. Other programs lengthen the times; `chrt -r 1` before both commands makes them wait.
"""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
from absl import flags

from celsa_jax.errors import InputError
from experiments import cli

_PAGE = flags.DEFINE_string("page", "http://localhost:8501", "Address of a running demo.")
_ROUNDS = flags.DEFINE_integer(
    "rounds", 6, "How often; the first of several does not count.", lower_bound=1
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_QUIET = 300  # milliseconds without a change that end an answer
_WATCH = f"""
let pressed, heard, changed;
addEventListener("keydown", event => pressed = heard = changed = event.timeStamp, true);
window.WebSocket = class extends WebSocket {{
  constructor(...options) {{
    super(...options);
    this.addEventListener("message", () => heard = performance.now());
  }}
}};
const element = node => node.closest ? node : node.parentElement;
// Announcements to screen readers come when the browser has time.
const seen = change => !element(change.target)?.closest("[role=log]");
new MutationObserver(changes => changes.some(seen) &&
  requestAnimationFrame(() => setTimeout(() => changed = performance.now())))
  .observe(document, {{subtree: true, childList: true, characterData: true}});
const running = () => document.querySelector("[data-test-script-state=running]");
window.answer = async expected => {{
  do {{
    if (performance.now() - pressed > 60000) throw Error("no answer");
    await new Promise(later => setTimeout(later, 50));
  }} while (running() || (expected && heard == pressed)
    || performance.now() - Math.max(heard, changed) < {_QUIET});
  return changed - pressed;
}};
"""


def main() -> None:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise InputError("Playwright is not installed: pip install -e '.[test]'") from None
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise InputError(f"no Chromium on the PATH: none of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(_WATCH)
        try:
            page.goto(_PAGE.value)
        except Error:
            raise InputError(f"--page={_PAGE.value}: nothing answers there") from None
        rounds = [measure(page) for _ in range(_ROUNDS.value)]
        rounds = rounds[1:] or rounds
        chromium.close()
    median = {action: round(np.median([one[action] for one in rounds])) for action in rounds[0]}
    longest = round(max(max(one.values()) for one in rounds))
    print(json.dumps({**median, "longest": longest, "load": round(os.getloadavg()[0], 1)}))


def measure(page) -> dict[str, float]:
    """Milliseconds of each action."""
    times = {}

    def press(action: str, key: str) -> None:
        page.keyboard.press(key)
        times[action] = page.evaluate("answer(true)")

    def choose_next(action: str, label: str) -> None:
        page.get_by_role("combobox", name=label).focus()
        for key in ("ArrowDown", "ArrowDown"):  # opens the list; goes on
            page.keyboard.press(key)
        page.evaluate("answer()")
        press(action, "Enter")

    page.get_by_role("tab").first.press("Enter")
    first_card = page.locator("[class*=st-key-card_] button").first
    first_card.wait_for()
    page.evaluate("answer()")
    choose_next("choose a user", "Start from")
    search = page.get_by_role("searchbox", name="Add a title")
    search.fill("")
    page.evaluate("answer()")
    search.focus()
    press("search", "e")
    page.locator("[class*=st-key-add_] button").first.focus()
    press("add a title", "Enter")
    page.locator("[class*=st-key-remove_] button").first.focus()
    press("remove a title", "Enter")
    first_card.focus()
    press("why", "Enter")
    page.keyboard.press("Escape")
    page.evaluate("answer()")
    kept = page.get_by_role("radiogroup", name="Factors an item keeps")
    kept.get_by_role("radio", checked=False).first.focus()
    press("another k", "Space")
    page.get_by_role("tab").last.focus()
    press("segments", "Enter")
    choose_next("choose a segment", "Type to search")
    return times


if __name__ == "__main__":
    cli.run(main)
