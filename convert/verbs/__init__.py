"""One file per verb: ``add_arguments(parser)`` and ``convert(source, target, options)`` or ``run(options)``."""
