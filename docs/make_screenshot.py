"""Take the README's picture: the first screen of a real report, with its picture and table.

Run as ``python docs/make_screenshot.py audit/report.html docs/report.png``; needs Debian's chromium
and the dev extra. The picture in the README is of

    labelleak audit --data digits --model mlp --batch-sizes 1,8,32,128 --trials 40 \\
        --initialisations 4 --training-steps 0,200 --out audit --system "digit reader" --attacks \\
        free,random,llg,llg_star,ilrg,idlg,llbg,row_min,llg_plus,gradient_regression
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH = 1160
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def main(page_file: Path, picture: Path) -> None:
    """Render the page and cut it off below its picture."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_file.resolve().as_uri())
        box = page.locator("section[aria-labelledby=who]").bounding_box()
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 12}
        taken = page.screenshot(full_page=True, clip=clip)
        browser.close()
    cut = Image.open(io.BytesIO(taken)).convert("RGB")
    cut.quantize(128).save(picture, optimize=True)
    print(f"wrote {picture}, {cut.size}, {picture.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
