"""From the arrays of a batch to segments of the encoder's row, one module per kind of input.

A vision transformer belongs to the model, not to one of these: an image and the image history share it (spec:
MODEL.md section 1). It is handed in with every call.
"""
