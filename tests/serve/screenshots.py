"""Pictures of the page for docs/serving.md, of a service that runs.

    .venv/bin/python jobs/serve_models.py configs/serve/tinyworld.yaml
    .venv/bin/python -m tests.serve.screenshots http://127.0.0.1:8000 docs/images

Two answers, their rewards, a judge's opinion and a pick, as wide as a desktop and as a phone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from tests.serve import browser
from tests.serve.service import wait_for

PROMPT = (
    "Write a calm note with four clothes in alphabetical order. Use the word village and end with "
    "a goodbye."
)
WIDTHS = {"desktop": 1_280, "phone": 390}
COLOURS = 64  # flat areas and text: a third of the bytes, and nothing to be seen of it


def picture(page: browser.Page, url: str, asked: str, width: int, file: Path) -> None:
    """Go through the page as a person does, and write what is seen at the end."""
    page.resize(width, 900)
    page.go(url)
    models = "return [...document.getElementById('model0').options].length"
    wait_for(lambda: page.run(models) > 1, 60, "two policies")
    page.run("document.getElementById('temperature').value = 0.7")
    # The page's script waits for what it asked; the buttons tell when it is there.
    for _ in range(20):
        page.run("document.getElementById('prompt').value = ''")
        page.type("prompt", asked)
        page.click("send")
        wait_for(lambda: page.run("return !send.disabled"), 60, "both answers")
        if not page.run("return pick0.disabled"):
            break  # else both answers are the same, and there is nothing to pick
    page.click("askjudge")
    wait_for(lambda: page.run("return !askjudge.disabled"), 60, "the judge's opinion")
    reward = "return [reward0, reward1].map((e) => Number(e.textContent.replace('Reward ', '')))"
    left, right = page.run(reward)
    page.click("pick0" if left > right else "pick1")
    wait_for(lambda: page.run("return said.textContent.startsWith('Kept')"), 20, "kept")
    page.run("document.activeElement.blur()")
    page.resize(width, int(page.run("return document.documentElement.scrollHeight")))
    page.screenshot(file)
    with Image.open(file) as seen:
        seen.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    """Write a picture of each width."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", default=PROMPT, help="what is asked")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with browser.opened() as page:
        for name, width in WIDTHS.items():
            file = arguments.folder / f"serving_page_{name}.png"
            picture(page, arguments.url, arguments.prompt, width, file)


if __name__ == "__main__":
    main()
