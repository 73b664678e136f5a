"""README as a package index shows it, and how to cite: links that lead somewhere from everywhere, and one address."""

import re
import struct
import tomllib
from pathlib import Path

import pytest
import yaml

import mechocl
from docs.write import address
from docs.write.places import ADDRESS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINKS = re.findall(r"\]\(([^)\s]+)\)", README)


def leads_to(link: str) -> Path:
    """The file of the repository that an absolute link names. Raises AssertionError for a link of another form."""
    found = re.fullmatch(rf"{re.escape(ADDRESS)}/(?:blob|raw)/main/([^#]+)(?:#.*)?", link)
    assert found, link
    return ROOT / found[1]


def anchors(document: Path) -> set[str]:
    """The anchors that the forge makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_link_is_relative() -> None:
    assert len(LINKS) > 20
    assert [link for link in LINKS if not link.startswith("https://")] == []
    assert "<img" not in README


@pytest.mark.parametrize("link", sorted({one for one in LINKS if one.startswith(ADDRESS)}))
def test_a_link_into_the_repository_names_what_is_there(link: str) -> None:
    path = leads_to(link)
    assert path.exists()
    if "#" in link:
        assert link.partition("#")[2] in anchors(path)


def test_its_pictures_are_pictures() -> None:
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", README)
    assert len(shown) >= 3
    for text, link in shown:
        assert len(text) > 20, "a picture says in words what it shows"
        width, height = struct.unpack(">II", leads_to(link).read_bytes()[16:24])
        assert width >= 600
        assert height >= 300


def test_its_first_screen_says_what_it_is_how_to_start_and_shows_it() -> None:
    first = README[:2500]
    assert "![" in first
    assert "make demo" in first
    assert README.index("## Start") < README.index("## Worlds") < README.index("## How to cite")


def test_the_citation_is_read_and_agrees_with_the_project() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "type"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert str(cited["version"]) == PROJECT["version"] == mechocl.__version__
    assert cited["license"] == PROJECT["license"]
    assert cited["repository-code"] == ADDRESS == PROJECT["urls"]["Repository"]
    assert [one["name"] for one in cited["authors"]] == [one["name"] for one in PROJECT["authors"]]
    bibtex = README.split("```bibtex\n")[1].split("```")[0]
    for value in (
        cited["title"],
        str(cited["version"]),
        cited["repository-code"],
        cited["authors"][0]["name"],
    ):
        assert value in bibtex
    assert bibtex.count("{") == bibtex.count("}")
    assert "2310.15047" in str(cited["references"])
    assert "2310.15047" in README


def test_the_address_stands_in_one_form_everywhere() -> None:
    """So that one command changes it: no file names another one on the same host."""
    host = ADDRESS.split("/")[2]
    files = address.files_with_address()
    assert {"README.md", "pyproject.toml", "CITATION.cff", "mkdocs.yml"} <= {one.name for one in files}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.count(host) == text.count(ADDRESS), path.name


def test_the_address_is_changed_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    for name in ("README.md", "pyproject.toml", "CITATION.cff", "mkdocs.yml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(address, "ROOT", tmp_path)
    with pytest.raises(mechocl.MechoclError, match="the address is 'mechocl'; give it as https://"):
        address.main("mechocl")
    address.main("https://forge.test/group/lab")
    assert address.files_with_address() == []
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert urls["Repository"] == "https://forge.test/group/lab"
    assert (
        "https://forge.test/group/lab/raw/main/docs/images/report.png" in (tmp_path / "README.md").read_text()
    )
