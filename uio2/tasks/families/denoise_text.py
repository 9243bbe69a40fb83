"""Self-supervised text: the mixture of denoisers (UL2, arXiv:2205.05131), on any dataset.

Each text is asked for in three ways, told apart by the first piece of the prompt:
  `[Text] [R]`  regular: few and short holes, as T5's (15% of the words, 3 words each);
  `[Text] [S]`  sequential: the beginning is given, the rest is the answer;
  `[Text] [X]`  extreme: half of the text is hidden, in holes of 3 or of 32 words.
One more dataset is one more line in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Sequence

from uio2.tasks import spans
from uio2.tasks.draws import pick_index
from uio2.tasks.lazy import tf
from uio2.tasks.spans import Corruption
from uio2.tasks.specs import RegisterSpec
from uio2.tasks.task import DRAW_TARGET, Record, Setting, Texts, clean
from uio2.tasks.text_family import TextTask

REGULAR = Corruption(share=0.15, mean=3)
EXTREME = (Corruption(share=0.5, mean=3), Corruption(share=0.5, mean=32))
PREFIXES = ("[Text] [R] ", "[Text] [S] ", "[Text] [X] ")
# Less than this says nothing once a part is hidden.
LEAST_WORDS = 4
_DRAW_WINDOW, _DRAW_SPLIT, _DRAW_EXTREME = 3, 4, 5


class DenoiseText(TextTask):
    """The texts of a dataset, each in the three ways.

    Of a text longer than half the recipe's `text_inputs` or `text_targets` in words, a window of so many words is
    taken, so that no hole is asked for whose surroundings were cut off: the first words in evaluation, words from
    anywhere in training.
    """

    about = "fill holes in a text, or go on with it"
    score = ""

    def __init__(self, *, name: str, dataset: str, fields: Sequence[str], key: str = "key") -> None:
        """A task on another dataset.

        Args:
          name: of the task.
          dataset: stage input that it reads.
          fields: paths of the text: one that holds a list of texts, or several that hold one each and are joined.
          key: path of what names a record.
        """
        super().__init__(name=name, dataset=dataset)
        self.fields, self.key, self.media_fields = tuple(fields), key, (key,)

    def items(self, record: Record) -> tf.Tensor:
        """Three for each usable text: 3 * text + way."""
        texts = self._texts(record)
        enough = tf.strings.regex_full_match(texts, rf"(?:\S+ ){{{LEAST_WORDS - 1},}}\S+")
        # A text with pieces that look like sentinels could not be told from the holes.
        usable = enough & ~tf.strings.regex_full_match(texts, r".*<extra_id_\d+>.*")
        numbers = tf.cast(tf.where(usable), tf.int32)
        return tf.reshape(numbers * len(PREFIXES) + tf.range(len(PREFIXES))[None], [-1])

    def texts(self, record: Record, item: tf.Tensor, *, box_text: tf.Tensor | None, draws: tf.Tensor,
              setting: Setting) -> Texts:  # fmt: skip
        words = tf.strings.split(self._texts(record)[item // len(PREFIXES)])
        words = _window(words, recipe=setting.recipe, draw=draws[_DRAW_WINDOW])
        way, place = item % len(PREFIXES), draws[DRAW_TARGET]
        split = 1 + pick_index(tf.size(words) - 1, draws[_DRAW_SPLIT] if setting.training else tf.constant(0.5))
        ways = [
            lambda: spans.hide_spans(words, how=REGULAR, draw=place),
            lambda: spans.split_at(words, split),
            lambda: tf.switch_case(
                pick_index(len(EXTREME), draws[_DRAW_EXTREME]),
                [lambda how=how: spans.hide_spans(words, how=how, draw=place) for how in EXTREME],
            ),
        ]
        prompt, target = tf.switch_case(way, ways)
        prefix = tf.constant(PREFIXES)[way]
        return Texts({"prompt": prompt}, target, target[None], tf.cast(item, tf.int64), prefix=prefix)

    def _texts(self, record: Record) -> tf.Tensor:
        """string [n]: white space is single spaces."""
        columns = [clean(_flat(_at(record, path))) for path in self.fields]
        return clean(tf.strings.join(columns, " "))


def _at(record: Record, path: str) -> tf.Tensor | tf.RaggedTensor:
    value = record
    for part in path.split("/"):
        value = value[part]
    return value


def _flat(value: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    return value.flat_values if isinstance(value, tf.RaggedTensor) else tf.reshape(value, [-1])


def _window(words: tf.Tensor, *, recipe: RegisterSpec, draw: tf.Tensor) -> tf.Tensor:
    most = max(min(recipe.text_inputs, recipe.text_targets) // 2, LEAST_WORDS)
    start = pick_index(tf.maximum(tf.size(words) - most, 0) + 1, draw)
    return words[start : start + most]


TASKS = (
    DenoiseText(name="denoise_text_alpaca", dataset="alpaca", fields=("instruction", "context", "response")),
    DenoiseText(name="denoise_text_dolly", dataset="dolly", fields=("instruction", "context", "response")),
    DenoiseText(name="denoise_text_coco", dataset="coco", fields=("captions/text",), key="image/id"),
)
