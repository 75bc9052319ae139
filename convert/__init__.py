"""Converters: ``python -m convert VERB INPUT… -o OUTPUT`` (see docs/convert.md)."""

import os
import sys

if sys.argv[:1] == ["-m"] and "-mconvert" in "".join(sys.orig_argv):
    # ``python -m convert`` searches the current folder first, where models from anywhere lie; a safetensors.py beside
    # them is not ours to run. The same in pair_network, which would itself be searched there.
    _root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()) != os.path.realpath(_root):
        del sys.path[0]
