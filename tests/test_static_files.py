"""The static files of a release: copies in the structure of their URLs, compressed versions, files of packages."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import static_files
from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import BuildError
from ansible_collections.blueoctopus.site.plugins.module_utils.static_files import publish_packages, publish_source

NOBODY = 65534
IS_ROOT = os.geteuid() == 0
TEXT = "a text that is long enough to be worth compressing " * 50


@pytest.fixture(autouse=True)
def owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the owners of files when root does not run the tests."""
    if not IS_ROOT:
        monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr("grp.getgrnam", lambda _name: SimpleNamespace(gr_gid=NOBODY))


# --- files of the source ---------------------------------------------------------------------------------------------


@pytest.fixture
def building(tmp_path: Path) -> Path:
    """The folder of an unfinished release, with its source."""
    folder = tmp_path / "building"
    (folder / "source/static/css").mkdir(parents=True)
    (folder / "source/main.py").write_text("app = None\n")
    (folder / "source/static/css/style.css").write_text(TEXT)
    (folder / "source/static/small.css").write_text("a")
    (folder / "source/static/photo.jpg").write_text(TEXT)
    return folder


def published(building: Path) -> list[str]:
    public = building / "public"
    return sorted(
        str(path.relative_to(public)) for path in public.rglob("*") if path.is_file() and path.suffix != ".br"
    )


STATIC = [{"url": "/static/", "path": "static"}]
NOTHING_LIVE = Path("/srv/shop/releases/none")


@pytest.mark.parametrize(("url", "place"), [("/static/", "static"), ("/a/b/", "a/b")])
def test_static_files_have_the_structure_of_their_urls(building: Path, url: str, place: str) -> None:
    publish_source(building, [{"url": url, "path": "static"}], "", NOTHING_LIVE)
    files = ["css/style.css", "css/style.css.gz", "photo.jpg", "small.css"]
    assert published(building) == [f"{place}/{file}" for file in files]


def test_every_static_folder_is_published(building: Path) -> None:
    (building / "source/dist").mkdir()
    (building / "source/dist/app.js").write_text("a")
    publish_source(
        building, [{"url": "/a/css/", "path": "static/css"}, {"url": "/a/js/", "path": "dist"}], "", NOTHING_LIVE
    )
    assert published(building) == ["a/css/style.css", "a/css/style.css.gz", "a/js/app.js"]


def test_static_files_of_an_app_that_shares_a_domain_are_below_its_path(building: Path) -> None:
    publish_source(building, STATIC, "/shop", NOTHING_LIVE)
    assert published(building)[0] == "shop/static/css/style.css"


def test_a_compressed_file_has_the_content_of_its_original(building: Path) -> None:
    publish_source(building, STATIC, "", NOTHING_LIVE)
    packed = building / "public/static/css/style.css.gz"
    assert gzip.decompress(packed.read_bytes()).decode() == TEXT
    assert len(packed.read_bytes()) < len(TEXT)


def test_a_compressed_file_of_the_app_is_not_replaced(building: Path) -> None:
    (building / "source/static/css/style.css.gz").write_text("own")
    publish_source(building, STATIC, "", NOTHING_LIVE)
    assert (building / "public/static/css/style.css.gz").read_text() == "own"


@pytest.mark.needs("brotli")
@pytest.mark.parametrize("content", ["", "damaged", "compressed", "compressed " * 100_000])
def test_a_compressed_file_of_the_live_release_with_other_content_is_not_used(
    building: Path, tmp_path: Path, content: str
) -> None:
    """The app may have contained it, with any content."""
    live = tmp_path / "live"
    (live / "public/static/css").mkdir(parents=True)
    former = live / "public/static/css/style.css"
    former.write_text(content)
    packed = static_files.pack(former) if "compressed" in content else content.encode()
    former.with_name("style.css.br").write_bytes(packed)
    publish_source(building, STATIC, "", live)
    assert static_files.unpacks_to(building / "public/static/css/style.css.br", TEXT.encode())


@pytest.mark.parametrize("static", [[], [{"url": "/s/", "path": "none"}]])
def test_an_app_without_static_files_publishes_nothing(building: Path, static: list[dict[str, str]]) -> None:
    publish_source(building, static, "", NOTHING_LIVE)
    publish_packages(building, static, "", NOTHING_LIVE)
    assert published(building) == []


def test_only_root_and_nginx_can_read_published_files(building: Path) -> None:
    publish_source(building, STATIC, "", NOTHING_LIVE)
    assert stat.S_IMODE((building / "public").stat().st_mode) == 0o750
    if IS_ROOT:
        assert ((building / "public").stat().st_uid, (building / "public").stat().st_gid) == (0, NOBODY)


# --- files of packages -----------------------------------------------------------------------------------------------

PACKAGE = [{"url": "/admin/static/", "path": "package:flask_admin/static"}]


@pytest.fixture
def package(building: Path) -> Path:
    """The static folder of an installed package."""
    folder = building / "venv/lib/python3.11/site-packages/flask_admin/static"
    (folder / "css").mkdir(parents=True)
    (folder / "css/admin.css").write_text(TEXT)
    return folder


def test_the_static_folder_of_a_package_is_published(building: Path, package: Path) -> None:
    assert package.is_dir()
    for publish in (publish_source, publish_packages):
        publish(building, [*STATIC, *PACKAGE], "", NOTHING_LIVE)
    assert published(building)[:2] == ["admin/static/css/admin.css", "admin/static/css/admin.css.gz"]
    assert (building / "public/static/photo.jpg").is_file()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("package:flask_admin/nothing", "The dependencies have the package flask_admin, but not this folder in it."),
        ("package:other/static", "The dependencies have no other."),
    ],
)
def test_a_missing_folder_of_a_package_is_an_error_that_names_the_key(
    building: Path, package: Path, path: str, reason: str
) -> None:
    assert package.is_dir()
    publish_source(building, [], "", NOTHING_LIVE)
    with pytest.raises(BuildError, match="static: there is no folder") as error:
        publish_packages(building, [{"url": "/x/", "path": path}], "", NOTHING_LIVE)
    assert path in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize("link", ["css/admin.js", "js"])
def test_a_link_in_a_folder_of_a_package_is_refused(building: Path, package: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow/key").write_text("secret")
    (package / link).symlink_to(tmp_path / ("shadow" if link == "js" else "shadow/key"))
    publish_source(building, [], "", NOTHING_LIVE)
    with pytest.raises(BuildError, match=f"{link}, which is neither file nor folder"):
        publish_packages(building, PACKAGE, "", NOTHING_LIVE)
    assert "secret" not in "".join(p.read_text() for p in (building / "public").rglob("*.js"))


@pytest.mark.parametrize("part", ["flask_admin/static", "flask_admin"])
def test_a_folder_of_a_package_behind_a_link_is_refused(
    building: Path, package: Path, tmp_path: Path, part: str
) -> None:
    (tmp_path / "outside/static").mkdir(parents=True)
    replaced = package.parent.parent / part
    shutil.rmtree(replaced)
    replaced.symlink_to(tmp_path / ("outside" if part == "flask_admin" else "outside/static"))
    publish_source(building, [], "", NOTHING_LIVE)
    with pytest.raises(BuildError, match="is a link"):
        publish_packages(building, PACKAGE, "", NOTHING_LIVE)


@pytest.mark.needs("brotli")
@pytest.mark.usefixtures("package")
def test_only_changed_files_are_compressed_again(
    building: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = building / "source/static/script.js"
    script.write_text(TEXT)
    publish_source(building, STATIC, "", NOTHING_LIVE)
    publish_packages(building, PACKAGE, "", NOTHING_LIVE)
    live = Path(shutil.copytree(building, tmp_path / "live"))
    shutil.rmtree(building / "public")
    script.write_text(f"{TEXT} changed")
    pack = Mock(side_effect=static_files.pack)
    monkeypatch.setattr(static_files, "pack", pack)
    publish_source(building, STATIC, "", live)
    publish_packages(building, PACKAGE, "", live)
    compressed = {call.args[0].name for call in pack.call_args_list}
    assert compressed == {"script.js", "small.css"}  # the last one is not smaller when it is compressed
    for file in ("static/css/style.css.br", "admin/static/css/admin.css.br"):
        assert (building / "public" / file).read_bytes() == (live / "public" / file).read_bytes()
    assert static_files.unpacks_to(building / "public/static/script.js.br", f"{TEXT} changed".encode())
