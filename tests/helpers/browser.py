"""Look at a run's page in headless Chromium, light and dark, narrow and wide; does it ask the network?

    python tests/helpers/browser.py runs/pocket shots/
"""
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def look(
    address: str,
    picture: Path,
    width: int,
    dark: bool,
) -> set: # hosts that were asked, the browser's own among them
    "Take a screenshot of a page, and return whom the browser asked meanwhile."
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        subprocess.run([shutil.which("chromium") or "google-chrome", "--headless", "--no-sandbox",
                        "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                        "--disable-background-networking", "--disable-component-update",
                        "--disable-sync", f"--user-data-dir={folder}/profile",
                        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                        f"--window-size={width},2400", f"--screenshot={picture.resolve()}",
                        f"--log-net-log={log}", address], check=True, capture_output=True, timeout=120)
        text = log.read_text(errors="replace")
    return set(re.findall(r'"url":"(?:https?|wss?)://([^/"]+)', text))


def main(run: Path, shots: Path):
    shots.mkdir(parents=True, exist_ok=True)
    # a browser looks for updates, whatever it shows
    own, asked = look("about:blank", shots / "blank.png", 500, False), set()
    for page in (run / "index.html", *sorted((run / "notebooks").glob("*.html"))):
        for width, dark in ((1280, False), (1280, True), (500, False), (500, True)):
            if page.name != "index.html" and (width, dark) not in ((1280, False), (500, True)): continue
            name = f"{page.stem}-{width}-{'dark' if dark else 'light'}.png"
            found = look(page.resolve().as_uri(), shots / name, width, dark) - own
            asked |= found
            print(json.dumps({"page": page.name, "width": width, "dark": dark,
                              "asked of the network": sorted(found)}))
    sys.exit(1 if asked else 0)


if __name__ == "__main__": main(Path(sys.argv[1]), Path(sys.argv[2]))
