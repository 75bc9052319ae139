"""Runs in sd-scripts' environment: imports everything once, then runs scripts in forked children.

Importing torch, diffusers, transformers and sd-scripts takes longer than training a tiny model. Each line on standard
input is a JSON object (argv, env, cwd, log); each answer is the child's exit status. Argument: the checkout.
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
import traceback


def preload(checkout):
    sys.path.insert(0, checkout)
    for family in ("", "sdxl_", "sd3_", "flux_", "lumina_", "hunyuan_image_", "anima_"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{family}train_network")
    sys.path.remove(checkout)
    importlib.import_module("transformers.models.clip.modeling_clip")
    importlib.import_module("diffusers.models.autoencoders.autoencoder_kl")


def run(request):
    """In the child: the script as if Python had been started with it; never returns."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv[:] = request["argv"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    # Not os._exit alone: atexit hooks and buffers belong to the script.
    with contextlib.suppress(BaseException):
        importlib.import_module("atexit")._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed while importing must not look like an answer
    preload(sys.argv[1])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
