"""Metrics of every task, in numpy and plain Python: importing them imports no TensorFlow, no JAX, no model.

A metric function scores one set of examples from what a prediction file holds, so a score can be made again long
after the model is gone. All have one shape:

    results = vqa_results(predictions, references=references, resampling=Resampling(seed=0))
    results["score"].value, results["score"].interval.low, results["score"].scores

`predictions` and `references` map the same example ids (texts or integers) to plain texts, boxes or arrays. What comes
back maps a figure's name to a frozen `Result`: value with bootstrap interval, ids, and per-example scores or the
per-example sums of a corpus figure. An example that cannot be scored is refused with a `MetricError` naming it; what
counts as a wrong answer instead (an empty text, no box) each function says.

    module        function                figures                                  prediction; reference
    boxes         refexp_results          acc iou                                  box or None; box
    vqa           vqa_results             score accuracy                           text; texts
    exact_match   exact_match_results     exact_match                              text; texts
                  classification_results  accuracy balanced_accuracy               text; text
    captions      caption_results         bleu_1..4 rouge_l cider cider_plain      text; texts
    responses     response_results        exact_match rouge_l                      text; texts
    speech        speech_results          wer                                      text; text
    tagging       tagging_results         map                                      [c] scores; [c] bool
    depth         depth_results           abs_rel rmse rmse_pixels                 [h, w] metres; the same
    normals       normal_results          within_11 within_22 within_30 mean_angle [h, w, 3] RGB; NormalMap
    grit          localization_results    localization                             boxes; boxes
                  keypoint_results        keypoint                                 persons of 51 numbers; the same
                  segmentation_results    segmentation segmentation_mask           [h, w] masks; the same
    coco_ap       coco_results            ap ap50 ap75 ap_<size> ar<n> ar_<size>   Detections; Truths

Boxes are `(y1, x1, y2, x2)`, keypoints `(x, y, visibility)`, in pixels of the source image unless a name says
otherwise. Scores lie in 0..1 and more is better, except CIDEr (0..10), and errors: wer, depth (metres) and mean_angle
(degrees), where less is. The functions below these (`vqa_score`, `box_iou`, `bleu_counts`) score one example.
"""
