"""Starts the agent in a Python process whose environment says so, then hands over to the application's own sitecustomize.

This folder is put first on PYTHONPATH by `xpc-instrument run`. It must not keep the application from starting, whatever happens.
"""

import os
import sys


def _chain() -> None:
    """Run the sitecustomize that this one hides, as if it had been found first."""
    import importlib.machinery

    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    import importlib.util

    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _start() -> None:
    if "XPC_INSTRUMENT_CONFIG_PACKED" not in os.environ:
        return
    try:
        from xpc_agent.life.interpreter import is_main

        if not is_main():
            return
        from xpc_agent.life.autostart import autostart
    except Exception as error:
        sys.stderr.write("xpc-instrument: the agent cannot be imported (%s); this process is not instrumented\n" % error)
        return
    autostart()


_start()
_chain()
