"""Pickles of many kinds that want to run code, or to stand for endless work or memory: hostile() -> name -> pickle.

Code that runs leaves a file named RAN in the current folder.
"""

import pickle
import zlib
from collections.abc import Iterator

RAN = "ran-code"
RUNS = "code ran"  # what a reader says then
SHELL = f"echo ran > {RAN}"
PYTHON = f"open('{RAN}', 'w').close()"
DOUBLE = b"q\x00h\x00\x86"  # the object on the stack becomes a tuple that holds it two times
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(dotted: str) -> bytes:
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def strings(values: list[str] | tuple[str, ...]) -> bytes:
    return b"(" + b"".join(map(text, values)) + b"t"


# What runs code when it is called with these texts.
CALLS: dict[str, tuple[str, ...]] = {
    "os.system": (SHELL,), "posix.system": (SHELL,), "nt.system": (SHELL,), "os.popen": (SHELL,),
    "subprocess.getoutput": (SHELL,), "subprocess.getstatusoutput": (SHELL,), "commands.getoutput": (SHELL,),
    "builtins.eval": (PYTHON,), "builtins.exec": (PYTHON,), "__builtin__.eval": (PYTHON,),
    "__builtin__.execfile": (RAN,), "builtins.__import__": ("antigravity",),
    "importlib.import_module": ("antigravity",), "builtins.open": (RAN, "w"), "io.open": (RAN, "w"),
    "_io.FileIO": (RAN, "w"), "codecs.open": (RAN, "w"), "os.mkdir": (RAN,), "posix.mkfifo": (RAN,),
    "os.mknod": (RAN,), "shutil.rmtree": (RAN,), "shutil.copyfile": ("/etc/hosts", RAN), "os.symlink": ("/", RAN),
    "timeit.timeit": (PYTHON,), "cProfile.run": (PYTHON,), "profile.run": (PYTHON,), "pdb.run": (PYTHON,),
    "code.interact": (PYTHON,), "runpy.run_path": (RAN,), "pty.spawn": ("true",), "webbrowser.open": ("file:///",),
    "ctypes.CDLL": ("libc.so.6",), "_ctypes.dlopen": ("libc.so.6",), "numpy.load": (RAN,), "torch.load": (RAN,),
    "torch.jit.load": (RAN,), "torch.hub.load": ("a/b", "c"), "torch.ops.load_library": (RAN,),
    "torch.save": ("a", RAN), "torch.utils.collect_env.run": (SHELL,), "torch.serialization.load": (RAN,),
    "torch.package.PackageImporter": (RAN,), "torch.utils.cpp_extension.load": ("a", RAN),
    "torch.classes.load_library": (RAN,), "logging.FileHandler": (RAN,), "zipfile.ZipFile": (RAN, "w"),
    "tempfile.mkdtemp": (".",), "tarfile.open": (RAN, "w"), "pickle.loads": ("a",), "marshal.loads": ("a",),
    "builtins.compile": (PYTHON, "a", "exec"), "builtins.getattr": ("a", "upper"), "builtins.input": (RAN,),
    "builtins.breakpoint": (), "builtins.vars": (), "builtins.globals": (), "sys.exit": ("2",), "os.abort": (),
    "os.fork": (), "os._exit": (), "faulthandler._sigsegv": (), "signal.pause": (), "time.sleep": ("1",),
    "torch.manual_seed": ("7",), "torch.set_default_dtype": ("a",), "w2v.files.write_text": (RAN, "ran"),
    "recipes.cv_finetune.main": (), "argparse.FileType.open": (RAN,), "typing.get_type_hints": (RAN,),
    "fairseq.utils.import_user_module": (RAN,), "omegaconf.OmegaConf.load": (RAN,),
    "collections.namedtuple": ("a", PYTHON), "enum.Enum": ("A", PYTHON), "numpy.f2py.compile": (PYTHON,),
    "numpy.memmap": (RAN,), "pathlib.Path.touch": (RAN,),
}  # fmt: skip


def _forms() -> Iterator[tuple[str, bytes]]:
    """One call in every way that a pickle can spell it."""
    system, arg = name("posix.system"), text(SHELL)
    proto2, proto4 = b"\x80\x02", b"\x80\x04"
    yield "REDUCE of protocol 0", b"cposix\nsystem\n(S'" + SHELL.encode() + b"'\ntR."
    yield "INST", b"(S'" + SHELL.encode() + b"'\niposix\nsystem\n."
    yield "OBJ", b"(" + system + arg + b"o."
    yield "STACK_GLOBAL", proto4 + text("posix") + text("system") + b"\x93" + arg + b"\x85R."
    yield "STACK_GLOBAL of a dotted name", proto4 + text("os") + text("path.os.system") + b"\x93" + arg + b"\x85R."
    yield "GLOBAL of a dotted name", proto4 + b"ctorch\nserialization.os.system\n" + arg + b"\x85R."
    yield "GLOBAL of typing's modules", proto4 + b"ctyping\nsys.modules\n" + arg + b"\x85R."
    yield "GLOBAL beside collections", proto4 + b"ccollections\n_sys.exit\n)R."
    yield "NEWOBJ", proto2 + name("subprocess.Popen") + strings(["true"]) + b"\x81."
    yield "NEWOBJ_EX", proto4 + name("subprocess.Popen") + strings(["true"]) + b"}\x92."
    yield "NEWOBJ_EX with names", proto4 + name("subprocess.Popen") + b")}" + text("args") + text("true") + b"s\x92."
    yield "EXT1", proto2 + b"\x82\x01)R."
    yield "EXT2", proto2 + b"\x83\x01\x00)R."
    yield "EXT4", proto2 + b"\x84\x01\x00\x00\x00)R."
    yield "PERSID", b"Pposix.system\n."
    yield "BINPERSID of a name", proto2 + strings(["posix", "system"]) + b"Q."
    yield "BINPERSID of a function", proto2 + text("storage") + system + b"\x86Q."
    yield "BINPERSID of a storage without end", proto2 + STORAGE % number(2**60) + b"."
    yield "BINPERSID of a storage below zero", proto2 + STORAGE % number(-(2**40)) + b"."
    yield (
        "BUILD with __setstate__",
        (proto2 + name("collections.OrderedDict") + b")R}" + text("__setstate__") + system + b"sb" + arg + b"b."),
    )
    yield "BUILD of a class", proto2 + name("collections.OrderedDict") + b"}" + text("__new__") + system + b"sb)R."
    yield (
        "BUILD with slots",
        (proto2 + name("argparse.Namespace") + b")\x81N}" + text("__class__") + system + b"s\x86b."),
    )
    yield (
        "BUILD of a dict's methods",
        (
            proto2
            + name("collections.OrderedDict")
            + b")R}"
            + text("items")
            + system
            + b"s"
            + text("get")
            + system
            + b"sb."
        ),
    )
    yield "by the memo", proto2 + system + b"q\x00" + arg + b"q\x010h\x00h\x01\x85R."
    yield "in a key", proto2 + b"}" + system + arg + b"\x85RK\x01s."
    yield "under model", proto2 + b"}" + text("model") + system + arg + b"\x85Rs."
    yield "as an item's name", proto2 + b"}" + text("model") + b"}" + system + arg + b"\x85RK\x01ss."
    yield "functools.partial", proto2 + name("functools.partial") + system + arg + b"\x86R)R."
    yield "operator.methodcaller", (
        proto2 + name("operator.methodcaller") + strings(["system", SHELL]) + b"Rcimportlib\nimport_module\n"
        + text("os") + b"\x85R\x85R."
    )  # fmt: skip
    yield "getattr of a module", (
        proto2 + name("builtins.getattr") + name("builtins.__import__") + text("os") + b"\x85R" + text("system")
        + b"\x86R" + arg + b"\x85R."
    )  # fmt: skip
    yield (
        "operator.getitem of builtins",
        (
            proto2
            + name("operator.getitem")
            + name("builtins.__dict__")
            + text("eval")
            + b"\x86R"
            + text(PYTHON)
            + b"\x85R."
        ),
    )
    yield (
        "map in a list",
        proto2 + name("builtins.list") + name("builtins.map") + system + strings([SHELL]) + b"\x86R\x85R.",
    )
    yield (
        "copyreg",
        proto2 + name("copyreg._reconstructor") + name("subprocess.Popen") + name("builtins.object") + b"N\x87R.",
    )
    yield "copyreg.add_extension", proto2 + name("copyreg.add_extension") + strings(["posix", "system"]) + b"R\x82\x01."
    inner = pickle.dumps(SHELL, protocol=2)
    yield "a pickle in a pickle", proto4 + name("pickle.loads") + b"C" + bytes([len(inner)]) + inner + b"\x85R."
    yield (
        "torch's own pickle in a pickle",
        (
            proto2
            + name("torch.storage._load_from_bytes")
            + name("_codecs.encode")
            + strings([SHELL, "latin1"])
            + b"R\x85R."
        ),
    )


def _rebuilt() -> Iterator[tuple[str, bytes]]:
    """torch's and numpy's own functions with what they were not made for."""
    storage, ones = STORAGE % b"K\x01", b"K\x01\x85"
    hooks = name("collections.OrderedDict") + b")R"
    rebuild = b"\x80\x02" + name("torch._utils._rebuild_tensor_v2") + b"("
    huge = number(2**40)
    yield "a tensor of stride 0", rebuild + storage + b"K\x00" + huge + b"\x85K\x00\x85\x89" + hooks + b"tR."
    yield "a set of a tensor", (
        b"\x80\x02" + name("builtins.set") + rebuild[2:] + storage + b"K\x00" + huge + b"\x85K\x00\x85\x89" + hooks
        + b"tR\x85R."
    )  # fmt: skip
    yield "a Counter of a tensor", (
        b"\x80\x02" + name("collections.Counter") + rebuild[2:] + storage + b"K\x00" + huge + b"\x85K\x00\x85\x89"
        + hooks + b"tR\x85R."
    )  # fmt: skip
    yield "a tuple of a tensor", (
        b"\x80\x02" + name("builtins.tuple") + rebuild[2:] + storage + b"K\x00" + huge + b"\x85K\x00\x85\x89" + hooks
        + b"tR\x85R."
    )  # fmt: skip
    yield "a call in a call", (
        b"\x80\x02" + name("torch._tensor._rebuild_from_type_v2") + b"(" + name("builtins.set") + name("builtins.set")
        + rebuild[2:] + storage + b"K\x00" + huge + b"\x85K\x00\x85\x89" + hooks + b"tR\x85}tR."
    )  # fmt: skip
    yield "a tensor beyond its storage", rebuild + storage + huge + ones + ones + b"\x89" + hooks + b"tR."
    yield "a tensor before its storage", rebuild + storage + number(-5) + ones + ones + b"\x89" + hooks + b"tR."
    yield (
        "a tensor of negative size",
        rebuild + storage + b"K\x00" + number(-5) + b"\x85" + ones + b"\x89" + hooks + b"tR.",
    )
    yield "a tensor of texts", rebuild + text("a") * 6 + b"tR."
    yield "a tensor by its size", b"\x80\x02" + name("torch.Tensor") + number(2**33) + b"\x85R."
    yield (
        "a tensor by its size, as a dict",
        b"\x80\x02}" + text("a") + name("torch.FloatTensor") + number(2**33) + b"\x85Rs.",
    )
    yield "a storage by its size", b"\x80\x02" + name("torch.storage.UntypedStorage") + number(2**33) + b"\x85R."
    yield "a tensor on meta", (
        b"\x80\x02" + name("torch._utils._rebuild_meta_tensor_no_storage") + b"(" + name("torch.float32") + huge
        + b"\x85" + ones + b"\x89tR."
    )  # fmt: skip
    yield "a wrapper of any type", (
        b"\x80\x02" + name("torch._utils._rebuild_wrapper_subclass") + b"(" + name("torch.Tensor")
        + name("torch.float32") + huge + b"\x85" + ones + b"K\x00NN\x89tR."
    )  # fmt: skip
    yield "a sparse tensor", (
        b"\x80\x02" + name("torch._utils._rebuild_sparse_tensor") + name("torch.serialization._get_layout")
        + text("torch.sparse_coo") + b"\x85R" + b"NNN\x87\x86R."
    )  # fmt: skip
    yield (
        "a quantised tensor",
        b"\x80\x02" + name("torch._utils._rebuild_qtensor") + b"(" + storage + b"K\x00" * 6 + b"tR.",
    )
    yield "a nested tensor", b"\x80\x02" + name("torch._utils._rebuild_nested_tensor") + b"(" + b"N" * 4 + b"tR."
    yield "a tensor copied to a device", (
        b"\x80\x02" + name("torch._utils._rebuild_device_tensor_from_cpu_tensor") + b"(" + rebuild[2:] + storage
        + b"K\x00" + number(2**31) + b"\x85K\x00\x85\x89" + hooks + b"tR" + name("torch.float64")
        + text("cpu") + b"\x89tR."
    )  # fmt: skip
    yield "hooks of a parameter", (
        b"\x80\x02" + name("torch._utils._rebuild_parameter_with_state") + b"(" + rebuild[2:] + storage + b"K\x00"
        + ones + ones + b"\x89" + hooks + b"tR\x88" + hooks + b"}" + text("__class__") + name("torch.Size") + b"stR."
    )  # fmt: skip
    for module in ("core", "_core"):
        yield f"numpy.{module}'s array of objects", (
            b"\x80\x02" + name(f"numpy.{module}.multiarray._reconstruct") + name("numpy.ndarray") + b"K\x00\x85"
            + text("b") + b"\x87R(K\x01K\x01\x85" + name("numpy.dtype") + text("O8") + b"\x89\x88\x87R\x89]"
            + name("posix.system") + text(SHELL) + b"\x85Ratb."
        )  # fmt: skip
    yield (
        "a numpy scalar",
        b"\x80\x02" + name("numpy.core.multiarray.scalar") + name("numpy.dtype") + text("O") + b"\x85RN\x86R.",
    )


def _endless() -> Iterator[tuple[str, bytes]]:
    """A few bytes, or a megabyte, that stand for endless work or memory."""
    doubled = b")" + DOUBLE * 100
    big = b"X" + (400_000).to_bytes(4, "little") + b"a" * 400_000 + b"q\x00"
    yield "a key that hashes for ever", b"\x80\x02}" + doubled + b"K\x01s."
    yield "a member that hashes for ever", b"\x80\x02cbuiltins\nset\n](" + doubled + b"e\x85R."
    yield "a list in itself", b"\x80\x02]q\x00h\x00a."
    yield "a tuple in itself", b"\x80\x02]q\x00h\x00\x85q\x01a}h\x01K\x01s."
    yield "a dict in itself", b"\x80\x02}q\x00" + text("model") + b"h\x00s."
    yield "brackets in each other", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    yield "marks in each other", b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."
    yield "a frame of everything", b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN."
    yield "a frame of gigabytes", b"\x80\x04\x95" + (2**35).to_bytes(8, "little") + b"N."
    yield "frames in each other", b"\x80\x04" + b"\x95\x09\x00\x00\x00\x00\x00\x00\x00" * 10_000 + b"N."
    yield "LONG4 of gigabytes", b"\x80\x02\x8b\xff\xff\xff\x7fN."
    yield "LONG4 below zero", b"\x80\x02\x8b\xff\xff\xff\xffN."
    yield "LONG4 of a megabyte", b"\x80\x02\x8b" + (900_000).to_bytes(4, "little") + b"\x7f" * 900_000 + b"."
    yield (
        "LONG4 as a text",
        b"\x80\x02cbuiltins\nstr\n\x8b" + (500_000).to_bytes(4, "little") + b"\x7f" * 500_000 + b"\x85R.",
    )
    yield "LONG of many digits", b"L" + b"9" * 500_000 + b"L\n."
    yield "INT of many digits", b"I" + b"9" * 500_000 + b"\n."
    yield "FLOAT of many digits", b"F" + b"9" * 500_000 + b"\n."
    yield "BYTEARRAY8 of exabytes", b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b"."
    yield "BYTEARRAY8 of gigabytes", b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b"."
    yield "BINBYTES8 of gigabytes", b"\x80\x04\x8e" + (2**33).to_bytes(8, "little") + b"."
    yield "BINUNICODE8 of gigabytes", b"\x80\x04\x8d" + (2**33).to_bytes(8, "little") + b"."
    yield "BINUNICODE of gigabytes", b"\x80\x02X\xff\xff\xff\xff."
    yield "BINSTRING below zero", b"T\xff\xff\xff\xff."
    yield "NEXT_BUFFER", b"\x80\x05\x97\x98."
    yield "a memo of gigabytes", b"\x80\x02Nr\xff\xff\xff\x7f."
    yield "a memo below zero", b"Np-1\n."
    yield "a memo of many digits", b"Np" + b"9" * 4000 + b"\n."
    yield "a memo that is not there", b"\x80\x02h\x05."
    yield "bytes of gigabytes", b"\x80\x02cbuiltins\nbytearray\n" + number(2**33) + b"\x85R."
    yield (
        "a slow codec",
        b"\x80\x02c_codecs\nencode\n" + text("".join(map(chr, range(0x4E00, 0x9E00)))) + text("punycode") + b"\x86R.",
    )
    encoded = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00utf-32\x86R"
    yield "many encodings of one text", b"\x80\x02" + big + b"0](" + encoded * 15_000 + b"e."
    yield "many lists of one text", b"\x80\x02" + big + b"0](" + b"cbuiltins\nlist\nh\x00\x85R" * 25_000 + b"e."
    yield "many sets of one text", b"\x80\x02" + big + b"0](" + b"cbuiltins\nset\nh\x00\x85R" * 25_000 + b"e."
    yield "one text many times in a text", b"\x80\x02" + big + b"0cbuiltins\nstr\n](" + b"h\x00" * 200_000 + b"e\x85R."
    collide = b"".join(b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little") + b"N" for k in range(1, 60_000))
    yield "keys of one hash", b"\x80\x02}(" + collide + b"u."
    collide = b"".join(b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little") for k in range(1, 60_000))
    yield "members of one hash", b"\x80\x02cbuiltins\nset\n](" + collide + b"e\x85R."
    yield "zlib", b"\x80\x02c_codecs\ndecode\n" + text("a") + text("zlib") + b"\x86R."
    yield "a rot13 of a name", b"\x80\x02c_codecs\nencode\n" + text("cbfvk") + text("rot13") + b"\x86R."
    bomb = zlib.compress(b"\0" * 10**8)[:200_000]
    yield "zlib's bomb", b"\x80\x04czlib\ndecompress\nB" + len(bomb).to_bytes(4, "little") + bomb + b"\x85R."
    yield "nothing", b""
    yield "no end", b"\x80\x02}"
    yield "an empty stack", b"\x80\x02."
    yield "a protocol of tomorrow", b"\x80\xffN."
    yield "a progress of other types", b"\x80\x02}" + text("progress") + b"]s."


def hostile() -> dict[str, bytes]:
    found = {
        f"{called} is called": b"\x80\x02" + name(called) + strings(args) + b"R." for called, args in CALLS.items()
    }
    for kinds in (_forms(), _rebuilt(), _endless()):
        for kind, data in kinds:
            assert kind not in found
            found[kind] = data
    return found
