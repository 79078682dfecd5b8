"""The suites of other projects that the exploration runs: packages from the registry whose source distributions carry their tests.

The versions are fixed so that a difference is ours, not theirs. `small` marks the suites that every change is tried on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Tuple

# The reasons for which a test may differ; docs/targets.md explains each under "Limits".
CALLER = "it looks at the frame of its caller"
LEVEL = "a warning with a stacklevel above 1 names a frame in between"
CODE = "it knows functions by their code objects"
TRACER = "its trace function is called for the functions that hooks inside call"
SECOND = "it looks at the frame of its caller, and a function that is armed under a second name has a trampoline"
PARAMETERS = "it reads the parameters from the code object"


@dataclass(frozen=True)
class Suite:
    """One project. `packages` become probe points; `needs` is installed beside it; `arguments` go to pytest.

    `limits` are the tests that may differ, each with the reason: a beginning of a test's id -> the reason, as the documentation gives it.
    """

    version: str
    packages: Tuple[str, ...]
    needs: Tuple[str, ...] = ()
    arguments: Tuple[str, ...] = ("tests",)
    small: bool = False
    limits: Dict[str, str] = field(default_factory=dict)


SUITES: Dict[str, Suite] = {
    "attrs": Suite(
        "26.1.0",
        ("attr", "attrs"),
        ("hypothesis", "cloudpickle", "pytest-xdist"),
        small=True,
        limits={
            # make_class takes the module of the new class from its caller's frame.
            "tests/test_functional.py::TestFunctional::test_pickle_object": CALLER,
            "tests/test_make.py::TestMakeClass::test_attr_args": CALLER,
            "tests/test_make.py::TestMakeClass::test_normalized_unicode_attr_args": CALLER,
            "tests/test_make.py::TestMakeClass::test_unnormalized_unicode_attr_args": CALLER,
        },
    ),
    "click": Suite("8.5.1", ("click",), small=True),
    "jinja2": Suite(
        "3.1.6",
        ("jinja2",),
        ("trio",),
        small=True,
        # Its tracebacks leave out frames by a set of code objects.
        limits={"tests/test_debug.py::TestDebug::test_runtime_error": CODE},
    ),
    "flask": Suite("3.1.3", ("flask",), ("asgiref", "python-dotenv", "pytest<9"), small=True),
    "werkzeug": Suite(
        "3.1.9",
        ("werkzeug",),
        ("cryptography", "ephemeral-port-reserve", "pytest-timeout", "pytest-xprocess", "watchdog"),
        # Its servers wait for a browser's habits of a real network, and stand still without one.
        ("tests", "--ignore=tests/test_serving.py"),
        # dump() shows the local variables of its caller.
        limits={"tests/test_debug.py::TestDebugHelpers::test_debug_dump": CALLER},
    ),
    "itsdangerous": Suite("2.2.0", ("itsdangerous",), ("freezegun",), small=True),
    "sqlalchemy": Suite(
        "2.1.9",
        ("sqlalchemy",),
        ("pytest-xdist",),
        ("test/base", "test/sql/test_compiler.py", "test/orm/test_unitofwork.py", "test/ext"),
        # Its getfullargspec() of its own reads code objects.
        limits={
            "test/orm/test_unitofwork.py::ClauseAttributesTest_sqlite+pysqlite_3_40_1::test_insert_pk_expression": PARAMETERS,
            "test/orm/test_unitofwork.py::SaveTest::test_batch_mode": PARAMETERS,
        },
    ),
    "pluggy": Suite(
        "1.7.0",
        ("pluggy",),
        ("pytest-benchmark",),
        ("testing",),
        small=True,
        limits={
            "testing/test_details.py::test_not_all_arguments_warning_points_at_the_caller": LEVEL,
            "testing/test_warnings.py::test_teardown_raised_warning": LEVEL,
        },
    ),
    "anyio": Suite(
        "4.16.0",
        ("anyio",),
        (
            "blockbuster",
            "exceptiongroup",
            "hypothesis",
            "psutil",
            "pytest-mock",
            "pytest-timeout",
            "trio",
            "truststore",
            "trustme",
            "uvloop",
        ),
        # Its sockets want a network with IPv6.
        ("tests", "--ignore=tests/test_sockets.py"),
        # pluggy calls the hooks of anyio's own plugin by the parameters that it finds in their code when it registers them.
        limits={"tests/test_pytest_plugin.py": PARAMETERS},
    ),
    # Three out of five seconds of all the others together: it looks for primes through millions of calls of the same few functions.
    "more-itertools": Suite("11.2.1", ("more_itertools",), ("pytest-timeout",)),
    "wrapt": Suite("2.5.2", ("wrapt",), ("pytest-timeout",)),
    "structlog": Suite(
        "26.1.0",
        ("structlog",),
        ("pytest-asyncio", "simplejson", "time-machine", "rich", "better-exceptions"),
        # Or in a class that inherits it; the logging module finds that.
        limits={"tests/test_stdlib.py::TestProcessorFormatter::test_native": SECOND},
    ),
    "typeguard": Suite(
        "4.6.1",
        ("typeguard",),
        ("mypy",),
        # What the package gives is armed under its own name too. Armed in their modules alone, none of them differs.
        limits={
            "tests/test_checkers.py::TestRecursiveType": SECOND,
            "tests/test_checkers.py::TestTypedDict": SECOND,
            "tests/test_checkers.py::TestTypevar::test_bound": SECOND,
            "tests/test_functions.py::TestCheckArgumentTypes": SECOND,
            "tests/test_functions.py::TestCheckReturnType": SECOND,
            "tests/test_warn_on_error.py": SECOND,
        },
    ),
    "glom": Suite("25.12.0", ("glom",), ("pyyaml",), ("glom/test",)),
    # What wants a network is left out, and what starts servers in other processes. The functions of its tests are armed too.
    "tornado": Suite(
        "6.6.1",
        ("tornado",),
        (),
        (
            # As its own runner has it.
            "--log-disable=tornado.access",
            *(
                f"tornado/test/{name}_test.py"
                for name in ("asyncio", "auth", "concurrent", "escape", "gen", "http1connection", "httpserver")
            ),
            *(f"tornado/test/{name}_test.py" for name in ("httputil", "import", "ioloop", "locale", "locks", "log", "options", "queues")),
            *(
                f"tornado/test/{name}_test.py"
                for name in ("routing", "tcpserver", "template", "testing", "util", "web", "websocket", "wsgi")
            ),
        ),
    ),
    "trio": Suite(
        "0.35.0",
        ("trio",),
        ("astor", "trustme", "pyopenssl"),
        (
            *(f"src/trio/_core/_tests/test_{name}.py" for name in ("asyncgen", "guest_mode", "instrumentation", "io", "ki", "local")),
            *(f"src/trio/_core/_tests/test_{name}.py" for name in ("mock_clock", "parking_lot", "run", "thread_cache", "unbounded_queue")),
            *(f"src/trio/_tests/test_{name}.py" for name in ("abc", "channel", "contextvars", "deprecate", "file_io", "path", "signals")),
            *(f"src/trio/_tests/test_{name}.py" for name in ("sync", "testing", "threads", "timeouts", "util", "wait_for_object")),
        ),
        # Who is safe from KeyboardInterrupt is a table of code objects.
        limits={
            "src/trio/_tests/test_threads.py::test_do_in_trio_thread": CODE,
            "src/trio/_tests/test_threads.py::test_run_in_trio_thread_ki": CODE,
        },
    ),
    # The functions of its tests are armed too.
    "networkx": Suite(
        "3.6.1",
        ("networkx",),
        ("numpy", "scipy"),
        ("networkx/classes", "networkx/utils", "networkx/generators", "networkx/algorithms/traversal", "networkx/algorithms/flow"),
    ),
}


# The modules of CPython's own tests that run with the standard library armed, and the tests of them that may differ.
STANDARD = (
    *("test_argparse", "test_ast", "test_calendar", "test_collections", "test_configparser", "test_contextlib", "test_copy", "test_csv"),
    *("test_dataclasses", "test_difflib", "test_email", "test_enum", "test_fractions", "test_functools", "test_heapq", "test_inspect"),
    *("test_json", "test_shlex", "test_statistics", "test_string", "test_textwrap", "test_tokenize", "test_typing"),
    *("test_contextlib_async", "test_traceback", "test_unittest", "test_pickle", "test_copyreg", "test_abc", "test_asyncgen"),
    *("test_coroutines", "test_generators", "test_descr", "test_decimal", "test_pprint", "test_reprlib", "test_weakref", "test_warnings"),
    *("test_types", "test_utf8_mode", "test_urlparse", "test_html", "test_htmlparser", "test_http_cookies", "test_mimetypes"),
    *("test_optparse", "test_getopt", "test_gettext", "test_glob", "test_fnmatch", "test_locale", "test_operator", "test_random"),
    *("test_re", "test_sched", "test_selectors", "test_shelve", "test_smtplib", "test_string_literals", "test_struct", "test_tempfile"),
    *("test_threading_local", "test_timeit", "test_trace", "test_userdict", "test_userlist", "test_userstring", "test_uuid"),
    *("test_wsgiref", "test_xmlrpc", "test_zipapp", "test_base64", "test_bdb", "test_bisect", "test_binascii", "test_cmd", "test_code"),
    *("test_codeop", "test_colorsys", "test_compileall", "test_context", "test_dis", "test_doctest", "test_dynamicclassattribute"),
    *("test_filecmp", "test_fileinput", "test_format", "test_genericclass", "test_genericpath", "test_genexps", "test_graphlib"),
    *("test_ipaddress", "test_isinstance", "test_iter", "test_itertools", "test_keyword", "test_linecache", "test_list", "test_mailbox"),
    *("test_minidom", "test_modulefinder", "test_netrc", "test_numeric_tower", "test_ordered_dict", "test_opcodes", "test_pathlib"),
    *("test_patma", "test_pdb", "test_pkgutil", "test_plistlib", "test_posixpath", "test_property", "test_pyclbr", "test_pydoc"),
    *("test_queue", "test_quopri", "test_sax", "test_setcomps", "test_slice", "test_sort", "test_stat", "test_super", "test_sys"),
    *("test_sys_setprofile", "test_sys_settrace", "test_symtable", "test_tabnanny", "test_token", "test_tomllib", "test_typechecks"),
    *("test_unpack", "test_urllib", "test_with", "test_xml_etree", "test_zipfile"),
)
STANDARD_LIMITS: Dict[str, str] = {
    # Which modules are stepped into, and which have a file of what was covered.
    "test.test_pdb.test_pdb_skip_modules": TRACER,
    "test.test_trace.TestCoverage.test_coverage_ignore": TRACER,
}


def differences(plain: Dict[str, str], armed: Dict[str, str], limits: Dict[str, str]) -> Tuple[Dict[str, str], Dict[str, str]]:
    """(differences, explained ones) between the outcomes of two runs: the tests that ended in another way, or not at all, each with a line."""
    found, explained = {}, {}
    for test in sorted({*plain, *armed}):
        before, now = plain.get(test, "not run"), armed.get(test, "not run")
        if before != now:
            line = f"{test}: {before} without hooks, {now} with them"
            reason = next((reason for beginning, reason in limits.items() if test.startswith(beginning)), None)
            if reason is None:
                found[test] = line
            else:
                explained[test] = f"{line} ({reason})"
    return found, explained
