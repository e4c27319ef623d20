"""The commands, one module each: ``arguments(parser)`` declares its flags, ``run(options)`` returns the exit code."""
