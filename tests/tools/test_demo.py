"""The page on which a run can be tried: its answers, what it refuses, a real browser, and the Space."""
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from conftest import call, copy_of_study
from flowers102_study import browsing, demo
from flowers102_study.answering import Arms, temperature_of
from flowers102_study.core.dataset import read_pixels
from flowers102_study.core.records import read_predictions
from flowers102_study.core.settings import SettingsError, open_run
from flowers102_study.hypotheses import tempered
from PIL import Image

HEAD, WORDS = "qwen3-vl-4b-sft-head", "qwen3-vl-4b-sft"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def study(tmp_path_factory, smoke): # a copy of the finished run: the page has a folder in it
    folder, before = copy_of_study(tmp_path_factory.mktemp("demo")), os.getcwd()
    shutil.copytree(smoke / "runs", folder / "runs")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def visit(study, tmp_path_factory):
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("demo") / "dropped")
    yield demo.Visit(open_run("smoke"))
    del os.environ["GRADIO_TEMP_DIR"]


def test_every_arm_says_what_is_on_record(visit):
    run, pictures = visit.run, np.array(visit.pictures)
    assert {HEAD, WORDS, "resnet50", "siglip2", "siglip2-probe", "siglip2-knn", "idefics2-8b",
            "qwen3-vl-4b-tower-head", "qwen3-vl-8b"} <= visit.arms.records.keys()
    for arm in visit.arms.records:
        said = read_predictions(run.arm(arm)).set_index("image_id").loc[visit.test.image_id]
        known = tempered(np.stack(said.log_probs), temperature_of(run, arm))
        assert np.allclose(visit.arms.log_probs(arm, pictures), known, atol=2e-3), arm
        if "answer" in said:
            assert visit.arms.ask(arm, pictures[3])["words"] == said.answer.iloc[3]


def test_room_is_made_for_a_model(visit, monkeypatch):
    from flowers102_study import answering
    arms = Arms(visit.run)
    assert answering.free_bytes() > answering.bytes_of(arms.records[HEAD])
    for arm in ("resnet50", HEAD): arms.open(arm)
    arms.open("resnet50") # asked last
    room = lambda: 1e12 if len(arms.opened) < 2 else 0
    monkeypatch.setattr(answering, "free_bytes", room)
    arms.open("siglip2")
    assert list(arms.opened) == ["resnet50", "siglip2"]
    assert not answering.is_here("somebody/model-that-is-not-here")
    with pytest.raises(SettingsError, match="did you mean 'resnet50'"): arms.open("resnet5")


def heic() -> bytes: # the head of such a file
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200


@pytest.mark.parametrize("name,content,said", [
    ("photo.heic", heic(), "not a picture"), ("letter.jpg", b"%PDF-1.7\n" * 40, "not a picture"),
    ("nothing.png", b"", "the file is empty"), ("cut.jpg", None, "damaged"),
    ("<img src=x onerror=alert(1)>.png", b"x", "not a picture")])
def test_what_is_no_picture_gets_a_sentence(visit, tmp_path, name, content, said):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    path = tmp_path / name
    path.write_bytes(whole.getvalue()[:900] if content is None else content)
    picture, told = demo.received(visit, str(path))
    assert picture is None and said in told and "JPEG, PNG" in told
    assert "<img" not in told and str(tmp_path) not in told


def test_a_large_photograph_is_read_and_deleted(visit, tmp_path):
    dropped = Path(os.environ["GRADIO_TEMP_DIR"]) / "x"
    dropped.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8000, 5000), "teal").save(dropped / "large.jpg") # 40 megapixels
    picture, note = demo.received(visit, str(dropped / "large.jpg"))
    assert picture.shape == (24, 24, 3) and not note
    said = list(demo.answers(visit, picture, ["resnet50", HEAD]))
    assert re.search("(asking|loading) resnet50", said[0][0])
    assert said[-1][0].count('<section class="arm">') == 2
    assert "nearest training pictures" in said[-1][1] and said[-1][1].count("<img") == 6
    demo.forget(str(dropped / "large.jpg"))
    assert not list(dropped.iterdir())
    (tmp_path / "own.jpg").write_text("mine")
    demo.forget(str(tmp_path / "own.jpg")) # what nobody dropped stays
    assert (tmp_path / "own.jpg").exists()


def test_a_question_of_ones_own(visit):
    picture = np.array(visit.pictures[0])
    assert "Write a question" in demo.own_question(visit, picture, WORDS, " ")
    said = demo.own_question(visit, picture, WORDS, "What colour is it?")
    assert "says:" in said and "<table" not in said and "on test" not in said
    assert "Choose at least one arm" in [*demo.answers(visit, picture, [])][-1][0]


def test_the_errors_are_those_on_record(visit):
    table = visit.table
    truth, one, two = (table[key] for key in (("", "label"), (HEAD, "prediction"),
                                              ("resnet50", "prediction")))
    rows = browsing.chosen(table, right=HEAD, wrong="resnet50")
    assert set(rows) == set(np.flatnonzero((one == truth) & (two != truth)))
    sure = table[("resnet50", "confidence")].to_numpy()[rows]
    assert (np.diff(sure) <= 0).all()
    name = visit.names[2]
    shown, start = demo.mistakes(visit, name, demo.ANY, demo.ANY, True, 990)
    count = int((truth == 2).sum())
    assert shown.count("<article") == count <= demo.PAGE and start == 0
    assert f"1 to {count} of {count}" in shown
    right = 3 * sum(table[(arm, "prediction")] == truth for arm in visit.arms.records)
    assert f"{right.iloc[0] // 3} of {len(visit.arms.records)} arms right" in demo.mistakes(
        visit, visit.names[truth[0]], demo.ANY, demo.ANY, True, 0)[0]


def started(study: Path, *words): # (process, address)
    program = Path(sys.executable).with_name("flowers102-study")
    process = subprocess.Popen([program, "demo", "--name", "smoke", *words], cwd=study, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = process.stdout.readline()
    if not line: raise AssertionError(process.communicate()[1])
    return process, line.split()[0]


def test_a_port_that_is_taken(study):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("--name", "smoke", "--port", str(port))
        told = call(study, "flowers102-study", "demo", *words, check=False)
    assert told.returncode == 2 and f"port {port}" in told.stderr and "another --port" in told.stderr
    for words in (("--host", "no.such.host.invalid"), ("--port", "99999")):
        told = call(study, "flowers102-study", "demo", "--name", "smoke", *words, check=False)
        assert told.returncode == 2 and "Traceback" not in told.stderr and words[0] in told.stderr
    assert not list(study.glob("runs/smoke/.demo-*"))


def test_a_run_that_has_nothing_to_ask(tmp_path):
    study = copy_of_study(tmp_path)
    told = call(study, "flowers102-study", "demo", "--name", "smoke", check=False)
    assert told.returncode == 2 and "Traceback" not in told.stderr


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM: pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as drivers:
        options = ["--no-sandbox", "--use-fake-device-for-media-stream",
                   "--use-fake-ui-for-media-stream"]
        chromium = drivers.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(study, browser):
    process, address = started(study)
    yield address
    process.terminate()
    assert "Traceback" not in process.communicate()[1]
    assert not list(study.glob("runs/smoke/.demo-*"))


ALLOWED = ["camera", "clipboard-read", "clipboard-write"]


def visitor(browser, address, width=1280, dark=False): # a page, and what it asked or complained about
    context = browser.new_context(viewport={"width": width, "height": 900}, permissions=ALLOWED,
                                  color_scheme="dark" if dark else "light")
    page, heard = context.new_page(), []
    page.on("request", lambda r: heard.append(r.url) if not r.url.startswith((address, "data:", "blob:"))
            else None)
    page.on("console", lambda m: heard.append(m.text) if m.type == "error" else None)
    # a page that is left while it listens ends its own request
    page.on("pageerror", lambda error: heard.append(str(error)) if error.name != "AbortError" else None)
    page.goto(address)
    page.get_by_role("button", name="Test picture 3").wait_for()
    return page, heard


def come_back(page, heard: list):
    "Load a page anew; what it says as it is left, while it may still listen, is no error of its own."
    before = len(heard)
    page.reload()
    heard[before:] = [one for one in heard[before:] if one.startswith("http")] # what it asked for


def serious(page) -> list: # what axe-core finds
    from axe_playwright_python.sync_playwright import Axe
    found = Axe().run(page).response["violations"]
    return [(v["id"], v["nodes"][0]["target"]) for v in found if v["impact"] in ("serious", "critical")]


def reasons_shown(page): page.locator("#why .strip img").first.wait_for(timeout=60_000)


@pytest.mark.parametrize("width,dark", [(1280, False), (400, True), (1280, True), (400, False)])
def test_every_control_in_a_browser(browser, address, study, tmp_path, width, dark):
    page, heard = visitor(browser, address, width, dark)
    # the sign of a fold is part of its name
    button = lambda name: page.get_by_role("button", name=re.compile(rf"^\s*{re.escape(name)}[\s▼◀]*$"))
    page.get_by_role("button", name="Test picture 3").click()
    reasons_shown(page)
    button("What is the test picture?").click()
    page.locator("#truth p").filter(has_text="It is").wait_for()
    button("Which arms are asked?").click()
    page.get_by_label(WORDS, exact=True).uncheck()
    button("Ask these arms").click()
    page.locator("#said h2", has_text=re.compile(f"^{WORDS}$")).wait_for(state="hidden")
    reasons_shown(page)
    button("Where did it look?").click()
    button("Show where it looked").click()
    page.locator("#looked img").wait_for()
    button("Ask your own question").click()
    page.get_by_label("Question", exact=True).fill("What colour is it?")
    button("Ask").click()
    page.locator("#answer .arm").wait_for()
    assert serious(page) == []
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide, "one has to scroll sideways"
    page.get_by_role("tab", name="Look at the errors").click()
    page.locator("#mistakes p").filter(has_text="test pictures").wait_for()
    wanted = {"Arm that is right": HEAD, "Order": "the least sure first", "Class": None}
    for label, value in wanted.items():
        page.get_by_label(label, exact=True).click()
        option = page.get_by_role("option")
        (option.filter(has_text=value) if value else option.nth(1)).first.click()
    for name in ("Next ten", "Previous ten"): button(name).click()
    page.locator("#mistakes p").first.wait_for()
    assert serious(page) == [] and heard == []
    page.context.close()


COPIED = """async () => {
  const canvas = document.createElement('canvas')
  canvas.width = canvas.height = 64
  canvas.getContext('2d').fillRect(9, 9, 40, 40)
  const picture = await new Promise(done => canvas.toBlob(done, 'image/png'))
  await navigator.clipboard.write([new ClipboardItem({'image/png': picture})])
}"""


def test_dropped_pasted_and_photographed(browser, address, study, tmp_path):
    page, heard = visitor(browser, address)
    upload = page.locator("input[type=file]").first
    (tmp_path / "letter.jpg").write_bytes(b"%PDF-1.7")
    upload.set_input_files(tmp_path / "letter.jpg")
    page.locator("#note").filter(has_text="letter.jpg: not a picture").wait_for()
    come_back(page, heard)
    Image.fromarray(np.array(read_pixels(open_run("smoke").data_folder, "test")[0])).save(
        tmp_path / "flower.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "flower.png")
    reasons_shown(page)
    page.get_by_label("Remove Image").click()
    page.locator("#note").filter(has_text="Drop, paste").wait_for()
    page.get_by_label("Capture from camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    reasons_shown(page)
    come_back(page, heard)
    page.evaluate(COPIED)
    page.get_by_label("Paste from clipboard").click()
    reasons_shown(page)
    left = lambda: [p for p in study.glob("runs/smoke/.demo-*/dropped/**/*") if p.is_file()]
    for _ in range(600):
        if not left(): break
        page.wait_for_timeout(100)
    assert left() == [] and heard == []
    page.context.close()


def names_shown(page) -> list: # what each arm says first
    return page.locator("#said .arm tr:first-child th").all_inner_texts()


def names_known(visit, which: int) -> list: # of the which-th test picture
    picture = np.array(visit.pictures[visit.examples()[which - 1]])[None]
    return [visit.names[int(visit.arms.log_probs(arm, picture)[0].argmax())]
            for arm in visit.arms.records]


def test_two_at_once(browser, address, visit):
    pages = {which: visitor(browser, address)[0] for which in (1, 5)}
    for which, page in pages.items():
        page.get_by_role("button", name=f"Test picture {which}").click()
    for which, page in pages.items():
        reasons_shown(page)
        assert names_shown(page) == names_known(visit, which)
        page.context.close()
    assert names_known(visit, 1) != names_known(visit, 5)


def test_a_second_picture_ends_the_first(study, browser, visit):
    "On a page that has just been started, the first answers take seconds."
    process, address = started(study)
    page, heard = visitor(browser, address)
    button = lambda name: page.get_by_role("button", name=name)
    button("Test picture 1").click()
    page.locator("#said").filter(has_text="loading").wait_for()
    button("What is the test picture?").click()
    page.locator("#truth p").filter(has_text=visit.test.name[visit.examples()[0]]).wait_for()
    button("Test picture 5").click()
    reasons_shown(page)
    assert names_shown(page) == names_known(visit, 5)
    assert page.locator("#truth").inner_text().strip() == ""
    button("Where did it look?").click()
    button("Show where it looked").click()
    page.locator("#looked img").wait_for()
    page.get_by_label("Remove Image").click()
    page.locator("#looked img").wait_for(state="detached")
    assert page.locator("#said .arm").count() == 0 and heard == []
    page.context.close()
    process.terminate()
    process.communicate()


def test_by_keyboard(browser, address):
    page, _ = visitor(browser, address)
    for _ in range(40):
        page.keyboard.press("Tab")
        if "Test picture 2" in page.evaluate("document.activeElement.innerText"): break
    page.keyboard.press("Enter")
    reasons_shown(page)
    page.context.close()


SPACE = f"""import sys
sys.path.append({sysconfig.get_path("purelib")!r})
import importlib.util, json, runpy
from pathlib import Path
assert importlib.util.find_spec("flowers102_study") is None
app = runpy.run_path("app.py")["space_app"](Path.cwd())
_, address, _ = app.launch(prevent_thread_lock=True, quiet=True)
from gradio_client import Client, handle_file
client = Client(address, verbose=False)
for photo in sys.argv[1:]: print(json.dumps(client.predict(handle_file(photo), api_name="/answer")))
try: client.predict(handle_file("requirements.txt"), api_name="/answer")
except Exception as error: print("refused:", error)"""


@pytest.mark.parametrize("arm", [HEAD, "resnet50"])
def test_a_space_runs_from_a_clean_folder(study, visit, arm, tmp_path):
    from flowers102_study.space import write_space
    files = write_space(visit.run, arm, tmp_path / "space")
    head = (tmp_path / "space/README.md").read_text().split("---")[1]
    assert "sdk: gradio" in head and "app_file: app.py" in head and "requirements.txt" in files
    shutil.move(tmp_path / "space", tmp_path / "elsewhere")
    photos = sorted((tmp_path / "elsewhere/model/examples").glob("*.png"))
    told = subprocess.run([sys.executable, "-I", "-S", "-c", SPACE, *map(str, photos)], text=True,
                          capture_output=True, cwd=tmp_path / "elsewhere",
                          env=os.environ | {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False",
                                            "GRADIO_TEMP_DIR": str(tmp_path / "gradio")})
    assert told.returncode == 0, told.stderr[-2000:]
    assert "refused: This file is no picture" in told.stdout
    said = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    rows = [int(photo.stem) for photo in photos]
    known = visit.arms.log_probs(arm, np.array(visit.pictures)[rows])
    assert json.loads((tmp_path / "elsewhere/space.json").read_text())["temperature"] == pytest.approx(
        temperature_of(visit.run, arm))
    for one, log_probs in zip(said, known, strict=True):
        p = {c["label"]: c["confidence"] for c in one["confidences"]}
        best = visit.names[int(log_probs.argmax())]
        assert p[best] == pytest.approx(float(np.exp(log_probs.max())), abs=.03)


def test_a_space_is_pushed_and_refused(study, visit, tmp_path, invoke):
    told = invoke(study, "push", HEAD, "--space", "--dry-run", "--name", "smoke")
    assert "app.py" in told.stdout and "nothing was uploaded" in told.stdout
    for words, said in (((WORDS,), "answers in words"), (("data",), "not the data")):
        told = invoke(study, "push", *words, "--space", "--dry-run", "--name", "smoke", check=False)
        assert told.returncode and said in told.stderr
