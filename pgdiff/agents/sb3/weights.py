"""Safe reading of untrusted weights that `torch.save` wrote."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pgdiff.agents.sb3.archive import read_members, write_members
from pgdiff.agents.sb3.safe_pickle import Call, Name, Outside, read_pickle
from pgdiff.core.validation import PgdiffError

_DICTIONARY = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
}
_META = frozenset({"_metadata"})
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""Pickled magic number within the first bytes of files in PyTorch's format before 1.6."""
_MAX_NUMBER = 2**40
_MAX_TENSORS = 2000
_NAMES = frozenset({_DICTIONARY, _TENSOR, *_STORAGES})


@dataclass(frozen=True)
class _Header:
    dtype: torch.dtype
    storage: str
    available: int
    first: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_weights(data: bytes, *, where: str) -> dict[str, Tensor]:
    """Return the tensors of a state dictionary that `torch.save` wrote, on the CPU.

    The description of each tensor is parsed first (see `read_pickle`), and must match the bytes in
    the file. PyTorch then loads, with `weights_only=True`, an archive of the checked members only.

    Args:
        data: content of the file.
        where: name of the file, for errors.

    Raises:
        PgdiffError: the file is damaged, contains anything but floating-point tensors by name, or
            a tensor is larger than the file, NaN or infinite.
    """
    if _LEGACY in data[:32]:
        raise PgdiffError(
            f"'{where}' is in the format of PyTorch before 1.6, which is not read because it "
            "cannot be checked before loading. If you trust the file, load the agent with "
            "Stable-Baselines3 and save it again: model = SAC.load(PATH); model.save(PATH)."
        )
    if not data.startswith(b"PK"):
        raise PgdiffError(
            f"'{where}' must be a zip archive as torch.save writes. It is another file, such as a "
            "pickle, and is not opened."
        )
    members = read_members(data, where=where)
    if any(name.endswith("/constants.pkl") for name in members):
        raise PgdiffError(f"'{where}' must contain weights only. It has a TorchScript program.")
    described = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(described) != 1:
        raise PgdiffError(f"'{where}' must have one 'data.pkl', as torch.save writes it.")
    folder = described[0].removesuffix("data.pkl")
    for name, header in _read_headers(members[described[0]], where=where).items():
        content = members.get(f"{folder}data/{header.storage}")
        _check_header(header, content, name=name, where=where)
    try:
        loaded = torch.load(write_members(members), map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch does not document the exceptions
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise PgdiffError(f"PyTorch cannot read '{where}': {reason}.") from error
    weights = dict(loaded)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise PgdiffError(
                f"The weight '{name}' of '{where}' must be finite. It has NaN or Inf."
            )
    return weights


def _read_headers(pickle: bytes, *, where: str) -> dict[str, _Header]:
    if not pickle.startswith(b"\x80\x02"):
        raise PgdiffError(f"'{where}' must contain a pickle of protocol 2, as torch.save writes.")
    what = "network's weights"
    state = read_pickle(pickle, names=_NAMES, what=what, where=where, outside=True)
    entries = _dictionary_items(state)
    if entries is None:
        raise PgdiffError(f"'{where}' must contain a dictionary of tensors. It has something else.")
    if len(entries) > _MAX_TENSORS:
        raise PgdiffError(
            f"'{where}' must contain at most {_MAX_TENSORS} tensors. Got {len(entries)}."
        )
    headers: dict[str, _Header] = {}
    for name, node in entries:
        header = _read_header(node)
        if not isinstance(name, str) or header is None or name in headers:
            shown = repr(name[:100]) if isinstance(name, str) else f"under a {type(name).__name__}"
            raise PgdiffError(
                f"'{where}' must contain floating-point tensors by name and nothing else. "
                f"Its entry {shown} is not a tensor, or is duplicated."
            )
        headers[name] = header
    return headers


def _dictionary_items(node: object) -> list[tuple[object, object]] | None:
    if isinstance(node, dict):
        return list(node.items())
    if not isinstance(node, Call) or node.name != Name(_DICTIONARY) or node.arguments:
        return None
    # A state dictionary also has an attribute with the versions of its modules.
    if node.state is not None and not (isinstance(node.state, dict) and {*node.state} <= _META):
        return None
    return list(node.items)


def _read_header(node: object) -> _Header | None:
    match node:
        case Call(
            name=Name(path=path),
            arguments=(
                Outside(
                    identity=("storage", Name(path=kind), str(key), str(), int(available)),
                ),
                int(first),
                tuple(shape),
                tuple(stride),
                bool(),
                Call(name=Name(path=hooks), arguments=(), state=None, items=[]),
            ),
            state=None,
            items=[],
        ) if path == _TENSOR and hooks == _DICTIONARY and kind in _STORAGES:
            numbers = (available, first, *shape[:9], *stride[:9])
            sensible = all(isinstance(n, int) and 0 <= n < _MAX_NUMBER for n in numbers)
            if sensible and len(shape) == len(stride) <= 8:
                return _Header(_STORAGES[kind], key, available, first, shape, stride)
    return None


def _check_header(header: _Header, content: bytes | None, *, name: str, where: str) -> None:
    shape, stride = header.shape, header.stride
    count = math.prod(shape)
    bad = count > header.available  # a stride of 0 would be expanded later
    if not bad and count > 0:
        reach = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        bad = header.first + reach >= header.available
    if bad:
        raise PgdiffError(
            f"The weight '{name}' of '{where}' has the shape {shape} and the strides "
            f"{stride}, which do not fit its storage of {header.available} numbers."
        )
    size = None if content is None else len(content)
    if size != header.available * header.dtype.itemsize:
        actual = "They are not in the file" if size is None else f"It has {size} bytes"
        raise PgdiffError(
            f"The weight '{name}' of '{where}' must have {header.available} numbers of "
            f"{header.dtype.itemsize} bytes. {actual}."
        )
