"""The live explorer computes what the page on disk holds, of any alias and any question, and answers nobody else."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_worlds
import torch
from browser import OpenedPage, open_page
from playwright.sync_api import Page

from mechocl import files
from mechocl.analyses import jobs
from mechocl.errors import MechoclError
from mechocl.report.explorer import data
from mechocl.report.explorer.collecting import Work, checkpoint_key, collect_seed
from mechocl.report.explorer.live import LONGEST, Asked, LiveRun
from mechocl.report.explorer.packing import unpack
from mechocl.report.explorer.serving import REFUSAL, ExplorerServer, open_server
from mechocl.runs.run import Run

HALF = 2**-10
"""Relative error of half precision, with room for the last bits of two ways to compute a number."""


@pytest.fixture(scope="module")
def live(trained: Run) -> LiveRun:
    return LiveRun(trained, trained.seeds, patching=True, device="cpu")


@pytest.fixture(scope="module")
def server(live: LiveRun) -> Iterator[ExplorerServer]:
    with open_server(live, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def last(run: Run) -> str:
    return checkpoint_key(run.seed(0).final())


def arrays_in(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    return unpack(answer["packed"], answer["shapes"])


# Numbers


def test_an_alias_has_the_numbers_of_the_page_on_disk(trained: Run, live: LiveRun) -> None:
    """Of two aliases among ten that are computed together: the same questions, partners and numbers."""
    folder = trained.seed(0)
    aliases = tuple(data.choose_aliases(folder.task, 10))
    work = Work(
        run=str(trained.path), attribute="", seed=0, checkpoints=(folder.final(),), twin=False, aliases=aliases, patching=True,
        device="cpu", most=10**9,
    )  # fmt: skip
    (packed,) = collect_seed(work, lambda text, share: None).packed.values()
    together = unpack(packed.text, packed.shapes)
    shown = data.show_seed(folder.task, aliases, seed=0)
    for place in (0, 7):
        answer = live.answer(Asked(seed=0, checkpoint=last(trained), alias=aliases[place]))
        assert [one["row"] for one in answer["questions"]] == list(shown.rows[2 * place : 2 * place + 2])
        assert [one["partner"] for one in answer["questions"]] == shown.partners[2 * place : 2 * place + 2]
        found = arrays_in(answer)
        for name, array in together.items():
            wanted = array if name == "measures" else array[2 * place : 2 * place + 2]
            np.testing.assert_allclose(found[name], wanted, rtol=2 * HALF, atol=2e-3)


@pytest.mark.parametrize("own", [True, False])
def test_a_typed_list_is_asked(trained: Run, live: LiveRun, own: bool) -> None:
    folder = trained.seed(0)
    alias = data.choose_aliases(folder.task, 3)[2]
    row = int(folder.task.rows(kind="question", split="test", alias=alias)[0])
    entity = int(folder.task.table["entity"].iloc[row])
    is_list = folder.task.roles[row] == 5
    others = [i for i in range(len(folder.task.entity_ids)) if i != entity]
    listed = [entity if own else others[0], *others[1 : int(is_list.sum())]]
    typed = ", ".join(map(str, listed))
    answer = live.answer(Asked(seed=0, checkpoint=last(trained), alias=alias, typed=typed))
    (question,) = answer["questions"]
    assert question["right"] == ("true" if own else "false")
    assert question["matches"] == ((2,) if own else ())
    names = [one for one, role in zip(question["tokens"], answer["roles"], strict=True) if role == "list"]
    assert names == [str(one) for one in listed]
    ids = folder.task.vocabulary.encode(" ".join(question["tokens"]))
    with torch.no_grad():
        logits = folder.model(torch.tensor([ids]))[0, -1]
    wanted = logits[folder.task.questioning.answer_ids(folder.task.vocabulary)]
    np.testing.assert_allclose(arrays_in(answer)["logits"][0], wanted, rtol=HALF, atol=1e-3)
    assert np.isfinite(arrays_in(answer)["effects"]).any()
    assert bool(folder.task.table["answer"].iloc[row]) is True, "the task itself is as it was"


def test_what_cannot_be_asked_is_said(trained: Run, live: LiveRun) -> None:
    alias = data.choose_aliases(trained.seed(0).task, 1)[0]
    there = {"seed": 0, "checkpoint": last(trained), "alias": alias}
    integers = len(trained.seed(0).task.entity_ids)
    for asked, said in (
        ({"seed": 7}, "seed 7 is not shown; there are 0, 1"),
        ({"checkpoint": "9.9"}, "seed 0 has no checkpoint '9.9'"),
        ({"alias": 10**6}, "no test questions about alias 1000000"),
        ({"typed": "1"}, f"type 3 integers from 0 to {integers - 1}; there are 1"),
        ({"typed": f"1 2 {integers}"}, f"'{integers}' is none"),
        ({"typed": "1 two 3"}, "'two' is none"),
        ({"typed": "1 -2 3"}, "'-2' is none"),
        ({"typed": "1" * (LONGEST + 1)}, f"type {LONGEST} at most"),
    ):
        with pytest.raises(MechoclError, match=said):
            live.answer(Asked(**(there | asked)))  # type: ignore[arg-type]


def test_what_was_computed_is_kept_and_nothing_is_written(run: Run) -> None:
    def content() -> dict[str, str]:
        return {str(path): files.sha256(path) for path in sorted(run.path.rglob("*")) if path.is_file()}

    before = content()
    live = LiveRun(run, (0,), patching=False, device="cpu")
    live.content()
    asked = Asked(seed=0, checkpoint=last(run), alias=data.choose_aliases(run.seed(0).task, 1)[0])
    first = live.answer(asked)
    assert live.answer(asked) is first
    assert "effects" not in first["shapes"]
    assert content() == before


def test_a_typed_text_is_asked(tmp_path: Path) -> None:
    model = text_worlds.folder(tmp_path / "model")
    recipe = text_worlds.recipe(tmp_path, model)
    run = jobs.train_run(tmp_path / "run", recipe, recipe_name="text", seeds=(0,), device="cpu", jobs=1)
    live = LiveRun(run, (0,), patching=True, device="cpu")
    content = live.content()["seeds"][0]
    one = content["aliases"][0]
    assert content["typed"].startswith("a text that names the alias")
    there = {"seed": 0, "checkpoint": content["checkpoints"][-1]["key"], "alias": one["alias"]}
    own = live.answer(Asked(**there))
    text = "".join(own["questions"][0]["tokens"])
    same = live.answer(Asked(**there, typed=text.replace("⏎", r"\n")))
    assert same["questions"][0]["tokens"] == own["questions"][0]["tokens"]
    for name, array in arrays_in(own).items():
        np.testing.assert_allclose(arrays_in(same)[name], array, rtol=HALF, atol=1e-3)
    assert live.answer(Asked(**there, typed=text))["packed"] == same["packed"]
    longer = live.answer(Asked(**there, typed=f"{text} {text.split()[-1]}"))
    assert len(longer["labels"]) == len(longer["questions"][0]["tokens"]) > len(own["labels"])
    with pytest.raises(MechoclError, match=f"type a text that names {one['name']} once"):
        live.answer(Asked(**there, typed="Q: who?"))
    with pytest.raises(MechoclError, match=r"tokens, but the model has \d+ positions"):
        live.answer(Asked(**there, typed=text + " of" * 300))


# The server


def asked(server: ExplorerServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    sent = {"Host": f"127.0.0.1:{server.port}"} | {
        name.capitalize(): value for name, value in headers.items()
    }
    connection.request(method, path, headers=sent)
    response = connection.getresponse()
    found = response.status, response.read().decode()
    connection.close()
    return found


def test_whoever_has_the_address_gets_the_page_and_answers(server: ExplorerServer, trained: Run) -> None:
    own = f"/{server.token}/"
    assert server.address == f"http://127.0.0.1:{server.port}{own}"
    status, page = asked(server, own)
    assert (status, page.startswith("<!DOCTYPE html>")) == (200, True)
    assert "connect-src 'self'" in page
    assert server.token not in page
    alias = data.choose_aliases(trained.seed(0).task, 1)[0]
    query = f"{own}model?seed=0&checkpoint={last(trained)}&alias={alias}&typed="
    for headers in ({}, {"origin": f"http://localhost:{server.port}"}, {"host": f"localhost:{server.port}"}):
        status, text = asked(server, query, **headers)
        assert status == 200
        assert len(json.loads(text)["questions"]) == 2
    assert "is no number" in json.loads(asked(server, f"{own}model?seed=x")[1])["error"]
    assert asked(server, f"{own}other")[0] == 404


@pytest.mark.parametrize("path", ["", "model?seed=0&checkpoint=2.1&alias=1"])
def test_everyone_else_is_refused(server: ExplorerServer, path: str) -> None:
    own = f"/{server.token}/{path}"
    refused = [
        asked(server, "/"),
        asked(server, f"/{path}"),
        asked(server, f"/{server.token[:-1]}/{path}"),
        asked(server, f"/{'x' * len(server.token)}/{path}"),
        asked(server, own, host="evil.example"),
        asked(server, own, host=f"evil.example:{server.port}"),
        asked(server, own, host="127.0.0.1"),
        asked(server, own, origin="https://evil.example"),
        asked(server, own, origin="null"),
        asked(server, own, origin=f"https://127.0.0.1:{server.port}"),
    ]
    assert refused == [(403, REFUSAL)] * len(refused)
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert asked(server, own, method)[0] == 501


def test_each_server_has_a_token_of_its_own_and_no_taken_port(server: ExplorerServer) -> None:
    with ExplorerServer("", dict, port=0) as other:
        assert other.token != server.token
        assert len(other.token) >= 32
    with pytest.raises(
        MechoclError, match=f"--port {server.port} is in use; choose another --port, or 0 for"
    ):
        ExplorerServer("", dict, port=server.port)
    with pytest.raises(MechoclError, match="--port 70000 is none of 0 to 65535"):
        ExplorerServer("", dict, port=70000)


# The page


@pytest.fixture
def opened(server: ExplorerServer) -> Iterator[OpenedPage]:
    with open_page(server.address) as opened:
        drawn(opened.page)
        yield opened
        opened.assert_clean()


def drawn(page: Page) -> None:
    """Wait until what was asked for is drawn."""
    for _ in range(500):
        if page.evaluate("document.documentElement.dataset.ready === String(turn)"):
            return
        page.wait_for_timeout(20)
    pytest.fail("never drawn")


def test_every_alias_can_be_chosen(opened: OpenedPage, trained: Run) -> None:
    page, task = opened.page, trained.seed(1).task
    some = set(data.choose_aliases(task, 50))
    other = next(alias for alias in data.choose_aliases(task, 10**6) if alias not in some)
    page.select_option("#seed", "1")
    drawn(page)
    page.fill("#alias", data.alias_names(task)[other])
    page.keyboard.press("Enter")
    drawn(page)
    assert page.evaluate("drawnView.alias.alias") == other
    assert page.evaluate("drawnView.question.row") in task.rows(kind="question", split="test", alias=other)
    assert page.locator("#scatter [data-pick]").count() == len(data.all_aliases(task)[0])
    page.locator("#patching .figure > svg").wait_for()


def test_a_list_is_typed_linked_and_mended(opened: OpenedPage) -> None:
    page = opened.page
    page.fill("#typed", "5 1 2")
    page.keyboard.press("Enter")
    drawn(page)
    assert page.evaluate("drawnView.question.tokens.slice(2, 5)") == ["5", "1", "2"]
    assert page.input_value("#list") == "typed"
    assert "typed=5+1+2" in page.url
    assert "what was typed, the right answer is" in page.locator("#said").inner_text()
    logits = page.evaluate("Array.from(part(drawnView.arrays.logits, drawnView.index))")
    page.reload()
    drawn(page)
    assert page.evaluate("Array.from(part(drawnView.arrays.logits, drawnView.index))") == logits
    page.fill("#typed", "5 1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:not([hidden])")
    assert "there are 2." in page.locator("#notice").inner_text()
    assert page.input_value("#typed") == "5 1 2"
    page.select_option("#list", "1")
    drawn(page)
    assert page.evaluate("drawnView.question.right") == "false"
    assert page.input_value("#typed") == ""
    page.go_back()
    drawn(page)
    assert page.input_value("#typed") == "5 1 2"


def test_a_server_that_has_ended_is_said(live: LiveRun) -> None:
    with open_server(live, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with open_page(server.address) as opened:
            drawn(opened.page)
            server.shutdown()
            thread.join()
            server.server_close()
            opened.page.context.set_offline(True)  # connections that were open are closed, too
            opened.page.select_option("#seed", "1")
            opened.page.wait_for_selector("#notice:not([hidden])")
            assert "start mechocl serve again" in opened.page.locator("#notice").inner_text()
            assert opened.page.input_value("#seed") == "0"
