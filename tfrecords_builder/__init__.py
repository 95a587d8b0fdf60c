"""From folders of fields of view to TFRecord shards of single cells, on one machine or on many.

    label tables   sources.py          rows of any of the three formats, matched with the images
      -> folds     folds.py            multilabel-stratified, or grouped by a column
      -> units     plan.py             which images go to which shard
      -> shards    unit.py             one unit of work; image.py: read, segment, cut, measure, encode
                   labels.py; hpa_tf/encoding.py: pixels to bytes
      -> whole     build.py            continue what was begun (state.py), run the units (pool.py, or beam_runner.py
                                       on a cluster), write the cell table and, last, the manifest
    afterwards     verify.py, inspect.py; repair.py is a build of what verify finds bad; tfds_metadata.py

The shards are functions of the images, the label tables and the options: neither the number of workers, nor their
order, nor how often the build was killed changes a byte.
"""
