"""Observation statistics of Stable-Baselines3's `VecNormalize`."""

import math
import os
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.agents.sb3.archive import read_file
from pgdiff.agents.sb3.safe_pickle import Call, Name, read_pickle
from pgdiff.core.validation import PgdiffError

_MAX_BYTES = 2**26
_VEC_NORMALIZE = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
_STATISTICS = "stable_baselines3.common.running_mean_std.RunningMeanStd"
_ARRAYS = ("numpy.core", "numpy._core")  # before and since NumPy 2
_RECONSTRUCT = frozenset(f"{core}.multiarray._reconstruct" for core in _ARRAYS)
_FROM_BUFFER = frozenset(f"{core}.numeric._frombuffer" for core in _ARRAYS)
_SCALAR = frozenset(f"{core}.multiarray.scalar" for core in _ARRAYS)
_SPACES = (
    *("box.Box", "dict.Dict", "discrete.Discrete", "multi_binary.MultiBinary"),
    *("multi_discrete.MultiDiscrete", "sequence.Sequence", "text.Text", "tuple.Tuple"),
)
_COLLECTIONS = ("frozenset", "list", "set", "tuple")
_NAMES = frozenset(
    {
        _VEC_NORMALIZE,
        _STATISTICS,
        "numpy.dtype",
        "numpy.ndarray",
        *_RECONSTRUCT,
        *_FROM_BUFFER,
        *_SCALAR,
        *(f"{gym}.spaces.{space}" for gym in ("gym", "gymnasium") for space in _SPACES),
        # Random generators of spaces that were sampled.
        "gym.utils.seeding.RandomNumberGenerator",
        "gym.utils.seeding.RandomNumberGenerator._generator_ctor",
        "numpy.random._pickle.__generator_ctor",
        "numpy.random._pickle.__bit_generator_ctor",
        "numpy.random._pickle.__randomstate_ctor",
        "numpy.random._pcg64.PCG64",
        "numpy.random._mt19937.MT19937",
        "numpy.random.bit_generator.SeedSequence",
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
        "collections.OrderedDict",
        "collections.deque",
        # Keys of a Dict in some versions.
        *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in _COLLECTIONS),
    }
)
_DTYPES = frozenset({"f4", "f8", "i4", "i8", "u4", "u8"})


class VecNormalizeStatistics(nn.Module):
    """Observation scaling of `VecNormalize`: `(o - mean) / sqrt(var + epsilon)`, clipped.

    Args:
        mean: running mean of the observations, in raw units.
        var: running variance of the observations.
        clip: largest absolute value of the result.
        epsilon: added to the variance.

    Example:
        >>> statistics = VecNormalizeStatistics(torch.zeros(1), torch.full((1,), 4.0))
        >>> statistics(torch.tensor([[1.0], [100.0]]))
        tensor([[ 0.5000],
                [10.0000]])
    """

    mean: Tensor
    var: Tensor

    def __init__(
        self,
        mean: Float[Tensor, " observation"],
        var: Float[Tensor, " observation"],
        *,
        clip: float = 10.0,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("var", var)
        self.clip = float(clip)
        self.epsilon = float(epsilon)
        self._running: Any = None

    @classmethod
    def of(cls, vec_normalize: Any) -> Self | None:
        """Return statistics that follow a live `VecNormalize`; None without `norm_obs`.

        Raises:
            PgdiffError: observations are dictionaries.
        """
        if not vec_normalize.norm_obs:
            return None
        running = vec_normalize.obs_rms
        if isinstance(running, dict):
            raise _dictionaries("The model's VecNormalize")
        statistics = cls(
            torch.as_tensor(running.mean).clone(),
            torch.as_tensor(running.var).clone(),
            clip=vec_normalize.clip_obs,
            epsilon=vec_normalize.epsilon,
        )
        statistics._running = running
        return statistics

    def forward(
        self, observation: Float[Tensor, "*batch observation"]
    ) -> Float[Tensor, "*batch observation"]:
        """Scale raw observations; differentiable, with zero gradient where clipped."""
        if self._running is not None:  # training may have continued
            self.mean.copy_(torch.as_tensor(self._running.mean))
            self.var.copy_(torch.as_tensor(self._running.var))
        scaled = (observation - self.mean) / torch.sqrt(self.var + self.epsilon)
        return scaled.clamp(-self.clip, self.clip)


def read_vec_normalize(path: str | os.PathLike[str]) -> VecNormalizeStatistics | None:
    """Read the statistics of a saved `VecNormalize`, without unpickling it.

    The pickle is parsed by `pgdiff.agents.sb3.safe_pickle`: nothing in it is imported or called,
    and names that do not belong to a `VecNormalize` are refused.

    Args:
        path: the file of `VecNormalize.save`, such as "vecnormalize.pkl".

    Returns:
        The statistics; None if observations are not scaled (`norm_obs=False`).

    Raises:
        PgdiffError: the file is missing, damaged, of another kind, or contains foreign names;
            observations are dictionaries; statistics are not finite, negative or of different
            shapes.

    Example:
        >>> import tempfile
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> from stable_baselines3.common.vec_env import VecNormalize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     VecNormalize(make_vec_env("Pendulum-v1")).save(f"{folder}/vecnormalize.pkl")
        ...     statistics = read_vec_normalize(f"{folder}/vecnormalize.pkl")
        >>> statistics.mean.shape
        torch.Size([3])
    """
    where = os.fspath(path)
    data = read_file(path, limit=_MAX_BYTES)
    node = read_pickle(data, names=_NAMES, what="VecNormalize", where=where)
    state = _state(node, _VEC_NORMALIZE, where=where)
    scales = _item(state, "norm_obs", where=where)
    if not isinstance(scales, bool):
        raise PgdiffError(
            f"`norm_obs` of '{where}' must be True or False. Got a {type(scales).__name__}."
        )
    if not scales:
        return None
    running = _item(state, "obs_rms", where=where)
    if isinstance(running, dict):
        raise _dictionaries(f"'{where}'")
    statistics = _state(running, _STATISTICS, where=where)
    mean, var = (_read_array(statistics, key, where=where) for key in ("mean", "var"))
    if mean.ndim != 1 or mean.shape != var.shape:
        raise PgdiffError(
            f"`mean` and `var` of '{where}' must have one dimension and equal shapes. "
            f"Got {mean.shape} and {var.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise PgdiffError(f"`mean` and `var` of '{where}' must be finite, and `var` at least 0.")
    _read_number(statistics, "count", where=where)
    clip = _read_number(state, "clip_obs", where=where)
    epsilon = _read_number(state, "epsilon", where=where)
    return VecNormalizeStatistics(
        torch.from_numpy(mean), torch.from_numpy(var), clip=clip, epsilon=epsilon
    )


def _dictionaries(where: str) -> PgdiffError:
    return PgdiffError(
        f"{where} must normalise observations that are arrays. It normalises dictionaries, "
        "which agents here do not support. Train the agent in an environment within "
        "gymnasium.wrappers.FlattenObservation, and save its VecNormalize again."
    )


def _state(node: object, name: str, *, where: str) -> dict[str, Any]:
    if isinstance(node, Call) and node.name == Name(name) and isinstance(node.state, dict):
        return node.state
    raise PgdiffError(f"'{where}' must contain a {name.rpartition('.')[2]}. It has something else.")


def _item(state: dict[str, Any], key: str, *, where: str) -> Any:
    if key not in state:
        raise PgdiffError(f"'{where}' has no `{key}`. It is damaged, or not a VecNormalize.")
    return state[key]


def _read_number(state: dict[str, Any], key: str, *, where: str) -> float:
    value = _item(state, key, where=where)
    match value:
        case Call(name=Name(path=path), arguments=(kind, bytes(content))) if path in _SCALAR:
            value = _decode(kind, content, (), key=key, where=where).item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise PgdiffError(f"`{key}` of '{where}' must be a number above 0. Got {str(value)[:100]}.")
    return float(value)


def _read_array(state: dict[str, Any], key: str, *, where: str) -> np.ndarray:
    match _item(state, key, where=where):
        # `_reconstruct(ndarray, (0,), b"b")`, with the state version, shape, dtype, flag of
        # Fortran's order, content; and protocol 5's `_frombuffer(content, dtype, shape, order)`.
        case Call(name=Name(path=path), state=(1, tuple(shape), kind, bool(), bytes(content))) if (
            path in _RECONSTRUCT
        ):
            pass
        case Call(
            name=Name(path=path), arguments=(bytes() | bytearray() as content, kind, shape, _)
        ) if path in _FROM_BUFFER and isinstance(shape, tuple):
            pass
        case _:
            raise PgdiffError(f"`{key}` of '{where}' must be an array of numbers.")
    return _decode(kind, content, shape, key=key, where=where).astype(np.float64)


def _decode(
    kind: object, content: bytes | bytearray, shape: tuple[Any, ...], *, key: str, where: str
) -> np.ndarray:
    """Return numbers from their bytes, if the byte count matches the shape."""
    match kind:
        case Call(
            name=Name(path="numpy.dtype"), arguments=(str(code), *_), state=(_, str(order), *_)
        ) if code in _DTYPES and order in ("<", ">", "="):
            dtype = np.dtype(order + code)
            fits = all(isinstance(n, int) and 0 <= n <= len(content) for n in shape)
            if fits and math.prod(shape) * dtype.itemsize == len(content) and len(shape) <= 1:
                return np.frombuffer(content, dtype=dtype).reshape(shape)
    raise PgdiffError(f"`{key}` of '{where}' must be numbers of a plain type that match its shape.")
