"""Photographs the page to try it, with the answer of a bundle: docs/try-it.png.

    .venv/bin/python scripts/page_screenshot.py --bundle bundles/multi30k

Needs Chromium (Debian: apt-get install chromium) and playwright, which the extra dev installs. `--dark` and `--width`
show the page in other surroundings.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

SENTENCE = "A young girl in a yellow dress is jumping over a puddle while her brother takes a picture."
WIDTH, HEIGHT = 1280, 800
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="what export wrote")
    parser.add_argument("--output", type=Path, default=Path("docs/try-it.png"))
    parser.add_argument("--sentence", action="append", help="what is translated; may be given several times")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"of the window, in pixels [{WIDTH}]")
    parser.add_argument("--dark", action="store_true", help="as a system in dark mode shows it")
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"there is no browser: install one of {', '.join(BROWSERS)}")
    serve = [sys.executable, "-m", "t2tdeploy", "serve", "--bundle", str(arguments.bundle)]
    serve += ["--ui", "--http-port", "0", "--port", "0", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            events = map(json.loads, server.stdout)
            url = next((event["ui"] for event in events if event["event"] == "serving"), None)
            if url is None:
                sys.exit("the server did not start")
            photograph(browser, url, arguments)
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate()
    print(f"{arguments.output}  {arguments.output.stat().st_size / 1000:.0f} kB")


def photograph(browser: str, url: str, arguments: argparse.Namespace) -> None:
    """Translates on the page at `url` and saves all of it as a PNG."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(
            viewport={"width": arguments.width, "height": HEIGHT},
            color_scheme="dark" if arguments.dark else "light",
            reduced_motion="reduce",
        )
        page.goto(url)
        page.fill("#sources", "\n".join(arguments.sentence or [SENTENCE]))
        for _ in range(3):  # the first answers of a process are slower than it will be
            page.click("#go:enabled")
            page.locator("#status", has_text=" ms").wait_for()
        page.mouse.move(0, 0)
        page.screenshot(path=arguments.output, full_page=True)
        chromium.close()


if __name__ == "__main__":
    main()
