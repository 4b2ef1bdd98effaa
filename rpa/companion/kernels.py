"""Kernels that start warm: `python -m rpa.companion.kernels make results` runs a command whose kernels are forks.

Every kernel imports torch, SciPy, scikit-learn and Matplotlib; a quick run spends most of its time so. Here one server,
which lives as long as the command, imports them once, and each kernel begins as a fork of it. All else is as usual: a
process for each kernel, with the environment, folder and streams that Jupyter gives it. Modules of `rpa` are never
imported ahead.

Jupyter starts, signals and waits for a stand-in: this file run as a script, with imports of the standard library alone.
It ends when the fork does, as the fork ends when the stand-in does. Where there is no server, or one whose libraries
were told otherwise (another number of threads), the stand-in becomes the ordinary kernel.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import cache

__all__ = ["SERVER", "for_libraries", "manager_class", "threads"]

SERVER = "RPA_KERNELS"  # the environment variable that names the server's socket
AHEAD = (
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
    "pandas",
    "scipy.integrate",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.datasets",
    "sklearn.mixture",
    "torch._dynamo",  # what the first Jacobian product of torch.func imports
    "torch.nn.functional",
    "tqdm.auto",
)
# Arrays of some megabytes come and go. glibc keeps their pages when told to: asking the system for them again takes a
# tenth of a notebook's time. Other C libraries do not look at these variables.
KEEP_PAGES = {f"MALLOC_{name}_": str(size) for name, size in (("MMAP_THRESHOLD", 2**29), ("TRIM_THRESHOLD", 2**30))}
INLINE = "module://matplotlib_inline.backend_inline"  # what every kernel draws with unless told otherwise


def threads() -> int:
    """Threads for a notebook's kernel: OMP_NUM_THREADS if set, else one.

    Cores go to notebooks first, of which Make runs as many as there are cores, then to `rpa.parallel.pmap`
    in each (RPA_WORKERS workers, else one; Make divides the cores that are left). Two threads that work on small arrays
    beside another busy process wait for each other most of the time, up to thirty times longer than one thread takes.
    With one thread a record also depends neither on the number of cores nor on how many notebooks run at a time.
    """
    return int(os.environ.get("OMP_NUM_THREADS") or 1)


def for_libraries() -> dict[str, str]:
    """The environment variables of a kernel that libraries read once, when they are imported."""
    return KEEP_PAGES | {
        "OMP_NUM_THREADS": str(threads()),
        "MPLBACKEND": os.environ.get("MPLBACKEND") or INLINE,
    }


def manager_class() -> type:
    """The class of kernel manager for papermill: its kernels are forks, where the environment names a server."""
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        def format_kernel_cmd(self, extra_arguments=None):
            command = super().format_kernel_cmd(extra_arguments)
            return [sys.executable, "-I", "-S", __file__, "--stand-in", *command] if SERVER in os.environ else command

    return Manager


def _stand_in(command):
    """Ask the server for a kernel and end with it; without one, become what `command` starts."""
    parent, kernel, line = os.getppid(), 0, socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        line.connect(os.environ[SERVER])
        socket.send_fds(line, [b"."], [0, 1, 2])
        line.sendall(json.dumps([command, os.getcwd(), dict(os.environ)]).encode() + b"\n")
        kernel = int(line.recv(20) or 0)
    if not kernel:
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, lambda *_: os.kill(kernel, signal.SIGINT))
    _wait(line, parent)


def _wait(line, parent):
    """Until the process at the other end is gone, or the one that started this one."""
    line.settimeout(1)
    while os.getppid() == parent:
        with suppress(TimeoutError):
            line.recv(1)
            return


def _serve(listener, lifeline):
    """Fork a kernel for everyone who calls, until nobody holds the other end of the pipe `lifeline`."""
    from select import select

    del sys.path[0]  # this file's folder
    while lifeline not in select([listener, lifeline], [], [])[0]:
        line = listener.accept()[0]
        _import_ahead()
        if os.fork() == 0:
            try:
                _become_kernel(line)
            except Exception:
                sys.excepthook(*sys.exc_info())
            finally:
                _exit()
        line.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os.unlink(listener.getsockname())
    os.rmdir(os.path.dirname(listener.getsockname()))


@cache
def _import_ahead():
    import gc
    from importlib import import_module

    for name in AHEAD:
        import_module(name)
    gc.freeze()  # a collection in a fork would write to every object, and so copy its page


def _become_kernel(line):
    """What a fork does: take over streams, folder, environment and path, and start as the launcher of kernels does."""
    from threading import Thread

    from ipykernel.kernelapp import launch_new_instance

    streams = socket.recv_fds(line, 1, 3)[1]
    command, folder, environment = json.loads(line.makefile().readline())
    told_the_same = all(environment.get(name) == os.environ.get(name) for name in for_libraries())
    if command[:3] != [sys.executable, "-m", "ipykernel_launcher"] or not told_the_same:
        return
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.setsid()
    os.chdir(folder)
    before, now = (each.get("PYTHONPATH", "").split(os.pathsep) for each in (os.environ, environment))
    sys.path[:] = dict.fromkeys([*filter(None, now), *(path for path in sys.path if path not in before)])
    os.environ.clear()
    os.environ.update(environment)
    line.sendall(str(os.getpid()).encode())
    Thread(target=lambda server: _wait(line, server) or os._exit(1), args=[os.getppid()], daemon=True).start()
    launch_new_instance(argv=command[3:])


def _exit():
    """End as the interpreter does, but leave the packages' memory, shared with the server, to the system."""
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    os._exit(0)


def _start_server():
    import subprocess
    import tempfile

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(tempfile.mkdtemp(prefix="rpa-"), "kernels"))
    listener.listen()
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(listener.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        env=os.environ | for_libraries(),
        start_new_session=True,
    )
    os.set_inheritable(server.stdin.fileno(), True)
    os.environ[SERVER] = listener.getsockname()


def main(arguments):
    """The command line: a command, in whose place this process goes on once the server is there."""
    if arguments[0] == "--stand-in":
        return _stand_in(arguments[1:])
    if arguments[0] == "--serve":
        return _serve(socket.socket(fileno=int(arguments[1])), 0)
    if sys.platform == "linux" and SERVER not in os.environ:  # forks of threaded libraries are safe on Linux alone
        with suppress(OSError):  # no place for a socket, or its path is too long
            _start_server()
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
