"""The screenshots of deploy/README.md: `python -m tests.inference.page.screenshots`, from a checkout."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from tests.chromium import chromium, tab
from tests.inference.page.deployments import busy, growing
from tests.inference.page.page_head import page_head

FOLDER = Path(__file__).resolve().parents[3] / "deploy"
COLORS = 256
"""Colours of a picture: so many are as good as all, at half the size."""

HEIGHT = 1130


def main() -> None:
    with page_head() as head, chromium() as browser:
        for name, dark in (("page-light.png", False), ("page-dark.png", True)):
            head.status = busy(4) if dark else growing()
            for model in head.status.models:
                if model.name == "ranker":
                    model.labels["stable"], model.labels["canary"] = 6, 7
            with tab(browser, head.url, dark=dark, height=HEIGHT) as opened:
                opened.page.wait_for_selector("#main:not([hidden])")
                opened.page.wait_for_timeout(1000)  # until the bar has grown
                shot = Image.open(io.BytesIO(opened.page.screenshot()))
            shot.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)
            print(f"{FOLDER / name}: {(FOLDER / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
