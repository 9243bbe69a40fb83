"""Where the process of a stage runs: one interface, chosen by who starts a run; never part of a recipe.

`Local` is one child process (what every stage gets unless told otherwise), `LocalProcesses` several on this machine
that train as one, `KubernetesJobSet` the pods of one or more TPU slices.
"""
