"""The reference file: it gives back what was saved, and damage is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import uapfast
from uapfast.errors import ReferenceFileError, StorageError
from uapfast.examination.calibration import reference_summary
from uapfast.reference_file import FORMAT


@pytest.fixture(scope="session")
def world(verbs_world: dict) -> dict:
    return verbs_world


@pytest.fixture(scope="session")
def reference(verbs_reference: uapfast.Reference) -> uapfast.Reference:
    return verbs_reference


def test_a_reference_survives_its_file(world, reference, tmp_path):
    path = tmp_path / "v.uapref"
    reference.save(path)
    loaded = uapfast.load(path)
    assert loaded.sha256 == reference.sha256
    assert (
        uapfast.verify(loaded, world["extracted"]).to_dict()
        == uapfast.verify(reference, world["extracted"]).to_dict()
    )
    assert [p.name for p in tmp_path.iterdir()] == ["v.uapref"]
    assert reference_summary(loaded)["pool"] == {"twin": 7, "piracy": 0, "homologous": 14}
    json.dumps(reference_summary(loaded))


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000, -1])
def test_truncated_references_are_refused(reference, tmp_path, cut):
    path = tmp_path / "v.uapref"
    reference.save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ReferenceFileError, match="v.uapref"):
        uapfast.load(path)


def test_a_flipped_bit_is_noticed(reference, tmp_path):
    path = tmp_path / "v.uapref"
    reference.save(path)
    blob = bytearray(path.read_bytes())
    blob[-100] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ReferenceFileError, match="SHA-256"):
        uapfast.load(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_refused_or_harmless(reference, tmp_path, draw):
    """Whatever bytes are overwritten, loading gives a typed error or the very same content."""
    path = tmp_path / "v.uapref"
    reference.save(path)
    blob = bytearray(path.read_bytes())
    first = draw.draw(st.one_of(st.integers(0, 8000), st.integers(0, len(blob) - 1)))
    patch = draw.draw(st.binary(min_size=1, max_size=16))[: len(blob) - first]
    blob[first : first + len(patch)] = patch
    path.write_bytes(blob)
    try:
        assert uapfast.load(path).sha256 == reference.sha256
    except ReferenceFileError as exc:
        assert "v.uapref" in str(exc)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_any_bytes_give_a_typed_error(tmp_path, blob):
    path = tmp_path / "x.uapref"
    path.write_bytes(blob)
    with pytest.raises(ReferenceFileError):
        uapfast.load(path)


def test_another_format_version_is_named(reference, tmp_path):
    path = tmp_path / "v.uapref"
    reference.save(path)
    blob, said = path.read_bytes(), b'\\"format\\": %d'
    assert blob.count(said % FORMAT) == 1
    path.write_bytes(blob.replace(said % FORMAT, said % 9))
    with pytest.raises(ReferenceFileError, match=f"version {FORMAT} .* got version 9"):
        uapfast.load(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ReferenceFileError, match=r"an existing file, got none"):
        uapfast.load(tmp_path / "none.uapref")
    (tmp_path / "x.uapref").write_bytes(b"\x10\0\0\0\0\0\0\0" + b"[" * 100)
    with pytest.raises(ReferenceFileError, match="uapfast generate"):
        uapfast.load(tmp_path / "x.uapref")


def test_saving_into_nowhere_leaves_nothing(reference, tmp_path):
    with pytest.raises(StorageError, match="missing"):
        reference.save(tmp_path / "missing" / "v.uapref")
    with pytest.raises(StorageError, match="folder"):
        reference.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
