"""A corpus of hostile weights files, made afresh from code, and a runner that reads all of them.

    python -m tests.security.corpus FOLDER [NAME ...]

prints one JSON object: for each file its outcome (an error's class, or ``read``), message and seconds; peak
memory of this process and of the readers; and whether the marker that the payloads try to make is there.

More than 400 lines: it is one list of files, and a part of it would be no corpus.
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.security.forge import ONE, archive, integer, legacy, state, tensor, text

Builder = Callable[[Path, Path], bytes | None]
MARKER = "code-ran"
CASES: dict[str, Builder] = {}

# What pickles in the wild call. Each gets an argument that makes the marker, where the callee takes one.
SHELL = """
posix.system os.system subprocess.getoutput subprocess.check_output os.popen nt.system
commands.getoutput torch._utils.os.system pty.spawn asyncio.create_subprocess_shell
""".split()
PYTHON = """
builtins.exec builtins.eval __builtin__.eval __builtin__.execfile code.InteractiveInterpreter
timeit.timeit cProfile.run profile.run doctest.debug_script pdb.run torch.jit.unused
torch.utils.data.datapipes.utils.decoder.basichandlers numpy.testing._private.utils.runstring
idlelib.run.Executive lib2to3.pgen2.pgen.generate_grammar bdb.Bdb.run runpy.run_path
""".split()
OTHERS = """
builtins.open builtins.__import__ builtins.getattr importlib.import_module ctypes.CDLL
pathlib.PosixPath.touch shutil.copy functools.partial operator.attrgetter copyreg._reconstructor
marshal.loads types.CodeType types.FunctionType pickle.loads _pickle.loads cloudpickle.loads
torch.load torch.storage._load_from_bytes torch.hub.load torch.jit.load torch._C._load_for_lite
torch.nn.modules.module.Module joblib.load numpy.load numpy.core.multiarray._reconstruct
collections.defaultdict collections.OrderedDict.fromkeys webbrowser.open pip.main site.main
logging.config.listen venv.create urllib.request.urlopen socket.create_connection
""".split()


def call(name: str, argument: bytes) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode() + argument + b"\x85R"


def case(name: str) -> Callable[[Builder], Builder]:
    def keep(builder: Builder) -> Builder:
        CASES[name] = builder
        return builder

    return keep


def script(name: str, body: bytes | Callable[[Path], bytes], *, inside: str = "zip") -> None:
    """A pickle, inside an archive or a legacy file."""

    def build(path: Path, marker: Path) -> bytes:
        opcodes = body if isinstance(body, bytes) else body(marker)
        return archive(opcodes) if inside == "zip" else legacy(opcodes) if inside == "legacy" else opcodes

    CASES[name] = build


def touch(marker: Path) -> bytes:
    return text(f"touch {marker}")


def python(marker: Path) -> bytes:
    return text(f"open({str(marker)!r}, 'w')")


def programs() -> None:
    for names, argument in ((SHELL, touch), (PYTHON, python), (OTHERS, lambda m: text(str(m)))):
        for name in names:
            script(f"call {name}", lambda m, n=name, a=argument: b"\x80\x02" + call(n, a(m)) + b".")  # type: ignore[misc]
    run: Callable[[Path], bytes] = lambda m: call("posix.system", touch(m))  # noqa: E731
    script("a call beside good tensors", lambda m: ONE[:-2] + text("z") + run(m) + b"u.")
    script("a call in a legacy file", lambda m: b"\x80\x02" + run(m) + b".", inside="legacy")
    script("a call in a plain pickle", lambda m: b"\x80\x02" + run(m) + b".", inside="none")
    script("a call after STOP", lambda m: ONE + run(m) + b".")
    script("a call before an error", lambda m: run(m) + b"\xff")
    script("STACK_GLOBAL", lambda m: text("os") + text("system") + b"\x93" + touch(m) + b"\x85R.")
    script(
        "STACK_GLOBAL from the memo",
        lambda m: text("system") + b"\x940" + text("os") + b"h\0\x93" + touch(m) + b"\x85R.",
    )
    script("INST", lambda m: b"(" + touch(m) + b"ios\nsystem\n.")
    script("OBJ", lambda m: b"(cos\nsystem\n" + touch(m) + b"o.")
    script("NEWOBJ", lambda m: b"cos\nsystem\n" + touch(m) + b"\x85\x81.")
    script("NEWOBJ_EX", lambda m: b"cos\nsystem\n" + touch(m) + b"\x85}\x92.")
    script("EXT1", b"\x82\1.")
    script(
        "BUILD with a setstate", lambda m: b"ctorch\nSize\n)R}" + text("__setstate__") + b"cos\nsystem\nsb."
    )
    script("BUILD on a global", lambda m: b"ccollections\nOrderedDict\n}" + text("x") + b"Nsb.")
    script("a call as persistent id", lambda m: run(m) + b"Q.")
    script("a call as storage", lambda m: b"ctorch._utils\n_rebuild_tensor_v2\n(" + run(m) + b"K\0)))NtR.")
    script("a module by persistent id", b"(" + text("module") + b"NNNtQ.")
    for i in range(5):  # each of the five pickles of a legacy file
        CASES[f"a call in part {i} of a legacy file"] = lambda p, m, i=i: _in_part(
            i, b"\x80\x02" + run(m) + b"."
        )  # type: ignore[misc]


def _in_part(part: int, payload: bytes) -> bytes:
    magic, version = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    parts = [magic, version, system, ONE, b"\x80\x02]" + text("0") + b"a."]
    parts[part] = payload
    return b"".join(parts) + struct.pack("<Q", 4) + b"\0" * 16


def plain_names() -> None:
    """The names of plain data, put to uses that are not theirs."""
    typed, namespace = b"ctorch._tensor\n_rebuild_from_type_v2\n(", b"cargparse\nNamespace\n"
    script("NEWOBJ of a maker of tensors", b"ctorch._utils\n_rebuild_tensor_v2\n)\x81.")
    script("BUILD of a class of plain data", namespace + b"}" + text("x") + b"Nsb.")
    script(
        "an object of no plain class",
        b"ccopyreg\n_reconstructor\nctorch\nSize\ncbuiltins\nobject\nN\x87R.",
    )
    script("a type of Python called", b"cbuiltins\ntype\n" + text("x") + b"\x85R.")
    script("a factory of text", b"ccollections\ndefaultdict\n" + text("os.system") + b"\x85R.")
    script("bytes by another code", b"c_codecs\nencode\n" + text("a") + text("zlib") + b"\x86R.")
    script("a tensor by a maker of its own", typed + text("os.system") + b"ctorch\nTensor\n)}tR.")
    run: Callable[[Path], bytes] = lambda m: call("posix.system", touch(m))  # noqa: E731
    script("a tensor by a call", lambda m: b"}" + text("a") + typed + run(m) + b"ctorch\nTensor\n)}tRs.")
    laugh = b"q\0h\0\x86" * 200_000
    script("a set of laughing tuples", b"\x8f(" + text("ha") + b"\x85" + laugh + b"\x90.")
    script("tuples as keys that collide", lambda m: b"}(" + b"".join(
        b"(" + integer(i * (2**61 - 1)) * 16 + b"tN" for i in range(4_000)) + b"u.")  # fmt: skip
    script("a million plain objects", namespace + b"q\0" + b"h\0)\x81" * (1 << 20) + b".")
    copied = b"c_codecs\nencode\nq\0" + text("a" * (1 << 20)) + text("latin1") + b"\x86q\1"
    script("2 GiB of copied bytes", copied + b"h\0h\1R" * 2000 + b".")
    script("a reference as text", b"Pstorage\n.")
    script("text with an escape", state(("a", b"S'\\x1b[2J'\n")))


def views() -> None:
    for name, shape, strides, more in (
        ("stride 0, 4 TiB", [2**20, 2**20], [0, 0], {}),
        ("stride 0, 1 GiB", [2**14, 2**14], [0, 0], {}),
        ("stride 0, many rows", [2**22, 3], [0, 1], {}),
        ("stride 0, 28 dimensions of 2", [2] * 26, [0, 1] * 13, {"numel": 100}),
        ("view beyond its storage", [5], [1], {}),
        ("offset beyond its storage", [1], [1], {"offset": 2**40}),
        ("negative shape", [-4], [1], {}),
        ("negative stride", [4], [-1], {"offset": 3}),
        ("negative offset", [4], [1], {"offset": -1}),
        ("shape of 2^80", [2**80], [1], {}),
        ("shape that overflows", [2**33, 2**33], [1, 1], {}),
        ("zero hides 2^61", [0, 2**61], [1, 1], {}),
        ("65 dimensions", [1] * 65, [1] * 65, {}),
        ("storage of 2^60", [4], [1], {"numel": 2**60}),
        ("storage that climbs", [4], [1], {"key": "../../../etc/passwd"}),
        ("storage of complex", [4], [1], {"storage": "ComplexFloatStorage"}),
        ("storage of quantised", [4], [1], {"storage": "QInt8Storage"}),
        ("storage of another type", [4], [1], {"storage": "LongStorage"}),
    ):
        script(name, state(("a", tensor(shape, strides, **more))))  # type: ignore[arg-type]


def floods() -> None:
    laugh = b"]q\1" + (b"0](" + b"h\1" * 10 + b"eq\1") * 300
    script("laughing lists", b"\x80\x02}" + text("a") + laugh + b"s.")
    script("laughing tuples as a key", b"}" + text("ha") + b"\x85" + b"q\0h\0\x86" * 100 + b"Ns.")
    script(
        "laughing dicts",
        b"}q\1" + (b"0}(" + b"".join(text(c) + b"h\1" for c in "abcdefghij") + b"uq\1") * 300 + b".",
    )
    script("200k empty tensors", b"\x80\x02(" + tensor([0], [1]) + b"q\0" + b"}(" + b"".join(
        text(f"n{i}") + b"h\0" for i in range(200_000)) + b"u.")  # fmt: skip
    script("aliases of one storage", b"\x80\x02}(" + text("a") + tensor([4], [1]) + b"q\0" + b"".join(
        text(f"n{i}") + b"h\0" for i in range(150_000)) + b"u.")  # fmt: skip
    units = {
        "sets": b"\x8f", "dicts": b"}", "lists": b"]", "copies": b"2", "None": b"N", "nested tuples": b"\x85",
        "nested lists": b"]q\0h\0a", "floats": b"G" + b"\0" * 8,
    }  # fmt: skip
    for name, unit in units.items():
        script(f"16 MB of {name}", lambda m, u=unit: b"N" + u * ((16 << 20) // len(u) - 64) + b".")  # type: ignore[misc]
    script("endless lists, legacy", b"N" + b"]" * (15 << 20), inside="legacy")
    script(
        "memo of millions",
        lambda m: b"N" + b"".join(b"r" + struct.pack("<I", i * 977) for i in range(2_000_000)),
    )
    script("keys that collide", lambda m: b"}(" + b"".join(
        integer(i * (2**61 - 1)) + b"N" for i in range(200_000)) + b"u.")  # fmt: skip
    script("deep groups", b"(" * 1_000_000 + b".")
    script("integer of 2^31 bytes", b"\x8b\xff\xff\xff\x7f1.")
    script("integer of 100k digits", b"L" + b"9" * 100_000 + b"L\n.")
    script("integer of 400 digits", b"L" + b"9" * 400 + b"L\n.")
    script("text of 2^63 bytes", b"\x8d" + b"\xff" * 8)
    script("frame of 2^63 bytes", b"\x80\x04\x95" + b"\xff" * 8 + ONE[2:])
    script("name of 1 MB", state(("n" * (1 << 20), tensor([4], [1]))))
    script("a name with an escape", state(("\x1b]0;owned\x07", tensor([4], [1]))))
    script("a name of a lone surrogate", state(("\ud800", tensor([4], [1]))))
    script("a dict that holds itself", b"}q\0" + text("a") + b"h\0s.")
    script("5000 dicts in one another", b"}q\0" + (b"0}" + text("a") + b"h\0sq\0") * 5000 + b".")
    script("persistent id of a dict", b"}Q.")
    script("a key twice", state(("a", tensor([4], [1])), ("a", tensor([2], [1]))))
    script("two state dicts", b"}(" + text("a") + ONE[2:-1] + text("b") + ONE[2:-1] + b"u.")
    script("empty pickle", b"")
    script("only a STOP", b".")
    for i in range(8):
        script(f"noise {i}", zlib.compress(bytes(range(256)) * (i + 1))[2:], inside=("zip", "legacy")[i % 2])


def _patched(blob: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert old in blob and len(old) == len(new)
    return blob.replace(old, new, count)


def _zip(*records: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name, data, method in records:
            target.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def archives() -> None:
    pickle = ("archive/data.pkl", ONE, 0)
    data = ("archive/data/0", b"\0" * 16, 0)
    end = struct.Struct("<4s4H2LH")

    def with_end(change: Callable[[list[int]], None], extra: bytes = b"") -> bytes:
        blob = archive()
        fields = list(end.unpack(blob[-22:]))
        change(fields)
        return blob[:-22] + end.pack(*fields) + extra

    def fixed(name: str, blob: bytes | Callable[[], bytes]) -> None:
        CASES[name] = lambda p, m: blob if isinstance(blob, bytes) else blob()

    big = state(("a", tensor([1 << 28], [1], numel=1 << 28)))
    fixed("deflate bomb", lambda: _bomb(big, 1 << 30))
    many = state(*((f"t{i}", tensor([1 << 18], [1], key=f"{i}", numel=1 << 18)) for i in range(200)))
    fixed("deflate bombs of 1 MiB", lambda: _zip(
        (pickle[0], many, 0),
        *((f"archive/data/{i}", b"\0" * (1 << 20), 8) for i in range(200))))  # fmt: skip
    fixed("deflated pickle that is a bomb", lambda: _zip(("archive/data.pkl", b"N" * (1 << 28) + b".", 8)))
    fixed("one record twice", lambda: _zip(pickle, data, data))
    fixed("two pickles", lambda: _zip(pickle, data, ("other/data.pkl", ONE, 0)))
    fixed("data of another name inside", lambda: _patched(archive(), b"archive/data/0", b"archive/data/1", 1))
    fixed("wrong checksum", lambda: _patched(archive(files={"data/0": b"abcdefgh" * 2}), b"abcd", b"abcx", 1))
    fixed("encrypted", lambda: _flagged(0x1))
    fixed("masked headers", lambda: _flagged(0x2000))
    fixed("bzip2", lambda: _zip(pickle, (data[0], data[1], 12)))
    fixed("lzma", lambda: _zip(pickle, (data[0], data[1], 14)))
    fixed("a name that climbs", lambda: _zip(pickle, data, ("archive/../../x", b"", 0)))
    fixed("an absolute name", lambda: _zip(pickle, data, ("/etc/passwd", b"", 0)))
    fixed("a name of 60 kB", lambda: _zip(pickle, data, ("n" * 60_000, b"", 0)))
    fixed("a comment", lambda: archive()[:-2] + b"\4\0PK\5\6")
    fixed("two end records", lambda: archive() + archive()[-22:])
    fixed("bytes in front", lambda: b"PK\3\4" + b"\0" * 60 + archive())
    fixed("bytes behind", lambda: archive() + b"\0" * 100)
    fixed("65535 records claimed", lambda: with_end(lambda f: f.__setitem__(slice(3, 5), [0xFFFF, 0xFFFF])))
    fixed("directory beyond the end", lambda: with_end(lambda f: f.__setitem__(6, 0xFFFFFFF0)))
    fixed("directory of 4 GB", lambda: with_end(lambda f: f.__setitem__(5, 0xFFFFFFF0)))
    fixed("several disks", lambda: with_end(lambda f: f.__setitem__(1, 1)))
    fixed(
        "zip64 end that lies",
        lambda: archive()[:-22] + b"PK\6\7" + struct.pack("<LQL", 0, 2**62, 1) + archive()[-22:],
    )
    fixed("records that overlap", _overlapping)
    fixed("150k records", lambda: _zip(pickle, data, *((f"archive/x/{i}", b"", 0) for i in range(150_000))))
    fixed("big-endian", lambda: _zip(pickle, data, ("archive/byteorder", b"big", 0)))
    fixed("empty archive", lambda: _zip())
    fixed("an archive in an archive", lambda: _zip(("archive/data.pkl", archive(), 0)))
    fixed("no data", lambda: archive(files={}))
    fixed("data of another size", lambda: archive(files={"data/0": b"\0" * 15}))
    fixed("a TorchScript program", lambda: archive(files={"constants.pkl": b"N.", "code/__torch__.py": b"x"}))
    fixed("an exported program", lambda: _zip(("m/archive_format", b"pt2", 0), pickle))
    fixed("a deflate stream that breaks", lambda: _broken_deflate(lambda raw: b"\xff" * len(raw)))
    fixed("a deflate stream that is short", lambda: _broken_deflate(lambda raw: raw[:-3] + b"\0\0\0"))


def _bomb(pickle: bytes, size: int) -> bytes:
    """1 GiB of zeros in 1 MB, its checksum right, made without holding it."""
    engine, chunk, crc, packed = zlib.compressobj(9, zlib.DEFLATED, -15), b"\0" * (1 << 20), 0, bytearray()
    for _ in range(size >> 20):
        packed += engine.compress(chunk)
        crc = zlib.crc32(chunk, crc)
    packed += engine.flush()
    mark = b"\x01" * 64
    blob = _zip(("archive/data.pkl", pickle, 0), ("archive/data/0", mark, 0))
    at = blob.index(mark)
    start = blob.index(b"PK\3\4", 4)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0x21, crc, len(packed), size, 14, 0)
    body = blob[:start] + local + b"archive/data/0" + packed
    directory = bytearray(blob[at + 64 : -22])
    entry = directory.index(b"PK\1\2", 4)
    struct.pack_into("<H", directory, entry + 10, 8)
    struct.pack_into("<3L", directory, entry + 16, crc, len(packed), size)
    return bytes(
        body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), len(body), 0)
    )


def _flagged(flag: int) -> bytes:
    blob = bytearray(archive())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        where = blob.find(mark)
        while where >= 0:
            blob[where + at : where + at + 2] = flag.to_bytes(2, "little")
            where = blob.find(mark, where + 4)
    return bytes(blob)


def _overlapping() -> bytes:
    """Every record begins in the same bytes (Fifield, WOOT 2019, simplified)."""
    blob = archive(files={"data/0": b"\0" * 16})
    at = blob.index(b"PK\1\2")
    first = bytearray(blob[at : blob.index(b"PK\1\2", at + 4)])
    directory = b"".join(
        bytes(first).replace(b"archive/data.pkl", f"archive/data{i:03}x".encode()[:16]) for i in range(500)
    )
    return blob[:at] + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 500, 500, len(directory), at, 0)


def _broken_deflate(change: Callable[[bytes], bytes]) -> bytes:
    body = bytes(range(256)) * 40
    blob = _zip(
        ("archive/data.pkl", state(("a", tensor([4], [1], numel=2560))), 0), ("archive/data/0", body, 8)
    )
    engine = zlib.compressobj(-1, zlib.DEFLATED, -15)
    packed = engine.compress(body) + engine.flush()
    return _patched(blob, packed, change(packed))


def headers() -> None:
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

    def fixed(name: str, header: bytes, data: bytes = b"\0" * 4, length: int | None = None) -> None:
        blob = struct.pack("<Q", len(header) if length is None else length) + header + data
        CASES[f"safetensors: {name}"] = lambda p, m: blob

    fixed("duplicate names", b'{"a":' + entry + b',"a":' + entry + b"}")
    none = b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    fixed("200k empty tensors", b"{" + b",".join(none % i for i in range(200_000)) + b"}", b"")
    fixed("deep objects", b'{"a":' * 3_000_000)
    fixed("deep lists", b'{"a":' + b"[" * 15_000_000)
    fixed("16 MB of empty lists", b'{"a":[' + b"[]," * 5_000_000 + b"1]}")
    fixed("16 MB of empty objects", b'{"a":[' + b"{}," * 5_000_000 + b"1]}")
    fixed("16 MB of numbers", b'{"a":[' + b"1.1e1," * 2_700_000 + b"1]}")
    fixed("16 MB of escapes", b'{"' + b"\\u0041" * 2_700_000 + b'":1}')
    fixed("header of 2^63", b"{}", b"", 2**63)
    fixed("header of the limit and more", b"{" + b" " * (17 << 20) + b"}")
    fixed("huge integer", b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,4]}}')
    fixed("overlap", b'{"a":' + entry + b',"b":' + entry + b"}")
    fixed("hole", b'{"a":' + entry.replace(b"[0,4]", b"[4,8]") + b"}", b"\0" * 8)
    fixed("negative offsets", b'{"a":' + entry.replace(b"[0,4]", b"[-4,0]") + b"}")
    fixed("negative shape", b'{"a":' + entry.replace(b"[1]", b"[-1,-1]") + b"}")
    fixed(
        "zero hides 2^40",
        b'{"a":' + entry.replace(b"[1]", b"[0,1099511627776]").replace(b"[0,4]", b"[0,0]") + b"}",
        b"",
    )
    fixed("overflow", b'{"a":' + entry.replace(b"[1]", b"[4611686018427387904,4]") + b"}")
    fixed("unknown type", b'{"a":' + entry.replace(b"F32", b"F31") + b"}")
    fixed("complex", b'{"a":' + entry.replace(b"F32", b"C64").replace(b"0,4", b"0,8") + b"}", b"\0" * 8)
    fixed("bool of 2", b'{"a":' + entry.replace(b"F32", b"BOOL").replace(b"0,4", b"0,1") + b"}", b"\2")
    fixed("NaN weights", b'{"a":' + entry + b"}", struct.pack("<f", float("nan")))
    fixed("a name that climbs", b'{"../../etc/passwd":' + entry + b"}")
    fixed("a name of 1 MB", b'{"' + b"n" * (1 << 20) + b'":' + entry + b"}")
    fixed("an escape in a name", b'{"\\u001b[2J":' + entry + b"}")
    fixed("not UTF-8", b'{"\xff":' + entry + b"}")
    fixed("a byte order mark", b"\xef\xbb\xbf{}")
    fixed("a list", b"[]")
    fixed("trailing JSON", b"{}{}")


def paths() -> None:
    def special(name: str, make: Callable[[Path], None]) -> None:
        def build(path: Path, marker: Path) -> None:
            make(path)

        CASES[name] = build

    special("a FIFO", lambda p: os.mkfifo(p))
    special("a folder", lambda p: p.mkdir())
    special("a loop of links", lambda p: p.symlink_to(p))
    special("a link to nothing", lambda p: p.symlink_to(p.with_name("nothing")))
    special("a link to /dev/zero", lambda p: p.symlink_to("/dev/zero"))
    special("a link to /dev/stdin", lambda p: p.symlink_to("/dev/stdin"))
    special("a link to /proc/self/mem", lambda p: p.symlink_to("/proc/self/mem"))
    special("a link to /etc/passwd", lambda p: p.symlink_to("/etc/passwd"))
    special("a socket", _socket)
    special("a link to a folder", lambda p: p.symlink_to(p.parent))
    special("a link to a FIFO", _linked_fifo)
    special("a link to a good file", _linked_good)
    special("safetensors: a folder", lambda p: p.mkdir())
    special("safetensors: a FIFO", lambda p: os.mkfifo(p))
    special("safetensors: a link to /dev/zero", lambda p: p.symlink_to("/dev/zero"))
    special("an empty file", lambda p: p.touch())
    special("a file of 1 TiB of nothing", lambda p: _sparse(p, b"", 1 << 40))
    special("safetensors of 3 GiB of nothing", lambda p: _sparse(p, _header(3 << 30), 3 << 30))
    special("an archive of 3 GiB of nothing", lambda p: _sparse(p, b"PK\3\4", 3 << 30))
    special("a legacy file of 3 GiB of nothing", lambda p: _sparse(p, legacy(tail=b""), 3 << 30))


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's own name may have 100 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _linked_fifo(path: Path) -> None:
    other = path.with_name("fifo")
    other.unlink(missing_ok=True)
    os.mkfifo(other)
    path.symlink_to(other)


def _linked_good(path: Path) -> None:
    path.with_name("good").write_bytes(GOOD["zip"])
    path.symlink_to("good")


def _header(size: int) -> bytes:
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(text)) + text


def _sparse(path: Path, head: bytes, size: int) -> None:
    path.write_bytes(head)
    os.truncate(path, len(head) + size)


GOOD = {"safetensors": _header(16) + b"\1" * 16, "zip": archive(), "legacy": legacy()}


def truncations() -> None:
    for kind, blob in GOOD.items():
        for tenth in range(1, 10):
            cut = blob[: len(blob) * tenth // 10]
            CASES[f"{kind} cut at {tenth}0 %"] = lambda p, m, cut=cut: cut  # type: ignore[misc]


for fill in (programs, plain_names, views, floods, archives, headers, paths, truncations):
    fill()


def build(name: str, folder: Path) -> Path:
    """Make one file of the corpus; its name ends as its kind does."""
    path = (
        folder
        / f"{list(CASES).index(name):03}{'.safetensors' if name.startswith('safetensors: ') else '.pt'}"
    )
    blob = CASES[name](path, folder / MARKER)
    if blob is not None:
        path.write_bytes(blob)
    return path


def attempt(path: Path) -> tuple[str, str, float]:
    """Open and read everything: outcome, message, seconds."""
    from uapfast.errors import WeightsFileError
    from uapfast.safeload import open_checkpoint

    begin = time.perf_counter()
    try:
        with open_checkpoint(path) as found:
            found.sha256()
            for name in found.tensors:
                found.read(name)
        return "read", "", time.perf_counter() - begin
    except WeightsFileError as exc:
        return type(exc).__name__, str(exc), time.perf_counter() - begin


def main(folder: Path, names: list[str]) -> None:
    """Read what is named, or all; one file at a time, each removed after it."""
    from uapfast.safeload.pool import POOL

    files = {}
    for name in names or CASES:
        path = build(name, folder)
        files[name] = attempt(path)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    POOL.empty()
    peaks = [
        resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(json.dumps({"files": files, "peak_mib": peaks, "ran": (folder / MARKER).exists()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
