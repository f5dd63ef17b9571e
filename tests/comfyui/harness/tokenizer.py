"""A tokenizer for tiny text encoders, also for the tests outside ComfyUI."""

import io
from collections.abc import Sequence

SENTENCES = ("a woman walks into the rain", "close up of a cup of coffee")


def tokenizer(vocab_size: int = 400, sentences: Sequence[str] = SENTENCES) -> bytes:
    """A sentencepiece model with umT5's special tokens that can encode any text, byte by byte.

    Words of the sentences take few tokens.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
