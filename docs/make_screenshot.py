"""Take the README's picture: the top of a real report and its first row of curves.

Run as ``python docs/make_screenshot.py demo/report.html docs/report.png`` after ``make demo``;
needs Debian's chromium and the dev extra.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH = 1000
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def main(page_file: Path, picture: Path) -> None:
    """Render the page and join its headline with its first curves."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_file.resolve().as_uri())
        boxes = page.locator("h2").evaluate_all("hs => hs.map(h => [h.innerText, h.offsetTop])")
        svg = page.locator("svg").evaluate_all("ss => ss.map(s => s.getBoundingClientRect().top)")
        whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    tops = [top for _, top in boxes]
    curves = next(top for title, top in boxes if title.startswith("Labels named"))
    first_row = sorted({round(top) for top in svg if top > curves})
    parts = [(0, tops[0] - 20), (curves - 20, first_row[1] - 60)]
    height = sum(round(bottom - top) for top, bottom in parts)
    joined = Image.new("RGB", (WIDTH, height), "white")
    place = 0
    for top, bottom in parts:
        joined.paste(whole.crop((0, round(top), WIDTH, round(bottom))), (0, place))
        place += round(bottom - top)
    joined.quantize(256).save(picture, optimize=True)
    print(f"wrote {picture}, {joined.size}, {picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
