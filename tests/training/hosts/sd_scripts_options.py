"""Runs in sd-scripts' environment: the names, types and choices of its parsers' options, as JSON.

    python tests/training/hosts/sd_scripts_options.py CHECKOUT PROJECT dump > …/sd_scripts_options.json
    python tests/training/hosts/sd_scripts_options.py CHECKOUT PROJECT check PRESET.toml …   (with the real parsers)

No help text is kept. "all" holds what every family has; the other lists hold what a family adds or changes.
"""

import json
import sys
from pathlib import Path


def described(action):
    """[type, nargs, choices] of an option, cut after the last one that says something."""
    kind = "bool" if action.nargs == 0 else getattr(action.type, "__name__", "str")
    facts = [
        kind,
        action.nargs or None,
        sorted(action.choices, key=str) if action.choices else None,
    ]  # order says nothing
    while len(facts) > 1 and facts[-1] is None:
        facts.pop()
    return facts


def parsers(checkout):
    from pair_network.errors import PairError
    from pair_network.training.hosts.sd_scripts import entry as sd_scripts
    from pair_network.training.hosts.sd_scripts.families import TRAINERS

    for model_type, trainer in TRAINERS.items():
        if model_type == "chroma":
            continue  # FLUX's trainer
        try:
            yield model_type, sd_scripts.make_parser(sd_scripts.import_sd_scripts(checkout, trainer.module))
        except PairError as missing:
            print(missing, file=sys.stderr)


def dump(checkout):
    by_family = {
        name: {action.dest: described(action) for action in parser._actions if action.dest != "help"}
        for name, parser in parsers(checkout)
    }
    print_lists(by_family)


def print_lists(by_family):
    """Prints the options of every family, what they have in common once."""
    families = list(by_family.values())
    common = {key: value for key, value in families[0].items() if all(f.get(key) == value for f in families)}
    own = {name: {k: v for k, v in options.items() if k not in common} for name, options in by_family.items()}
    lists = {"all": common, **own}
    lines = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(o.items()))
        + "\n  }"
        for name, o in lists.items()
    ]
    print("{\n" + ",\n".join(lines) + "\n}")


def check(checkout, presets):
    from pair_network.errors import PairError
    from pair_network.training.hosts.kohya_config import check_config, read_config

    by_family = dict(parsers(checkout))
    for preset in map(Path, presets):
        values = read_config(preset)
        family = {"chroma": "flux"}.get(values["model_type"], values["model_type"])
        try:
            if family in by_family:
                check_config(values, by_family[family], preset)
                by_family[family].parse_args(["--config_file", str(preset)])
            print("CHECKED", preset.name, "ok" if family in by_family else "no such family here")
        except PairError as mistake:
            print("CHECKED", preset.name, mistake)


def main():
    checkout, project, task, *rest = sys.argv[1:]
    sys.path[:0] = [checkout, project]
    dump(checkout) if task == "dump" else check(checkout, rest)


if __name__ == "__main__":
    main()
