"""Folders that are either whole or absent.

A folder is `config.json` + `model.safetensors` + a manifest of
SHA-256 sums that is written last; it appears under its name by one rename, so a killed process
leaves the old folder or the new one, never a mixture.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pgdiff.validation import PgdiffError
from pgdiff.version import __version__

FORMAT = 2
"""The format that this library writes. Older ones are read; newer ones are refused."""

CONFIG, TENSORS, MANIFEST = "config.json", "model.safetensors", "manifest.json"


def save_folder(
    path: str | os.PathLike[str], config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write `config.json` and `model.safetensors` as one folder, all or nothing.

    "format" and "version" of the library are added to the configuration. A folder of the same
    name that was written by this library is replaced; any other is left alone and refused.

    Args:
        path: the folder.
        config: JSON values (tuples become lists).
        tensors: weights by name, on any device.

    Raises:
        PgdiffError: NaN or infinite weights (by name), a configuration that is no JSON, a folder
            that is not this library's, or a disk that is full.
    """
    stamped = {**config, "format": FORMAT, "version": library_version()}
    write_folder(path, json_files={CONFIG: stamped}, tensor_files={TENSORS: tensors})


def load_folder(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_folder` wrote, after verifying every byte of it.

    Returns:
        The configuration ("format" and "version" included) and the tensors, on `device`.

    Raises:
        PgdiffError: the folder is absent, half-written, damaged, of a newer format, or holds NaN
            weights.
    """
    json_files, tensor_files = read_folder(
        path, json_names=[CONFIG], tensor_names=[TENSORS], device=device
    )
    return json_files[CONFIG], tensor_files[TENSORS]


def write_folder(
    path: str | os.PathLike[str],
    *,
    json_files: Mapping[str, Any],
    tensor_files: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Write JSON and safetensors files as one folder, all or nothing.

    The files go to a hidden sibling folder, each is fsynced, the manifest is written last, and
    the sibling is renamed. One process at a time may write one path.

    Raises:
        PgdiffError: as `save_folder`.
    """
    target = Path(path).resolve()
    contents = {name: _json_bytes(value, name) for name, value in json_files.items()}
    for name, tensors in tensor_files.items():
        _check_finite(tensors, target / name)
        # Copies: safetensors refuses tensors that share memory (tied weights).
        plain = {key: t.detach().cpu().clone().contiguous() for key, t in tensors.items()}
        contents[name] = safetensors.torch.save(plain)
    sums = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in contents.items()
    }
    _check_replaceable(target)
    partial = target.with_name(f".{target.name}.partial")
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        for name, data in contents.items():
            _write_synced(partial / name, data)
        _write_synced(partial / MANIFEST, _json_bytes({"format": FORMAT, "files": sums}, MANIFEST))
        _sync_directory(partial)
        _swap(partial, target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        size = sum(map(len, contents.values()))
        raise PgdiffError(f"Cannot write '{target}' ({size} bytes): {error}.") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_folder(
    path: str | os.PathLike[str],
    *,
    json_names: Iterable[str],
    tensor_names: Iterable[str],
    device: str | torch.device = "cpu",
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read the named files of a folder, after verifying every byte of all its files.

    Raises:
        PgdiffError: as `load_folder`.
    """
    where = resolve_device(device)
    folder = _existing(Path(path).resolve())
    contents = _verified(folder)
    json_files: dict[str, Any] = {}
    tensor_files: dict[str, dict[str, Tensor]] = {}
    for name in json_names:
        json_files[name] = _parse_json(_pick(contents, name, folder), folder / name)
    for name in tensor_names:
        try:
            tensors = safetensors.torch.load(_pick(contents, name, folder))
        except (SafetensorError, ValueError, KeyError) as error:
            raise PgdiffError(f"'{folder / name}' is no safetensors file: {error}.") from error
        _check_finite(tensors, folder / name)
        tensor_files[name] = {key: tensor.to(where) for key, tensor in tensors.items()}
    return json_files, tensor_files


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write one file so that a reader finds the old content or the new, never a part.

    The content goes to a hidden sibling, is flushed to the disk, and the sibling is renamed. One
    process at a time may write one path. What a killed one leaves is the sibling, which the next
    takes.

    Args:
        path: of the file; its folder is made where it is absent.
        content: bytes, or text that is written as UTF-8.

    Returns:
        The path.

    Raises:
        PgdiffError: it cannot be written (path and bytes); the old content then stays.
    """
    target = Path(path)
    data = content.encode() if isinstance(content, str) else content
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(partial, data)
        partial.replace(target)
        _sync_directory(target.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise PgdiffError(f"Cannot write '{target}' ({len(data)} bytes): {error}.") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return target


def check_writable(path: str | os.PathLike[str], *, name: str = "out") -> None:
    """Raise an error unless a file can be written at `path`; for use before a long computation.

    It is tried out: folders that are missing are made and a small file is written beside the
    target. All of it is taken away again.

    Args:
        path: of the file that is to be written.
        name: of the setting that it comes from.

    Raises:
        PgdiffError: it cannot be written.
    """
    target = Path(path).absolute()
    made: list[Path] = []
    probe = target.with_name(f".{target.name}.probe")
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        for folder in reversed(target.parents):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        probe.write_bytes(b"probe")
    except OSError as error:
        raise PgdiffError(
            f"`{name}` must be a place that can be written to. Got '{path}' ({error}). "
            "Name another place."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()


def recover_folder(path: str | os.PathLike[str]) -> bool:
    """Clear away what a process killed within `write_folder` has left; return if a folder is there.

    Where it was killed between the two renames of a replacement, the old folder gets its name
    back.
    """
    target = Path(path).resolve()
    aside = _previous(target)
    if not target.exists() and aside.is_dir():
        aside.rename(target)
    _remove(aside)
    _remove(target.with_name(f".{target.name}.partial"))
    return target.is_dir()


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module's parameters and buffers; every name and shape must fit.

    Raises:
        PgdiffError: a tensor is missing, left over or of another shape; the module is then
            unchanged.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        raise PgdiffError(
            f"The weights do not fit {type(module).__name__}: missing {missing[:3]}, left over "
            f"{extra[:3]}. They were saved from another network."
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise PgdiffError(
                f"The weights do not fit {type(module).__name__}: '{name}' must have shape "
                f"{tuple(tensor.shape)}. Got {tuple(tensors[name].shape)}."
            )
    module.load_state_dict(dict(tensors))


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return a usable device; "auto" is CUDA where there is one, else the CPU.

    Raises:
        PgdiffError: no such device, or it is not on this machine.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PgdiffError(
            f"`device` must be 'auto', 'cpu' or a device of this machine. Got "
            f"{device!r} ({reason})."
        ) from error
    return chosen


def library_version() -> str:
    """Return the version of pgdiff."""
    return __version__


# ------------------------------------------------------------------------------------------ details


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _swap(partial: Path, target: Path) -> None:
    """Give `partial` the target's name; a reader finds the old or the new one at any moment."""
    aside = _previous(target)
    if target.exists():
        _remove(aside)
        target.rename(aside)
    partial.rename(target)
    _sync_directory(target.parent)
    _remove(aside)


def _existing(target: Path) -> Path:
    if target.is_dir():
        return target
    aside = _previous(target)
    if not target.exists() and aside.is_dir():
        return aside  # a replacement was cut off between its two renames
    partial = target.with_name(f".{target.name}.partial")
    hint = f" An unfinished write is in '{partial}': write it anew." if partial.is_dir() else ""
    raise PgdiffError(f"There is no folder '{target}'.{hint}")


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise PgdiffError(f"'{target}' is a file; a folder cannot be written in its place.")
    if not target.is_dir():
        return
    present = {entry.name for entry in target.iterdir()}
    ours: set[str] = set()
    if MANIFEST in present:
        try:
            ours = {MANIFEST, *json.loads((target / MANIFEST).read_bytes())["files"]}
        except (ValueError, KeyError, TypeError):
            ours = {name for name in present if Path(name).suffix in (".json", ".safetensors")}
    if stray := sorted(present - ours):
        raise PgdiffError(
            f"'{target}' holds '{stray[0]}', which was not written with it, and would be lost. "
            "Choose another folder, or remove what is there."
        )


def _verified(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the manifest, each hashed from the bytes returned."""
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise PgdiffError(
            f"'{folder}' has no {MANIFEST}: it is half-written or no folder of this library. "
            "Save it again, or go back to an earlier one."
        )
    raw = manifest_path.read_bytes()
    manifest = _parse_json(raw, manifest_path)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    _check_format(manifest, manifest_path)
    # The manifest is written in one form only, so that a changed byte in it cannot pass either.
    if not isinstance(files, dict) or raw != _json_bytes(manifest, MANIFEST):
        raise _damaged(manifest_path)
    contents: dict[str, bytes] = {}
    for name, entry in files.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise _damaged(manifest_path)
        file = folder / name
        if not file.is_file():
            raise PgdiffError(
                f"'{file}' is missing, though {MANIFEST} lists it. Copy the whole folder again, or "
                "go back to an earlier one."
            )
        if file.resolve().parent != folder:
            raise PgdiffError(
                f"'{file}' is a link that leads out of its folder. Put the file itself there."
            )
        if not isinstance(entry, dict) or entry.get("bytes") != file.stat().st_size:
            raise _damaged(file)  # before it is read: it may be of any size
        data = file.read_bytes()
        if entry != {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}:
            raise _damaged(file)
        contents[name] = data
        if name == CONFIG:
            _check_format(_parse_json(data, file), file)
    return contents


def _check_format(content: Any, file: Path) -> None:
    number = content.get("format") if isinstance(content, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise PgdiffError(
            f"'{file}' must state its `format` as a positive integer. Got {number!r}."
        )
    if number > FORMAT:
        raise PgdiffError(
            f"'{file}' has format {number}; this pgdiff ({library_version()}) reads formats up to "
            f"{FORMAT}. Install a newer pgdiff."
        )


def _damaged(file: Path) -> PgdiffError:
    return PgdiffError(
        f"'{file}' is damaged: its content is not what was written (SHA-256). Copy it again, or "
        "go back to an earlier one."
    )


def _pick(contents: dict[str, bytes], name: str, folder: Path) -> bytes:
    if name not in contents:
        raise PgdiffError(f"'{folder}' holds no {name}; it has {sorted(contents)}.")
    return contents[name]


def _check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not tensor.isfinite().all():
            raise PgdiffError(f"The weight '{name}' of '{file}' must be finite. It has NaN or Inf.")


def _json_bytes(value: Any, name: str) -> bytes:
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PgdiffError(f"What goes into {name} must be plain, finite JSON: {error}.") from error
    return (text + "\n").encode()


def _parse_json(data: bytes, file: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PgdiffError(f"'{file}' is no JSON: {error}. It is damaged.") from error


def _write_synced(file: Path, data: bytes) -> None:
    with open(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(folder: Path) -> None:
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
