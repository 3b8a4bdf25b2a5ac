"""Atomic folders and files of JSON and safetensors with checksums."""

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

from pgdiff.core.validation import PgdiffError
from pgdiff.version import __version__

FORMAT = 3
"""File format that this version writes. Older formats are read; newer ones raise an error."""

CONFIG, TENSORS, MANIFEST = "config.json", "model.safetensors", "manifest.json"


def save_folder(
    path: str | os.PathLike[str], config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write `config.json` and `model.safetensors` as one folder, atomically.

    "format" and "version" of the library are added to the configuration. An existing folder is
    replaced if this library wrote it; any other folder raises an error.

    Args:
        path: the folder.
        config: JSON values (tuples become lists).
        tensors: weights by name, on any device.

    Raises:
        PgdiffError: a weight is NaN or infinite (the message names it), the configuration is not
            valid JSON, the folder was not written by this library, or the disk is full.
    """
    stamped = {**config, "format": FORMAT, "version": library_version()}
    write_folder(path, json_files={CONFIG: stamped}, tensor_files={TENSORS: tensors})


def load_folder(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load a folder that `save_folder` wrote, after verifying every byte of it.

    Returns:
        The configuration (including "format" and "version") and the tensors, on `device`.

    Raises:
        PgdiffError: the folder is missing, incomplete, damaged, of a newer format, or holds NaN
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
    """Write JSON and safetensors files as one folder, atomically.

    The files are written to a hidden sibling folder and fsynced, the manifest is written last, and
    the sibling is renamed. Only one process at a time may write to a path.

    Raises:
        PgdiffError: as in `save_folder`.
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
        PgdiffError: as in `load_folder`.
    """
    target = resolve_device(device)
    folder = _find_folder(Path(path).resolve())
    contents = _read_verified(folder)
    json_files: dict[str, Any] = {}
    tensor_files: dict[str, dict[str, Tensor]] = {}
    for name in json_names:
        json_files[name] = _parse_json(_get_file(contents, name, folder), folder / name)
    for name in tensor_names:
        try:
            tensors = safetensors.torch.load(_get_file(contents, name, folder))
        except (SafetensorError, ValueError, KeyError) as error:
            raise PgdiffError(f"'{folder / name}' is not a safetensors file: {error}.") from error
        _check_finite(tensors, folder / name)
        tensor_files[name] = {key: tensor.to(target) for key, tensor in tensors.items()}
    return json_files, tensor_files


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a file atomically: a reader finds the old content or the new content.

    The content is written to a hidden sibling file and fsynced, and the sibling is renamed. Only
    one process at a time may write to a path. A killed process leaves the sibling, which the next
    call overwrites.

    Args:
        path: the file; missing folders are created.
        content: bytes, or text that is encoded as UTF-8.

    Returns:
        The path.

    Raises:
        PgdiffError: the file cannot be written (path and bytes); the old content remains.
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
    """Raise if a file cannot be written at `path`; for use before a long computation.

    The check creates missing folders and a small file next to the target, and removes them.

    Args:
        path: the file to be written later.
        name: name of the argument that holds the path, for the message.

    Raises:
        PgdiffError: the file cannot be written.
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
            f"`{name}` must be a path that can be written to. Got '{path}' ({error}). "
            "Choose another path."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()


def recover_folder(path: str | os.PathLike[str]) -> bool:
    """Repair a folder after a process was killed in `write_folder`; return True if it exists.

    Partial folders are removed. If the process was killed between the two renames of a
    replacement, the old folder is renamed back.
    """
    target = Path(path).resolve()
    aside = _previous(target)
    if not target.exists() and aside.is_dir():
        aside.rename(target)
    _remove(aside)
    _remove(target.with_name(f".{target.name}.partial"))
    return target.is_dir()


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of a module; names and shapes must match.

    Raises:
        PgdiffError: a tensor is missing, unexpected or of another shape; the module is then
            unchanged.
    """
    state = module.state_dict()
    missing = sorted(state.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - state.keys())
    if missing or unexpected:
        raise PgdiffError(
            f"The weights do not fit {type(module).__name__}: missing {missing[:3]}, unexpected "
            f"{unexpected[:3]}. They were saved from another network."
        )
    for name, tensor in state.items():
        if tensor.shape != tensors[name].shape:
            raise PgdiffError(
                f"The weights do not fit {type(module).__name__}: '{name}' must have shape "
                f"{tuple(tensor.shape)}. Got {tuple(tensors[name].shape)}."
            )
    module.load_state_dict(dict(tensors))


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return a device of this machine; "auto" selects CUDA if available, else the CPU.

    Raises:
        PgdiffError: the device is unknown, or this machine does not have it.
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
    """Rename `partial` to `target`; a reader finds the old or the new folder at any moment."""
    aside = _previous(target)
    if target.exists():
        _remove(aside)
        target.rename(aside)
    partial.rename(target)
    _sync_directory(target.parent)
    _remove(aside)


def _find_folder(target: Path) -> Path:
    if target.is_dir():
        return target
    aside = _previous(target)
    if not target.exists() and aside.is_dir():
        return aside  # a process was killed between the two renames of a replacement
    partial = target.with_name(f".{target.name}.partial")
    hint = f" An unfinished write is in '{partial}': save it again." if partial.is_dir() else ""
    raise PgdiffError(f"The folder '{target}' does not exist.{hint}")


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise PgdiffError(f"'{target}' must be a folder or a new path. Got a file.")
    if not target.is_dir():
        return
    present = {entry.name for entry in target.iterdir()}
    written: set[str] = set()
    if MANIFEST in present:
        try:
            written = {MANIFEST, *json.loads((target / MANIFEST).read_bytes())["files"]}
        except (ValueError, KeyError, TypeError):
            written = {n for n in present if Path(n).suffix in (".json", ".safetensors")}
    if stray := sorted(present - written):
        raise PgdiffError(
            f"'{target}' holds '{stray[0]}', which pgdiff did not write and which would be lost. "
            "Choose another folder, or remove its content."
        )


def _read_verified(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the manifest, verified by their SHA-256 sums."""
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise PgdiffError(
            f"'{folder}' has no {MANIFEST}: it is incomplete, or pgdiff did not write it. "
            "Save it again, or use an earlier folder."
        )
    raw = manifest_path.read_bytes()
    manifest = _parse_json(raw, manifest_path)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    _check_format(manifest, manifest_path)
    # The manifest has a canonical form, so that a changed byte in it is detected too.
    if not isinstance(files, dict) or raw != _json_bytes(manifest, MANIFEST):
        raise _damaged_error(manifest_path)
    contents: dict[str, bytes] = {}
    for name, entry in files.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise _damaged_error(manifest_path)
        file = folder / name
        if not file.is_file():
            raise PgdiffError(
                f"'{file}' is missing, although {MANIFEST} lists it. Copy the whole folder again, "
                "or use an earlier one."
            )
        if file.resolve().parent != folder:
            raise PgdiffError(
                f"'{file}' is a link out of its folder. Replace it by the file itself."
            )
        if not isinstance(entry, dict) or entry.get("bytes") != file.stat().st_size:
            raise _damaged_error(file)  # checked before reading: the file may be of any size
        data = file.read_bytes()
        if entry != {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}:
            raise _damaged_error(file)
        contents[name] = data
        if file.suffix == ".json":
            content = _parse_json(data, file)
            if name == CONFIG:
                _check_format(content, file)
            if isinstance(content, dict) and content.get("format") not in (
                None,
                manifest["format"],
            ):
                raise _damaged_error(manifest_path)
    return contents


def _check_format(content: Any, file: Path) -> None:
    number = content.get("format") if isinstance(content, dict) else None
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise PgdiffError(f"The `format` in '{file}' must be a positive integer. Got {number!r}.")
    if number > FORMAT:
        raise PgdiffError(
            f"'{file}' has format {number}; this pgdiff ({library_version()}) reads formats up to "
            f"{FORMAT}. Install a newer pgdiff."
        )


def _damaged_error(file: Path) -> PgdiffError:
    return PgdiffError(
        f"'{file}' is damaged: its SHA-256 sum does not match. Copy it again, or use an earlier "
        "one."
    )


def _get_file(contents: dict[str, bytes], name: str, folder: Path) -> bytes:
    if name not in contents:
        raise PgdiffError(f"'{folder}' must contain {name}. Got {sorted(contents)}.")
    return contents[name]


def _check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not tensor.isfinite().all():
            raise PgdiffError(f"The weight '{name}' of '{file}' must be finite. It has NaN or Inf.")


def _json_bytes(value: Any, name: str) -> bytes:
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PgdiffError(f"The content of {name} must be finite JSON values: {error}.") from error
    return (text + "\n").encode()


def _parse_json(data: bytes, file: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PgdiffError(f"'{file}' is damaged: it is not valid JSON ({error}).") from error


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


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """Write a JSON file atomically (see `write_whole`) and return its path.

    Args:
        path: the file; missing folders are created.
        content: finite JSON values.
    """
    return write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
