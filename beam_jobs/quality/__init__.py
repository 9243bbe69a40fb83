"""The quality report of a dataset: what is in it, what is in it twice, and what validation shares with training.

    layout        TFDS features -> which fields are pictures, boxes, classes, texts, sound, frames
    measures      numbers and names counted so that the counts of parts can be added
    hashes        content (64 bits of sha256) and look of a picture (64 bits of its low frequencies)
    looks         what was seen of a picture as it was checked, kept beside its shard
    figures       one pass over a shard -> `Figures`; those of all shards added up, two files in `work`
    doubles       the hashes of all records -> duplicates and leakage between splits; `near`: look-alikes
    cards         a few records, read again from the shards, as things to see
    sections      counts -> charts, lists and plain values; `charts` makes the bars
    page          everything -> one HTML file that loads nothing
    report        writes `quality.json` and `quality.html`, and fails a build that leaks too much

Sections follow from the features, so a new builder has a report without a line of its own. All sums are integers and
all order is by hashed key: equal shards give equal bytes on every runner. Memory: 32 bytes per record for up to
`figures.MOST_RECORDS` records, and some 10,000 counters per field; neither grows with the dataset beyond that.
"""
