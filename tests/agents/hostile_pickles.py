"""Hostile pickles, instruction by instruction, and the expected message for each."""

import struct


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"\x8a\x06" + value.to_bytes(6, "little", signed=True)


def name(path: str) -> bytes:
    module, _, attribute = path.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(path: str, *arguments: str) -> bytes:
    return name(path) + b"(" + b"".join(map(text, arguments)) + b"tR"


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


# ------------------------------------------------------------------------------ pickles of weights


def storage(key: str = "0", *, kind: str = "torch.FloatStorage", count: int = 4) -> bytes:
    return b"(" + text("storage") + name(kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(held: bytes, shape: bytes, stride: bytes, hooks: bytes = b"") -> bytes:
    made = name("torch._utils._rebuild_tensor_v2") + b"(" + held + number(0) + shape + stride
    return made + b"\x89" + name("collections.OrderedDict") + b")R" + hooks + b"tR"


PAIR = numbers(2, 2)
NO_TENSOR = r"floating-point tensors by name"
MISFIT = r"do not fit its storage of 4 numbers"
# The only entry of a dictionary of weights.
ENTRIES: dict[str, tuple[bytes, str]] = {
    "call": (
        call("os.system", "ls"),
        r"has the name os\.system, which is not part of a network's weights",
    ),
    "posix": (call("posix.system", "ls"), r"has the name posix\.system, which"),
    "builtin": (call("builtins.compile", "1"), r"has the name builtins\.compile, which"),
    "python2": (call("__builtin__.apply", "1"), r"has the name __builtin__\.apply, which"),
    "runpy": (call("runpy.run_path", "x.py"), r"has the name runpy\.run_path, which"),
    "hub": (call("torch.hub.load", "a/b", "c"), r"has the name torch\.hub\.load, which"),
    "torch": (
        call("torch.serialization.load", "x"),
        r"has the name torch\.serialization\.load, which",
    ),
    "bytearray": (
        name("builtins.bytearray") + numbers(2**40) + b"R",
        r"builtins\.bytearray, which",
    ),
    "meta": (call("torch._utils._rebuild_meta_tensor_no_storage"), r"meta_tensor.*is not part of"),
    "terminal": (call("os\x1b[2J.system"), r"has the name os\\x1b\[2J\.system, which"),
    "new": (
        name("subprocess.Popen") + b"(" + text("ls") + b"t\x81",
        r"has the name subprocess\.Popen",
    ),
    "stacked": (text("os") + text("system") + b"\x93)R", r"has the name os\.system, which"),
    "stacked_numbers": (number(1) + number(2) + b"\x93)R", r"uses a name that is not a string"),
    "inst": (b"(" + text("ls") + b"ios\nsystem\n", r"the instruction INST, which no network's"),
    "obj": (b"(" + name("collections.OrderedDict") + b"o", r"the instruction OBJ, which no"),
    "obj_system": (b"(" + name("os.system") + text("ls") + b"o", r"has the name os\.system, which"),
    "extension": (b"\x82\x01", r"the instruction EXT1, which no"),
    "extension2": (b"\x83\x01\x00", r"the instruction EXT2, which no"),
    "extension4": (b"\x84\x01\x00\x00\x00", r"the instruction EXT4, which no"),
    "persistent": (b"Pos.system\n", r"the instruction PERSID, which no"),
    "outside": (text("os.system") + b"Q", NO_TENSOR),
    "storage_of_code": (
        tensor(b"(" + text("module") + name("torch.FloatStorage") + b"tQ", PAIR, PAIR),
        NO_TENSOR,
    ),
    "value_called": (text("a") + b")R", r"it calls an object that is not a name"),
    "result_called": (
        call("collections.OrderedDict") + b")R",
        r"it calls an object that is not a name",
    ),
    "hooks": (tensor(storage(), PAIR, PAIR, text("a") + text("b") + b"s"), NO_TENSOR),
    "no_storage": (
        tensor(storage("9"), PAIR, numbers(2, 1)),
        r"must have 4 numbers.*not in the file",
    ),
    "huge_storage": (
        tensor(storage(count=2**36), PAIR, numbers(2, 1)),
        r"must have 68719476736 numbers",
    ),
    "huge_shape": (tensor(storage(), numbers(2**36, 2), numbers(0, 0)), MISFIT),
    "beyond": (tensor(storage(), numbers(2), numbers(4)), MISFIT),
    "long_shape": (
        tensor(storage(), b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b"\x85", PAIR),
        NO_TENSOR,
    ),
    "negative": (tensor(storage(), numbers(-1), numbers(1)), NO_TENSOR),
    "doubling": (number(1) + b"q\x07h\x07\x86" * 200, NO_TENSOR),
    "deep": (number(1) + b"\x85" * 10**5, NO_TENSOR),
    "absent": (b"h\x63", r"must be an intact pickle.*: 99"),
    "unknown": (b"\xff", r"must be an intact pickle"),
    "pop": (b"0", r"the instruction POP, which no"),
    "mark": (b"((", r"must be an intact pickle"),
}


# ---------------------------------------------------------------------------------- VecNormalize

STATE = (
    b"}(" + text("norm_obs") + b"\x88" + text("clip_obs") + b"K\x0a" + text("epsilon") + b"K\x01"
)
NORMALIZE = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
RUNNING = "stable_baselines3.common.running_mean_std.RunningMeanStd"


def array(shape: bytes, *, kind: str = "f8", content: bytes = b"\0" * 24) -> bytes:
    dtype = name("numpy.dtype") + b"(" + text(kind) + b"\x89\x88tR(K\x03" + text("<") + b"NNNtb"
    made = name("numpy._core.multiarray._reconstruct") + b"(" + name("numpy.ndarray") + b"K\x00\x85"
    filled = b"C\x01btR(K\x01" + shape + dtype + b"\x89C" + bytes([len(content)]) + content
    return made + filled + b"tb"


def normalize(mean: bytes = b"N", *, var: bytes | None = None, more: bytes = b"") -> bytes:
    var = array(numbers(3)) if var is None else var
    running = name(RUNNING) + b")\x81}(" + text("mean") + mean + text("var") + var
    running += text("count") + b"K\x01ub"
    state = STATE + text("obs_rms") + running + more + b"u"
    return b"\x80\x04" + name(NORMALIZE) + b")\x81" + state + b"b."


GOOD_ARRAY = array(numbers(3))
PLAIN = r"`mean`.*numbers of a plain type"
NORMALIZES: dict[str, tuple[bytes, str]] = {
    "call": (
        normalize(call("os.system", "ls")),
        r"has the name os\.system, which is not part of a VecNormalize",
    ),
    "first": (
        call("os.system", "ls") + b"0" + normalize(GOOD_ARRAY),
        r"has the name os\.system, which",
    ),
    "aside": (
        normalize(GOOD_ARRAY, more=text("x") + call("nt.system", "ls")),
        r"has the name nt\.system",
    ),
    "in_key": (
        normalize(GOOD_ARRAY, more=call("os.getcwd") + b"N"),
        r"has the name os\.getcwd, which",
    ),
    "stacked": (
        normalize(text("posix") + text("system") + b"\x93)R"),
        r"has the name posix\.system",
    ),
    "memoized": (
        normalize(text("os") + b"\x94" + text("system") + b"\x94h\x00h\x01\x93)R"),
        r"has the name os\.system, which",
    ),
    "dotted": (normalize(text("numpy") + text("dtype.__class__") + b"\x93)R"), r"dtype\.__class__"),
    "getattr": (
        normalize(call("builtins.getattr", "a", "b")),
        r"has the name builtins\.getattr, which",
    ),
    "copyreg": (
        normalize(call("copyreg._reconstructor")),
        r"has the name copyreg\._reconstructor, which",
    ),
    "cloudpickle": (
        normalize(call("cloudpickle.loads")),
        r"has the name cloudpickle\.loads, which",
    ),
    "numpy_load": (normalize(call("numpy.load", "x")), r"has the name numpy\.load, which"),
    "new": (
        normalize(name("subprocess.Popen") + b")\x81"),
        r"has the name subprocess\.Popen, which",
    ),
    "new_with_names": (normalize(name(RUNNING) + b")}\x92"), r"the instruction NEWOBJ_EX"),
    "inst": (
        normalize(b"(" + text("ls") + b"ios\nsystem\n"),
        r"the instruction INST, which no Vec",
    ),
    "obj": (normalize(b"(" + name(RUNNING) + b"o"), r"the instruction OBJ, which no VecNormalize"),
    "extension": (normalize(b"\x82\x01"), r"the instruction EXT1, which"),
    "extension4": (normalize(b"\x84\x01\x00\x00\x00"), r"the instruction EXT4, which"),
    "persistent": (normalize(b"Pos.system\n"), r"the instruction PERSID, which"),
    "outside": (normalize(text("os.system") + b"Q"), r"refers to an object outside of it"),
    "buffer": (normalize(b"\x97"), r"the instruction NEXT_BUFFER, which"),
    "rebuilt": (
        normalize(name(RUNNING) + b")\x81}b}" + text("a") + b"Nsb"),
        r"sets the state of an object that has one already",
    ),
    "state_of_text": (normalize(text("a") + b"}b"), r"sets the state of an object that"),
    "objects": (normalize(array(numbers(3), kind="O8")), PLAIN),
    "records": (normalize(array(numbers(3), kind="V8")), PLAIN),
    "huge": (normalize(array(numbers(10**12))), PLAIN),
    "huge_planes": (normalize(array(numbers(24, 24, 24))), PLAIN),
    "negative": (normalize(array(numbers(-3))), PLAIN),
    "short": (normalize(array(numbers(3), content=b"\0" * 23)), PLAIN),
    "other_class": (GOOD_ARRAY + b".", r"must contain a VecNormalize"),
    "swapped": (
        normalize(GOOD_ARRAY).replace(RUNNING.encode()[-14:], b"XunningMeanStd"),
        r"Xunning",
    ),
    "doubling": (normalize(b"]" + b"\x94h\x00\x86" * 200), r"`mean`.*must be an array"),
    "deep": (normalize(b"N" + b"\x85" * 10**5), r"`mean`.*must be an array"),
    "cycle": (normalize(b"]q\x05h\x05a"), r"`mean`.*must be an array"),
    "absent": (normalize(b"h\x63"), r"must be an intact pickle.*: 99"),
    "long_text": (normalize(b"\x8d" + b"\xff" * 7 + b"\x7f"), r"must be an intact pickle"),
    "negative_long": (normalize(b"\x8b\xff\xff\xff\xff"), r"must be an intact pickle"),
    "digits": (normalize(b"I" + b"9" * 10**5 + b"\n"), r"must be an intact pickle"),
    "two_objects": (b"N" + normalize(GOOD_ARRAY), r"does not end with a single object"),
    "text_protocol": (b"(dp0\nS'a'\ncos\nsystem\n(S'ls'\ntRs.", r"the instruction DICT|os\.system"),
}
