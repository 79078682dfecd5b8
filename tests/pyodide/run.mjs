// Runs the tests marked `no_process` in Pyodide under node: a CPython without processes, sockets and threads.
//
//   node run.mjs PYODIDE SITE_PACKAGES ROOT [pytest arguments]
//
// PYODIDE is the folder of the npm package, SITE_PACKAGES a folder with unpacked wheels, ROOT the project. All three are read as they are:
// nothing is downloaded. The exit status is pytest's. `python3 dev.py pyodide` prepares the folders and calls this.

import { writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { isMainThread, Worker } from "node:worker_threads";

const [pyodideFolder, sitePackages, root, ...pytestArguments] = process.argv.slice(2);

if (!root) {
  console.error("usage: node run.mjs PYODIDE SITE_PACKAGES ROOT [pytest arguments]");
  process.exit(2);
}

if (isMainThread) {
  // Python's own guard against deep recursion in C expects more stack than node's main thread has, and only a worker's can be chosen.
  const worker = new Worker(fileURLToPath(import.meta.url), { argv: process.argv.slice(2), resourceLimits: { stackSizeMb: 64 } });
  worker.on("error", (error) => {
    console.error(error);
    process.exit(1);
  });
  worker.on("exit", (status) => process.exit(status));
} else {
  process.exit(await runTests());
}

async function runTests() {
  const { loadPyodide } = await import(pathToFileURL(join(pyodideFolder, "pyodide.mjs")).href);
  const python = await loadPyodide({ indexURL: pyodideFolder, env: { HOME: "/home/pyodide", PYTHONDONTWRITEBYTECODE: "1" } });
  // A worker's standard input has no descriptor, and no test reads it. Bytes as they come: by default each flush would end a line.
  python.setStdin({ stdin: () => undefined });
  python.setStdout({ write: (bytes) => writeSync(1, bytes) });
  python.setStderr({ write: (bytes) => writeSync(2, bytes) });
  python.mountNodeFS("/site", sitePackages);
  python.mountNodeFS("/project", root);
  python.globals.set("pytest_arguments", python.toPy(pytestArguments));
  return await python.runPythonAsync(`
import os, sys

sys.dont_write_bytecode = True
sys.path[:0] = ["/project", "/project/agent", "/site"]
os.chdir("/project")
print("Python", sys.version.replace("\\n", " "), "on", sys.platform, flush=True)

import pytest

# Time-outs need signals or threads; the cache would be written into the project.
int(pytest.main(["-m", "no_process", "-o", "timeout=0", "-p", "no:cacheprovider", *pytest_arguments]))
`);
}
