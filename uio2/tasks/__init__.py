"""Everything between a stored dataset and a model batch.

Three stages, each a small module:
  1. task preprocessing (`captioning`, `vqa`, ...; pieces in `image`, `video`, `audio`, `boxes`, `keypoints`, `masks`):
     one stored record becomes a prompt, pictures on the model's canvases, spectrograms and targets (`uio2.tasks.task`);
  2. `unified`, `unified_media`: tokens, normalised patches, the same features for every task;
  3. `converter`: fixed shapes, decoder inputs, masks: the model batch.

The model batch, a flat dict for B examples; `shapes` computes every size from the recipe. t text in, d text out,
n patches of p values (row, column, channel), f frames or segments, c codes:
  inputs/text/tokens, mask, pos_ids       int32 [B, t]   0 is padding, the last token is EOS = 1
  inputs/image/input                      float32 [B, n, p]   CLIP-normalised patches of the row-major grid
  inputs/image/mask, pos_ids              int32 [B, n]   1 where the patch's centre pixel is image; its place
  inputs/image_history/{input,mask,pos_ids}  [B, f, n, p], [B, f, n] twice: likewise
  inputs/audio/..., inputs/audio_history/... likewise, of log-mel spectrograms [256 time, 128 frequency]
  targets/text/targets                    int32 [B, d]
  targets/text/inputs                     int32 [B, d]   targets shifted right within segments, starting with 0
  targets/text/mask, pos_ids, segment_ids int32 [B, d]   the mask is all 0 for a target that only holds EOS
  targets/image/image                     float32 [B, h, w, 3] in -1..1
  targets/audio/audio                     float32 [B, 256, 128, 1]   normalised log-mel
  targets/{image,audio}/mask, loss_mask, task_mask  int32 [B, c]   what is there, what counts, what the task hid
  task                                    int32 [B]   the number of the example's task in the feed; training alone
  choices/tokens                          int32 [B, options, tokens]   with answer options alone; no input of the model
Only the modalities of the recipe are made; what an example lacks of them is zeros with mask 0.

A packed batch (`uio2.tasks.packing`) holds its B = g * e examples in g groups of e places, each group with r rows of
the encoder and the decoder; a place without an example is zeros:
  packing/row                             int32 [g, e]   the example's row in its group; -1 where there is no example
  packing/examples                        int32 [g, r]   examples in each row
  packing/lengths                         int32 [g, 2]   tokens of an encoder and a decoder row, all groups alike

Nothing is imported here: `uio2.tasks.specs` stays light, the rest pulls TensorFlow in.
"""
