"""Routes: functions of Python, torch and numpy by which a pickle has been known to run code or reach out."""

from __future__ import annotations

from collections.abc import Callable

from tests.hostile.case import Payload

Args = Callable[[Payload], tuple[object, ...]]


def _shell(p: Payload) -> tuple[object, ...]:
    return (p.shell,)


def _python(p: Payload) -> tuple[object, ...]:
    return (p.python,)


def _expression(p: Payload) -> tuple[object, ...]:
    return (p.expression,)


def _url(p: Payload) -> tuple[object, ...]:
    return (f"http://127.0.0.1:{p.port}/",)


def _path(p: Payload) -> tuple[object, ...]:
    return (str(p.canary), "w")


ROUTES: tuple[tuple[str, str, Args], ...] = (
    ("os", "system", _shell),
    ("posix", "system", _shell),
    ("nt", "system", _shell),
    ("os", "popen", _shell),
    ("os", "execvp", lambda p: ("touch", ["touch", str(p.canary)])),
    ("posix", "open", lambda p: (str(p.canary), 0o101)),
    ("subprocess", "Popen", lambda p: (["touch", str(p.canary)],)),
    ("subprocess", "check_output", lambda p: (["touch", str(p.canary)],)),
    ("subprocess", "getoutput", _shell),
    ("pty", "spawn", lambda p: (["touch", str(p.canary)],)),
    ("commands", "getoutput", _shell),
    ("builtins", "exec", _python),
    ("builtins", "eval", _expression),
    ("__builtin__", "eval", _expression),
    ("builtins", "compile", lambda p: (p.python, "x", "exec")),
    ("builtins", "open", _path),
    ("builtins", "__import__", lambda p: ("os",)),
    ("builtins", "getattr", lambda p: (p.python, "upper")),
    ("builtins", "map", _python),
    ("builtins", "breakpoint", lambda p: ()),
    ("io", "open", _path),
    ("_io", "FileIO", _path),
    ("codecs", "open", _path),
    ("pathlib", "Path.touch", lambda p: (str(p.canary),)),
    ("shutil", "copyfile", lambda p: ("/etc/hostname", str(p.canary))),
    ("logging", "FileHandler", _path),
    ("sqlite3", "connect", lambda p: (str(p.canary),)),
    ("tempfile", "mktemp", lambda p: ()),
    ("importlib", "import_module", lambda p: ("antigravity",)),
    ("runpy", "_run_code", lambda p: (p.python, {})),
    ("runpy", "run_path", lambda p: ("evil.py",)),
    ("code", "InteractiveInterpreter.runcode", _python),
    ("timeit", "timeit", _python),
    ("cProfile", "run", _python),
    ("profile", "Profile.run", _python),
    ("pdb", "run", _python),
    ("bdb", "Bdb.run", _python),
    ("trace", "Trace.run", _python),
    ("doctest", "debug_script", _python),
    ("ensurepip", "_run_pip", lambda p: (["install", "evil"],)),
    ("pip", "main", lambda p: (["install", "evil"],)),
    ("venv", "create", lambda p: (str(p.canary),)),
    ("pydoc", "pipepager", lambda p: ("x", p.shell)),
    ("imaplib", "IMAP4_stream", _shell),
    ("_osx_support", "_read_output", _shell),
    ("_aix_support", "_read_cmd_output", _shell),
    ("webbrowser", "open", _url),
    ("urllib.request", "urlopen", _url),
    ("http.client", "HTTPConnection.connect", _url),
    ("socket", "create_connection", lambda p: (("127.0.0.1", p.port),)),
    ("asyncio", "create_subprocess_shell", _shell),
    ("multiprocessing.util", "spawnv_passfds", lambda p: ("touch", ["touch", str(p.canary)], [])),
    ("ctypes", "CDLL", lambda p: ("libc.so.6",)),
    ("types", "FunctionType", lambda p: ()),
    ("types", "CodeType", lambda p: ()),
    ("functools", "partial", lambda p: ()),
    ("functools", "reduce", lambda p: ()),
    ("operator", "attrgetter", lambda p: ("system",)),
    ("operator", "methodcaller", lambda p: ("system", p.shell)),
    ("pickle", "loads", lambda p: ("x",)),
    ("_pickle", "Unpickler", lambda p: ()),
    ("marshal", "loads", lambda p: ("x",)),
    ("dill", "loads", lambda p: ("x",)),
    ("cloudpickle.cloudpickle", "_make_function", lambda p: ()),
    ("joblib", "load", lambda p: ("evil.pkl",)),
    ("copyreg", "add_extension", lambda p: ("os", "system", 1)),
    ("site", "execsitecustomize", lambda p: ()),
    ("sys", "setrecursionlimit", lambda p: (1 << 30,)),
    ("gc", "get_objects", lambda p: ()),
    ("torch", "load", lambda p: ("evil.pt",)),
    ("torch.hub", "load", lambda p: ("evil/evil", "x")),
    ("torch.jit", "load", lambda p: ("evil.pt",)),
    ("torch.serialization", "load", lambda p: ("evil.pt",)),
    ("torch.storage", "_load_from_bytes", lambda p: ("x",)),
    ("torch.utils.collect_env", "run", _shell),
    ("torch.utils.cpp_extension", "load_inline", lambda p: ("x", "y")),
    ("torch.utils.bottleneck.__main__", "run_cprofile", lambda p: (p.python, {})),
    ("torch._inductor.codecache", "compile_file", lambda p: ("x", "y", "touch")),
    ("torch._dynamo.guards", "GuardBuilder.get", _expression),
    ("torch.jit.unsupported_tensor_ops", "execWrapper", lambda p: (p.python, {}, {})),
    ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", _expression),
    ("torch.utils._config_module", "ConfigModule.load_config", lambda p: ("x",)),
    ("torch.fx.graph_module", "reduce_graph_module", lambda p: ({}, p.python)),
    ("numpy", "load", lambda p: ("evil.npy",)),
    ("numpy.testing._private.utils", "runstring", lambda p: (p.python, {})),
    ("numpy.f2py.crackfortran", "getlincoef", lambda p: (p.expression, {})),
    ("numpy.distutils.exec_command", "exec_command", _shell),
    ("pandas.io.pickle", "read_pickle", lambda p: ("evil.pkl",)),
    ("models_zoo.resnet_cifar", "CifarResNet", lambda p: ()),
)
