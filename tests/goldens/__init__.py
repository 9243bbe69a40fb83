"""Golden texts: what every named configuration, task and parameter tree is, as files whose diff shows a change.

    pipelines/<name>.txt     the graph of a pipeline, and every value of every stage as its gin file resolves it
    tasks/<task>.txt         one example of a task for evaluation and one for training, through all three stages
    parameters/<preset>.txt  every parameter of a model preset: name, dtype, shape

`python -m tests.goldens.regenerate` (or `make goldens`) writes them again; read the diff before committing it.
"""
