"""Dataset-building jobs: raw files in, validated TFDS-layout TFRecords out, nothing silently dropped."""
