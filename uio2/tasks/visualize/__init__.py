"""One page that shows what the model really receives: examples after all three stages, turned back into things to see.

  source    examples of a mixture: random draws as training has them, or evaluation's
  canvas    patches -> pictures, spectrograms and masks as data URIs
  sound     log-mel spectrograms -> something to listen to
  tokens    ids -> pieces by kind
  marks     location pieces and stored boxes -> boxes and points on the canvas
  layout    how full the rows of encoder and decoder are
  cards     one example of a batch -> what the template draws
  page      cards -> one HTML file that loads nothing
  serve     that file on localhost

Everything behind `source` is a function of the model batch alone, so the page cannot show what the model does not get.
"""
