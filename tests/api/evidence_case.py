"""Everything that an owner hands over, as files; and how a test spoils it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.api.evidence_world import World
from tests.api.owner import MLP
from tests.api.tsa import Authority
from uapfast.cli import main
from uapfast.evidence.audit import Audit, Files
from uapfast.evidence.envelope import bundled, sign
from uapfast.evidence.keys import load_private, load_public
from uapfast.evidence.statement import read_statement
from uapfast.evidence.timestamp import load_certificates, request_stamp


@dataclass
class Case:
    """Everything that the owner hands over."""

    folder: Path
    world: World
    files: Files
    authority: Authority

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def copied(self, folder: Path) -> Files:
        """The same in another folder, to be spoiled."""

        def one(path: Path) -> Path:
            (folder / Path(path).name).write_bytes(Path(path).read_bytes())
            return folder / Path(path).name

        f = self.files
        names = {n: one(getattr(f, n)) for n in ("statement", "reference", "record", "commitment", "salt")}
        return replace(f, **names)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def new_key(folder: Path, name: str) -> Path:
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(folder / f"{name}.pem"))
    openssl("pkey", "-in", str(folder / f"{name}.pem"), "-pubout", "-out", str(folder / f"{name}.pub"))
    return folder / f"{name}.pem"


def make_case(evidence_world: World, folder: Path) -> Case:
    """A commitment, a record and a statement of a copy, all of them stamped."""
    new_key(folder, "key")
    new_key(folder, "other")
    authority = Authority(folder / "tsa")
    said = {n: folder / n for n in ("c.json", "c.json.salt", "s.json", "r.jsonl")}
    common = ["--key", str(folder / "key.pem"), "--tsa-root", str(authority.root)]
    with authority.served() as url:
        committed = ["commit", str(evidence_world.ref), "--out", str(said["c.json"]), "--tsa", url, *common]
        assert main(committed) == 0
        asked = ["verify", str(evidence_world.ref), str(evidence_world.files["copy"]), "--arch", MLP]
        asked += ["--record", str(said["r.jsonl"]), "--statement", str(said["s.json"])]
        assert main([*asked, "--commitment", str(said["c.json"]), "--tsa", url, *common]) == 1
    files = Files(
        said["s.json"], evidence_world.ref, said["r.jsonl"], said["c.json"], said["c.json.salt"],
        load_public(folder / "key.pub"), load_certificates(authority.root),
    )  # fmt: skip
    return Case(folder, evidence_world, files, authority)


def only_failure(found: Audit) -> tuple[str, Exception]:
    """What failed first: its name, and why."""
    assert not found.holds and found.failed
    error = found.failed[0].error
    assert error is not None and " must be " in str(error) and str(error) == found.failed[0].said
    return found.failed[0].what, error


def resigned(case: Case, folder: Path, change: Callable[[dict[str, Any]], None]) -> Files:
    """The owner lies: another statement, with their own key and a stamp of the authority."""
    files, key = case.copied(folder), load_private(case.key)
    made = read_statement(files.statement).statement
    change(made)
    payload, signature = sign(made, key)
    with case.authority.served() as url:
        Path(files.statement).write_bytes(bundled(payload, signature, key, request_stamp(url, signature)))
    return files
