"""Prefect flows and the pipelines they run, one file per family; a flow's task only calls a stage."""
