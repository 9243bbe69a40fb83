"""The command line `uio2`: thin commands over `uio2.pipeline` and `flows`; nothing heavy is imported for `--help`."""
