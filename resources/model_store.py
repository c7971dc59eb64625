"""The model store: sealed bundles, and which of them serves after which night.

A bundle is a folder of inert files with a manifest of their SHA-256. Its version is the training day and the
manifest's own hash, so a bundle whose manifest was rewritten does not pass either.

```
models/<version>/          a bundle: manifest.json and what it names
models/by_day/<D>.json     the candidate trained for night D: {"version": …}
models/champions/<D>.json  the gate's verdict of night D: what serves after it, and why
models/rollbacks/<D>.json  what people have put back by hand from night D on, every time: the last one holds
models/.staging/           bundles in the making
```
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.aside import replacing, sha256_of, work_folder
from resources.crash import crash_point

if TYPE_CHECKING:
    from resources.home import Home

MANIFEST = "manifest.json"
INERT = frozenset({".safetensors", ".json", ".jinja", ".md", ".model", ".parquet", ".txt", ".yaml"})
"""Kinds of files a bundle may hold: none of them runs code when it is opened."""


class TamperedBundleError(RuntimeError):
    """A bundle's files are not those that were sealed; the message names the first that differs."""


class BundleError(ValueError):
    """A folder cannot become a bundle, or a bundle holds what none may hold; the message says which file."""


class RollbackError(LookupError):
    """A model cannot be put back; the message says why, and what can be done."""


@dataclass(frozen=True)
class Rollback:
    """A model put back by hand. It serves from `day` on, whatever the gate says of that day's candidates."""

    day: date
    """The newest night at the time."""
    version: str
    instead_of: str
    """What served until then."""
    reason: str
    """In the words of whoever did it; may be empty."""
    at: str
    """When it was done: UTC, ISO 8601."""

    @property
    def words(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return (
            f"{self.version} was put back by hand instead of {self.instead_of} ({self.at[:16]} UTC){why}. It "
            "serves until a candidate of a later night passes the gate."
        )


@dataclass(frozen=True)
class Champion:
    """What serves after a night, and why."""

    day: date
    version: str
    """The bundle that serves."""
    candidate: str
    """The bundle that was trained for this night."""
    promoted: bool
    """Whether the candidate is what serves."""
    reasons: tuple[str, ...]
    """The gate's, after the rollback's where there was one."""
    rollback: Rollback | None = None
    """Where it was put back by hand in this night."""


class ModelStore:
    """The bundles below a home. Safe for several processes: every change is one rename."""

    def __init__(self, home: Home) -> None:
        self.folder = home.models

    def stage(self) -> AbstractContextManager[Path]:
        """A fresh empty folder to build a bundle in; on the same file system, so that sealing is a rename.

        It is gone when the block ends, and what killed trainings have left is removed when it begins.
        """
        return work_folder(self.folder / ".staging")

    def seal(self, folder: Path, day: date) -> str:
        """Write the manifest of a staged folder and put it in place as the candidate of `day`.

        The same content sealed again gives the same version and changes nothing.

        Returns:
            the version, `<day>-<first 8 hex of the manifest's SHA-256>`.

        Raises:
            BundleError: the folder is empty or holds a file of a kind that could run code (pickle and such).
        """
        files = _files(folder)
        if not files:
            raise BundleError(f"{folder} is empty: there is nothing to seal")
        for file in files:
            _refuse_live(folder, file)
        content = {
            "format": 1,
            "day": day.isoformat(),
            "files": {
                file.relative_to(folder).as_posix(): {"sha256": sha256_of(file), "bytes": file.stat().st_size}
                for file in files
            },
        }
        (folder / MANIFEST).write_text(_json(content), encoding="utf-8")
        crash_point("seal.manifest_written")
        version = f"{day.isoformat()}-{sha256_of(folder / MANIFEST)[:8]}"
        self._put(folder, self.folder / version)
        crash_point("seal.in_place")
        _write_json(self.folder / "by_day" / f"{day.isoformat()}.json", {"version": version})
        return version

    def path(self, version: str) -> Path:
        """The folder of a bundle, every file of which was compared with the manifest just now.

        Raises:
            FileNotFoundError: there is no such bundle.
            TamperedBundleError: a file was changed, removed or added; the message names it.
            BundleError: it holds a file of a kind that could run code.
        """
        folder = self.folder / version
        if not (folder / MANIFEST).is_file():
            there = ", ".join(self.versions()) or "none"
            raise FileNotFoundError(
                f"there is no model {version!r} in {self.folder}; it holds {there}. Restore it from a "
                "backup, or have another one serve: nightshelf rollback VERSION"
            )
        _verify(folder)
        return folder

    def versions(self) -> list[str]:
        """All bundles, oldest day first."""
        if not self.folder.exists():
            return []
        return sorted(f.parent.name for f in self.folder.glob(f"[0-9]*/{MANIFEST}"))

    def candidate(self, day: date) -> str:
        """The version trained for the night of `day`.

        Raises:
            FileNotFoundError: none was.
        """
        file = self.folder / "by_day" / f"{day.isoformat()}.json"
        if not file.exists():
            raise FileNotFoundError(
                f"no model was trained for {day}: materialize fine_tuned_model for {day} first"
            )
        return str(json.loads(file.read_text(encoding="utf-8"))["version"])

    def champion(self, day: date | None = None) -> Champion | None:
        """What serves after the newest night up to and including `day` (of all nights where absent).

        What was put back by hand in a night goes before the verdict of that night.
        """
        for file in reversed(self._records()):
            if day is None or date.fromisoformat(file.stem) <= day:
                record = json.loads(file.read_text(encoding="utf-8"))
                back = next(reversed(self.rollbacks(date.fromisoformat(file.stem))), None)
                version = back.version if back else record["version"]
                if version:
                    return Champion(
                        day=date.fromisoformat(record["day"]),
                        version=version,
                        candidate=record["candidate"],
                        promoted=version == record["candidate"],
                        reasons=(*([back.words] if back else []), *record["reasons"]),
                        rollback=back,
                    )
        return None

    def champion_before(self, day: date) -> Champion | None:
        """What served until the night of `day`: the incumbent its candidate has to beat."""
        return self.champion(date.fromordinal(day.toordinal() - 1))

    def promote(self, day: date, version: str, promoted: bool, reasons: Sequence[str]) -> Champion | None:
        """Record the verdict of a night; a verdict on the same day is replaced, other days stay as they are.

        A rollback of the same night stays in force: the verdict is recorded, but what was put back serves.

        Args:
            version: the candidate.
            promoted: whether it serves from now on; otherwise the incumbent stays.
            reasons: why, in words.

        Returns:
            what serves now; None where the candidate was refused and there is no incumbent.

        Raises:
            FileNotFoundError, TamperedBundleError: the candidate is not there or not intact.
        """
        self.path(version)
        incumbent = self.champion_before(day)
        serving = version if promoted else incumbent.version if incumbent else None
        content = {
            "day": day.isoformat(),
            "version": serving,
            "candidate": version,
            "promoted": promoted,
            "reasons": list(reasons),
        }
        crash_point("promote.decided")
        _write_json(self.folder / "champions" / f"{day.isoformat()}.json", content)
        crash_point("promote.recorded")
        return self.champion(day)

    def rollbacks(self, day: date) -> list[Rollback]:
        """What was put back by hand from the night of `day` on, in the order in which it was done."""
        file = self.folder / "rollbacks" / f"{day.isoformat()}.json"
        if not file.exists():
            return []
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [Rollback(**{**entry, "day": date.fromisoformat(entry["day"])}) for entry in entries]

    def all_rollbacks(self) -> list[Rollback]:
        """What was ever put back by hand, in the order of nights."""
        days = sorted(date.fromisoformat(file.stem) for file in (self.folder / "rollbacks").glob("*.json"))
        return [done for day in days for done in self.rollbacks(day)]

    def roll_back(self, version: str | None = None, reason: str = "") -> Rollback:
        """Have another model serve from the newest night on. Earlier nights keep theirs.

        Args:
            version: a sealed bundle; None for the one that served before what serves now.
            reason: in words, for the record.

        Raises:
            RollbackError: no model serves, none served before it, or `version` is unknown, serves already, or
                knows days after the newest night.
            TamperedBundleError: its files are not those that were sealed.
        """
        now = self.champion()
        if now is None:
            raise RollbackError(
                "no model serves yet, so there is nothing to go back from: `nightshelf night`"
            )
        back = version or self._served_before(now)
        if back == now.version:
            raise RollbackError(f"{back} serves already, as of the night of {now.day}")
        if back not in self.versions():
            raise RollbackError(f"there is no model {back!r}; there are: {', '.join(self.versions())}")
        if back[:10] > now.day.isoformat():
            raise RollbackError(
                f"{back} has learnt from days after {now.day}, the newest night with a verdict: it is a "
                f"candidate, not a model to go back to. For its verdict run: nightshelf night {back[:10]}"
            )
        self.path(back)
        at = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
        done = Rollback(now.day, back, now.version, reason, at)
        entries = [{**asdict(one), "day": one.day.isoformat()} for one in (*self.rollbacks(now.day), done)]
        crash_point("rollback.chosen")
        _write_json(self.folder / "rollbacks" / f"{now.day.isoformat()}.json", entries)
        crash_point("rollback.recorded")
        return done

    def _served_before(self, now: Champion) -> str:
        """What served last of all that was trained before what serves now.

        Not simply what served the night before: after a rollback, that is what people went back from.
        """
        before = self.champion_before(now.day)
        while before and before.version[:10] >= now.version[:10]:
            before = self.champion_before(before.day)
        if before is None:
            raise RollbackError(
                f"no older model served before {now.version}: there is nothing to go back to. To have one "
                f"serve by name: nightshelf rollback VERSION. There are: {', '.join(self.versions())}"
            )
        return before.version

    def _records(self) -> list[Path]:
        return sorted((self.folder / "champions").glob("[0-9]*.json"))

    def _put(self, folder: Path, target: Path) -> None:
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # The same bundle again. A copy that has been damaged since makes way for the sound one.
            try:
                _verify(target)
                shutil.rmtree(folder)
            except TamperedBundleError:
                target.rename(folder.with_name("damaged"))
                crash_point("seal.damaged_moved")
                folder.rename(target)


def _verify(folder: Path) -> None:
    if not (folder / MANIFEST).is_file():
        raise TamperedBundleError(_differs(folder, MANIFEST, "is missing"))
    raw = (folder / MANIFEST).read_bytes()
    if hashlib.sha256(raw).hexdigest()[:8] != folder.name[-8:]:
        raise TamperedBundleError(_differs(folder, MANIFEST, "is not the one that was sealed"))
    named: dict[str, Any] = json.loads(raw)["files"]
    found = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    for name in sorted(named.keys() | found.keys()):
        if name not in found:
            raise TamperedBundleError(_differs(folder, name, "is missing"))
        if name not in named:
            raise TamperedBundleError(_differs(folder, name, "was added after sealing"))
        _refuse_live(folder, found[name])
        if sha256_of(found[name]) != named[name]["sha256"]:
            raise TamperedBundleError(_differs(folder, name, "was changed after sealing"))


def _differs(folder: Path, name: str, what: str) -> str:
    return (
        f"model {folder.name}: {name} {what}. The model is not used. Restore {folder} from a backup, or "
        f"train it again (`nightshelf night {folder.name[:10]}`)"
    )


def _refuse_live(folder: Path, file: Path) -> None:
    name = file.relative_to(folder).as_posix()
    if file.suffix not in INERT:
        raise BundleError(
            f"{name}: a bundle holds {', '.join(sorted(INERT))} files only. Pickle and its like run code "
            "when opened; save weights as safetensors, tables as Parquet, the rest as JSON"
        )
    if file.is_symlink():
        raise BundleError(f"{name}: a bundle holds no links, since what they lead to is not sealed")


def _files(folder: Path) -> list[Path]:
    """Everything in a bundle but its manifest, by name."""
    return sorted(
        file
        for file in folder.rglob("*")
        if (file.is_file() or file.is_symlink()) and file != folder / MANIFEST
    )


def _write_json(file: Path, content: Any) -> None:
    with replacing(file) as aside:
        aside.write_text(_json(content), encoding="utf-8")
        crash_point("store.record_written")


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
