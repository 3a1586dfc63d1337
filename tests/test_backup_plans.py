"""A restore that replaces live data: each step, interruptions, what it puts aside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from backup_data import Make, replaced
from backups import plans
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import BackupError

pytestmark = [pytest.mark.needs("restic"), pytest.mark.slow]


def test_a_live_app_is_not_replaced_without_the_option(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    with pytest.raises(BackupError, match=r"-e yes=replace"):
        restorer.prepare("shop")
    assert (data / "uploads/a.txt").read_text() == "ahoy"


def test_a_swap_that_fails_is_undone(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    (data / "uploads/a.txt").write_text("new")
    plan = restorer.prepare("shop", replace=True)
    shutil.rmtree(Path(plan.folder) / "data")
    with pytest.raises(OSError, match="No such file"):
        restorer.swap(plan)
    restorer.undo(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == "new"
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def swapped(restorer: Restorer, data: Path) -> plans.Plan:
    """A restore that was interrupted after its data was live, and the app has written since."""
    plan = restorer.prepare("shop", replace=True)
    restorer.swap(plan)
    (data / "order").write_text("new")
    return plan


@pytest.mark.parametrize("options", [{"as_name": "shop-copy"}, {"replace": True}, {}])
def test_a_restore_that_was_interrupted_is_named_and_the_live_data_stays(
    saver: Saver, restorer: Restorer, data: Path, options: dict[str, Any]
) -> None:
    saver.run([])
    plan = swapped(restorer, data)
    with pytest.raises(BackupError, match=r"(?s)was interrupted.*data\.before-.*--step start.*--step undo") as error:
        restorer.prepare("shop", **options)
    assert str(plan.former_data) in str(error.value)
    with pytest.raises(BackupError, match="was interrupted"):
        restorer.delete_former("shop")
    assert (data / "order").read_text() == "new"


def test_an_undo_deletes_nothing_that_was_live(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    (data / "uploads/a.txt").write_text("former")
    plan = swapped(restorer, data)
    restorer.undo(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == "former"
    assert (plan.undone_data / "order").read_text() == "new"
    assert not restorer.plans.find("shop")
    restorer.plans.store(plan)  # a crash before the plan was removed
    restorer.undo(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == "former"
    assert restorer.former("shop") == [str(plan.undone_data)]


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("step", ["start", "undo"])
def test_a_swap_that_a_crash_has_interrupted_can_be_finished_or_undone(
    saver: Saver, restorer: Restorer, data: Path, step: str, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.run([])
    (data / "uploads/a.txt").write_text("former")
    plan = restorer.prepare("shop", replace=True)
    done: list[Path] = []

    def crash(path: Path, to: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        os.rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            restorer.swap(plan)
    getattr(restorer, step)(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == ("ahoy" if step == "start" else "former")
    assert not list(data.parent.glob(".restore-*"))
    assert plan.former_data.exists() == (step == "start")


class Names:
    """A cluster of which only the names of the databases are known."""

    def __init__(self, *names: str) -> None:
        self.known = {name: name for name in names}  # what each one was called at first
        self.closed: set[str] = set()

    def exists(self, name: str) -> bool:
        return name in self.known

    def rename(self, old: str, new: str) -> None:
        assert new not in self.known
        self.known[new] = self.known.pop(old)

    def drop(self, name: str) -> None:
        self.known.pop(name, None)

    def allow_connections(self, name: str) -> None:
        self.closed.discard(name)


@pytest.mark.parametrize("former", [True, False])
def test_an_undo_drops_no_database_that_was_live(new_settings: Make, folders: dict[str, Any], former: bool) -> None:
    server: Any = Names(*(["shop"] if former else []), "shop.restore-S")
    restorer = Restorer(new_settings(), server=server, **folders)
    plan = plans.Plan("shop", "S", "", False, True, str(folders["state"] / ".restore-S"))
    restorer.swap(plan)
    for _ in range(2):  # the second one after a crash before the plan was removed
        server.closed.add("shop")
        restorer.undo(plan)
    expected = {"shop.undone-S": "shop.restore-S"} | ({"shop": "shop"} if former else {})
    assert server.known == expected
    assert former == (server.closed == set())


def test_a_restore_that_has_changed_nothing_is_cleaned_up_only_with_the_lock_of_the_app(
    saver: Saver, new_settings: Make, folders: dict[str, Any], tmp_path: Path
) -> None:
    restorer = Restorer(new_settings(locks=str(tmp_path / "locks")), **folders)
    saver.run([])
    first = restorer.prepare("shop", replace=True)
    other = "20300102T030405Z"
    with pytest.raises(BackupError, match="Another restore of shop has begun"):
        restorer.prepare("shop", replace=True, stamp=other)
    assert first.restored_data.is_dir()
    (tmp_path / "locks/shop").mkdir(parents=True)
    (tmp_path / "locks/shop/token").write_text(f"restore-{other}")
    second = restorer.prepare("shop", replace=True, stamp=other)
    assert not Path(first.folder).exists()
    assert second.restored_data.is_dir()
    with pytest.raises(BackupError, match="Another restore of shop"):
        restorer.plans.get("shop", first.stamp)


def test_former_data_is_listed_and_deleted_on_request(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    plan = replaced(restorer)
    assert restorer.former("shop") == [str(plan.former_data)]
    assert restorer.delete_former("shop") == [str(plan.former_data)]
    assert [path.name for path in data.parent.iterdir()] == ["data"]
