"""Plays the whole story with real processes: the standard library's web server, which knows nothing of us, a probe script, and requests.

python examples/http_server/demo.py
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from xpc_instrument import find_free_port

HERE = Path(__file__).resolve().parent
# `xpc-instrument`, wherever this interpreter has it.
COMMAND = (sys.executable, "-m", "xpc_instrument.cli")
DO_GET = "http.server:SimpleHTTPRequestHandler.do_GET"


def say(text):
    print(f"\n--- {text}", flush=True)


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            status, body = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.reason
        error.close()
    print(f"GET {path} -> {status} {body.splitlines()[0] if body else ''}", flush=True)


def wait_for_line(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise SystemExit(f"the process ended before it said {words!r}")


def start(*words, **options):
    shown = ("xpc", *words[len(COMMAND) :]) if words[: len(COMMAND)] == COMMAND else words
    print("$", " ".join(Path(word).name if os.sep in word else word for word in shown), flush=True)
    return subprocess.Popen(words, text=True, **options)


def main():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "hello.txt").write_text("hello from the folder\n")
        port = find_free_port("127.0.0.1")

        say("the application: python -m http.server, which was started without us and knows nothing of us")
        command = (sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", str(port))
        options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        config = ("--config", str(HERE / "xpc-instrument.toml"))
        server = start(*command, **options)
        wait_for_line(server, "Serving HTTP")
        get(port, "/hello.txt")

        say("attach to it: the agent gets in while it runs")
        print("$ xpc-instrument attach", server.pid, "--config xpc-instrument.toml", flush=True)
        attached = subprocess.run([*COMMAND, "attach", str(server.pid), *config], check=False).returncode == 0
        if not attached:
            print("this machine does not let it in, for the reason above; so it is started anew, with the agent in it", flush=True)
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=10)
            server = start(*COMMAND, "run", *config, "--", *command, **options)
            wait_for_line(server, "Serving HTTP")
        subprocess.run([*COMMAND, "ls", "files"], check=True)
        get(port, "/hello.txt")
        get(port, "/hidden")

        say("look on, without a script: two requests, with the path that each asks for and how long it takes")
        watch = start(*COMMAND, "watch", "files", DO_GET, "--show", "self.path", "-n", "2", stderr=subprocess.PIPE)
        print(watch.stderr.readline(), end="", flush=True)
        get(port, "/hello.txt")
        get(port, "/hidden")
        print(watch.communicate(timeout=10)[1], end="", flush=True)

        say("a probe script in another process: logs before, times after, answers /hidden instead")
        probe = start(sys.executable, "-u", str(HERE / "probe.py"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for_line(probe, "Ctrl-C ends it")
        get(port, "/hello.txt")
        get(port, "/hidden")

        say("Ctrl-C on the probe script: the server answers as before")
        probe.send_signal(signal.SIGINT)
        print(probe.communicate(timeout=10)[0], end="", flush=True)
        get(port, "/hidden")

        say("a plain Manager hooks it too: it joins and registers callbacks named like the target")
        running = json.loads(subprocess.run([*COMMAND, "ps", "--json"], stdout=subprocess.PIPE, text=True, check=True).stdout)
        address = next(process["address"] for process in running if process["pid"] == server.pid)
        seed = start(sys.executable, "-u", str(HERE / "seed_probe.py"), address, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_for_line(seed, "hooked")
        get(port, "/hidden")
        print(seed.communicate("\n", timeout=10)[0], end="", flush=True)
        get(port, "/hello.txt")

        if attached:
            say("detach from it: it is as it was, and knows nothing of us again")
            subprocess.run([*COMMAND, "detach", "files"], check=True)
            subprocess.run([*COMMAND, "ps"], check=True)
            get(port, "/hello.txt")

        say("the end")
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=10)
        print(f"the server ended with status {server.returncode}")


if __name__ == "__main__":
    main()
