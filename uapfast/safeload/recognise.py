"""What a file is, from its first and last bytes, whatever its name says."""

from __future__ import annotations

import os
from typing import Literal

from uapfast.safeload import source
from uapfast.safeload.refusal import Refused, shown

ReadBy = Literal["safetensors", "zip", "legacy pickle"]
HEAD = 512
SAVE = "save the state dict: torch.save(model.state_dict(), ...) or safetensors.torch.save_file"
FROM_OTHER = "a PyTorch state dict or safetensors file (read it where it was made, write its arrays)"
# What runs its own program is asked as ONNX instead, made where the program is trusted.
TO_ONNX = {
    "script": "torch.onnx.export(torch.jit.load(FILE), (images,), NEW, dynamo=False)",
    "exported": "torch.onnx.export(torch.export.load(FILE), f=NEW, external_data=False)",
    "keras": "keras.models.load_model(FILE).export(NEW, format='onnx')",
    "tensorflow": "python -m tf2onnx.convert --saved-model FOLDER --output NEW",
    "tflite": "python -m tf2onnx.convert --tflite FILE --output NEW",
}


def as_onnx(kind: str, rule: str) -> str:
    """``rule``, or an ONNX file that a command makes (a key of :data:`TO_ONNX`)."""
    return f"{rule}, or an ONNX file: where it is trusted, {TO_ONNX[kind]}"


RULES = {
    "torch": f"a weights file ({SAVE})",
    "other": FROM_OTHER,
    "fetch": "the weights file itself",
    "onnx": "a weights file (an ONNX model is a suspect of its own: uapfast.suspects.onnx.open_onnx)",
    **{kind: as_onnx(kind, "a PyTorch state dict or safetensors file") for kind in TO_ONNX},
}

# Magic bytes at an offset; what the file is; which remedy.
MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)", "keras"),
    (0, b"{", "a JSON file (an index of shards is named *.index.json and stands beside them)", "torch"),
    (0, b"GGUF", "a GGUF file", "other"),
    (0, b"ggjt", "a GGML file", "other"),
    (0, b"\x93NUMPY", "a NumPy .npy file", "other"),
    (4, b"TFL3", "a TensorFlow Lite file", "tflite"),
    (257, b"ustar", "a tar archive (torch.save before 0.2, or an unpacked-folder export)", "torch"),
    (0, b"\x1f\x8b", "a gzip file (unpack it; joblib writes such files as well)", "torch"),
    (0, b"BZh", "a bzip2 file (unpack it; joblib writes such files as well)", "torch"),
    (0, b"\xfd7zXZ\0", "an xz file (unpack it; joblib writes such files as well)", "torch"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file (unpack it)", "torch"),
    (0, b"\x04\x22\x4d\x18", "an LZ4 file (unpack it; joblib writes such files as well)", "torch"),
    (0, b"ZF0x", "a joblib file", "other"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it)", "torch"),
    (0, b"Rar!", "a RAR archive (unpack it)", "torch"),
    (0, b"\x7fELF", "a program (ELF)", "torch"),
    (0, b"MZ", "a program (Windows)", "torch"),
    (0, b"#!", "a script", "torch"),
    (0, b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)", "fetch"),
    (0, b"<!DOCTYPE", "an HTML page (did the download ask for a login?)", "fetch"),
    (0, b"<!doctype", "an HTML page (did the download ask for a login?)", "fetch"),
    (0, b"<html", "an HTML page (did the download ask for a login?)", "fetch"),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel (saved_model.pb)", "tensorflow"),
)
OLD_PROTOCOL = b"L119547037146038801333356L\n."  # torch.save's magic number in protocol 0 or 1
LEVELDB_FOOTER = bytes.fromhex("57fb808b247547db")  # the index of a TensorFlow checkpoint
ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # what follows ir_version in a ModelProto
ZLIB_HEADS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


def is_onnx_head(head: bytes) -> bool:
    """Whether a file that begins so may be an ONNX model."""
    if head[:3] == b"\x08\x01\x12":  # a TensorFlow SavedModel; no ONNX of its first version is around
        return False
    return head[:1] == b"\x08" and len(head) > 2 and 1 <= head[1] <= 32 and head[2] in ONNX_FIELDS


def recognise(handle: int, size: int, path: str) -> ReadBy:
    """Which reader takes an open file.

    A name that ends in ``.safetensors`` is held to its word: no other content is read under it. What a
    download often leaves in its place is named.

    Raises:
        Refused: no reader takes it; the kind of file is named where it is known.
    """
    head = source.read_bytes(handle, 0, min(size, HEAD))
    if path.lower().endswith(".safetensors"):
        for _, magic, what, remedy in MAGIC:
            if remedy == "fetch" and head.startswith(magic):
                raise Refused("unsupported", RULES[remedy], what)
        return "safetensors"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    for at, magic, what, remedy in MAGIC:
        if head[at : at + len(magic)] == magic:
            raise Refused("unsupported", RULES[remedy], what)
    if (head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5) or head.startswith(OLD_PROTOCOL):
        return "legacy pickle"
    if is_onnx_head(head):
        raise Refused("unsupported", RULES["onnx"], "an ONNX model")
    if head[:2] in ZLIB_HEADS:
        raise Refused("unsupported", RULES["other"], "a zlib stream (joblib writes such files)")
    if size >= 8 and source.read_bytes(handle, size - 8, 8) == LEVELDB_FOOTER:
        raise Refused("unsupported", RULES["other"], "the index of a TensorFlow checkpoint")
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".onnx":
        got = f"a file that is named .onnx and begins with {shown(head[:8])}"
        raise Refused("corrupt", "an ONNX model, which begins with its ir_version", got)
    named = {".pb": "TensorFlow", ".tflite": "TensorFlow Lite", ".mat": "MATLAB"}.get(suffix)
    if named:
        raise Refused("unsupported", RULES["other"], f"a {suffix} file ({named}, by its name)")
    rule = "a safetensors file, or a state dict that torch.save wrote"
    raise Refused("corrupt", rule, f"a file that begins with {shown(head[:8])}")
