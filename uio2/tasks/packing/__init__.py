"""Packing: several examples share a row of the encoder and of the decoder.

    spec      the settings, `PackingSpec`; light
    sizes     what an example takes: tokens on either side, pictures and clips (`measure` counts them without pixels)
    best_fit  N examples a row, the tightest fit first
    pairs     two examples a row, as the original does it on a stream
    window    the rows of a window of positions as its batches, within the budgets of a batch
    feed      the training feed of packed batches

The batch of a step must not depend on what was packed before, or a restart would have to replay everything. So the
stream of positions is cut into windows, each of which is packed on its own and always makes the same number of
batches: step s belongs to window s // steps, and a feed that starts there reads the lengths of one window. A
window of 1024 rows costs 1.2% of fill against one pool of everything (`benchmarks/packing.py`).

Nothing is dropped: a window places each of its examples. Where a window holds more than usual, its batches get a few
more rows (another shape to compile, rarely), never less data.
"""
