"""Everything between a stored dataset and a model batch.

Three stages, each a small module:
  1. task preprocessing (`captioning`, `vqa`, `box_classification`, `refexp`): one stored record becomes a
     prompt, an image on the model's canvas and a target text (keys of `uio2.tasks.task`);
  2. `unified`: tokens, normalised patches, the same features for every task;
  3. `converter`: fixed shapes, decoder inputs, masks: the model batch.

The model batch, a flat dict for B examples (t text in, d text out, n patches, p patch side):
  inputs/text/tokens, mask, pos_ids       int32 [B, t]   0 is padding, the last token is EOS = 1
  inputs/image/input                      float32 [B, n, p*p*3]   CLIP-normalised, row-major grid; row, column, channel
  inputs/image/mask, pos_ids              int32 [B, n]   1 where the patch's centre pixel is image, not padding
  targets/text/targets                    int32 [B, d]
  targets/text/inputs                     int32 [B, d]   targets shifted right within segments, starting with 0
  targets/text/mask, pos_ids, segment_ids int32 [B, d]   the mask is all 0 for a target that only holds EOS

Nothing is imported here: `uio2.tasks.specs` stays light, the rest pulls TensorFlow in.
"""
