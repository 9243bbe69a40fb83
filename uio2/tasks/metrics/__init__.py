"""Metrics of the text-out tasks, in numpy and plain Python: no TensorFlow, no JAX, no model.

Every function here scores one example or one set of examples from what a prediction file holds (text, targets,
`image_info`), so a score can be made again long after the model is gone. Boxes are `(y1, x1, y2, x2)`; unless a
name says otherwise they are in pixels of the source image. Scores lie in 0..1 except CIDEr (0..10).
"""
