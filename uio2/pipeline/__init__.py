"""The spine: what a stage is, where its output lives, how it is found again.

`Artifact` is a published directory with a record; `Stage` is one command with a frozen spec and input
artifacts; `Store` publishes, finds and leases. This package imports no other part of the project, so
dataset jobs, training and evaluation can all build on it.
"""
