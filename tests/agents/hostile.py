"""Hostile files and the expected message for each; `make_all` writes them into a folder."""

import base64
import json
import os
import pickle
import shutil
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_pickles import ENTRIES, GOOD_ARRAY, NORMALIZES, call, normalize, number, text
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from zips import Drift, make_model, read_zip, write_zip


class Fires:
    """Unpickling an instance creates the file `fired` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / 'fired'}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def inner_zip(folder: Path, described: bytes, *, compression: int = 0, size: int = 16) -> bytes:
    members = {"p/data.pkl": described, "p/data/0": b"\0" * size, "p/version": b"3\n"}
    return write_zip(folder / "inner", members, compression=compression).read_bytes()


def described(entry: bytes) -> bytes:
    return b"\x80\x02}" + text("actor.mu.weight") + entry + b"s."


SHADOWED = b"\x80\x02" + call("collections.OrderedDict") + b"}" + text("keys") + number(1) + b"sb."
# Contents of `policy.pth`.
WEIGHTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "plain_pickle": (lambda folder: pickle.dumps(Fires(folder)), r"zip archive.*is not opened"),
    "legacy": (
        lambda folder: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Fires(folder), 2),
        r"in the format of PyTorch before 1\.6, which is not read",
    ),
    "program": (
        lambda folder: inner_zip(folder, b"\x80\x02" + pickle.dumps(Fires(folder), 2)[2:]),
        r"has the name posix\.system, which is not part of a network's weights",
    ),
    "shadowed": (
        lambda folder: inner_zip(folder, SHADOWED),
        r"must contain a dictionary of tensors",
    ),
    "squeezed": (
        lambda folder: inner_zip(
            folder, described(b"N"), compression=zipfile.ZIP_DEFLATED, size=50_000_000
        ),
        r"unpacks to more than 100 times its size",
    ),
    "no_byte_order": (
        lambda folder: write_zip(
            folder / "inner",
            {"p/data.pkl": b"\x80\x02}.", "p/version": b"3\n", "p/byteorder": b"middle"},
        ).read_bytes(),
        r"PyTorch cannot read",
    ),
    "two_programs": (
        lambda folder: write_zip(
            folder / "inner", {"a/data.pkl": b"", "b/data.pkl": b""}
        ).read_bytes(),
        r"must have one 'data\.pkl'",
    ),
    "an_agent": (lambda folder: (folder / "good.zip").read_bytes(), r"must have one 'data\.pkl'"),
}


# -------------------------------------------------------------------------------------- archives


def with_member(
    member: str, content: bytes = b"", *, method: int = 0, mode: int = 0
) -> Callable[[Path], None]:
    """The good agent with an additional member."""

    def make(path: Path) -> None:
        shutil.copy(path.parent / "good.zip", path)
        info = zipfile.ZipInfo("member")
        info.filename, info.compress_type, info.external_attr = member, method, mode << 16
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a member that occurs twice
            archive.writestr(info, content)

    return make


def patch(
    make: Callable[[Path], None], member: str, *, at: int, new: bytes
) -> Callable[[Path], None]:
    """Change the archive's directory entry of a member, at an offset into its record."""

    def changed(path: Path) -> None:
        make(path)
        data = bytearray(path.read_bytes())
        start = data.rindex(b"PK\x01\x02", 0, data.rindex(member.encode()))
        data[start + at : start + at + len(new)] = new
        path.write_bytes(data)

    return changed


BIG = 50_000_000
LINK = stat.S_IFLNK | 0o777
DEFLATED = zipfile.ZIP_DEFLATED
ARCHIVES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "parent": (with_member("../evil"), r"member '\.\./evil', whose name is not allowed"),
    "inner_parent": (with_member("a/../../evil"), r"whose name is not allowed"),
    "absolute": (with_member("/etc/evil"), r"member '/etc/evil', whose name"),
    "drive": (with_member("C:evil"), r"member 'C:evil', whose name"),
    "backslash": (with_member("..\\evil"), r"member '\.\.\\\\evil', whose name"),
    "nul": (
        patch(with_member("evilX"), "evilX", at=50, new=b"\0"),
        r"member 'evil\\x00', whose name|zip archive",
    ),
    "no_name": (with_member("a//b"), r"member 'a//b', whose name"),
    "duplicate": (with_member("data", b"{}"), r"member 'data' twice"),
    "link": (with_member("link", b"/etc/passwd", mode=LINK), r"member 'link', which is a link"),
    "encrypted": (
        patch(with_member("secret", b"x"), "secret", at=8, new=b"\x01"),
        r"member 'secret', which is encrypted",
    ),
    "bzip2": (with_member("b", b"x", method=zipfile.ZIP_BZIP2), r"compression method 12"),
    "lzma": (with_member("b", b"x", method=zipfile.ZIP_LZMA), r"compression method 14"),
    "bomb": (with_member("bomb", b"\0" * BIG, method=DEFLATED), r"'bomb', which unpacks to more"),
    "claims": (
        patch(with_member("claim", b"x"), "claim", at=24, new=struct.pack("<I", 2**32 - 2)),
        r"must unpack to at most 1073741824 bytes",
    ),
    "many": (
        lambda path: write_zip(path, {f"m{i}": b"" for i in range(10_001)}),
        r"at most 10000 members\. Got 10001",
    ),
    "prefixed": (
        lambda path: path.write_bytes(b"#!/bin/sh\n" + (path.parent / "good.zip").read_bytes()),
        r"must be a zip archive from its first byte",
    ),
}


def understated(path: Path) -> None:
    """Write weights that unpack to more than both of their headers state."""
    good = read_zip(path.parent / "good.zip")
    size = struct.pack("<I", len(good["policy.pth"]))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy.pth", good["policy.pth"])
        archive.writestr("data", good["data"])
    data = path.read_bytes()
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, struct.pack("<I", 99)))


ARCHIVES["understated"] = (understated, r"must be an intact zip archive.*Bad CRC-32")

# ----------------------------------------------------------------------------------------- all


def hostile_json(path: Path) -> None:
    """The good agent, each of whose pickled settings would fire; none is needed."""
    members = read_zip(path.parent / "good.zip")
    data = json.loads(members["data"])
    fires = base64.b64encode(pickle.dumps(Fires(path.parent.parent))).decode()
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = fires
    data["lr_schedule"] = {":type:": "<class 'function'>", ":serialized:": fires}
    write_zip(path, members | {"data": json.dumps(data).encode(), "pytorch_variables.pth": b"x"})


def make_all(folder: Path) -> dict[str, str]:
    """Write the files into `folder`; return the expected message of each, by file name."""
    make_model("SAC").save(folder / "good.zip")
    env = VecNormalize(DummyVecEnv([Drift]))
    env.reset()
    env.obs_rms.update(np.ones((3, 3)))
    env.save(str(folder / "good.pkl"))
    shutil.copy(folder / "good.zip", folder.parent / "good.zip")
    (folder / "unpickled.control").write_bytes(pickle.dumps(Fires(folder)))
    messages: dict[str, str] = {}
    good = read_zip(folder / "good.zip")
    for key, (entry, message) in ENTRIES.items():
        content = inner_zip(folder.parent, described(entry))
        write_zip(folder / f"weights_{key}.zip", good | {"policy.pth": content})
        messages[f"weights_{key}.zip"] = message
    for key, (make, message) in WEIGHTS.items():
        write_zip(folder / f"file_{key}.zip", good | {"policy.pth": make(folder.parent)})
        messages[f"file_{key}.zip"] = message
    for key, (write, message) in ARCHIVES.items():
        write(folder / f"archive_{key}.zip")
        messages[f"archive_{key}.zip"] = message
    for key, (content, message) in NORMALIZES.items():
        (folder / f"normalize_{key}.pkl").write_bytes(content)
        messages[f"normalize_{key}.pkl"] = message
    (folder / "normalize_fires.pkl").write_bytes(pickle.dumps(Fires(folder.parent)))
    messages["normalize_fires.pkl"] = (
        r"has the name posix\.system, which is not part of a VecNormalize"
    )
    with open(folder / "normalize_large.pkl", "wb") as stream:
        stream.truncate(2**26 + 1)
    messages["normalize_large.pkl"] = r"must have at most 67108864 bytes"
    hostile_json(folder / "settings.zip")
    (folder / "plain.pkl").write_bytes(normalize(GOOD_ARRAY))  # the base of the hostile files
    return messages
